//! Directories that belong to Capsid. A marker file gives each one an identity, which its databases carry as well.
//!
//! ```text
//! DIRECTORY/capsid-directory.json   the marker: format, kind, identity, and which databases have been made
//! DIRECTORY/state.db                a database: its table `identity` names the directory's identity and itself
//! ```
//!
//! Only an empty directory becomes Capsid's. A directory that holds anything else than the marker and the files of an
//! older release is refused, and neither its content nor its mode is changed. A database that the marker lists must
//! exist, be sound, and carry the marker's identity: an empty one in its place would claim that there are no
//! containers, volumes or images. The directory belongs to the caller and is closed to others, and its parent does not
//! let others rename it; so its path stays what it was when it was checked.

mod database;
mod marker;
mod recover;

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::own_file::Fault;
use marker::Marker;

pub use recover::Recovered;

/// Name of the only entry that a new filesystem may contain.
const LOST_FOUND: &str = "lost+found";
/// Permission bits of everybody but the owner.
const OTHERS: u32 = 0o077;
const STICKY: u32 = 0o1000;
const OTHERS_WRITE: u32 = 0o022;

/// Description of what a directory of one kind holds.
#[derive(Debug)]
pub struct DirectorySpec {
    /// Kind of the directory, as the marker names it.
    pub kind: &'static str,
    /// Databases that the directory may hold.
    pub databases: &'static [DatabaseSpec],
    /// Subdirectories, none of which may be a link.
    pub subdirectories: &'static [&'static str],
    /// Whether an older release made this directory, which has neither marker nor databases.
    pub is_older: fn(&Path) -> bool,
}

/// Description of one database of a directory.
#[derive(Debug)]
pub struct DatabaseSpec {
    /// File name of the database.
    pub name: &'static str,
    /// Name of a table that every version of the database has.
    pub table: &'static str,
    /// Directories whose content the database describes.
    pub describes: &'static [&'static str],
    /// Migrations: one step each from the version of its index to the next.
    pub migrations: &'static [&'static str],
}

/// Rule for links on the way to a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// Follows a link of the caller's own, as to a larger disk.
    Follow,
    /// Refuses links, for a place where anybody may make one: the directory must be closed to others already, and
    /// nobody else may be able to rename it in its parent.
    Refuse,
}

/// Reason why a directory or a database in it cannot be used. Nothing was removed or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// The directory cannot be created or used.
    #[error("cannot use the directory {}", path.display())]
    Use {
        /// Path of the directory.
        path: PathBuf,
        /// Cause of the error.
        #[source]
        source: io::Error,
    },
    /// Another user owns the directory, or the link to it.
    #[error("directory {} belongs to user {owner}, not to you: choose another with --data-dir or --run-dir", path.display())]
    Foreign {
        /// Path of the directory.
        path: PathBuf,
        /// User id of the owner.
        owner: u32,
    },
    /// The path is a link where none is followed.
    #[error("{} is a symbolic link, which anybody could have made: remove it, or set XDG_RUNTIME_DIR or --run-dir", path.display())]
    Link {
        /// Path of the link.
        path: PathBuf,
    },
    /// Other users may enter the directory.
    #[error("directory {} is open to other users (mode {mode:03o}): run `chmod 700` on it, or set XDG_RUNTIME_DIR or --run-dir", path.display())]
    Open {
        /// Path of the directory.
        path: PathBuf,
        /// Permission bits of the directory.
        mode: u32,
    },
    /// Other users may rename the directory.
    #[error("directory {} is another user's or lets others rename what is in it (no sticky bit): set XDG_RUNTIME_DIR or --run-dir", path.display())]
    Parent {
        /// Path of the parent directory.
        path: PathBuf,
    },
    /// The directory holds files, but no marker.
    #[error("directory {} is not empty and not Capsid's (it has no {}): choose another or an empty one with --data-dir or --run-dir", path.display(), marker::NAME)]
    NotOurs {
        /// Path of the directory.
        path: PathBuf,
    },
    /// The directory is one of Capsid's, of another kind.
    #[error("directory {} is Capsid's {found} directory, not its {wanted} directory: choose another with --data-dir or --run-dir", path.display())]
    Kind {
        /// Path of the directory.
        path: PathBuf,
        /// Kind in the marker.
        found: String,
        /// Kind that is expected.
        wanted: &'static str,
    },
    /// The marker, a database or a subdirectory is not what Capsid made.
    #[error("{} {fault}; nothing was changed: {}", path.display(), cure(fault))]
    Fault {
        /// Path of the file.
        path: PathBuf,
        /// Fault of the file.
        fault: Fault,
    },
    /// The directory is read-only, and something would have to be written.
    #[error("directory {} is read-only, and {reason}: make it writable, and run any command once", path.display())]
    ReadOnly {
        /// Path of the directory.
        path: PathBuf,
        /// Reason why the directory would have to be written to.
        reason: String,
    },
    /// A later release wrote the marker or the database.
    #[error("{} is of a newer version of capsid ({found}, this one knows {known}): upgrade capsid", path.display())]
    Newer {
        /// Path of the file.
        path: PathBuf,
        /// Version of the file.
        found: i64,
        /// Last version that this program knows.
        known: i64,
    },
    /// SQLite reports an error.
    #[error("cannot use the database {}", path.display())]
    Sqlite {
        /// Path of the database.
        path: PathBuf,
        /// Cause of the error.
        #[source]
        source: rusqlite::Error,
    },
}

/// Advice for the user about a file that Capsid does not accept.
fn cure(fault: &Fault) -> &'static str {
    match fault {
        Fault::Owner(_) => "give it back to its owner with `chown`, or choose another directory",
        Fault::Unreadable(_) => "make it readable with `chmod u+rw`",
        Fault::NotADirectory => "move it away, or move its directory back",
        _ => "restore it from a backup of this directory, or run `capsid system recover`",
    }
}

/// Open directory of Capsid's.
#[derive(Debug)]
pub struct Directory {
    /// Path without links.
    path: PathBuf,
    file: File,
    marker: Marker,
}

impl Directory {
    /// Opens the directory, which is created if missing, marked if empty, and taken over if an older release made it.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub fn open(wanted: &Path, spec: &DirectorySpec, links: Links) -> Result<Self, DirectoryError> {
        let (path, file) = enter(wanted, links)?;
        let marker = match Marker::read(&path)? {
            Some(marker) => marker,
            None => claim(&path, &file, spec)?,
        };
        if marker.kind != spec.kind {
            let (found, wanted) = (marker.kind, spec.kind);
            return Err(DirectoryError::Kind { path, found, wanted });
        }
        check_subdirectories(&path, spec)?;
        close_to_others(&path, &file)?;
        Ok(Self { path, file, marker })
    }

    /// Whether the directory is read-only: its filesystem is, or its permissions deny writing to the caller.
    pub fn is_read_only(&self) -> bool {
        let access = rustix::fs::accessat(&self.file, ".", Access::WRITE_OK, AtFlags::EACCESS);
        matches!(access, Err(Errno::ROFS | Errno::ACCESS | Errno::PERM))
    }

    /// Path of the directory, without links.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Creates the directory if missing, and opens it. The directory, and a link to it, must belong to the caller.
fn enter(wanted: &Path, links: Links) -> Result<(PathBuf, File), DirectoryError> {
    let failed = |source| DirectoryError::Use {
        path: wanted.into(),
        source,
    };
    let wanted = &std::path::absolute(wanted).map_err(failed)?;
    if let Some(parent) = wanted.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    match DirBuilder::new().mode(0o700).create(wanted) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed(e)),
        _ => {}
    }
    let named = std::fs::symlink_metadata(wanted).map_err(failed)?;
    let us = rustix::process::geteuid().as_raw();
    let foreign = |owner| DirectoryError::Foreign {
        path: wanted.into(),
        owner,
    };
    let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if links == Links::Refuse {
        flags |= OFlags::NOFOLLOW;
        if named.is_symlink() {
            return Err(DirectoryError::Link { path: wanted.into() });
        }
    } else if named.is_symlink() && named.uid() != us {
        return Err(foreign(named.uid()));
    }
    let file = File::from(rustix::fs::open(wanted, flags, Mode::empty()).map_err(|e| failed(e.into()))?);
    let metadata = file.metadata().map_err(failed)?;
    if metadata.uid() != us {
        return Err(foreign(metadata.uid()));
    }
    let path = path_of(&file).map_err(failed)?;
    if links == Links::Refuse {
        check_public_place(&path, metadata.mode())?;
    }
    Ok((path, file))
}

/// User id that stands for all that a user namespace does not map (`/proc/sys/kernel/overflowuid`).
const OVERFLOW_USER: u32 = 65534;

/// Checks a directory, by its path without links, in a place where anybody may create one: closed to others, and neither
/// it nor a directory above it to be renamed by them, so that its path leads to it from now on.
fn check_public_place(path: &Path, mode: u32) -> Result<(), DirectoryError> {
    let mode = mode & 0o777;
    if mode & OTHERS != 0 {
        return Err(DirectoryError::Open {
            path: path.into(),
            mode,
        });
    }
    for above in path.ancestors().skip(1) {
        let metadata = std::fs::symlink_metadata(above).map_err(|source| DirectoryError::Use {
            path: above.into(),
            source,
        })?;
        let is_writable = metadata.mode() & OTHERS_WRITE != 0;
        // In a user namespace that maps the user alone, root's directories belong to the overflow user.
        let is_unmapped = metadata.uid() == OVERFLOW_USER && !is_writable;
        let is_others = ![0, rustix::process::geteuid().as_raw()].contains(&metadata.uid()) && !is_unmapped;
        if is_others || (is_writable && metadata.mode() & STICKY == 0) {
            return Err(DirectoryError::Parent { path: above.into() });
        }
    }
    Ok(())
}

/// Path of an open directory, without links.
fn path_of(file: &File) -> io::Result<PathBuf> {
    use std::os::fd::AsRawFd;
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Marks a directory that is empty or of an older release. Of several commands at once, one does so.
fn claim(path: &Path, file: &File, spec: &DirectorySpec) -> Result<Marker, DirectoryError> {
    let failed = |source| DirectoryError::Use {
        path: path.into(),
        source,
    };
    let _lock = lock(file).map_err(failed)?;
    if let Some(marker) = Marker::read(path)? {
        return Ok(marker);
    }
    let identity = if is_empty(path).map_err(failed)? {
        None
    } else {
        database::older_identity(path, spec)?
    };
    let marker = Marker::new(spec.kind, identity).map_err(failed)?;
    marker.write(path, file).map_err(failed)?;
    Ok(marker)
}

/// Takes the lock of a directory, on an open file of its own: held while the marker is written.
fn lock(directory: &File) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let lock = rustix::fs::openat(directory, ".", flags, Mode::empty())?;
    while let Err(error) = rustix::fs::flock(&lock, FlockOperation::LockExclusive) {
        if error != rustix::io::Errno::INTR {
            return Err(error.into());
        }
    }
    Ok(lock.into())
}

/// Whether a directory holds nothing but remains of a killed claim or of `mkfs`.
fn is_empty(path: &Path) -> io::Result<bool> {
    for entry in std::fs::read_dir(path)? {
        let name = entry?.file_name();
        if name != marker::UNFINISHED && name != LOST_FOUND {
            return Ok(false);
        }
    }
    Ok(true)
}

fn check_subdirectories(path: &Path, spec: &DirectorySpec) -> Result<(), DirectoryError> {
    for name in spec.subdirectories {
        let path = path.join(name);
        let fault = match std::fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => Fault::Unreadable(error),
            Ok(found) if !found.is_dir() => Fault::NotADirectory,
            Ok(found) if found.uid() != rustix::process::geteuid().as_raw() => Fault::Owner(found.uid()),
            Ok(_) => continue,
        };
        return Err(DirectoryError::Fault { path, fault });
    }
    Ok(())
}

/// Removes all others' permissions from a directory of Capsid's.
fn close_to_others(path: &Path, file: &File) -> Result<(), DirectoryError> {
    let close = || -> io::Result<()> {
        if file.metadata()?.mode() & OTHERS != 0 {
            file.set_permissions(std::fs::Permissions::from_mode(0o700))?;
        }
        Ok(())
    };
    close().map_err(|source| DirectoryError::Use {
        path: path.into(),
        source,
    })
}

#[cfg(test)]
mod tests;
