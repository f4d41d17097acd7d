//! Step: the fork into the pid namespace, and the relay that stays outside.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::getppid;

use crate::identity::{self, Namespaces};
use crate::panic::{ABORTED_STATUS, panic_rules};
use crate::{JailError, Rule, SyscallFilter, descriptors, landlock, privileges, sys};

/// The read end of a pipe whose only write end the relay holds.
pub(crate) struct Lifeline(OwnedFd);

/// Forks. Returns in the child, which is pid 1 of the new namespace; the parent never returns.
pub(crate) fn split(namespaces: Namespaces, parent: Option<rustix::process::Pid>) -> Result<Lifeline, JailError> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| JailError::Lifeline(errno.into()))?;
    match sys::fork().map_err(JailError::Fork)? {
        sys::Fork::Child => {
            drop(writer);
            Ok(Lifeline(reader))
        }
        sys::Fork::Parent(child) => relay(child, &writer, namespaces, parent),
    }
}

impl Lifeline {
    /// From here on the kernel kills this process when the relay dies.
    pub(crate) fn die_with_relay(self) -> Result<(), JailError> {
        sys::kill_on_parent_death().map_err(|errno| JailError::ParentDeathSignal(errno.into()))?;
        // The relay may have died before that: its end of the pipe is then closed.
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&at_once)).map_err(|errno| JailError::Lifeline(errno.into()))?;
        if fds[0].revents().is_empty() {
            Ok(())
        } else {
            Err(JailError::ParentGone)
        }
    }
}

/// The same without a relay: the parent is whoever started this process.
pub(crate) fn die_with_parent(parent: Option<rustix::process::Pid>) -> Result<(), JailError> {
    sys::kill_on_parent_death().map_err(|errno| JailError::ParentDeathSignal(errno.into()))?;
    if getppid() == parent {
        Ok(())
    } else {
        Err(JailError::ParentGone)
    }
}

/// The life of the relay: confined itself, it waits for `child` and ends as it ended.
fn relay(child: Pid, writer: &OwnedFd, namespaces: Namespaces, parent: Option<rustix::process::Pid>) -> ! {
    // Unconfined, the relay must not wait: the child dies with it.
    if seal(writer, namespaces, parent).is_err() {
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
    // Only when the signal's default is not to kill.
    sys::exit_now(128 + signal as i32)
}

fn seal(writer: &OwnedFd, namespaces: Namespaces, parent: Option<rustix::process::Pid>) -> Result<(), JailError> {
    descriptors::close_all_but(&[writer.as_raw_fd()])?;
    identity::drop_user(namespaces)?;
    privileges::drop_all()?;
    privileges::forbid_new()?;
    landlock::restrict_where_available()?;
    privileges::hide_memory()?;
    die_with_parent(parent)?;
    let mut rules = panic_rules();
    rules.push(Rule::always(libc::SYS_wait4, "relay: wait for the confined process"));
    rules.push(Rule::always(
        libc::SYS_rt_sigaction,
        "relay: die of the same signal: default action",
    ));
    rules.push(Rule::always(libc::SYS_kill, "relay: die of the same signal"));
    let filter = SyscallFilter::new(&rules).map_err(JailError::RelayFilter)?;
    filter.apply_to_thread().map_err(JailError::RelayFilter)
}
