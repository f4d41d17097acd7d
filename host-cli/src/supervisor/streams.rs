//! Stdio streams into the guest: vsock connections that the machine makes of sockets passed to it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use capsid_protocol::{Stdio, StreamHello, StreamKind, write_frame};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

/// Error when a stream could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("cannot make a stream")]
    Socket(#[source] io::Error),
    #[error("cannot ask the machine for a stream")]
    Ask(#[source] io::Error),
    #[error("cannot begin a stream")]
    Hello(#[source] capsid_protocol::FrameError),
}

/// Opener of stdio streams into a machine's guest.
#[derive(Debug)]
pub(crate) struct StreamOpener {
    /// Control socket of the machine's vsock device: see `capsid_vmm::config::VsockConfig`.
    pub control: OwnedFd,
    pub nonce: Vec<u8>,
}

impl StreamOpener {
    /// Opens one stream of a process. Returns the host's end.
    pub(crate) fn open(&self, process: &str, kind: StreamKind) -> Result<UnixStream, StreamError> {
        let (mut ours, theirs) = UnixStream::pair().map_err(StreamError::Socket)?;
        let port = capsid_protocol::STREAM_PORT.to_le_bytes();
        let fds = [theirs.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        // A machine that accepts no requests must not block this process, which serves others.
        rustix::net::sendmsg(
            &self.control,
            &[io::IoSlice::new(&port)],
            &mut ancillary,
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        )
        .map_err(|e| StreamError::Ask(e.into()))?;
        let hello = StreamHello {
            nonce: self.nonce.clone(),
            container: process.into(),
            stream: kind.into(),
        };
        write_frame(&mut ours, &hello).map_err(StreamError::Hello)?;
        Ok(ours)
    }

    /// Opens the streams of a process: the terminal alone, or stdin when wanted, stdout and stderr.
    pub(crate) fn open_all(&self, process: &str, stdio: Stdio) -> Result<Vec<UnixStream>, StreamError> {
        let kinds = stdio.streams();
        kinds.iter().map(|kind| self.open(process, *kind)).collect()
    }
}
