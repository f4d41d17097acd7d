//! The fixtures' only unsafe code: steps in a child between fork and exec.

#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::{SigHandler, Signal};

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
