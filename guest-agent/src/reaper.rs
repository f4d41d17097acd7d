//! The one place that waits for children: every other wait would steal statuses from it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus};

use crate::sys::{self, Spawned};

/// Called with the status of a child that ended.
type OnExit = Box<dyn FnOnce(WaitStatus) + Send>;

/// Who waits for which child.
#[derive(Default)]
pub(crate) struct Reaper {
    waiting: Mutex<HashMap<Pid, OnExit>>,
}

impl Reaper {
    /// Starts a child with `spawn`, whose end `on_exit` will be told.
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

    /// Reaps for ever. Every signal must be blocked.
    pub(crate) fn run(&self) {
        loop {
            // One signal may stand for several ended children.
            while let Some((pid, status)) = self.reap_one() {
                // Whoever else ends up with PID 1 as parent is reaped and ignored.
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
