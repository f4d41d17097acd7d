//! Freezer of a cgroup: every cgroup has one (`cgroup.freeze`, cgroup v2).

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::limits::FREEZE_WAIT;

/// Name of the file that sets the wanted state.
pub(super) const FREEZE: &str = "cgroup.freeze";

/// Value of [`FREEZE`] for a state.
pub(super) fn value(frozen: bool) -> &'static str {
    if frozen { "1" } else { "0" }
}

/// Waits until the cgroup at `path` is in the state; `false` if it is not within [`FREEZE_WAIT`].
pub(super) fn wait_until(path: &Path, frozen: bool) -> Result<bool, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let events = rustix::fs::open(path.join("cgroup.events"), flags, Mode::empty())?;
    let deadline = Instant::now() + FREEZE_WAIT;
    loop {
        if is_frozen(&read(&events)?) == frozen {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let left = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        // The kernel reports a change of the file since the last read.
        poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&left))?;
    }
}

/// Reads the file from its beginning: a hundred bytes.
fn read(events: &OwnedFd) -> Result<String, Errno> {
    let mut buffer = [0; 512];
    let n = rustix::io::pread(events, &mut buffer, 0)?;
    Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
}

/// Parses the frozen state in `cgroup.events`.
fn is_frozen(events: &str) -> bool {
    events.lines().any(|line| line == "frozen 1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_frozen_flag_counts() {
        assert!(is_frozen("populated 1\nfrozen 1\n"));
        assert!(!is_frozen("populated 1\nfrozen 0\n"));
        assert!(!is_frozen(""));
    }

    #[test]
    fn a_state_that_is_there_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("cgroup.events"), "populated 1\nfrozen 1\n").unwrap();
        assert_eq!(wait_until(folder.path(), true), Ok(true));
    }
}
