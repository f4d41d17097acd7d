//! Change from the agent's privileges to the container's.

use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::user::Identity;

/// Refused step of the change of privileges.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrivilegeError {
    /// A capability could not be dropped from the bounding set.
    #[error("cannot drop capability {number} from the bounding set")]
    Bounding { number: u32, source: Errno },
    /// The groups could not be set.
    #[error("cannot set the groups")]
    Groups(#[source] Errno),
    /// The user could not be set.
    #[error("cannot set the user")]
    User(#[source] Errno),
    /// The capability sets could not be set.
    #[error("cannot set the capabilities")]
    Sets(#[source] Errno),
}

/// Changes to `identity` with `capabilities` (bit n is capability n). Follows docker: root gets them as permitted and
/// effective too, any other user has an empty permitted set and only the bound; nothing is inheritable or ambient.
pub(crate) fn become_user(identity: &Identity, capabilities: u64) -> Result<(), PrivilegeError> {
    drop_bounding(capabilities)?;
    let groups: Vec<Gid> = identity.groups.iter().map(|g| Gid::from_raw(*g)).collect();
    rustix::thread::set_thread_groups(&groups).map_err(PrivilegeError::Groups)?;
    let gid = Gid::from_raw(identity.gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(PrivilegeError::Groups)?;
    let uid = Uid::from_raw(identity.uid);
    // A change from 0 to another user clears permitted and effective by itself.
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(PrivilegeError::User)?;
    let own = if identity.uid == 0 {
        CapabilitySet::from_bits_retain(capabilities)
    } else {
        CapabilitySet::empty()
    };
    let known = CapabilitySet::from_bits_retain(known_capabilities());
    let sets = CapabilitySets {
        effective: own & known,
        permitted: own & known,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets).map_err(PrivilegeError::Sets)
}

/// Returns the capabilities that this kernel has.
fn known_capabilities() -> u64 {
    (0..64).take_while(|n| is_known(*n)).fold(0, |set, n| set | 1 << n)
}

fn is_known(number: u32) -> bool {
    let one = CapabilitySet::from_bits_retain(1 << number);
    rustix::thread::capability_is_in_bounding_set(one).is_ok()
}

/// Drops the capabilities outside of `kept` from the bounding set.
fn drop_bounding(kept: u64) -> Result<(), PrivilegeError> {
    for number in (0..64).take_while(|n| is_known(*n)) {
        if kept & 1 << number == 0 {
            let one = CapabilitySet::from_bits_retain(1 << number);
            rustix::thread::remove_capability_from_bounding_set(one)
                .map_err(|source| PrivilegeError::Bounding { number, source })?;
        }
    }
    Ok(())
}
