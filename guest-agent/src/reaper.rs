//! The one place that waits for children: every other wait would steal statuses from it.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitOptions, WaitStatus};

use crate::sys::{self, Spawned};

/// Called with the status of a child that ended.
type OnExit = Box<dyn FnOnce(WaitStatus) + Send>;

/// Registry of the children to wait for.
#[derive(Default)]
pub(crate) struct Reaper {
    waiting: Mutex<HashMap<Pid, OnExit>>,
}

impl Reaper {
    /// Starts a child with `spawn`; `on_exit` is called with its end.
    pub(crate) fn spawn(
        &self,
        spawn: impl FnOnce() -> Result<Spawned, Errno>,
        on_exit: OnExit,
    ) -> Result<Spawned, Errno> {
        // Held over the start: the child may end before its pid is known here.
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let spawned = spawn()?;
        waiting.insert(spawned.pid, on_exit);
        Ok(spawned)
    }

    /// Adopts a child that was not started here; `on_exit` is called with its end. `ECHILD` if it is not a child, or
    /// was reaped before.
    pub(crate) fn adopt(&self, pidfd: &OwnedFd, on_exit: OnExit) -> Result<Pid, Errno> {
        // Held over the check: a child that is still there now is reaped only with its entry made.
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), look)?;
        // The kernel's number: the one that the other side reports could be another child's.
        let pid = pid_of(pidfd)?;
        if waiting.contains_key(&pid) {
            return Err(Errno::EXIST);
        }
        waiting.insert(pid, on_exit);
        Ok(pid)
    }

    /// Reaps for ever. Every signal must be blocked.
    pub(crate) fn run(&self) {
        loop {
            // One signal may stand for several ended children.
            while let Some((pid, status)) = self.reap_one() {
                // Other processes whose parent becomes PID 1 are reaped and ignored.
                if let Some(on_exit) = pid {
                    on_exit(status);
                }
            }
            // An interrupted wait is as good as a signal.
            let _ = sys::wait_for_signal();
        }
    }

    fn reap_one(&self) -> Option<(Option<OnExit>, WaitStatus)> {
        // Held over the wait: no new child can get the pid before its entry is gone.
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (pid, status) = rustix::process::wait(WaitOptions::NOHANG).ok()??;
        Some((waiting.remove(&pid), status))
    }
}

/// Returns the pid of the process that `pidfd` refers to (`Pid:` of its `fdinfo`, `proc(5)`). `ESRCH` if it was reaped.
pub(crate) fn pid_of(pidfd: &OwnedFd) -> Result<Pid, Errno> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()));
    let info = info.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"));
    let pid = pid.and_then(|n| n.trim().parse::<i32>().ok()).filter(|n| *n > 0);
    pid.and_then(Pid::from_raw).ok_or(Errno::SRCH)
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn an_adopted_child_is_told_and_a_reaped_one_refused() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        let reaper = Reaper::default();
        let (sender, receiver) = mpsc::channel();
        let notify = Box::new(move |status: WaitStatus| sender.send(status.exit_status()).unwrap());
        assert_eq!(reaper.adopt(&pidfd, notify).unwrap(), pid);
        assert_eq!(reaper.adopt(&pidfd, Box::new(|_| {})).unwrap_err(), Errno::EXIST);
        // Only this child: others belong to other tests.
        let status = rustix::process::waitpid(Some(pid), WaitOptions::empty())
            .unwrap()
            .unwrap()
            .1;
        let on_exit = reaper.waiting.lock().unwrap().remove(&pid).unwrap();
        on_exit(status);
        assert_eq!(receiver.recv().unwrap(), Some(0));
        assert_eq!(reaper.adopt(&pidfd, Box::new(|_| {})).unwrap_err(), Errno::CHILD);
        let _ = child.wait();
    }
}
