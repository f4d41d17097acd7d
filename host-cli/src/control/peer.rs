//! Supervisor at the other end of a connection, as the kernel identifies it: the process that listens on the socket.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::time::sleep;

/// Interval between checks whether the process is stopped.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Number of successive checks that must find the process stopped before it counts as stopped: a short stop goes
/// unnoticed.
const LOOKS: u32 = 8;

/// Process at the other end, where it is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(Option<Pid>);

impl Peer {
    /// Returns the process that listens at the other end; unknown where both ends were created as a pair, or in another
    /// pid namespace.
    pub(super) fn of(socket: BorrowedFd<'_>) -> Self {
        let credentials = rustix::net::sockopt::socket_peercred(socket).ok();
        Self(
            credentials
                .map(|peer| peer.pid)
                .filter(|pid| *pid != rustix::process::getpid()),
        )
    }

    /// Waits until the process has been stopped by a signal for a while, and returns its pid.
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

    /// Sends a signal to the process. The process exists while the connection does, so its pid is not reused.
    pub(super) fn signal(self, signal: Signal) {
        if let Some(pid) = self.0 {
            // A process that has ended needs no signal.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

/// Whether the state letter after the name in `/proc/PID/stat` (`proc(5)`) is that of a stopped process.
fn is_stopped(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}
