//! The fixtures' only unsafe code: steps in a child between fork and exec.

#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::{SigHandler, Signal};
use rustix::process::{Resource, Rlimit, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// Makes the child lead a session of its own whose controlling terminal is its stdin.
pub fn take_controlling_terminal(command: &mut Command) -> &mut Command {
    // SAFETY: the closure runs between fork and exec and makes two system calls, both async-signal-safe; it
    // allocates nothing and touches no memory of the parent.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            set_controlling_terminal()
        })
    }
}

fn set_controlling_terminal() -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer and reads no memory; fd 0 is the terminal that `Command` put there.
    if unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes the child die with the test, and receive the signals that a user's shell lets it receive: a test that was
/// started in the background of a script ignores SIGINT, and so would all that it starts.
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    // SAFETY: the closure runs between fork and exec and makes system calls only, which read no memory of the parent's.
    unsafe {
        command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGTERM] {
                reset(signal)?;
            }
            Ok(())
        })
    }
}

/// Limits how many files the child, and all that it starts, may have open.
pub fn limit_open_files(command: &mut Command, most: u64) -> &mut Command {
    let limit = Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    // SAFETY: the closure runs between fork and exec and makes one system call, which is async-signal-safe.
    unsafe { command.pre_exec(move || Ok(setrlimit(Resource::Nofile, limit)?)) }
}

/// Layer of confinement that a host does not offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// Kernel without Landlock.
    Landlock,
    /// No user namespaces.
    UserNamespaces,
    /// No change to another user.
    UserChange,
}

/// Makes the child, and all that it starts, run on a host that lacks something: a filter refuses the system calls with
/// the error that such a host gives.
pub fn lacking(command: &mut Command, lack: Lack) -> &mut Command {
    let filter = lack.filter().expect("a filter");
    // SAFETY: the closure runs between fork and exec and makes two system calls, both async-signal-safe; the filter was
    // compiled before.
    unsafe { command.pre_exec(move || seccompiler::apply_filter(&filter).map_err(io::Error::other)) }
}

impl Lack {
    fn filter(self) -> Result<BpfProgram, seccompiler::BackendError> {
        let (syscalls, errno): (&[i64], i32) = match self {
            Self::Landlock => (&[libc::SYS_landlock_create_ruleset], libc::ENOSYS),
            Self::UserNamespaces => (&[libc::SYS_unshare], libc::ENOSPC),
            Self::UserChange => (
                &[libc::SYS_setresuid, libc::SYS_setuid, libc::SYS_setreuid],
                libc::EPERM,
            ),
        };
        let new_user = SeccompCondition::new(
            0,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::MaskedEq(libc::CLONE_NEWUSER as u64),
            libc::CLONE_NEWUSER as u64,
        )?;
        let rules = match self {
            Self::UserNamespaces => vec![SeccompRule::new(vec![new_user])?],
            Self::Landlock | Self::UserChange => Vec::new(),
        };
        let rules = syscalls.iter().map(|syscall| (*syscall, rules.clone())).collect();
        let refused = SeccompAction::Errno(errno as u32);
        SeccompFilter::new(rules, SeccompAction::Allow, refused, TargetArch::x86_64)?.try_into()
    }
}

fn reset(signal: Signal) -> nix::Result<()> {
    // SAFETY: the default disposition runs no code of ours.
    unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }.map(drop)
}

/// Sets the terminal's size, like a terminal emulator whose window changes.
pub fn set_window_size(terminal: &impl std::os::fd::AsRawFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one `winsize`, which outlives the call; the fd is borrowed and open.
    if unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
