//! A volume: an ext4 disk mounted into a container, filled from the image the first time, like docker's.
//!
//! An interrupted copy of the image's files must be made again, and nothing else may be taken for one: anybody who can
//! make a file in a volume must not be able to have it erased. So the state of a copy is no file of the volume, but the
//! attribute [`FILLING_MARK`] of its root folder, in the namespace `trusted.`, which only processes with
//! `CAP_SYS_ADMIN` in the guest's first user namespace read or write (`xattr(7)`). It lies in the same filesystem as
//! the copy, so that neither gets ahead of the other when the machine is killed. No attribute of that name is ever
//! copied from an image.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::disk::{self, DiskError};
use crate::limits::VOLUME_BOUNDS;
use crate::mount::{MountError, attach, filesystem};
use crate::plan::attribute;
use crate::populate::{FILLING_MARK, PopulateError, copy_own_attributes, populate};
use crate::sys;

/// Folder that `mkfs.ext4` leaves in every filesystem.
const LOST_AND_FOUND: &str = "lost+found";

/// Error of mounting a volume.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    /// The disk cannot be found.
    #[error("cannot find its disk")]
    Disk(#[source] DiskError),
    /// The filesystem cannot be mounted or attached.
    #[error("cannot mount its disk")]
    Mount(#[source] MountError),
    /// The content cannot be read or prepared.
    #[error("cannot prepare it")]
    Prepare(#[source] Errno),
    /// Another container of the pod is filling the volume, and the wait for it failed.
    #[error("cannot lock its disk")]
    Lock(#[source] Errno),
    /// The state of the copy cannot be read or written.
    #[error("cannot read or write whether it is filled")]
    Mark(#[source] Errno),
    /// An interrupted copy cannot be removed.
    #[error("cannot remove an incomplete copy of the image's files")]
    Clear(#[source] PopulateError),
    /// The image's files cannot be copied.
    #[error("cannot copy the image's files into it")]
    Populate(#[source] PopulateError),
    /// The mount cannot be made read-only.
    #[error("cannot make it read-only")]
    ReadOnly(#[source] Errno),
}

/// Mounts the disk `serial` at `place` with `attributes`. If `content`, the image's folder, is present and the disk is
/// empty, the disk is filled from it first.
pub(crate) fn mount(
    serial: &str,
    place: &OwnedFd,
    attributes: u64,
    content: Option<&OwnedFd>,
) -> Result<(), VolumeError> {
    let disk = disk::find(serial).map_err(VolumeError::Disk)?;
    let options = [("source", disk.path.as_str())];
    // Two containers may use the volume, one of them read-only: that is the mount's attribute, never the filesystem's
    // state, unless the disk itself cannot be written.
    let flags: &[&str] = if disk.is_readonly { &["ro"] } else { &[] };
    let writable = attributes & !attribute::READONLY;
    let mount = filesystem("ext4", &options, flags, writable).map_err(VolumeError::Mount)?;
    if !disk.is_readonly {
        let _turn = take_turn(&disk.path)?;
        prepare(content, &mount)?;
    }
    if attributes != writable {
        sys::set_mount_attributes(mount.as_fd(), attribute::READONLY, false).map_err(VolumeError::ReadOnly)?;
    }
    attach(&mount, place, "").map_err(VolumeError::Mount)
}

/// Waits for other containers of the pod that prepare the same volume: a running copy is not an interrupted one. The
/// lock is on the agent's own device node, which containers have no access to, and ends with the descriptor.
fn take_turn(device: &str) -> Result<OwnedFd, VolumeError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let device = rustix::fs::open(device, flags, Mode::empty()).map_err(VolumeError::Lock)?;
    rustix::fs::flock(&device, FlockOperation::LockExclusive).map_err(VolumeError::Lock)?;
    Ok(device)
}

/// Prepares a volume as a container expects it: without `lost+found`, without half a copy, and filled.
fn prepare(content: Option<&OwnedFd>, mount: &OwnedFd) -> Result<(), VolumeError> {
    match rustix::fs::unlinkat(mount, LOST_AND_FOUND, AtFlags::REMOVEDIR) {
        // A folder with something in it is worth keeping.
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::NOTDIR) => {}
        Err(e) => return Err(VolumeError::Prepare(e)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(mount, ".", flags, Mode::empty()).map_err(VolumeError::Prepare)?;
    // Also if nothing is to be copied: files that the container writes must not be taken for half a copy later.
    if is_marked(&root)? {
        clear(mount)?;
        unmark(&root)?;
    }
    match content {
        Some(content) if is_empty(mount).map_err(VolumeError::Prepare)? => fill_from(content, mount, &root),
        _ => Ok(()),
    }
}

/// Removes the whole content of a volume.
fn clear(mount: &OwnedFd) -> Result<(), VolumeError> {
    let mut left = VOLUME_BOUNDS.entries;
    let names = names(mount, VOLUME_BOUNDS.entries).map_err(VolumeError::Prepare)?;
    for name in &names {
        remove(mount, name, VOLUME_BOUNDS.depth, &mut left).map_err(VolumeError::Clear)?;
    }
    Ok(())
}

/// Fills a volume from the folder `content`: completely, or marked as incomplete. `root` is the volume's own folder.
fn fill_from(content: &OwnedFd, mount: &OwnedFd, root: &OwnedFd) -> Result<(), VolumeError> {
    copy_own_attributes(content, mount).map_err(VolumeError::Prepare)?;
    if is_empty(content).map_err(VolumeError::Prepare)? {
        return Ok(());
    }
    rustix::fs::fsetxattr(root, FILLING_MARK, &[], XattrFlags::empty()).map_err(VolumeError::Mark)?;
    rustix::fs::fsync(root).map_err(VolumeError::Mark)?;
    populate(content, mount, VOLUME_BOUNDS).map_err(VolumeError::Populate)?;
    rustix::fs::syncfs(root).map_err(VolumeError::Prepare)?;
    unmark(root)
}

/// Whether a copy into the volume was begun and not ended.
fn is_marked(root: &OwnedFd) -> Result<bool, VolumeError> {
    match rustix::fs::fgetxattr(root, FILLING_MARK, &mut [0u8; 0][..]) {
        Ok(_) => Ok(true),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(e) => Err(VolumeError::Mark(e)),
    }
}

/// Records, also on the disk, that the content of the volume is complete, before a program can change it.
fn unmark(root: &OwnedFd) -> Result<(), VolumeError> {
    match rustix::fs::fremovexattr(root, FILLING_MARK) {
        Ok(()) | Err(Errno::NODATA) => rustix::fs::fsync(root).map_err(VolumeError::Mark),
        Err(e) => Err(VolumeError::Mark(e)),
    }
}

/// Whether a folder is empty.
fn is_empty(folder: &OwnedFd) -> Result<bool, Errno> {
    names(folder, 1).map(|names| names.is_empty())
}

/// Returns the names in a folder, at most `max` of them.
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

/// Removes one entry with everything below it. No link is followed.
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

    /// Makes an image's folder with a file, and a volume as `mkfs.ext4` makes it.
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
        prepare(Some(&open(image.path())), &open(volume.path())).unwrap();
        assert_eq!(listing(&volume), ["file"]);
        fs::write(volume.path().join("file"), "changed").unwrap();
        prepare(Some(&open(image.path())), &open(volume.path())).unwrap();
        assert_eq!(fs::read_to_string(volume.path().join("file")).unwrap(), "changed");
    }

    #[test]
    fn a_volume_that_is_not_to_be_filled_is_empty() {
        let (_image, volume) = folders();
        prepare(None, &open(volume.path())).unwrap();
        assert!(listing(&volume).is_empty());
    }

    #[test]
    fn what_was_rescued_is_kept() {
        let (image, volume) = folders();
        fs::write(volume.path().join(LOST_AND_FOUND).join("#12"), "rescued").unwrap();
        prepare(Some(&open(image.path())), &open(volume.path())).unwrap();
        assert_eq!(listing(&volume), [LOST_AND_FOUND]);
    }

    /// Makes a volume look like one after an interrupted copy; `false` if the temporary folder takes no attributes.
    fn cut_off(volume: &tempfile::TempDir) -> bool {
        let root = fs::File::open(volume.path()).unwrap();
        rustix::fs::fsetxattr(root, FILLING_MARK, &[], XattrFlags::empty()).is_ok()
    }

    #[test]
    fn a_copy_that_was_cut_off_is_made_again() {
        let (image, volume) = folders();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "").unwrap();
        fs::write(volume.path().join("file"), "ima").unwrap();
        fs::create_dir_all(volume.path().join("half/copied")).unwrap();
        symlink(outside.path(), volume.path().join("half/link")).unwrap();
        if !cut_off(&volume) {
            return;
        }
        prepare(Some(&open(image.path())), &open(volume.path())).unwrap();
        assert_eq!(listing(&volume), ["file"]);
        assert_eq!(fs::read_to_string(volume.path().join("file")).unwrap(), "image");
        assert!(outside.path().join("kept").exists());
        fs::write(volume.path().join("own"), "").unwrap();
        prepare(Some(&open(image.path())), &open(volume.path())).unwrap();
        assert_eq!(listing(&volume), ["file", "own"]);
    }

    #[test]
    fn what_is_written_over_half_a_copy_is_kept() {
        let (image, volume) = folders();
        fs::write(volume.path().join("half"), "").unwrap();
        if !cut_off(&volume) {
            return;
        }
        prepare(None, &open(volume.path())).unwrap();
        assert!(listing(&volume).is_empty());
        fs::write(volume.path().join("own"), "").unwrap();
        prepare(Some(&open(image.path())), &open(volume.path())).unwrap();
        assert_eq!(listing(&volume), ["own"]);
    }

    #[test]
    fn no_file_name_is_a_mark() {
        let (image, volume) = folders();
        for folder in [&image, &volume] {
            fs::write(folder.path().join(".capsid-filling"), "").unwrap();
        }
        fs::write(volume.path().join("own"), "").unwrap();
        prepare(Some(&open(image.path())), &open(volume.path())).unwrap();
        assert_eq!(listing(&volume), [".capsid-filling", "own"]);
        let (_, empty) = folders();
        prepare(Some(&open(image.path())), &open(empty.path())).unwrap();
        assert_eq!(listing(&empty), [".capsid-filling", "file"]);
    }

    #[test]
    fn a_mark_of_the_image_is_not_copied() {
        let (image, volume) = folders();
        cut_off(&image);
        prepare(Some(&open(image.path())), &open(volume.path())).unwrap();
        fs::write(volume.path().join("own"), "").unwrap();
        prepare(Some(&open(image.path())), &open(volume.path())).unwrap();
        assert_eq!(listing(&volume), ["file", "own"]);
    }
}
