//! Signals to this process, as a stream.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// What docker's `--sig-proxy` forwards and a terminal or a supervisor may send. Not the ones that tell of this
/// process's own life (`CHLD`, `PIPE`) or cannot be caught.
const LISTENED: [i32; 11] = [
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGTSTP,
    libc::SIGCONT,
    libc::SIGALRM,
    libc::SIGWINCH,
    libc::SIGTTOU,
];

/// Signals that arrived, in order.
#[derive(Debug)]
pub(crate) struct Signals(mpsc::Receiver<i32>);

impl Signals {
    /// Takes over the signals; must run inside a `LocalSet`.
    pub(crate) fn listen() -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(LISTENED.len());
        for number in LISTENED {
            let mut arrivals = signal(SignalKind::from_raw(number))?;
            let sender = sender.clone();
            tokio::task::spawn_local(async move {
                while arrivals.recv().await.is_some() && sender.send(number).await.is_ok() {}
            });
        }
        Ok(Self(receiver))
    }

    /// The next signal.
    pub(crate) async fn next(&mut self) -> i32 {
        match self.0.recv().await {
            Some(number) => number,
            None => std::future::pending().await,
        }
    }

    /// The next signal that asks this process to end.
    pub(crate) async fn interruption(&mut self) -> i32 {
        loop {
            let number = self.next().await;
            if matches!(number, libc::SIGINT | libc::SIGTERM | libc::SIGHUP | libc::SIGQUIT) {
                return number;
            }
        }
    }
}
