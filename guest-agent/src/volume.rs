//! A volume: an ext4 disk mounted into a container, filled from the image the first time, as docker does.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::disk::{self, DiskError};
use crate::limits::VOLUME_BOUNDS;
use crate::mount::{MountError, attach, filesystem};
use crate::plan::attribute;
use crate::populate::{PopulateError, copy_own_attributes, populate};
use crate::sys;

/// There while a volume is being filled: what is beside it is not complete.
const FILLING: &str = ".capsid-filling";

/// What `mkfs.ext4` leaves in every filesystem.
const LOST_AND_FOUND: &str = "lost+found";

/// Why a volume cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    /// Its disk.
    #[error("cannot find its disk")]
    Disk(#[source] DiskError),
    /// Its filesystem, or its place.
    #[error("cannot mount its disk")]
    Mount(#[source] MountError),
    /// Its content cannot be looked at or prepared.
    #[error("cannot prepare it")]
    Prepare(#[source] Errno),
    /// A copy that was cut off cannot be removed.
    #[error("cannot remove an incomplete copy of the image's files")]
    Clear(#[source] PopulateError),
    /// The image's files cannot be copied.
    #[error("cannot copy the image's files into it")]
    Populate(#[source] PopulateError),
    /// It cannot be made read-only.
    #[error("cannot make it read-only")]
    ReadOnly(#[source] Errno),
}

/// Mounts the disk `serial` at `place` with `attributes`, filled from what is there first when `fill` is wanted and it
/// is empty.
pub(crate) fn mount(serial: &str, place: &OwnedFd, attributes: u64, fill: bool) -> Result<(), VolumeError> {
    let disk = disk::find(serial).map_err(VolumeError::Disk)?;
    let options = [("source", disk.path.as_str())];
    // Two containers may have it, one of them read-only: that is the mount's attribute, never the filesystem's state,
    // unless the disk itself cannot be written.
    let flags: &[&str] = if disk.is_readonly { &["ro"] } else { &[] };
    let writable = attributes & !attribute::READONLY;
    let mount = filesystem("ext4", &options, flags, writable).map_err(VolumeError::Mount)?;
    if !disk.is_readonly {
        prepare(place, &mount, fill)?;
    }
    if attributes != writable {
        sys::set_mount_attributes(mount.as_fd(), attribute::READONLY, false).map_err(VolumeError::ReadOnly)?;
    }
    attach(&mount, place, "").map_err(VolumeError::Mount)
}

/// Makes a volume what a container expects: without `lost+found`, and filled.
fn prepare(place: &OwnedFd, mount: &OwnedFd, fill: bool) -> Result<(), VolumeError> {
    match rustix::fs::unlinkat(mount, LOST_AND_FOUND, AtFlags::REMOVEDIR) {
        // With something in it, it is worth keeping.
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::NOTDIR) => {}
        Err(e) => return Err(VolumeError::Prepare(e)),
    }
    if !fill {
        return Ok(());
    }
    match rustix::fs::statat(mount, FILLING, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => clear(mount)?,
        Err(Errno::NOENT) if is_empty(mount).map_err(VolumeError::Prepare)? => {}
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(VolumeError::Prepare(e)),
    }
    fill_from(place, mount)
}

/// Removes everything but the mark of an incomplete copy, which goes when the next one is complete.
fn clear(mount: &OwnedFd) -> Result<(), VolumeError> {
    let mut left = VOLUME_BOUNDS.entries;
    let names = names(mount, VOLUME_BOUNDS.entries).map_err(VolumeError::Prepare)?;
    for name in names.iter().filter(|name| *name != FILLING) {
        remove(mount, name, VOLUME_BOUNDS.depth, &mut left).map_err(VolumeError::Clear)?;
    }
    Ok(())
}

/// Fills a volume from the folder `place`: complete, or marked as not.
fn fill_from(place: &OwnedFd, mount: &OwnedFd) -> Result<(), VolumeError> {
    copy_own_attributes(place, mount).map_err(VolumeError::Prepare)?;
    if is_empty(place).map_err(VolumeError::Prepare)? {
        return forget_mark(mount);
    }
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mark = rustix::fs::openat(mount, FILLING, flags, Mode::from_raw_mode(0o600)).map_err(VolumeError::Prepare)?;
    rustix::fs::syncfs(&mark).map_err(VolumeError::Prepare)?;
    populate(place, mount, VOLUME_BOUNDS).map_err(VolumeError::Populate)?;
    rustix::fs::syncfs(&mark).map_err(VolumeError::Prepare)?;
    forget_mark(mount)
}

fn forget_mark(mount: &OwnedFd) -> Result<(), VolumeError> {
    match rustix::fs::unlinkat(mount, FILLING, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(VolumeError::Prepare(e)),
    }
}

/// Whether nothing lies in a folder.
fn is_empty(folder: &OwnedFd) -> Result<bool, Errno> {
    names(folder, 1).map(|names| names.is_empty())
}

/// What lies in a folder: at most `max` of it.
fn names(folder: &OwnedFd, max: usize) -> Result<Vec<OsString>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(folder, ".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&folder)? {
        let name = entry?.file_name().to_owned().into_bytes();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
        if names.len() >= max {
            break;
        }
    }
    Ok(names)
}

/// Removes one entry with what is below it. No link is followed.
fn remove(folder: &OwnedFd, name: &OsString, depth: usize, left: &mut usize) -> Result<(), PopulateError> {
    *left = left.checked_sub(1).ok_or(PopulateError::TooMany)?;
    let depth = depth.checked_sub(1).ok_or(PopulateError::TooDeep)?;
    let failed = |source| PopulateError::Remove {
        name: name.clone(),
        source,
    };
    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return rustix::fs::unlinkat(folder, name, AtFlags::empty()).map_err(failed);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let below = rustix::fs::openat(folder, name, flags, Mode::empty()).map_err(failed)?;
    for entry in names(&below, *left + 1).map_err(failed)? {
        remove(&below, &entry, depth, left)?;
    }
    rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    /// An image's folder with a file, and a volume as `mkfs.ext4` makes it.
    fn folders() -> (tempfile::TempDir, tempfile::TempDir) {
        let (image, volume) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(image.path().join("file"), "image").unwrap();
        fs::create_dir(volume.path().join(LOST_AND_FOUND)).unwrap();
        (image, volume)
    }

    fn listing(folder: &tempfile::TempDir) -> Vec<OsString> {
        let mut names = names(&open(folder.path()), 99).unwrap();
        names.sort();
        names
    }

    #[test]
    fn an_empty_volume_is_filled_once() {
        let (image, volume) = folders();
        prepare(&open(image.path()), &open(volume.path()), true).unwrap();
        assert_eq!(listing(&volume), ["file"]);
        fs::write(volume.path().join("file"), "changed").unwrap();
        prepare(&open(image.path()), &open(volume.path()), true).unwrap();
        assert_eq!(fs::read_to_string(volume.path().join("file")).unwrap(), "changed");
    }

    #[test]
    fn a_volume_that_is_not_to_be_filled_is_empty() {
        let (image, volume) = folders();
        prepare(&open(image.path()), &open(volume.path()), false).unwrap();
        assert!(listing(&volume).is_empty());
    }

    #[test]
    fn what_was_rescued_is_kept() {
        let (image, volume) = folders();
        fs::write(volume.path().join(LOST_AND_FOUND).join("#12"), "rescued").unwrap();
        prepare(&open(image.path()), &open(volume.path()), true).unwrap();
        assert_eq!(listing(&volume), [LOST_AND_FOUND]);
    }

    #[test]
    fn a_copy_that_was_cut_off_is_made_again() {
        let (image, volume) = folders();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "").unwrap();
        fs::write(volume.path().join(FILLING), "").unwrap();
        fs::write(volume.path().join("file"), "ima").unwrap();
        fs::create_dir_all(volume.path().join("half/copied")).unwrap();
        symlink(outside.path(), volume.path().join("half/link")).unwrap();
        prepare(&open(image.path()), &open(volume.path()), true).unwrap();
        assert_eq!(listing(&volume), ["file"]);
        assert_eq!(fs::read_to_string(volume.path().join("file")).unwrap(), "image");
        assert!(outside.path().join("kept").exists());
    }
}
