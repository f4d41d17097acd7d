//! The freezer: every cgroup has one (`cgroup.freeze`, cgroup v2).

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::limits::FREEZE_WAIT;

/// The file that says which state is wanted.
pub(super) const FREEZE: &str = "cgroup.freeze";

/// The value for it.
pub(super) fn value(frozen: bool) -> &'static str {
    if frozen { "1" } else { "0" }
}

/// Waits until the cgroup at `path` is in the state: `false` when it is not within [`FREEZE_WAIT`].
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
        // The kernel tells a change of the file since it was read.
        poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&left))?;
    }
}

/// The file from its beginning: a hundred bytes.
fn read(events: &OwnedFd) -> Result<String, Errno> {
    let mut buffer = [0; 512];
    let n = rustix::io::pread(events, &mut buffer, 0)?;
    Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
}

/// Reads `cgroup.events`.
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
