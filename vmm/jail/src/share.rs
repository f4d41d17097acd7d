//! Step: a root directory that is one folder of the host's, or that holds one file of the host's.
//!
//! The process gets a mount tree of its own, made of nothing but the source, with attributes that the kernel then
//! enforces on every file of it: no writing if requested, no devices, no programs. `..` of the root is the root, and a
//! folder that somebody moves out of the source has no parent any more (`path_connected` in the kernel's `fs/namei.c`),
//! so no name leads out.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change, move_mount,
    open_tree, unmount,
};
use rustix::process::{chdir, pivot_root};

use crate::{JailError, sys};

/// Directory that every host has; the directories below are mounted over it while the new root is made.
const COVERED: &str = "/proc";
/// Directory of the new root in [`COVERED`].
const ROOT: &str = "root";

/// Folder or file that a file server serves.
#[derive(Debug, Clone)]
pub struct Share {
    /// Folder or regular file of the host's, without symbolic links in its path.
    pub source: PathBuf,
    /// Device and inode number (`st_dev` and `st_ino`) of the expected file: the path may lead to another file by now.
    pub identity: (u64, u64),
    /// Name in the new root of a source that is a file; `None` for a folder, which becomes the root.
    pub file_name: Option<OsString>,
    /// Whether all writing is refused.
    pub readonly: bool,
}

/// Makes `share` the root of this process. `prepare` runs when `/proc` holds this process's own `self/fd`, an empty
/// `self/mountinfo` and nothing else: what it opens there gives access to nothing else in `/proc`.
pub(crate) fn enter<T>(share: &Share, prepare: impl FnOnce() -> io::Result<T>) -> Result<T, JailError> {
    // Nothing may propagate from or to the host.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(fail("make mounts private"))?;
    let source = open_source(share)?;
    let tree = copy_tree(&source).map_err(fail("copy the shared tree"))?;
    let mut attributes = sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV | sys::MOUNT_ATTR_NOEXEC;
    if share.readonly {
        attributes |= sys::MOUNT_ATTR_RDONLY;
    }
    sys::set_mount_attributes(tree.as_fd(), attributes).map_err(fail("restrict the shared tree"))?;
    let own_files = open_folder("/proc/self/fd").map_err(fail("open /proc/self/fd"))?;
    let own_files = copy_tree(&own_files).map_err(fail("copy /proc/self/fd"))?;
    mount_memory(COVERED, c"size=4k,nr_inodes=8,mode=0555").map_err(fail("mount a place to prepare"))?;
    chdir(COVERED).map_err(fail("enter the place to prepare"))?;
    for folder in ["self", "self/fd", ROOT] {
        make_folder(folder).map_err(fail("make a folder to prepare in"))?;
    }
    make_file("self/mountinfo").map_err(fail("make an empty mountinfo"))?;
    attach(&own_files, "self/fd").map_err(fail("place /proc/self/fd"))?;
    let prepared = prepare().map_err(|source| JailError::Root {
        step: "prepare to serve",
        source,
    })?;
    place(share, &tree)?;
    drop((tree, source, own_files));
    chdir(ROOT).map_err(fail("enter the new root"))?;
    // With both names the same the old root ends up on top of the new one (pivot_root(2), NOTES).
    pivot_root(".", ".").map_err(fail("change the root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(fail("detach the old root"))?;
    chdir("/").map_err(fail("enter the root"))?;
    Ok(prepared)
}

/// Opens the source, if it is still the expected file.
fn open_source(share: &Share) -> Result<OwnedFd, JailError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let source =
        rustix::fs::openat2(CWD, &share.source, flags, Mode::empty(), resolve).map_err(fail("open the source"))?;
    let stat = rustix::fs::fstat(&source).map_err(fail("look at the source"))?;
    let expected = if share.file_name.is_some() {
        FileType::RegularFile
    } else {
        FileType::Directory
    };
    let is_meant = (stat.st_dev, stat.st_ino) == share.identity && FileType::from_raw_mode(stat.st_mode) == expected;
    // Replaced since the supervisor checked it: the new file has not been permitted.
    if is_meant {
        Ok(source)
    } else {
        Err(fail("find the source that was meant")(Errno::STALE))
    }
}

/// Mounts the tree at [`ROOT`]; a file is mounted in a tmpfs folder that nobody can write to.
fn place(share: &Share, tree: &OwnedFd) -> Result<(), JailError> {
    let Some(name) = &share.file_name else {
        return attach(tree, ROOT).map_err(fail("place the shared folder"));
    };
    mount_memory(ROOT, c"size=4k,nr_inodes=2,mode=0755").map_err(fail("mount a folder for the shared file"))?;
    let file = Path::new(ROOT).join(name);
    make_file(&file).map_err(fail("make a place for the shared file"))?;
    attach(tree, &file).map_err(fail("place the shared file"))?;
    let folder = open_folder(ROOT).map_err(fail("open the shared file's folder"))?;
    sys::set_mount_attribute_of_one(folder.as_fd(), sys::MOUNT_ATTR_RDONLY)
        .map_err(fail("close the shared file's folder"))
}

fn mount_memory(target: &str, options: &std::ffi::CStr) -> Result<(), Errno> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("none", target, "tmpfs", flags, Some(options))
}

fn make_folder(path: &str) -> Result<(), Errno> {
    rustix::fs::mkdir(path, Mode::from_raw_mode(0o755))
}

fn make_file(path: impl AsRef<Path>) -> Result<(), Errno> {
    let made = File::create_new(path.as_ref());
    made.map(drop)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn open_folder(path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Detached copy of what is mounted at and below `from`.
fn copy_tree(from: &OwnedFd) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    open_tree(from, "", flags)
}

fn attach(tree: &OwnedFd, at: impl AsRef<Path>) -> Result<(), Errno> {
    move_mount(tree, "", CWD, at.as_ref(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

fn fail(step: &'static str) -> impl Fn(Errno) -> JailError {
    move |errno| JailError::Root {
        step,
        source: errno.into(),
    }
}
