//! Directories that belong to Capsid. A marker file gives each one an identity, which its databases carry as well.
//!
//! ```text
//! DIRECTORY/capsid-directory.json   the marker: format, kind, identity, and which databases have been made
//! DIRECTORY/state.db                a database: its table `identity` names the directory's identity and itself
//! ```
//!
//! Only an empty directory becomes Capsid's. One that holds anything else than the marker and what an older release has
//! left is refused, and neither its content nor its mode is changed. A database that the marker lists must be there,
//! sound, and carry the marker's identity: an empty one in its place would say that there are no containers, volumes or
//! images. The directory belongs to the caller and is closed to others, and its parent does not let others rename it;
//! so its path stays what it was when it was checked.

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

/// What a filesystem of its own may hold when it is new.
const LOST_FOUND: &str = "lost+found";
/// Permissions of anybody but the owner.
const OTHERS: u32 = 0o077;
const STICKY: u32 = 0o1000;
const OTHERS_WRITE: u32 = 0o022;

/// What a directory of one kind holds.
#[derive(Debug)]
pub struct DirectorySpec {
    /// Word for it in the marker.
    pub kind: &'static str,
    /// Databases that it may hold.
    pub databases: &'static [DatabaseSpec],
    /// Directories in it, none of which may be a link.
    pub subdirectories: &'static [&'static str],
    /// Whether a directory without marker and databases is one that an older release has made.
    pub is_older: fn(&Path) -> bool,
}

/// One database of a directory.
#[derive(Debug)]
pub struct DatabaseSpec {
    /// File name.
    pub name: &'static str,
    /// Table that every version of it has.
    pub table: &'static str,
    /// Directories whose content it knows.
    pub describes: &'static [&'static str],
    /// One step each from the version of its index to the next.
    pub migrations: &'static [&'static str],
}

/// Whether a directory may be reached by a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// A link of the caller's own is followed, as to a larger disk.
    Follow,
    /// None, in a place where anybody may make one: the directory must be closed to others already, and its parent must
    /// be one in which nobody else can rename it.
    Refuse,
}

/// Why a directory or a database in it cannot be used. Nothing was removed or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// It cannot be made or used.
    #[error("cannot use the directory {}", path.display())]
    Use {
        /// Which.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Another user owns it, or the link to it.
    #[error("directory {} belongs to user {owner}, not to you: choose another with --data-dir or --run-dir", path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
        /// Whose.
        owner: u32,
    },
    /// A link where none is followed.
    #[error("{} is a symbolic link, which anybody could have made: remove it, or set XDG_RUNTIME_DIR or --run-dir", path.display())]
    Link {
        /// Which.
        path: PathBuf,
    },
    /// Others may enter it.
    #[error("directory {} is open to other users (mode {mode:03o}): run `chmod 700` on it, or set XDG_RUNTIME_DIR or --run-dir", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Others may rename it.
    #[error("directory {} lets other users rename what is in it (no sticky bit): set XDG_RUNTIME_DIR or --run-dir", path.display())]
    Parent {
        /// Which.
        path: PathBuf,
    },
    /// It holds files, and no marker.
    #[error("directory {} is not empty and not Capsid's (it has no {}): choose another or an empty one with --data-dir or --run-dir", path.display(), marker::NAME)]
    NotOurs {
        /// Which.
        path: PathBuf,
    },
    /// It is of another kind.
    #[error("directory {} is Capsid's {found} directory, not its {wanted} directory: choose another with --data-dir or --run-dir", path.display())]
    Kind {
        /// Which.
        path: PathBuf,
        /// Kind that it has.
        found: String,
        /// Kind that it should have.
        wanted: &'static str,
    },
    /// The marker, a database or a directory of it is not what Capsid made.
    #[error("{} {fault}; nothing was changed: {}", path.display(), cure(fault))]
    Fault {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        fault: Fault,
    },
    /// Nothing can be written in it, and something would have to be.
    #[error("directory {} is read-only, and {reason}: make it writable, and run any command once", path.display())]
    ReadOnly {
        /// Which.
        path: PathBuf,
        /// File that would have to be written.
        reason: String,
    },
    /// A later release wrote it.
    #[error("{} is of a newer version of capsid ({found}, this one knows {known}): upgrade capsid", path.display())]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The last version that is known here.
        known: i64,
    },
    /// SQLite.
    #[error("cannot use the database {}", path.display())]
    Sqlite {
        /// Which.
        path: PathBuf,
        /// Cause.
        #[source]
        source: rusqlite::Error,
    },
}

/// What the user can do about a file that Capsid does not take.
fn cure(fault: &Fault) -> &'static str {
    match fault {
        Fault::Owner(_) => "give it back to its owner with `chown`, or choose another directory",
        Fault::Unreadable(_) => "make it readable with `chmod u+rw`",
        Fault::NotADirectory => "move it away, or move its directory back",
        _ => "restore it from a backup of this directory, or run `capsid system recover`",
    }
}

/// An open directory of Capsid's.
#[derive(Debug)]
pub struct Directory {
    /// Without links.
    path: PathBuf,
    file: File,
    marker: Marker,
}

impl Directory {
    /// Opens the directory, which is made if missing, marked if empty, and taken over if an older release made it.
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

    /// Whether nothing can be written in it: its filesystem is read-only, or its permissions keep the caller from it.
    pub fn is_read_only(&self) -> bool {
        let access = rustix::fs::accessat(&self.file, ".", Access::WRITE_OK, AtFlags::EACCESS);
        matches!(access, Err(Errno::ROFS | Errno::ACCESS | Errno::PERM))
    }

    /// Its path, without links.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes the directory if missing, and opens it: it is the caller's, and so is a link to it.
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
    if links == Links::Refuse {
        check_public_place(wanted, metadata.mode())?;
    }
    let path = path_of(&file).map_err(failed)?;
    Ok((path, file))
}

/// A directory where anybody may make one: closed to others, and not to be renamed by them.
fn check_public_place(path: &Path, mode: u32) -> Result<(), DirectoryError> {
    let mode = mode & 0o777;
    if mode & OTHERS != 0 {
        return Err(DirectoryError::Open {
            path: path.into(),
            mode,
        });
    }
    let parent = path.parent().unwrap_or(path);
    let metadata = std::fs::metadata(parent).map_err(|source| DirectoryError::Use {
        path: parent.into(),
        source,
    })?;
    let is_others = ![0, rustix::process::geteuid().as_raw()].contains(&metadata.uid());
    if is_others || (metadata.mode() & OTHERS_WRITE != 0 && metadata.mode() & STICKY == 0) {
        return Err(DirectoryError::Parent { path: parent.into() });
    }
    Ok(())
}

/// The path of an open directory, without links.
fn path_of(file: &File) -> io::Result<PathBuf> {
    use std::os::fd::AsRawFd;
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Marks a directory that is empty or of an older release. One of several commands at a time does.
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

/// The lock of a directory, on an open file of its own: held while its marker is written.
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

/// Whether nothing is in a directory but what a killed claim or `mkfs` has left.
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

/// Takes everybody else's permissions from a directory that is Capsid's.
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
