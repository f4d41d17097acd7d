//! A container's terminal: a pair from its own devpts.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use capsid_protocol::spec::TerminalSize;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::beneath::Root;

/// Why a terminal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TerminalError {
    /// No devpts at `/dev/pts`.
    #[error("cannot open /dev/pts/ptmx")]
    Open(#[source] Errno),
    /// The pair cannot be unlocked or its other end opened.
    #[error("cannot open the container's end")]
    Peer(#[source] Errno),
}

/// A pseudo terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    /// The agent's end.
    pub(crate) agent_end: OwnedFd,
    /// The container's end.
    pub(crate) container_end: OwnedFd,
    /// Its name below `/dev/pts`.
    pub(crate) number: u32,
}

impl Terminal {
    /// Opens a pair in the devpts mounted at the container's `/dev/pts`.
    pub(crate) fn open(root: &Root) -> Result<Self, TerminalError> {
        let agent_end = root
            .open(
                Path::new("/dev/pts/ptmx"),
                OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW,
            )
            .map_err(TerminalError::Open)?;
        rustix::pty::unlockpt(&agent_end).map_err(TerminalError::Peer)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let container_end = rustix::pty::ioctl_tiocgptpeer(&agent_end, flags).map_err(TerminalError::Peer)?;
        let name = rustix::pty::ptsname(&agent_end, Vec::new()).map_err(TerminalError::Peer)?;
        let number = name.to_str().ok().and_then(|n| n.rsplit('/').next()?.parse().ok());
        Ok(Self {
            agent_end,
            container_end,
            number: number.ok_or(TerminalError::Peer(Errno::INVAL))?,
        })
    }
}

/// Tells a terminal its size; sizes over 65 535 are cut.
pub(crate) fn set_size(terminal: impl AsFd, size: TerminalSize) -> Result<(), Errno> {
    let cut = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    let size = Winsize {
        ws_row: cut(size.rows),
        ws_col: cut(size.columns),
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(terminal, size)
}
