//! Connection between a command and a supervisor: JSON frames, with descriptors attached.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::rc::Rc;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use rustix::process::Signal;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::peer::Peer;

/// Largest body of a frame, bytes: an exec's arguments and environment are the largest.
const FRAME_BYTES_MAX: usize = 4 << 20;
/// Bytes of the body's length, which begins each frame.
const PREFIX_BYTES: usize = 4;
/// Most bytes read at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// Most descriptors attached to a frame: three streams.
const FDS_MAX: usize = 3;

/// Reason why a connection cannot continue.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    #[error("the pod's supervisor is gone")]
    Closed,
    #[error("the connection to the pod's supervisor failed")]
    Io(#[source] io::Error),
    #[error("the pod's supervisor is of another version of capsid: stop the container and start it again")]
    Message(#[source] serde_json::Error),
    #[error("a message of {0} bytes is over the limit of {FRAME_BYTES_MAX}")]
    TooLong(usize),
    #[error(
        "the pod's supervisor is stopped by a signal: `kill -CONT {0}` continues it, `capsid stop` and `capsid rm -f` end it"
    )]
    Stopped(i32),
    #[error("the pod's supervisor has not answered within {} s: `capsid rm -f` ends it", .0.as_secs())]
    Silent(Duration),
}

/// Both directions of a connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub reader: Reader,
    pub writer: Writer,
}

/// Receiver of frames. Keeps a partial frame, so that a wait for it can be cancelled and resumed.
#[derive(Debug)]
pub(crate) struct Reader {
    stream: Rc<UnixStream>,
    received: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// Sender of frames.
#[derive(Debug, Clone)]
pub(crate) struct Writer(Rc<UnixStream>);

impl Connection {
    pub(super) fn new(stream: StdStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self::from_tokio(UnixStream::from_std(stream)?))
    }

    pub(super) fn from_tokio(stream: UnixStream) -> Self {
        let stream = Rc::new(stream);
        Self {
            reader: Reader {
                stream: stream.clone(),
                received: Vec::new(),
                fds: Vec::new(),
            },
            writer: Writer(stream),
        }
    }

    /// Creates both ends of a new connection: for a command and the supervisor that it starts.
    pub(crate) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = StdStream::pair()?;
        Ok((Self::new(ours)?, theirs.into()))
    }

    /// Returns the process at the other end of a connection to a socket that it listens on.
    pub(crate) fn peer(&self) -> Peer {
        Peer::of(self.writer.0.as_fd())
    }

    /// Receives an answer of a supervisor. Fails after `limit`, or when the supervisor is stopped.
    pub(crate) async fn receive_within<T: DeserializeOwned>(
        &mut self,
        limit: Duration,
    ) -> Result<(T, Vec<OwnedFd>), ControlError> {
        let answer = timeout(limit, self.receive()).await;
        answer.unwrap_or(Err(ControlError::Silent(limit)))
    }

    /// Receives an answer of a supervisor that may take as long as its work does. Fails when the supervisor is stopped.
    pub(crate) async fn receive<T: DeserializeOwned>(&mut self) -> Result<(T, Vec<OwnedFd>), ControlError> {
        let peer = self.peer();
        tokio::select! {
            biased;
            answer = self.reader.receive() => answer,
            pid = peer.stopped() => Err(ControlError::Stopped(pid)),
        }
    }

    /// Waits for the last answer to a request that ends the supervisor, or a container that it supervises, and enforces
    /// the end: continues a supervisor that is stopped by a signal, and kills one that does not answer within `limit`,
    /// and its machine with it. `None` means that the supervisor has ended without an answer.
    pub(crate) async fn end_within<T: DeserializeOwned>(&mut self, limit: Duration) -> Option<T> {
        let mut answered = self.receive_within(limit).await;
        if let Err(ControlError::Stopped(_)) = answered {
            self.peer().signal(Signal::CONT);
            answered = self.receive_within(limit).await;
        }
        if let Err(ControlError::Stopped(_) | ControlError::Silent(_)) = answered {
            self.peer().signal(Signal::KILL);
        }
        answered.ok().map(|(answer, _)| answer)
    }

    /// Takes over the end that a supervisor was started with.
    pub(crate) fn inherited(fd: OwnedFd) -> io::Result<Self> {
        Self::new(StdStream::from(fd))
    }
}

impl Writer {
    /// Sends one message.
    pub(crate) async fn send(&self, message: &impl Serialize) -> Result<(), ControlError> {
        self.send_with(message, &[]).await
    }

    /// Sends one message with descriptors.
    pub(crate) async fn send_with(&self, message: &impl Serialize, fds: &[OwnedFd]) -> Result<(), ControlError> {
        let body = serde_json::to_vec(message).map_err(ControlError::Message)?;
        if body.len() > FRAME_BYTES_MAX {
            return Err(ControlError::TooLong(body.len()));
        }
        let mut frame = (body.len() as u32).to_le_bytes().to_vec();
        frame.extend_from_slice(&body);
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let mut sent = 0;
        while sent < frame.len() {
            // Descriptors are attached to the first byte.
            let fds = if sent == 0 { &borrowed[..] } else { &[] };
            let write = || send_some(self.0.as_fd(), &frame[sent..], fds);
            sent += self.0.async_io(Interest::WRITABLE, write).await.map_err(failed)?;
        }
        Ok(())
    }
}

/// Converts an I/O error: a hang-up in the middle of a frame counts as a closed connection.
fn failed(error: io::Error) -> ControlError {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ControlError::Closed,
        _ => ControlError::Io(error),
    }
}

impl Reader {
    /// Receives one message and the descriptors that came with it.
    pub(crate) async fn receive<T: DeserializeOwned>(&mut self) -> Result<(T, Vec<OwnedFd>), ControlError> {
        self.fill(PREFIX_BYTES).await?;
        let mut prefix = [0u8; PREFIX_BYTES];
        prefix.copy_from_slice(&self.received[..PREFIX_BYTES]);
        let length = u32::from_le_bytes(prefix) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(ControlError::TooLong(length));
        }
        self.fill(PREFIX_BYTES + length).await?;
        let frame = std::mem::take(&mut self.received);
        let fds = std::mem::take(&mut self.fds);
        let message = serde_json::from_slice(&frame[PREFIX_BYTES..]).map_err(ControlError::Message)?;
        Ok((message, fds))
    }

    /// Reads until `wanted` bytes of the frame have arrived, and none of the next one.
    async fn fill(&mut self, wanted: usize) -> Result<(), ControlError> {
        while self.received.len() < wanted {
            let mut chunk = vec![0u8; (wanted - self.received.len()).min(CHUNK_BYTES)];
            let stream = &self.stream;
            let (count, fds) = stream
                .async_io(Interest::READABLE, || receive_some(stream.as_fd(), &mut chunk))
                .await
                .map_err(failed)?;
            if count == 0 {
                return Err(ControlError::Closed);
            }
            self.received.extend_from_slice(&chunk[..count]);
            self.fds.extend(fds);
        }
        Ok(())
    }
}

fn send_some(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL);
    Ok(sent?)
}

fn receive_some(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok((received.bytes, fds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Answer, Request};

    #[test]
    fn messages_and_descriptors_arrive() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (mut ours, theirs) = Connection::pair().unwrap();
            let mut theirs = Connection::inherited(theirs).unwrap();
            ours.writer.send(&Request::Signal(15)).await.unwrap();
            let (request, fds) = theirs.reader.receive::<Request>().await.unwrap();
            assert!(matches!(request, Request::Signal(15)) && fds.is_empty());
            let (one, _other) = StdStream::pair().unwrap();
            let fds = [OwnedFd::from(one)];
            theirs
                .writer
                .send_with(&Answer::Streams { terminal: true }, &fds)
                .await
                .unwrap();
            let (answer, fds) = ours.reader.receive::<Answer>().await.unwrap();
            assert!(matches!(answer, Answer::Streams { terminal: true }));
            assert_eq!(fds.len(), 1);
            drop(theirs);
            assert!(matches!(
                ours.reader.receive::<Answer>().await,
                Err(ControlError::Closed)
            ));
        });
    }
}
