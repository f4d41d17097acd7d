//! Signals to this process, as a stream.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Signals that docker's `--sig-proxy` forwards and a terminal or a supervisor may send. Not the ones that concern this
/// process's own life (`CHLD`, `PIPE`), stop it for using a terminal that is another job's (`TTIN`, `TTOU`: the kernel
/// repeats a caught one for ever) or cannot be caught.
const LISTENED: [i32; 10] = [
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
];

/// Signals that ask a process to end, and can be caught.
const ENDING: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// Time limit for a command to end after a signal that asks it to: people and service managers expect a second.
const END_WITHIN: Duration = Duration::from_millis(950);

/// Stream of signals in the order of their arrival.
#[derive(Debug)]
pub(crate) struct Signals(mpsc::Receiver<i32>);

impl Signals {
    /// Takes over the signals that are passed on to a container; must run inside a `LocalSet`.
    pub(crate) fn listen() -> io::Result<Self> {
        Self::listen_to(&LISTENED)
    }

    /// Takes over the signals that end this process, and no other: Ctrl-Z still stops it. Must run inside a `LocalSet`.
    pub(crate) fn listen_to_ending() -> io::Result<Self> {
        Self::listen_to(&ENDING)
    }

    fn listen_to(numbers: &[i32]) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(LISTENED.len());
        let ignored = ignored()?;
        // Signals that the caller set to be ignored stay ignored: `nohup` does that, and a script's shell for `capsid
        // run ... &`.
        for number in numbers.iter().copied().filter(|number| ignored & bit(*number) == 0) {
            let mut arrivals = signal(SignalKind::from_raw(number))?;
            let sender = sender.clone();
            tokio::task::spawn_local(async move {
                while arrivals.recv().await.is_some() && sender.send(number).await.is_ok() {}
            });
        }
        Ok(Self(receiver))
    }

    /// Returns the next signal.
    pub(crate) async fn next(&mut self) -> i32 {
        match self.0.recv().await {
            Some(number) => number,
            None => std::future::pending().await,
        }
    }

    /// Returns the next signal that asks this process to end.
    pub(crate) async fn interruption(&mut self) -> i32 {
        loop {
            let number = self.next().await;
            if ENDING.contains(&number) {
                return number;
            }
        }
    }
}

/// Guard that ends this process soon after a signal that asks it to, if it has not ended by itself: for work that
/// notices no signals, such as a system call that the kernel does not interrupt. The next command removes leftovers, as
/// after a crash. Active until dropped.
#[derive(Debug)]
pub(crate) struct Deadline(Arc<AtomicBool>);

impl Deadline {
    /// Starts to listen, in a thread of its own.
    pub(crate) fn set() -> io::Result<Self> {
        let holds = Arc::new(AtomicBool::new(true));
        let watched = Arc::clone(&holds);
        let (reported, heard) = sync_channel(1);
        std::thread::Builder::new()
            .name("deadline".into())
            .spawn(move || drop(watch(&watched, || reported.send(()).unwrap_or(()))))?;
        // An error in the thread closes the channel; the command then ends as fast as its work does.
        let _ = heard.recv();
        Ok(Self(holds))
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

fn watch(holds: &AtomicBool, listens: impl FnOnce()) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let mut signals = Signals::listen_to_ending()?;
        listens();
        loop {
            let number = signals.interruption().await;
            tokio::time::sleep(END_WITHIN).await;
            if holds.load(Ordering::Relaxed) {
                std::process::exit(128 + number);
            }
        }
    })
}

/// Returns the signals that this process ignores, as `/proc/PID/status` has them: bit 0 is signal 1.
fn ignored() -> io::Result<u64> {
    Ok(ignored_in(&std::fs::read_to_string("/proc/self/status")?).unwrap_or(0))
}

fn ignored_in(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

fn bit(number: i32) -> u64 {
    1 << (number - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_signal_is_found() {
        let status = "SigBlk:\t0000000000000004\nSigIgn:\t0000000000001001\n";
        let ignored = ignored_in(status).unwrap();
        assert_ne!(ignored & bit(libc::SIGHUP), 0);
        assert_ne!(ignored & bit(libc::SIGPIPE), 0);
        assert_eq!(ignored & bit(libc::SIGTERM), 0);
    }
}
