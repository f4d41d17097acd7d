//! Step: Landlock, a second lock behind the empty root, on kernels that have it.

use std::os::fd::{AsRawFd, RawFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::{JailError, sys};

/// File system rights by ABI version (`include/uapi/linux/landlock.h`): bits 0..=12 since 1, refer (13) since 2,
/// truncate (14) since 3, device ioctls (15) since 5.
const FILE_RIGHTS: [u64; 5] = [0x1fff, 0x3fff, 0x7fff, 0x7fff, 0xffff];
/// Access right `LANDLOCK_ACCESS_FS_EXECUTE`.
const EXECUTE: u64 = 1;
/// Access right `LANDLOCK_ACCESS_FS_READ_FILE`.
const READ_FILE: u64 = 1 << 2;
/// Access right `LANDLOCK_ACCESS_FS_READ_DIR`.
const READ_FOLDER: u64 = 1 << 3;
/// First version with [`NETWORK_RIGHTS`].
const NETWORK_SINCE: u32 = 4;
/// Network rights: TCP bind and connect, since ABI 4.
const NETWORK_RIGHTS: u64 = 0b11;
/// Scopes: abstract UNIX sockets and signals towards processes outside, since ABI 6.
const SCOPES: u64 = 0b11;

/// Denies everything that the kernel's version of Landlock can deny, without exception. Returns the version of Landlock
/// that is in force.
pub(crate) fn restrict_where_available() -> Result<Option<u32>, JailError> {
    let Some(version) = version()? else {
        return Ok(None);
    };
    restrict(&ruleset(version))?;
    Ok(Some(version))
}

/// Version of Landlock that the kernel has, if any.
fn version() -> Result<Option<u32>, JailError> {
    match sys::landlock_version() {
        Ok(version) => Ok(Some(version)),
        // Not built in, or not enabled at boot.
        Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => Ok(None),
        Err(errno) => Err(JailError::Landlock(errno.into())),
    }
}

/// Denies everything except file access: for a process whose root holds only what it serves. Returns the version of
/// Landlock that is in force.
pub(crate) fn restrict_all_but_files_where_available() -> Result<Option<u32>, JailError> {
    // The kernel refuses a ruleset that denies nothing.
    let Some(version) = version()?.filter(|version| *version >= NETWORK_SINCE) else {
        return Ok(None);
    };
    restrict(&sys::LandlockRuleset {
        handled_access_fs: 0,
        ..ruleset(version)
    })?;
    Ok(Some(version))
}

/// Denies everything except reading and executing what the root directory holds, and reading `files` where they are
/// regular files: for a program whose root holds only what it needs. Returns the version of Landlock that is in force.
pub(crate) fn restrict_to_reading_where_available(files: &[RawFd]) -> Result<Option<u32>, JailError> {
    let fail = |errno: Errno| JailError::Landlock(errno.into());
    let Some(version) = version()? else {
        return Ok(None);
    };
    let ruleset = sys::Ruleset::new(&ruleset(version)).map_err(fail)?;
    let root =
        rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(fail)?;
    ruleset
        .permit(root.as_raw_fd(), READ_FILE | READ_FOLDER | EXECUTE)
        .map_err(fail)?;
    for &file in files {
        match ruleset.permit(file, READ_FILE) {
            // A memory file, which Landlock does not restrict, or a socket, which cannot be opened.
            Ok(()) | Err(Errno::BADFD) => {}
            Err(errno) => return Err(fail(errno)),
        }
    }
    ruleset.restrict().map_err(fail)?;
    Ok(Some(version))
}

fn restrict(ruleset: &sys::LandlockRuleset) -> Result<(), JailError> {
    let made = sys::Ruleset::new(ruleset).and_then(|ruleset| ruleset.restrict());
    made.map_err(|errno| JailError::Landlock(errno.into()))
}

fn ruleset(version: u32) -> sys::LandlockRuleset {
    let step = (version as usize).clamp(1, FILE_RIGHTS.len()) - 1;
    sys::LandlockRuleset {
        handled_access_fs: FILE_RIGHTS[step],
        handled_access_net: if version >= NETWORK_SINCE { NETWORK_RIGHTS } else { 0 },
        scoped: if version >= 6 { SCOPES } else { 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::ruleset;

    #[test]
    fn each_version_denies_what_it_knows() {
        assert_eq!(ruleset(1).handled_access_fs, 0x1fff);
        assert_eq!(ruleset(3).handled_access_net, 0);
        assert_eq!(ruleset(4).handled_access_fs, 0x7fff);
        assert_eq!(ruleset(4).handled_access_net, 3);
        assert_eq!(ruleset(99).handled_access_fs, 0xffff);
        assert_eq!(ruleset(99).scoped, 3);
    }
}
