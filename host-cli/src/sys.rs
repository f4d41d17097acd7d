//! The only unsafe code of this crate outside the KVM probe.
#![allow(
    unsafe_code,
    reason = "system calls between fork and exec, and the cycle counter, have no safe form"
)]

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

/// Lets a closed stdout end this process quietly, as it ends every filter of a pipeline. Rust programs start with
/// `SIGPIPE` ignored, which verbs that write to sockets and children need, and those that only print do not.
pub(crate) fn end_with_the_pipe() {
    // SAFETY: the default disposition runs no code of ours, and nothing else in this process sets one for SIGPIPE.
    let set =
        unsafe { nix::sys::signal::signal(nix::sys::signal::Signal::SIGPIPE, nix::sys::signal::SigHandler::SigDfl) };
    debug_assert!(set.is_ok(), "SIGPIPE can be reset");
}

/// The processor's cycle counter. Any program may read it: the kernel never forbids it to those that did not ask.
pub(crate) fn cycles() -> u64 {
    // SAFETY: `rdtsc` exists on every x86-64 processor and touches no memory.
    unsafe { std::arch::x86_64::_rdtsc() }
}
