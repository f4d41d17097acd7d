//! A container's terminal: a pair from its own devpts.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use capsid_protocol::spec::TerminalSize;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::beneath::Root;

/// Error of opening a terminal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TerminalError {
    /// There is no devpts at `/dev/pts`.
    #[error("cannot open /dev/pts/ptmx")]
    Open(#[source] Errno),
    /// Another file is in place of the terminal multiplexer.
    #[error("/dev/pts/ptmx is not a terminal device")]
    Foreign,
    /// The pair cannot be unlocked or its other end opened.
    #[error("cannot open the container's end")]
    Peer(#[source] Errno),
}

/// Pseudo terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    /// Agent's end.
    pub(crate) agent_end: OwnedFd,
    /// Container's end.
    pub(crate) container_end: OwnedFd,
    /// Number in the terminal's name below `/dev/pts`.
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
        // A running container may have mounted anything there, and would answer the requests below itself.
        if !is_ptmx(&agent_end).map_err(TerminalError::Open)? {
            return Err(TerminalError::Foreign);
        }
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

/// Whether an open file is the multiplexer of a devpts: character device 5:2 (Linux `devices.txt`) on that filesystem.
fn is_ptmx(file: &OwnedFd) -> Result<bool, Errno> {
    /// Magic number of devpts, `linux/magic.h`.
    const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;
    let stat = rustix::fs::fstat(file)?;
    let is_device =
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == rustix::fs::makedev(5, 2);
    Ok(is_device && rustix::fs::fstatfs(file)?.f_type == DEVPTS_SUPER_MAGIC)
}

/// Sets the size of a terminal; sizes over 65 535 are cut.
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
