//! Step: a root directory that holds one program with the files it needs, and nothing else.
//!
//! ```text
//!   /            tmpfs, read-only, no programs of its own
//!   ├── fd       this process's own open files, as /proc/self/fd has them
//!   └── ...      each file of the host's that the program needs, a read-only mount of that one file
//! ```
//!
//! `/fd` is for programs that take a path where an open file would do. It leads to nothing that the process does not
//! have open already. Landlock and the system call filter ensure that nothing is opened for writing there.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change, move_mount,
    open_tree, unmount,
};
use rustix::process::{chdir, pivot_root};

use crate::{JailError, sys};

/// Directory that every host has; the new root is mounted over it while it is made.
const COVERED: &str = "/proc";
/// Directory of the program's own open files in the new root.
const OWN_FILES: &str = "fd";

/// Program of the host's that runs confined.
#[derive(Debug, Clone)]
pub struct Program {
    /// Absolute path in the new root of the file that is executed; one of [`Program::files`].
    pub executable: PathBuf,
    /// Files that the program needs, including the executable.
    pub files: Vec<ProgramFile>,
    /// Words of the program's command line, including the first one.
    pub arguments: Vec<CString>,
    /// Complete environment of the program, as `NAME=value`.
    pub environment: Vec<CString>,
    /// Kept fds that the program opens again for reading, as `/fd/N`.
    pub reopened_fds: Vec<RawFd>,
    /// Whether the program's [`Confinement`](crate::Confinement) is written to stdout, as one line, before the program
    /// is executed.
    pub reports: bool,
}

/// File of the host's in the root of a [`Program`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramFile {
    /// Path on the host; links are followed.
    pub source: PathBuf,
    /// Absolute path in the new root, without `.` and `..`.
    pub name: PathBuf,
}

/// Makes a directory with `files` the root of this process.
pub(crate) fn enter(files: &[ProgramFile]) -> Result<(), JailError> {
    // Nothing may propagate from or to the host.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(fail("make mounts private"))?;
    let trees = files
        .iter()
        .map(|file| Ok((copy_file(file)?, file)))
        .collect::<Result<Vec<_>, JailError>>()?;
    let own_files = copy_own_files().map_err(fail("copy /proc/self/fd"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(
        "none",
        COVERED,
        "tmpfs",
        flags,
        Some(c"size=64k,nr_inodes=1024,mode=0755"),
    )
    .map_err(fail("mount the new root"))?;
    chdir(COVERED).map_err(fail("enter the new root"))?;
    for (tree, file) in trees {
        place(&tree, &file.name).map_err(file_error("place", file))?;
    }
    rustix::fs::mkdir(OWN_FILES, Mode::from_raw_mode(0o755)).map_err(fail("make a place for own files"))?;
    attach(&own_files, OWN_FILES).map_err(fail("place own files"))?;
    let folder = rustix::fs::open(".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(fail("open the new root"))?;
    sys::set_mount_attribute_of_one(folder.as_fd(), sys::MOUNT_ATTR_RDONLY).map_err(fail("close the new root"))?;
    // With both names the same the old root ends up on top of the new one (pivot_root(2), NOTES).
    pivot_root(".", ".").map_err(fail("change the root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(fail("detach the old root"))?;
    chdir("/").map_err(fail("enter the root"))
}

/// Detached, read-only mount of one file of the host's.
fn copy_file(file: &ProgramFile) -> Result<OwnedFd, JailError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, &file.source, flags).map_err(file_error("open", file))?;
    let stat = rustix::fs::fstat(&tree).map_err(file_error("examine", file))?;
    // A folder would bring everything that is in it.
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(file_error("use", file)(Errno::INVAL));
    }
    let attributes = sys::MOUNT_ATTR_RDONLY | sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV;
    sys::set_mount_attributes(tree.as_fd(), attributes).map_err(file_error("restrict", file))?;
    Ok(tree)
}

fn copy_own_files() -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, "/proc/self/fd", flags)?;
    let attributes = sys::MOUNT_ATTR_RDONLY | sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV | sys::MOUNT_ATTR_NOEXEC;
    sys::set_mount_attributes(tree.as_fd(), attributes)?;
    Ok(tree)
}

/// Attaches `tree` under `name` in the working directory.
fn place(tree: &OwnedFd, name: &Path) -> Result<(), Errno> {
    let name = name.strip_prefix("/").map_err(|_| Errno::INVAL)?;
    for folder in name.ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
        if folder.as_os_str().is_empty() {
            continue;
        }
        match rustix::fs::mkdir(folder, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    File::create_new(name).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    attach(tree, name)
}

fn attach(tree: &OwnedFd, at: impl AsRef<Path>) -> Result<(), Errno> {
    move_mount(tree, "", CWD, at.as_ref(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

fn file_error(action: &'static str, file: &ProgramFile) -> impl Fn(Errno) -> JailError {
    move |errno| JailError::ProgramFile {
        action,
        path: file.source.clone(),
        source: errno.into(),
    }
}

fn fail(step: &'static str) -> impl Fn(Errno) -> JailError {
    move |errno| JailError::Root {
        step,
        source: errno.into(),
    }
}
