//! Copies what an image has at a path into the tmpfs mounted over it.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::limits::{POPULATE_DEPTH_MAX, POPULATE_ENTRIES_MAX};

/// Why the copy failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PopulateError {
    /// More files than [`POPULATE_ENTRIES_MAX`].
    #[error("more than {POPULATE_ENTRIES_MAX} files")]
    TooMany,
    /// Folders deeper than [`POPULATE_DEPTH_MAX`].
    #[error("folders nested deeper than {POPULATE_DEPTH_MAX}")]
    TooDeep,
    /// One file could not be copied.
    #[error("cannot copy {name:?}")]
    Copy { name: OsString, source: Errno },
    /// The content of one file could not be copied.
    #[error("cannot copy the content of {name:?}")]
    Content { name: OsString, source: std::io::Error },
}

/// Copies the tree below the folder `from` to the folder `to`: content, modes, owners and times. No link is followed.
pub(crate) fn populate(from: impl AsFd, to: impl AsFd) -> Result<(), PopulateError> {
    let mut left = POPULATE_ENTRIES_MAX;
    copy_folder(from, to, POPULATE_DEPTH_MAX, &mut left)
}

fn copy_folder(from: impl AsFd, to: impl AsFd, depth: usize, left: &mut usize) -> Result<(), PopulateError> {
    let depth = depth.checked_sub(1).ok_or(PopulateError::TooDeep)?;
    let failed = |source| PopulateError::Copy {
        name: ".".into(),
        source,
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(&from, ".", flags, Mode::empty()).map_err(failed)?;
    for entry in Dir::read_from(&folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_owned();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        *left = left.checked_sub(1).ok_or(PopulateError::TooMany)?;
        let name = OsString::from_vec(name.into_bytes());
        copy_entry(&folder, &to, &name, depth, left)?;
    }
    Ok(())
}

fn copy_entry(
    from: &OwnedFd,
    to: impl AsFd,
    name: &OsString,
    depth: usize,
    left: &mut usize,
) -> Result<(), PopulateError> {
    let failed = |source| PopulateError::Copy {
        name: name.clone(),
        source,
    };
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    let to = to.as_fd();
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            rustix::fs::mkdirat(to, name, mode).map_err(failed)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let source = rustix::fs::openat(from, name, flags, Mode::empty()).map_err(failed)?;
            let target = rustix::fs::openat(to, name, flags, Mode::empty()).map_err(failed)?;
            copy_folder(&source, &target, depth, left)?;
        }
        FileType::RegularFile => copy_content(from, to, name, mode)?,
        FileType::Symlink => {
            let link = rustix::fs::readlinkat(from, name, Vec::new()).map_err(failed)?;
            rustix::fs::symlinkat(&link, to, name).map_err(failed)?;
        }
        kind => rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev).map_err(failed)?,
    }
    copy_attributes(to, name, &stat).map_err(failed)
}

fn copy_content(from: &OwnedFd, to: impl AsFd, name: &OsString, mode: Mode) -> Result<(), PopulateError> {
    let failed = |source| PopulateError::Copy {
        name: name.clone(),
        source,
    };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = rustix::fs::openat(from, name, flags, Mode::empty()).map_err(failed)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let target = rustix::fs::openat(to, name, flags, mode).map_err(failed)?;
    std::io::copy(&mut File::from(source), &mut File::from(target))
        .map(drop)
        .map_err(|source| PopulateError::Content {
            name: name.clone(),
            source,
        })
}

/// Owner first: a change of owner clears set-user-id bits.
fn copy_attributes(to: impl AsFd, name: &OsString, stat: &Stat) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(&to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        rustix::fs::chmodat(&to, name, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
    }
    let time = |seconds: i64, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds as i64,
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    rustix::fs::utimensat(&to, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn files_links_and_modes_are_copied() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(from.path().join("folder")).unwrap();
        fs::write(from.path().join("folder/file"), "content").unwrap();
        fs::set_permissions(from.path().join("folder/file"), fs::Permissions::from_mode(0o640)).unwrap();
        symlink("/nowhere", from.path().join("link")).unwrap();
        populate(File::open(from.path()).unwrap(), File::open(to.path()).unwrap()).unwrap();
        let copied = to.path().join("folder/file");
        assert_eq!(fs::read_to_string(&copied).unwrap(), "content");
        assert_eq!(fs::metadata(&copied).unwrap().permissions().mode() & 0o7777, 0o640);
        assert_eq!(
            fs::read_link(to.path().join("link")).unwrap(),
            std::path::Path::new("/nowhere")
        );
    }
}
