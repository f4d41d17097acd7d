//! Lock of a container: only its holder may change the container. One command at a time holds the lock, or the
//! supervisor for as long as the container runs.
//!
//! ```text
//! run/pods/ID/lock      flock'ed by the holder; its folder is made by the first holder and removed with the container
//! run/pods/ID/socket    bound by the supervisor
//! ```
//!
//! The command that starts a supervisor passes the lock on to it: the lock is never free in between.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use capsid_image::own_file;
use rustix::fs::FlockOperation;

/// Time limit for a command to wait for another one that holds the lock for a moment.
const MOMENT: Duration = Duration::from_secs(10);
/// Interval at which a waiting command tries again.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Held lock of one container.
#[derive(Debug)]
pub(crate) struct ContainerLock {
    folder: PathBuf,
    lock: File,
}

/// Reason why a container cannot be locked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContainerLockError {
    #[error("cannot lock {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another command is working on container {0}, or its supervisor waits for space on a full disk: try again")]
    Busy(String),
}

impl ContainerLock {
    /// Takes the lock if it is free now.
    pub(crate) fn try_take(run: &Path, id: &str) -> Result<Option<Self>, ContainerLockError> {
        let folder = folder(run, id);
        let path = folder.join("lock");
        take(&folder, &path).map_err(|source| ContainerLockError::Io { path, source })
    }

    /// Takes the lock, waiting for other commands, but not for a supervisor: `is_running` is called at every attempt.
    pub(crate) fn take(
        run: &Path,
        id: &str,
        mut is_running: impl FnMut() -> bool,
    ) -> Result<Option<Self>, ContainerLockError> {
        let deadline = Instant::now() + MOMENT;
        loop {
            if let Some(lock) = Self::try_take(run, id)? {
                return Ok(Some(lock));
            }
            if is_running() {
                return Ok(None);
            }
            if Instant::now() > deadline {
                return Err(ContainerLockError::Busy(id.chars().take(12).collect()));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Takes over the lock that the starting command holds for this process.
    pub(crate) fn inherited(run: &Path, id: &str, lock: OwnedFd) -> Self {
        Self {
            folder: folder(run, id),
            lock: lock.into(),
        }
    }

    /// Whether the lock is still at its path, as far as can be told: nobody has removed or replaced it.
    pub(crate) fn is_current(&self) -> bool {
        let path = self.folder.join("lock");
        match std::fs::symlink_metadata(&path) {
            Err(error) => error.kind() != io::ErrorKind::NotFound,
            Ok(_) => is_at(&self.lock, &path),
        }
    }

    /// Removes the run folder of a removed container. Leaves a folder that was removed and created anew: it is
    /// another's.
    pub(crate) fn remove(self) -> io::Result<()> {
        if !self.is_current() {
            return Ok(());
        }
        match std::fs::remove_dir_all(&self.folder) {
            // Also when somebody has created the lock anew meanwhile, and removes it for the same reason.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => Ok(()),
            removed => removed,
        }
    }

    /// Returns the folder for the sockets.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl AsFd for ContainerLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }
}

/// Returns the run folder of a container.
pub(crate) fn folder(run: &Path, id: &str) -> PathBuf {
    run.join("pods").join(id)
}

/// Whether the open file is the one at a path.
fn is_at(file: &File, path: &Path) -> bool {
    let there = std::fs::symlink_metadata(path);
    there.is_ok_and(|there| {
        file.metadata()
            .is_ok_and(|ours| (ours.dev(), ours.ino()) == (there.dev(), there.ino()))
    })
}

/// Whether something other than a folder is at the path.
fn is_no_folder(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| !found.is_dir())
}

fn take(folder: &Path, path: &Path) -> io::Result<Option<ContainerLock>> {
    loop {
        match DirBuilder::new().mode(0o700).recursive(true).create(folder) {
            // The folder existed, and its last holder removed it before this check.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && !is_no_folder(folder) => continue,
            made => made?,
        }
        let lock = match own_file::lock_file(path) {
            // The last holder removed the folder in between.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            locked => locked?,
        }
        // A lock on a file that has been removed meanwhile protects nothing.
        if is_at(&lock, path) {
            return Ok(Some(ContainerLock {
                folder: folder.into(),
                lock,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_by_one() {
        let run = tempfile::tempdir().unwrap();
        let first = ContainerLock::try_take(run.path(), "1").unwrap().unwrap();
        assert!(ContainerLock::try_take(run.path(), "1").unwrap().is_none());
        assert!(ContainerLock::try_take(run.path(), "2").unwrap().is_some());
        drop(first);
        assert!(ContainerLock::try_take(run.path(), "1").unwrap().is_some());
    }

    #[test]
    fn a_handed_over_lock_stays_held() {
        let run = tempfile::tempdir().unwrap();
        let first = ContainerLock::try_take(run.path(), "1").unwrap().unwrap();
        let handed = ContainerLock::inherited(run.path(), "1", first.as_fd().try_clone_to_owned().unwrap());
        drop(first);
        assert!(ContainerLock::try_take(run.path(), "1").unwrap().is_none());
        handed.remove().unwrap();
        assert!(ContainerLock::try_take(run.path(), "1").unwrap().is_some());
    }
}
