//! Locks on objects of the store, held by processes and released by the kernel when they die.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::StoreError;
use crate::cancellation::Cancellation;
use crate::own_file;

/// Interval between attempts at a lock that another process holds: a blocking `flock` could not be cancelled.
pub(super) const TRY_EVERY: Duration = Duration::from_millis(5);

/// Lock on an object: shared by those who need it, exclusive for the one that makes or removes it.
#[derive(Debug)]
pub(crate) struct ObjectLock {
    file: File,
    path: PathBuf,
}

impl ObjectLock {
    /// Waits for the shared lock on `path`, unless cancelled. The file is created if missing.
    pub(crate) fn shared(path: &Path, cancellation: &Cancellation) -> Result<Self, StoreError> {
        loop {
            if cancellation.is_cancelled() {
                return Err(StoreError::Cancelled);
            }
            match Self::acquire(path, FlockOperation::NonBlockingLockShared)? {
                Some(lock) => return Ok(lock),
                None => std::thread::sleep(TRY_EVERY),
            }
        }
    }

    /// Takes the exclusive lock on `path`; `None` if somebody holds the lock.
    pub(crate) fn try_exclusive(path: &Path) -> Result<Option<Self>, StoreError> {
        Self::acquire(path, FlockOperation::NonBlockingLockExclusive)
    }

    /// Removes the lock's own file together with the lock, which must be held exclusively.
    pub(crate) fn retire(self) {
        // A lock file that stays does no harm.
        let _ = std::fs::remove_file(&self.path);
    }

    fn acquire(path: &Path, operation: FlockOperation) -> Result<Option<Self>, StoreError> {
        let lock_error = |source| StoreError::File {
            action: "lock",
            path: path.to_owned(),
            source,
        };
        loop {
            let file = own_file::lock_file(path).map_err(lock_error)?;
            match flock(&file, operation) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(lock_error(errno.into())),
            }
            // The last holder may have retired the file during the wait: then the lock is on a removed file.
            if same_file(&file, path).map_err(lock_error)? {
                return Ok(Some(Self {
                    file,
                    path: path.to_owned(),
                }));
            }
        }
    }

    /// Turns an exclusive lock into a shared one. For a moment nobody holds it, so the protected object must be checked
    /// again.
    pub(crate) fn share(self, cancellation: &Cancellation) -> Result<Self, StoreError> {
        flock(&self.file, FlockOperation::LockShared).map_err(|errno| StoreError::File {
            action: "lock",
            path: self.path.clone(),
            source: errno.into(),
        })?;
        if same_file(&self.file, &self.path).map_err(|source| StoreError::File {
            action: "lock",
            path: self.path.clone(),
            source,
        })? {
            return Ok(self);
        }
        Self::shared(&self.path, cancellation)
    }
}

pub(super) fn same_file(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(named) => Ok((held.dev(), held.ino()) == (named.dev(), named.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
