//! System calls without a safe wrapper: the only unsafe code of this crate.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::process::Command;

use rustix::process::{Pid, PidfdFlags, Signal, getppid, pidfd_open, set_parent_process_death_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Makes the kernel kill the program when the thread that starts it ends, as by a SIGKILL to this process.
pub(crate) fn die_with_parent(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    let parent = std::process::id();
    // SAFETY: the closure runs between fork and exec and makes only async-signal-safe system calls: prctl, getppid.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the request was in place.
            match getppid() {
                Some(now) if now.as_raw_nonzero().get() as u32 == parent => Ok(()),
                _ => Err(io::ErrorKind::BrokenPipe.into()),
            }
        });
    }
}

/// Opens a child process that nobody has reaped as a descriptor that becomes readable when the process ends.
pub(crate) fn watch_exit(process: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    let fd = pidfd_open(process, PidfdFlags::empty())?;
    // SAFETY: `fd` owns a valid descriptor, which is neither replaced nor closed while it is in the `AsyncFd`.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
