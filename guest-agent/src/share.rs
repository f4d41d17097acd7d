//! A folder or file of the host, mounted into a container. The host's file server alone decides what may be done with
//! it, and the guest cannot bypass that: the attributes here spare programs a surprise.

use std::os::fd::OwnedFd;
use std::path::Path;

use capsid_protocol::spec::SHARED_FILE;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::disk::STAGING;
use crate::mount::{MountError, attach, bind, filesystem};

/// Error of mounting a share.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShareError {
    /// The share's filesystem cannot be mounted or attached.
    #[error("cannot mount its file system")]
    Mount(#[source] MountError),
    /// The folder where a file's device is mounted first cannot be made.
    #[error("cannot make a folder to mount it in")]
    Folder(#[source] Errno),
    /// The file of the share cannot be opened.
    #[error("cannot find its file")]
    File(#[source] Errno),
    /// The file cannot be bound at its place.
    #[error("cannot put its file at its place")]
    Bind(#[source] Errno),
}

/// Mounts the device `tag` at `place` with `attributes`.
pub(crate) fn mount(tag: &str, place: &OwnedFd, is_file: bool, attributes: u64) -> Result<(), ShareError> {
    let mount = filesystem("virtiofs", &[("source", tag)], &[], attributes).map_err(ShareError::Mount)?;
    if !is_file {
        return attach(&mount, place, "").map_err(ShareError::Mount);
    }
    // A file of a mount that is not attached yet cannot be bound (before Linux 6.15).
    let folder = Path::new(STAGING).join(tag);
    match rustix::fs::mkdir(&folder, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(ShareError::Folder(e)),
    }
    attach(&mount, CWD, &folder).map_err(ShareError::Mount)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(folder.join(SHARED_FILE), flags, Mode::empty()).map_err(ShareError::File)?;
    bind(&file, place, attributes, false).map_err(ShareError::Bind)
}
