//! The supervisor at the other end of a connection, as the kernel names it: the process that listens on the socket.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::time::sleep;

/// How often it is looked whether it is stopped.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Looks that find it stopped before it is taken for that: whoever stops it for a moment goes unnoticed.
const LOOKS: u32 = 8;

/// A process, where it is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(Option<Pid>);

impl Peer {
    /// Who listens at the other end; unknown where both ends were made as a pair, or in another pid namespace.
    pub(super) fn of(socket: BorrowedFd<'_>) -> Self {
        let credentials = rustix::net::sockopt::socket_peercred(socket).ok();
        Self(
            credentials
                .map(|peer| peer.pid)
                .filter(|pid| *pid != rustix::process::getpid()),
        )
    }

    /// Waits until it is stopped by a signal, for a while at least: its pid.
    pub(crate) async fn stopped(self) -> i32 {
        let Some(pid) = self.0.map(|pid| pid.as_raw_nonzero().get()) else {
            return std::future::pending().await;
        };
        let mut looks = 0;
        while looks < LOOKS {
            sleep(LOOK_EVERY).await;
            looks = if is_stopped(pid) { looks + 1 } else { 0 };
        }
        pid
    }

    /// Sends it a signal. It is there while the connection is: a number that is used again is no concern.
    pub(super) fn signal(self, signal: Signal) {
        if let Some(pid) = self.0 {
            // One that has ended needs none.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

/// The letter of state after the name in `/proc/PID/stat` (`proc(5)`).
fn is_stopped(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}
