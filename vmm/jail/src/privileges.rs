//! Steps: drop all capabilities, prevent new ones, hide the memory from other processes.

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits, set_no_new_privs,
};

use crate::JailError;

/// Empties all five capability sets and locks them empty.
pub(crate) fn drop_all() -> Result<(), JailError> {
    keep_only(CapabilitySet::empty())
}

/// Keeps `kept` of the capabilities that the process has, and prevents it from gaining more, even by a change of user.
pub(crate) fn keep_only(kept: CapabilitySet) -> Result<(), JailError> {
    for number in 0..64 {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            // The first number that this kernel does not know.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(fail("empty the bounding set")(errno)),
        }
    }
    clear_ambient_capability_set().map_err(fail("empty the ambient set"))?;
    let locked = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_SETUID_FIXUP
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    set_capabilities_secure_bits(locked).map_err(fail("lock the secure bits"))?;
    let left = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, left).map_err(fail("empty the capability sets"))
}

/// Prevents every program started from here on from gaining privileges; the filters need this as well.
pub(crate) fn forbid_new() -> Result<(), JailError> {
    set_no_new_privs(true).map_err(fail("forbid new privileges"))
}

/// Prevents other processes of the same user from tracing this one or reading its memory.
pub(crate) fn hide_memory() -> Result<(), JailError> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(fail("hide memory"))
}

fn fail(step: &'static str) -> impl Fn(Errno) -> JailError {
    move |errno| JailError::Privileges {
        step,
        source: errno.into(),
    }
}
