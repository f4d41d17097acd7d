//! Host's end of a session: frames to and from the agent. All messages of the agent are hostile.

mod incoming;

use std::io;
use std::time::Duration;

use capsid_protocol::frame::{FrameError, body_len, decode_body, encode_frame};
use capsid_protocol::message::host_message;
use capsid_protocol::{AgentMessage, Hello, HostMessage, Ping, VERSION};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::clock;

pub(crate) use incoming::{GuestFailure, Incoming, ProcessEvent, Response};

/// Time limit from a connected session to the agent's Hello. The connection is the readiness signal, so this is one
/// round trip.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Reason why a session cannot continue.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("cannot make a session nonce")]
    Nonce(#[source] io::Error),
    #[error("the agent closed the session")]
    Closed,
    #[error("the session failed")]
    Io(#[source] io::Error),
    #[error("the agent sent a bad frame")]
    Frame(#[source] FrameError),
    #[error("the agent speaks version {0} of the protocol, this is version {VERSION}: reinstall capsid")]
    Version(u32),
    #[error("the agent answered with a wrong nonce")]
    WrongNonce,
    #[error("the agent sent an unexpected message")]
    Unexpected,
    #[error("the agent did not answer in time")]
    Silent,
    #[error("the agent stopped responding: {0}")]
    Unresponsive(String),
}

impl SessionError {
    /// Whether the connection broke, mostly because the machine is ending.
    pub(crate) fn is_broken(&self) -> bool {
        matches!(self, Self::Closed | Self::Io(_))
    }
}

/// Session after its Hello.
#[derive(Debug)]
pub(crate) struct Session {
    pub receiver: Receiver,
    pub sender: Sender,
    /// Nonce that every stream connection carries.
    pub nonce: Vec<u8>,
    /// Hello message of the agent.
    pub hello: Hello,
}

/// Receiver of the agent's messages.
#[derive(Debug)]
pub(crate) struct Receiver(OwnedReadHalf);

/// Sender of messages to the agent.
#[derive(Debug)]
pub(crate) struct Sender(OwnedWriteHalf);

impl Session {
    /// Sends Hello, waits for the agent's, and sets the guest's wall clock. The first bytes wait in the socket until
    /// the agent has connected, so the caller bounds the boot.
    pub(crate) async fn open(stream: UnixStream) -> Result<Self, SessionError> {
        let (read, write) = stream.into_split();
        let (mut receiver, mut sender) = (Receiver(read), Sender(write));
        let nonce = random(16)?;
        let hello = Hello {
            version: VERSION,
            build: env!("CARGO_PKG_VERSION").into(),
            nonce: nonce.clone(),
            agent_start_ns: 0,
            entropy: random(32)?,
        };
        sender.send(host_message::Kind::Hello(hello)).await?;
        let hello = match receiver.receive().await? {
            Incoming::Hello(hello) => hello,
            _ => return Err(SessionError::Unexpected),
        };
        if hello.version != VERSION {
            return Err(SessionError::Version(hello.version));
        }
        if hello.nonce != nonce {
            return Err(SessionError::WrongNonce);
        }
        // Only now: the host's Hello has waited in the socket while the machine booted.
        let ping = Ping {
            host_clock_ns: u64::try_from(clock::now_ns()).unwrap_or(0),
            correction_ns: 0,
            is_first: true,
        };
        sender.send(host_message::Kind::Ping(ping)).await?;
        Ok(Self {
            receiver,
            sender,
            nonce,
            hello,
        })
    }
}

impl Receiver {
    /// Receives the next message; one of an unknown kind is an error, as both sides have the same version.
    pub(crate) async fn receive(&mut self) -> Result<Incoming, SessionError> {
        let mut prefix = [0u8; 4];
        match self.0.read_exact(&mut prefix).await {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(SessionError::Closed),
            Err(e) => return Err(SessionError::Io(e)),
        }
        let mut body = vec![0u8; body_len(prefix).map_err(SessionError::Frame)?];
        // A frame that has begun must end: a hostile agent cannot block the host for ever between its two halves.
        let read = timeout(HELLO_TIMEOUT, self.0.read_exact(&mut body))
            .await
            .map_err(|_| SessionError::Silent)?;
        read.map_err(SessionError::Io)?;
        let message: AgentMessage = decode_body(&body).map_err(SessionError::Frame)?;
        message.try_into()
    }
}

impl Sender {
    /// Sends one message.
    pub(crate) async fn send(&mut self, kind: host_message::Kind) -> Result<(), SessionError> {
        self.send_frame(&encode(&kind.into())?).await
    }

    /// Sends a frame that [`encode`] made. A session in which this was cancelled halfway is broken.
    pub(crate) async fn send_frame(&mut self, frame: &[u8]) -> Result<(), SessionError> {
        self.0.write_all(frame).await.map_err(SessionError::Io)
    }
}

/// Encodes a message as a frame.
pub(crate) fn encode(message: &HostMessage) -> Result<Vec<u8>, SessionError> {
    encode_frame(message).map_err(SessionError::Frame)
}

/// Returns random bytes from the kernel.
pub(crate) fn random(count: usize) -> Result<Vec<u8>, SessionError> {
    let mut bytes = vec![0u8; count];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| SessionError::Nonce(e.into()))?;
    Ok(bytes)
}
