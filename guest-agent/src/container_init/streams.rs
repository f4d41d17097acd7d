//! Streams of a container init: made on its side, their other ends sent to the agent.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use capsid_protocol::Stdio;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use super::InitError;
use crate::beneath::Root;
use crate::terminal::{Terminal, set_size};
use crate::user::Identity;
use crate::{rootfs, sys};

/// Both ends of a container's streams.
pub(super) struct Streams {
    /// Ends for the agent, in the order stdin, stdout, stderr; or the terminal alone.
    pub(super) agent: Vec<OwnedFd>,
    /// Standard streams of the container; a terminal is all three.
    pub(super) own: Vec<OwnedFd>,
}

/// Makes pipes, or takes the terminal's ends. The container's user owns its ends, so that it can open `/dev/stdout`.
pub(super) fn make_streams(
    stdio: Stdio,
    null: impl FnOnce() -> Result<OwnedFd, Errno>,
    terminal: Option<Terminal>,
    identity: &Identity,
) -> Result<Streams, Errno> {
    if let Some(terminal) = terminal {
        set_size(&terminal.container_end, stdio.terminal.unwrap_or_default())?;
        rootfs::give_to(&terminal.container_end, identity.uid)?;
        return Ok(Streams {
            agent: vec![terminal.agent_end],
            own: vec![terminal.container_end],
        });
    }
    let (mut agent, mut own) = (Vec::new(), Vec::new());
    if stdio.stdin {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        agent.push(writer);
        own.push(reader);
    } else {
        own.push(null()?);
    }
    for _ in ["stdout", "stderr"] {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        agent.push(reader);
        own.push(writer);
    }
    let pipes = if stdio.stdin { &own[..] } else { &own[1..] };
    for pipe in pipes {
        rootfs::give_to(pipe, identity.uid)?;
    }
    Ok(Streams { agent, own })
}

/// Opens the container's `/dev/null`, if it is a null device, so that its name is as programs expect.
pub(super) fn find_null(root: &Root) -> Result<Option<OwnedFd>, Errno> {
    // NONBLOCK: a FIFO in its place must not hang us.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let Ok(found) = root.open(Path::new("/dev/null"), flags) else {
        return Ok(None);
    };
    let stat = rustix::fs::fstat(&found)?;
    let is_character = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if !is_character || stat.st_rdev != rustix::fs::makedev(1, 3) {
        return Ok(None);
    }
    rustix::fs::fcntl_setfl(&found, OFlags::empty())?;
    Ok(Some(found))
}

/// Returns an input at its end, for a container without `/dev/null`.
pub(super) fn empty_input() -> Result<OwnedFd, Errno> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map(|(reader, _)| reader)
}

/// Makes the streams the standard ones, in a session of the container's own.
pub(super) fn take_streams(stdio: Stdio, own: &[OwnedFd]) -> Result<(), InitError> {
    rustix::process::setsid().map_err(InitError::ControllingTerminal)?;
    let Some(last) = own.last() else {
        return Err(InitError::Streams(Errno::BADF));
    };
    if stdio.terminal.is_some() {
        rustix::process::ioctl_tiocsctty(last).map_err(InitError::ControllingTerminal)?;
    }
    for number in 0..3 {
        let stream = own.get(number).unwrap_or(last);
        sys::set_standard_stream(number as i32, stream.as_fd()).map_err(InitError::Streams)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_follow_the_spec() {
        let own = Identity {
            uid: rustix::process::getuid().as_raw(),
            gid: 0,
            groups: vec![],
            home: vec![],
        };
        let with_stdin = Stdio {
            stdin: true,
            ..Stdio::default()
        };
        let streams = make_streams(with_stdin, empty_input, None, &own).unwrap();
        assert_eq!((streams.agent.len(), streams.own.len()), (3, 3));
        let streams = make_streams(Stdio::default(), empty_input, None, &own).unwrap();
        assert_eq!((streams.agent.len(), streams.own.len()), (2, 3));
    }
}
