//! The only unsafe code of this crate outside the KVM probe.
#![allow(unsafe_code, reason = "system calls between fork and exec have no safe form")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes the child die with this process, however this process ends.
///
/// `PR_SET_PDEATHSIG` is bound to the *thread* that forks: commands are spawned from the main thread only, which the
/// current-thread runtime guarantees.
pub(crate) fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    // SAFETY: the closure runs between fork and exec and makes only async-signal-safe system calls: prctl, getppid.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            // The parent may have died before the request was in place.
            match rustix::process::getppid() {
                Some(now) if now.as_raw_nonzero().get() as u32 == parent => Ok(()),
                _ => Err(io::ErrorKind::BrokenPipe.into()),
            }
        });
    }
}
