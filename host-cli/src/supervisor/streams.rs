//! Stdio streams into the guest: vsock connections that the machine makes of sockets handed to it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use capsid_protocol::{StreamHello, StreamKind, write_frame};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

/// Why a stream could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("cannot make a stream")]
    Socket(#[source] io::Error),
    #[error("cannot ask the machine for a stream")]
    Ask(#[source] io::Error),
    #[error("cannot begin a stream")]
    Hello(#[source] capsid_protocol::FrameError),
}

/// Opens streams.
#[derive(Debug)]
pub(crate) struct StreamOpener {
    /// Where the machine takes requests: `capsid_vmm::config::VsockConfig`.
    pub control: OwnedFd,
    pub nonce: Vec<u8>,
}

impl StreamOpener {
    /// One stream of a process: our end.
    pub(crate) fn open(&self, process: &str, kind: StreamKind) -> Result<UnixStream, StreamError> {
        let (mut ours, theirs) = UnixStream::pair().map_err(StreamError::Socket)?;
        let port = capsid_protocol::STREAM_PORT.to_le_bytes();
        let fds = [theirs.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        // A machine that takes no requests must not stop this process: it has others to answer.
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

    /// The streams of a process: the terminal alone, or stdin when wanted, stdout and stderr.
    pub(crate) fn open_all(&self, process: &str, terminal: bool, stdin: bool) -> Result<Vec<UnixStream>, StreamError> {
        let kinds: &[StreamKind] = match (terminal, stdin) {
            (true, _) => &[StreamKind::Terminal],
            (false, true) => &[StreamKind::Stdin, StreamKind::Stdout, StreamKind::Stderr],
            (false, false) => &[StreamKind::Stdout, StreamKind::Stderr],
        };
        kinds.iter().map(|kind| self.open(process, *kind)).collect()
    }
}
