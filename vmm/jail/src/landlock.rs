//! Step: Landlock, a second lock behind the empty root, where the kernel has it.

use rustix::io::Errno;

use crate::{JailError, sys};

/// File system rights by ABI version (`include/uapi/linux/landlock.h`): bits 0..=12 since 1, refer (13) since 2,
/// truncate (14) since 3, device ioctls (15) since 5.
const FILE_RIGHTS: [u64; 5] = [0x1fff, 0x3fff, 0x7fff, 0x7fff, 0xffff];
/// TCP bind and connect, since ABI 4.
const NETWORK_RIGHTS: u64 = 0b11;
/// Abstract UNIX sockets and signals towards processes outside, since ABI 6.
const SCOPES: u64 = 0b11;

/// Denies everything that the kernel's version can deny, with no exception.
pub(crate) fn restrict_where_available() -> Result<(), JailError> {
    let version = match sys::landlock_version() {
        Ok(version) => version,
        // Not built in, or not enabled at boot.
        Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => return Ok(()),
        Err(errno) => return Err(JailError::Landlock(errno.into())),
    };
    let ruleset = ruleset(version);
    sys::landlock_restrict(&ruleset).map_err(|errno| JailError::Landlock(errno.into()))
}

/// The same, but files: for a process whose root holds only what it serves.
pub(crate) fn restrict_all_but_files_where_available() -> Result<(), JailError> {
    let version = match sys::landlock_version() {
        // Without anything to deny a ruleset is refused.
        Ok(version) if version >= 4 => version,
        Ok(_) | Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => return Ok(()),
        Err(errno) => return Err(JailError::Landlock(errno.into())),
    };
    let ruleset = sys::LandlockRuleset {
        handled_access_fs: 0,
        ..ruleset(version)
    };
    sys::landlock_restrict(&ruleset).map_err(|errno| JailError::Landlock(errno.into()))
}

fn ruleset(version: u32) -> sys::LandlockRuleset {
    let step = (version as usize).clamp(1, FILE_RIGHTS.len()) - 1;
    sys::LandlockRuleset {
        handled_access_fs: FILE_RIGHTS[step],
        handled_access_net: if version >= 4 { NETWORK_RIGHTS } else { 0 },
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
