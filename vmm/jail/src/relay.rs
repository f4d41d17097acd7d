//! Step: the fork into the pid namespace, and the relay that stays outside.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::getppid;

use crate::identity::{self, Namespaces};
use crate::panic::{ABORTED_STATUS, panic_rules};
use crate::{Condition, JailError, Rule, SyscallFilter, descriptors, privileges, sys};

/// Read end of a pipe whose only write end the relay holds.
pub(crate) struct Lifeline(OwnedFd);

/// Forks. Returns in the child, which is pid 1 of the new namespace; the parent never returns. The parent becomes the
/// same user as the child: the signal by which the kernel ends the child when the relay dies is sent in the relay's
/// name (`reparent_leader` in the kernel's `kernel/exit.c`), and one user may not signal another.
pub(crate) fn split(
    namespaces: Namespaces,
    user: RelayUser,
    parent: Option<rustix::process::Pid>,
) -> Result<Lifeline, JailError> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| JailError::Lifeline(errno.into()))?;
    match sys::fork().map_err(JailError::Fork)? {
        sys::Fork::Child => {
            drop(writer);
            Ok(Lifeline(reader))
        }
        sys::Fork::Parent(child) => relay(child, &writer, (namespaces, user), parent),
    }
}

/// User of the relay while it waits; the relay has no capabilities in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RelayUser {
    /// The relay becomes this user, like the child.
    Becomes(u32),
    /// The relay keeps the user who started it, like the child.
    Kept,
}

impl Lifeline {
    /// Makes the kernel kill this process when the relay dies.
    pub(crate) fn die_with_relay(self) -> Result<(), JailError> {
        sys::kill_on_parent_death().map_err(|errno| JailError::ParentDeathSignal(errno.into()))?;
        // One byte means that the relay is alive and confined; its end of the pipe closes if it dies before.
        let read = rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut [0; 1]));
        match read {
            Ok(1) => Ok(()),
            Ok(_) => Err(JailError::ParentGone),
            Err(errno) => Err(JailError::Lifeline(errno.into())),
        }
    }
}

/// Makes the kernel kill this process when the process that started it dies; for use without a relay.
pub(crate) fn die_with_parent(parent: Option<rustix::process::Pid>) -> Result<(), JailError> {
    sys::kill_on_parent_death().map_err(|errno| JailError::ParentDeathSignal(errno.into()))?;
    if getppid() == parent {
        Ok(())
    } else {
        Err(JailError::ParentGone)
    }
}

/// Runs the relay: confines itself, waits for `child`, and ends with the child's signal or status.
fn relay(child: Pid, writer: &OwnedFd, identity: (Namespaces, RelayUser), parent: Option<rustix::process::Pid>) -> ! {
    // A relay that is not confined must not wait: it exits, and the child dies with it.
    if seal(writer, identity, parent).is_err() || rustix::io::write(writer, &[1]).is_err() {
        sys::exit_now(1);
    }
    let status = loop {
        match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, status)) => break Ok(status),
            Ok(WaitStatus::Signaled(_, signal, _)) => break Err(signal),
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(_) => break Ok(1),
        }
    };
    match status {
        Ok(ABORTED_STATUS) => die_of(Signal::SIGABRT),
        Ok(status) => sys::exit_now(status),
        Err(signal) => die_of(signal),
    }
}

fn die_of(signal: Signal) -> ! {
    sys::kill_self(signal);
    // Reached only if the signal's default action is not to kill.
    sys::exit_now(128 + signal as i32)
}

fn seal(
    writer: &OwnedFd,
    (namespaces, user): (Namespaces, RelayUser),
    parent: Option<rustix::process::Pid>,
) -> Result<(), JailError> {
    // The child shares the mount namespace and empties the root at the same time, so no path can be relied on here.
    descriptors::close_all_but_one(writer.as_raw_fd())?;
    if let RelayUser::Becomes(user) = user {
        identity::drop_user(namespaces, user)?;
    }
    privileges::drop_all()?;
    privileges::forbid_new()?;
    // No Landlock: its signal scope would also block the signal that the child gets when this process dies. The filter
    // below permits no call that Landlock restricts.
    privileges::hide_memory()?;
    die_with_parent(parent)?;
    let mut rules = panic_rules();
    let lifeline = vec![Condition::equals(0, writer.as_raw_fd() as u64)];
    rules.push(Rule::when(libc::SYS_write, lifeline, "relay: tell the child to go on"));
    rules.push(Rule::always(libc::SYS_wait4, "relay: wait for the confined process"));
    rules.push(Rule::always(
        libc::SYS_rt_sigaction,
        "relay: die of the same signal: default action",
    ));
    rules.push(Rule::always(libc::SYS_kill, "relay: die of the same signal"));
    let filter = SyscallFilter::new(&rules).map_err(JailError::RelayFilter)?;
    filter.apply_to_thread().map_err(JailError::RelayFilter)
}
