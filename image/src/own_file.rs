//! Files in Capsid's own directories: opened without following links, and only if they are as Capsid would have made
//! them.
//!
//! Neither the last component of the path nor the directory that holds it may be a link. The directories above belong
//! to the caller and are closed to others: see [`crate::directory`].

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Reason why a file in a directory of Capsid's is not one of Capsid's files.
#[derive(Debug)]
#[non_exhaustive]
pub enum Fault {
    /// No file has the name.
    Missing,
    /// A file without content, where an initialized one is expected.
    Empty,
    /// A symbolic link, also one that leads nowhere.
    Link,
    /// A directory, pipe, socket or device.
    NotAFile,
    /// A file, link, pipe, socket or device in the place of a directory.
    NotADirectory,
    /// A file of another user.
    Owner(u32),
    /// A file that cannot be opened or read, such as one without permissions.
    Unreadable(io::Error),
    /// Content that Capsid cannot have written.
    Damaged(String),
    /// A file that carries the identity of another directory, or of another database.
    Identity,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("is missing"),
            Self::Empty => f.write_str("is empty"),
            Self::Link => f.write_str("is a symbolic link, and Capsid follows none to its own files"),
            Self::NotAFile => f.write_str("is not a regular file"),
            Self::NotADirectory => f.write_str("is not a directory"),
            Self::Owner(owner) => write!(f, "belongs to user {owner}, not to you"),
            Self::Unreadable(error) => write!(f, "cannot be read ({error})"),
            Self::Damaged(detail) => write!(f, "is damaged ({detail})"),
            Self::Identity => f.write_str("belongs to another directory: its identity differs"),
        }
    }
}

/// Error of a file that was not opened.
#[derive(Debug, thiserror::Error)]
#[error("{} {fault}", path.display())]
struct OwnFileError {
    path: PathBuf,
    fault: Fault,
}

/// Opens a file of Capsid's with `options`, which must not truncate: [`create`] does that after its checks.
///
/// # Errors
/// `NotFound` unchanged; for links, files of other users and anything but a regular file, an error that names the path.
pub fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let refused = |kind: io::ErrorKind, fault| {
        let path = path.to_owned();
        io::Error::new(kind, OwnFileError { path, fault })
    };
    if let Some(parent) = path.parent()
        && std::fs::symlink_metadata(parent).is_ok_and(|parent| parent.is_symlink())
    {
        let path = parent.to_owned();
        let fault = Fault::Link;
        return Err(io::Error::other(OwnFileError { path, fault }));
    }
    // A pipe would otherwise block its opener; regular files ignore this flag.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let file =
        options.custom_flags(flags as i32).open(path).map_err(|error| {
            match rustix::io::Errno::from_io_error(&error) {
                Some(rustix::io::Errno::LOOP) => refused(io::ErrorKind::Other, Fault::Link),
                Some(rustix::io::Errno::ISDIR | rustix::io::Errno::NXIO) => {
                    refused(io::ErrorKind::Other, Fault::NotAFile)
                }
                _ => error,
            }
        })?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(refused(io::ErrorKind::Other, Fault::NotAFile));
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(refused(io::ErrorKind::PermissionDenied, Fault::Owner(metadata.uid())));
    }
    Ok(file)
}

/// Opens a file of Capsid's for reading.
///
/// # Errors
/// Errors of [`open`].
pub fn read(path: &Path) -> io::Result<File> {
    open(path, OpenOptions::new().read(true))
}

/// Opens a file of Capsid's for writing, created with mode 0600 if missing and truncated otherwise.
///
/// # Errors
/// Errors of [`open`].
pub fn create(path: &Path) -> io::Result<File> {
    let file = open(
        path,
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600),
    )?;
    file.set_len(0)?;
    Ok(file)
}

/// Opens a file that serves as a lock, created with mode 0600 if missing.
///
/// # Errors
/// Errors of [`open`].
pub fn lock_file(path: &Path) -> io::Result<File> {
    open(
        path,
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600),
    )
}

/// Checks, without opening it, that the name is that of the caller's own regular file.
pub(crate) fn check(path: &Path) -> Result<(), Fault> {
    let metadata = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Fault::Missing),
        found => found.map_err(Fault::Unreadable)?,
    };
    if metadata.is_symlink() {
        return Err(Fault::Link);
    }
    if !metadata.is_file() {
        return Err(Fault::NotAFile);
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(Fault::Owner(metadata.uid()));
    }
    if metadata.len() == 0 {
        return Err(Fault::Empty);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_and_special_files_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("target");
        std::fs::write(&target, "precious").unwrap();
        let link = folder.path().join("link");
        symlink(&target, &link).unwrap();
        for refused in [create(&link), read(&link), lock_file(&link)] {
            let words = refused.unwrap_err().to_string();
            assert!(words.contains("link is a symbolic link"), "{words}");
        }
        assert_eq!(std::fs::read(&target).unwrap(), b"precious");
        let through = folder.path().join("through");
        symlink(folder.path(), &through).unwrap();
        assert!(create(&through.join("target")).is_err());
        assert_eq!(std::fs::read(&target).unwrap(), b"precious");
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        for path in [folder.path(), &pipe] {
            assert!(create(path).is_err(), "{}", path.display());
        }
        let missing = read(&folder.path().join("missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        create(&target).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"");
    }
}
