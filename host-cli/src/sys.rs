//! The only unsafe code of this crate outside the KVM probe.
#![allow(
    unsafe_code,
    reason = "system calls between fork and exec, and the cycle counter, have no safe form"
)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
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

/// Makes the child the leader of a session of its own: no terminal of ours reaches it.
pub(crate) fn lead_session(command: &mut Command) {
    // SAFETY: the closure runs between fork and exec and makes only one async-signal-safe system call.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            Ok(())
        });
    }
}

/// Takes a descriptor that this process was started with, by its number.
pub(crate) fn inherited(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD reads a flag and changes nothing, whatever the number.
    if number < 3 || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::ErrorKind::NotFound.into());
    }
    // SAFETY: the number is open, and the command line names each inherited descriptor once, so nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// The processor's cycle counter. Any program may read it: the kernel never forbids it to those that did not ask.
pub(crate) fn cycles() -> u64 {
    // SAFETY: `rdtsc` exists on every x86-64 processor and touches no memory.
    unsafe { std::arch::x86_64::_rdtsc() }
}
