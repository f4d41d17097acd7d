//! A folder or file of the host's, mounted into a container. What may be done with it is the host's file server to say,
//! which the guest cannot reach around: the attributes here spare programs a surprise.

use std::os::fd::OwnedFd;
use std::path::Path;

use capsid_protocol::spec::SHARED_FILE;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::disk::STAGING;
use crate::mount::{MountError, attach, bind, filesystem};

/// Why a share cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShareError {
    /// Its filesystem, or its place.
    #[error("cannot mount its file system")]
    Mount(#[source] MountError),
    /// The place where a file's folder is mounted first.
    #[error("cannot make a folder to mount it in")]
    Folder(#[source] Errno),
    /// Its one file.
    #[error("cannot find its file")]
    File(#[source] Errno),
    /// The file cannot be put at its place.
    #[error("cannot put its file at its place")]
    Bind(#[source] Errno),
}

/// Mounts the device `tag` at `place` with `attributes`.
pub(crate) fn mount(tag: &str, place: &OwnedFd, is_file: bool, attributes: u64) -> Result<(), ShareError> {
    let mount = filesystem("virtiofs", &[("source", tag)], &[], attributes).map_err(ShareError::Mount)?;
    if !is_file {
        return attach(&mount, place, "").map_err(ShareError::Mount);
    }
    // A file of a mount that lies nowhere yet cannot be bound (before Linux 6.15).
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
