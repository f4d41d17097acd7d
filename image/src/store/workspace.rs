//! Directories below `tmp` in which objects are made. Each is removed by its maker, or by a process that finds the
//! maker dead. Each is recorded in the database before it is made: nothing else in `tmp` is ever removed.
//!
//! `tmp` itself is the gate: locked shared while a workspace is made and its own lock not yet taken, exclusively while
//! dead workspaces are removed.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use super::database::StoreDirectory;
use super::lock::same_file;
use super::{Store, StoreError};

/// Number of random bytes in a name.
const NAME_BYTES: usize = 8;

/// Directory in `tmp` that belongs to this process.
#[derive(Debug)]
pub(crate) struct Workspace {
    path: PathBuf,
    /// Open directory, which carries the lock that shows that its maker is alive.
    _alive: File,
}

impl Workspace {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Creates a file in the workspace, readable by its owner alone.
    pub(crate) fn create(&self, name: &str) -> Result<File, StoreError> {
        let path = self.path.join(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        options.open(&path).map_err(|source| StoreError::File {
            action: "create",
            path,
            source,
        })
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // Anything that cannot be removed now is removed when the store is opened next.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

impl Store {
    pub(crate) fn workspace(&self) -> Result<Workspace, StoreError> {
        let tmp = self.root.join("tmp");
        let create_error = |source| StoreError::File {
            action: "create a directory in",
            path: tmp.clone(),
            source,
        };
        let gate = File::open(&tmp).map_err(create_error)?;
        while let Err(errno) = flock(&gate, FlockOperation::LockShared) {
            if errno != Errno::INTR {
                return Err(create_error(errno.into()));
            }
        }
        let mut random = [0; NAME_BYTES];
        loop {
            rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
                .map_err(|errno| create_error(errno.into()))?;
            let name = hex::encode(random);
            self.database().record(StoreDirectory::Tmp, &name)?;
            let path = tmp.join(name);
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(create_error(error)),
            }
            let alive = File::open(&path).map_err(create_error)?;
            flock(&alive, FlockOperation::LockExclusive).map_err(|errno| create_error(errno.into()))?;
            return Ok(Workspace { path, _alive: alive });
        }
    }

    /// Removes the workspaces of dead processes.
    pub(super) fn remove_dead_workspaces(&self) -> Result<(), StoreError> {
        let tmp = self.root.join("tmp");
        let remove_error = |source| StoreError::File {
            action: "clean",
            path: tmp.clone(),
            source,
        };
        if self.database().pending(StoreDirectory::Tmp)?.is_empty() {
            return Ok(());
        }
        // If a workspace is being made right now, the next opening cleans up.
        let gate = File::open(&tmp).map_err(remove_error)?;
        if flock(&gate, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(());
        }
        let mut gone = Vec::new();
        let recorded = self.database().pending(StoreDirectory::Tmp)?;
        for name in recorded.into_iter().filter(|name| is_workspace(name)) {
            if remove_if_dead(&tmp.join(&name)).map_err(remove_error)? {
                gone.push(name);
            }
        }
        // A record that stays does no harm: the next command checks it again.
        let _ = self.database().forget(StoreDirectory::Tmp, &gone);
        Ok(())
    }

    pub(super) fn lock_path(&self, object: &str) -> PathBuf {
        self.root.join("locks").join(object)
    }
}

/// Whether a name has the form of a workspace's name.
fn is_workspace(name: &str) -> bool {
    name.len() == 2 * NAME_BYTES && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Removes a workspace whose maker is dead, and returns whether it is gone.
fn remove_if_dead(path: &Path) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(true),
        // Something else has the name, which no process of ours has made.
        Err(_) => return Ok(false),
        Ok(directory) => File::from(directory),
    };
    let is_dead = flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok();
    if is_dead && same_file(&directory, path)? {
        std::fs::remove_dir_all(path)?;
        return Ok(true);
    }
    Ok(false)
}
