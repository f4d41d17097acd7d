//! Copy of an image's files at a path into the tmpfs or volume mounted over it.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::limits::{Bounds, XATTR_BYTES_MAX};

/// Extended attribute of a volume's root folder while the volume is being filled. Never copied: an image must not mark
/// a volume as incomplete.
#[cfg(not(test))]
pub(crate) const FILLING_MARK: &str = "trusted.capsid.filling";
/// Attribute for tests, which may run as a user without the right to set the other kind.
#[cfg(test)]
pub(crate) const FILLING_MARK: &str = "user.capsid.filling";

/// Error of the copy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PopulateError {
    /// There are more files than the [`Bounds`] allow.
    #[error("too many files")]
    TooMany,
    /// Folders are deeper than the [`Bounds`] allow.
    #[error("folders nested too deep")]
    TooDeep,
    /// One file could not be copied.
    #[error("cannot copy {name:?}")]
    Copy { name: OsString, source: Errno },
    /// One file of an earlier copy could not be removed.
    #[error("cannot remove {name:?}")]
    Remove { name: OsString, source: Errno },
    /// The content of one file could not be copied.
    #[error("cannot copy the content of {name:?}")]
    Content { name: OsString, source: std::io::Error },
}

/// Copies the tree below the folder `from` to the folder `to`: content, modes, owners, times, extended attributes and
/// hard links. No symbolic link is followed.
pub(crate) fn populate(from: impl AsFd, to: impl AsFd, bounds: Bounds) -> Result<(), PopulateError> {
    let to = to.as_fd();
    let mut copying = Copying {
        root: to,
        entries_left: bounds.entries,
        at: PathBuf::new(),
        linked: HashMap::new(),
    };
    copying.folder(from, to, bounds.depth)
}

/// Copies owner, mode and extended attributes of the folder `from` to the folder `to`.
pub(crate) fn copy_own_attributes(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    let stat = rustix::fs::statat(from, "", AtFlags::EMPTY_PATH)?;
    copy_attributes(from, to.as_fd(), &OsString::from("."), &stat)
}

/// State of a running copy.
struct Copying<'a> {
    /// Folder that everything is copied to.
    root: BorrowedFd<'a>,
    entries_left: usize,
    /// Folder that is being copied, relative to the root.
    at: PathBuf,
    /// Files with more names than were found yet, by device and inode.
    linked: HashMap<(u64, u64), Linked>,
}

/// Copied file with several names.
struct Linked {
    /// Name of the copy, relative to the root.
    copy: PathBuf,
    names_left: u64,
}

impl Copying<'_> {
    fn folder(&mut self, from: impl AsFd, to: impl AsFd, depth: usize) -> Result<(), PopulateError> {
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
            self.entries_left = self.entries_left.checked_sub(1).ok_or(PopulateError::TooMany)?;
            let name = OsString::from_vec(name.into_bytes());
            self.entry(&folder, to.as_fd(), &name, depth)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        from: &OwnedFd,
        to: BorrowedFd<'_>,
        name: &OsString,
        depth: usize,
    ) -> Result<(), PopulateError> {
        let failed = |source| PopulateError::Copy {
            name: name.clone(),
            source,
        };
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 && self.link(to, name, &stat).map_err(failed)? {
            return Ok(());
        }
        match kind {
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, mode).map_err(failed)?;
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let source = rustix::fs::openat(from, name, flags, Mode::empty()).map_err(failed)?;
                let target = rustix::fs::openat(to, name, flags, Mode::empty()).map_err(failed)?;
                self.at.push(name);
                self.folder(&source, &target, depth)?;
                self.at.pop();
            }
            FileType::RegularFile => copy_content(from, to, name, mode)?,
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(from, name, Vec::new()).map_err(failed)?;
                rustix::fs::symlinkat(&link, to, name).map_err(failed)?;
            }
            kind => rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev).map_err(failed)?,
        }
        copy_attributes(from, to, name, &stat).map_err(failed)
    }

    /// Makes `name` one more name of a file, if it was copied before. Another container may already use the volume: its
    /// links are not followed on the way to the copy.
    fn link(&mut self, to: BorrowedFd<'_>, name: &OsString, stat: &Stat) -> Result<bool, Errno> {
        let key = (stat.st_dev, stat.st_ino);
        let Some(linked) = self.linked.get_mut(&key) else {
            let linked = Linked {
                copy: self.at.join(name),
                names_left: stat.st_nlink - 1,
            };
            self.linked.insert(key, linked);
            return Ok(false);
        };
        let (parent, file) = (linked.copy.parent(), linked.copy.file_name().unwrap_or_default());
        let parent = parent
            .filter(|path| !path.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let parent = rustix::fs::openat2(self.root, parent, flags, Mode::empty(), resolve)?;
        rustix::fs::linkat(&parent, file, to, name, AtFlags::empty())?;
        linked.names_left -= 1;
        if linked.names_left == 0 {
            self.linked.remove(&key);
        }
        Ok(true)
    }
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

/// Copies attributes. Owner first: a change of owner clears set-user-id bits and capabilities. Access control lists
/// after the mode, which would change them.
fn copy_attributes(from: &OwnedFd, to: BorrowedFd<'_>, name: &OsString, stat: &Stat) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        rustix::fs::chmodat(to, name, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
    }
    copy_xattrs(from.as_fd(), to, name)?;
    let time = |seconds: i64, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds as i64,
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    rustix::fs::utimensat(to, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// Copies extended attributes. A filesystem without support has none, or takes none: as on every Linux, they are lost
/// there.
fn copy_xattrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &OsString) -> Result<(), Errno> {
    // Calls by folder and name came with Linux 6.13; the agent's own /proc names the folders until then.
    let path = |folder: BorrowedFd<'_>| {
        Path::new("/proc/self/fd")
            .join(folder.as_raw_fd().to_string())
            .join(name)
    };
    let (from, to) = (path(from), path(to));
    let mut names = vec![0; XATTR_BYTES_MAX];
    let listed = match rustix::fs::llistxattr(&from, &mut names[..]) {
        Ok(listed) => listed,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(e) => return Err(e),
    };
    let mut value = vec![0; if listed == 0 { 0 } else { XATTR_BYTES_MAX }];
    let is_copied = |key: &&[u8]| !key.is_empty() && *key != FILLING_MARK.as_bytes();
    for key in names[..listed].split(|b| *b == 0).filter(is_copied) {
        let bytes = rustix::fs::lgetxattr(&from, key, &mut value[..])?;
        match rustix::fs::lsetxattr(&to, key, &value[..bytes], XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::limits::TMPFS_BOUNDS;

    #[test]
    fn files_links_and_modes_are_copied() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(from.path().join("folder")).unwrap();
        fs::write(from.path().join("folder/file"), "content").unwrap();
        fs::set_permissions(from.path().join("folder/file"), fs::Permissions::from_mode(0o640)).unwrap();
        symlink("/nowhere", from.path().join("link")).unwrap();
        let file = from.path().join("folder/file");
        let has_xattrs = rustix::fs::setxattr(&file, "user.capsid", b"value", XattrFlags::empty()).is_ok();
        populate(
            File::open(from.path()).unwrap(),
            File::open(to.path()).unwrap(),
            TMPFS_BOUNDS,
        )
        .unwrap();
        let copied = to.path().join("folder/file");
        assert_eq!(fs::read_to_string(&copied).unwrap(), "content");
        assert_eq!(fs::metadata(&copied).unwrap().permissions().mode() & 0o7777, 0o640);
        if has_xattrs {
            let mut value = [0; 16];
            let n = rustix::fs::getxattr(&copied, "user.capsid", &mut value).unwrap();
            assert_eq!(&value[..n], b"value");
        }
        assert_eq!(
            fs::read_link(to.path().join("link")).unwrap(),
            std::path::Path::new("/nowhere")
        );
    }

    #[test]
    fn hard_links_stay_links() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(from.path().join("a/b")).unwrap();
        fs::write(from.path().join("a/b/first"), "content").unwrap();
        for name in ["second", "a/third"] {
            fs::hard_link(from.path().join("a/b/first"), from.path().join(name)).unwrap();
        }
        symlink("nowhere", from.path().join("link")).unwrap();
        fs::hard_link(from.path().join("link"), from.path().join("a/link")).unwrap();
        // One more name, which is not copied.
        let outside = tempfile::tempdir().unwrap();
        fs::hard_link(from.path().join("second"), outside.path().join("fourth")).unwrap();
        populate(
            File::open(from.path()).unwrap(),
            File::open(to.path()).unwrap(),
            TMPFS_BOUNDS,
        )
        .unwrap();
        let inode =
            |name: &str| std::os::unix::fs::MetadataExt::ino(&fs::symlink_metadata(to.path().join(name)).unwrap());
        assert_eq!(inode("a/b/first"), inode("second"));
        assert_eq!(inode("a/b/first"), inode("a/third"));
        assert_eq!(inode("link"), inode("a/link"));
        assert_eq!(fs::read_to_string(to.path().join("second")).unwrap(), "content");
    }

    #[test]
    fn bounds_end_a_copy() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(from.path().join("a/b/c")).unwrap();
        let copy = |entries, depth| {
            let to = tempfile::tempdir_in(to.path()).unwrap();
            populate(
                File::open(from.path()).unwrap(),
                File::open(to.path()).unwrap(),
                Bounds { entries, depth },
            )
        };
        assert!(matches!(copy(2, 9), Err(PopulateError::TooMany)));
        assert!(matches!(copy(9, 3), Err(PopulateError::TooDeep)));
        copy(3, 4).unwrap();
    }
}
