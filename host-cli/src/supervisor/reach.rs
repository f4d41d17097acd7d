//! Whether commands can still reach this supervisor: by its lock and socket in the run directory, and its row and files
//! in the data directory. One that nobody can reach ends what it runs, which would otherwise run for ever, unseen.

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use rustix::fs::FileType;

use crate::container_lock::ContainerLock;
use crate::control::SOCKET;

/// From one look to the next.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The same after a loss, which is noticed once.
pub(super) const LOST_LOOK_EVERY: Duration = Duration::from_secs(86_400);

/// How it can be reached.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reach {
    Whole,
    /// The socket was removed: another can be made in its place.
    NoSocket,
    /// For good; what is missing.
    Lost(&'static str),
}

/// Looks. `files` are what is supervised in the data directory.
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
        // Another's lock in its place is none of ours.
        let other = ContainerLock::try_take(run.path(), "1").unwrap().unwrap();
        assert!(matches!(look(&lock, data.path()), Reach::Lost(_)));
        lock.remove().unwrap();
        assert!(other.is_current());
    }
}
