//! Check whether commands can still reach this supervisor: by its lock and socket in the run directory, and its row and
//! files in the data directory. A supervisor that nobody can reach ends what it runs, which would otherwise run
//! forever, unseen.

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use rustix::fs::FileType;

use crate::container_lock::ContainerLock;
use crate::control::SOCKET;

/// Interval between checks.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Interval between checks after a loss, which is handled once.
pub(super) const LOST_LOOK_EVERY: Duration = Duration::from_secs(86_400);

/// Reachability of the supervisor.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reach {
    Whole,
    /// Socket removed: another can be created in its place.
    NoSocket,
    /// Unreachable for good; names what is missing.
    Lost(&'static str),
}

/// Checks the reachability. `files` are the supervised container's in the data directory.
pub(super) fn look(lock: &ContainerLock, files: &Path) -> Reach {
    let is_socket = |path: &Path| {
        rustix::fs::lstat(path).is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Socket)
    };
    if !lock.is_current() {
        Reach::Lost("its lock in the run directory was removed")
    } else if fs::symlink_metadata(files).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
        Reach::Lost("its files in the data directory were removed")
    } else if !is_socket(&lock.folder().join(SOCKET)) {
        Reach::NoSocket
    } else {
        Reach::Whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_removed_is_noticed() {
        let (run, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let lock = ContainerLock::try_take(run.path(), "1").unwrap().unwrap();
        assert_eq!(look(&lock, data.path()), Reach::NoSocket);
        let _socket = std::os::unix::net::UnixListener::bind(lock.folder().join(SOCKET)).unwrap();
        assert_eq!(look(&lock, data.path()), Reach::Whole);
        assert!(matches!(look(&lock, &data.path().join("gone")), Reach::Lost(_)));
        std::fs::remove_dir_all(lock.folder()).unwrap();
        assert!(matches!(look(&lock, data.path()), Reach::Lost(_)));
        // A new lock of another process in its place is not this one's.
        let other = ContainerLock::try_take(run.path(), "1").unwrap().unwrap();
        assert!(matches!(look(&lock, data.path()), Reach::Lost(_)));
        lock.remove().unwrap();
        assert!(other.is_current());
    }
}
