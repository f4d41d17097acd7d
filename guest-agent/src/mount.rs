//! Mounts as the kernel's descriptor calls make them: detached first, then moved onto a descriptor, so that no path is
//! resolved twice.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

use crate::sys;

/// Error of mounting a filesystem.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    /// The kernel has no such filesystem.
    #[error("cannot open a {filesystem} filesystem")]
    Open { filesystem: &'static str, source: Errno },
    /// An option is refused.
    #[error("{filesystem} refuses the option {option}")]
    Option {
        filesystem: &'static str,
        option: String,
        source: Errno,
    },
    /// The filesystem itself is refused: wrong content, or no memory.
    #[error("cannot make the {filesystem} filesystem")]
    Make { filesystem: &'static str, source: Errno },
    /// The mount cannot be attached at its place.
    #[error("cannot attach the mount")]
    Attach(#[source] Errno),
}

/// Makes a detached mount of a filesystem.
pub(crate) fn filesystem(
    filesystem: &'static str,
    options: &[(&str, &str)],
    flags: &[&str],
    attributes: u64,
) -> Result<OwnedFd, MountError> {
    let context = rustix::mount::fsopen(filesystem, FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|source| MountError::Open { filesystem, source })?;
    let refused = |option: &str, source| MountError::Option {
        filesystem,
        option: option.to_owned(),
        source,
    };
    for (key, value) in options {
        rustix::mount::fsconfig_set_string(&context, *key, *value).map_err(|e| refused(key, e))?;
    }
    for flag in flags {
        rustix::mount::fsconfig_set_flag(&context, *flag).map_err(|e| refused(flag, e))?;
    }
    let failed = |source| MountError::Make { filesystem, source };
    rustix::mount::fsconfig_create(&context).map_err(failed)?;
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed)
}

/// Attaches a detached mount at `path` from `folder`; an empty path is `folder` itself.
pub(crate) fn attach(mount: &OwnedFd, folder: impl AsFd, path: impl AsRef<Path>) -> Result<(), MountError> {
    let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    if path.as_ref().as_os_str().is_empty() {
        flags |= MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    }
    rustix::mount::move_mount(mount, "", folder, path.as_ref(), flags).map_err(MountError::Attach)
}

/// Makes a detached copy of the mount at `from`.
pub(crate) fn clone_mount(from: impl AsFd, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(from, "", flags)
}

/// Binds `from` over `place`.
pub(crate) fn bind(from: &OwnedFd, place: &OwnedFd, attributes: u64, recursive: bool) -> Result<(), Errno> {
    let copy = clone_mount(from, recursive)?;
    if attributes != 0 {
        sys::set_mount_attributes(copy.as_fd(), attributes, recursive)?;
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(&copy, "", place, "", flags)
}

/// Makes `root` the process's root and detaches the old one, which nothing of the container sees again.
pub(crate) fn enter(root: &Path) -> Result<(), Errno> {
    rustix::process::chdir(root)?;
    rustix::process::pivot_root(".", ".")?;
    // The old root lies on top of the new one now; the working folder is the new one.
    rustix::mount::unmount(".", rustix::mount::UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}

/// Converts text for the kernel; `EINVAL` for a zero byte inside.
pub(crate) fn c_string(bytes: &[u8]) -> Result<CString, Errno> {
    CString::new(bytes).map_err(|_| Errno::INVAL)
}
