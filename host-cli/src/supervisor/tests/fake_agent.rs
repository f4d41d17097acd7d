//! Agent that a test plays.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;

use capsid_protocol::frame::{body_len, decode_body, encode_frame};
use capsid_protocol::message::agent_message::Kind as Report;
use capsid_protocol::message::host_message::Kind as Intent;
use capsid_protocol::{
    AgentMessage, Created, Failed, FailedStep, Hello, HostMessage, Pong, ProcessSpec, Started, Stopped, StreamHello,
    VERSION, read_frame,
};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::super::machine::Sockets;

/// Agent at the machine's ends of its sockets.
pub(super) struct FakeAgent {
    session: UnixStream,
    control: OwnedFd,
    nonce: Vec<u8>,
}

impl FakeAgent {
    /// Creates the sockets of a machine, and the agent in it.
    pub(super) fn machine() -> (Sockets, Self) {
        let (sockets, session, control) = Sockets::pair().unwrap();
        let session = StdStream::from(session);
        session.set_nonblocking(true).unwrap();
        let agent = Self {
            session: UnixStream::from_std(session).unwrap(),
            control,
            nonce: Vec::new(),
        };
        (sockets, agent)
    }

    /// Receives the next message as it is.
    pub(super) async fn receive_any(&mut self) -> HostMessage {
        let mut prefix = [0; 4];
        self.session.read_exact(&mut prefix).await.unwrap();
        let mut body = vec![0; body_len(prefix).unwrap()];
        self.session.read_exact(&mut body).await.unwrap();
        decode_body(&body).unwrap()
    }

    /// Receives the next message, and answers pings before it. Returns the id of a request with it.
    pub(super) async fn receive(&mut self) -> (u64, Intent) {
        loop {
            let message = self.receive_any().await;
            match message.kind.unwrap() {
                Intent::Ping(ping) => {
                    let pong = Pong {
                        host_clock_ns: ping.host_clock_ns,
                        guest_clock_ns: ping.host_clock_ns,
                    };
                    self.report(Report::Pong(pong)).await;
                }
                kind => return (message.request_id, kind),
            }
        }
    }

    /// Answers pings for ever.
    pub(super) async fn only_live(&mut self) {
        let (_, kind) = self.receive().await;
        panic!("unexpected message {kind:?}");
    }

    /// Receives the host's Hello.
    pub(super) async fn receive_hello(&mut self) -> Hello {
        let Some(Intent::Hello(hello)) = self.receive_any().await.kind else {
            panic!("no hello");
        };
        self.nonce.clone_from(&hello.nonce);
        hello
    }

    /// Opens the session as a true agent does.
    pub(super) async fn greet(&mut self) {
        let hello = self.receive_hello().await;
        let answer = Hello {
            version: VERSION,
            nonce: hello.nonce,
            agent_start_ns: 7,
            ..Hello::default()
        };
        self.report(Report::Hello(answer)).await;
    }

    /// Sends a report that is no response.
    pub(super) async fn report(&mut self, kind: Report) {
        self.respond(0, kind).await;
    }

    /// Sends the response to a request.
    pub(super) async fn respond(&mut self, request_id: u64, kind: Report) {
        let kind = Some(kind);
        self.send_bytes(&encode_frame(&AgentMessage { request_id, kind }).unwrap())
            .await;
    }

    /// Sends any bytes.
    pub(super) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.session.write_all(bytes).await.unwrap();
    }

    /// Receives Create and Start of a process.
    pub(super) async fn receive_process(&mut self) -> ProcessSpec {
        let (_, Intent::Create(spec)) = self.receive().await else {
            panic!("no Create");
        };
        let (_, Intent::Start(start)) = self.receive().await else {
            panic!("no Start");
        };
        assert_eq!(start.container, spec.id());
        *spec
    }

    /// Reports that a process was created and started.
    pub(super) async fn report_start(&mut self, id: &str) {
        self.report(Report::Created(Created { container: id.into() })).await;
        let started = Started {
            container: id.into(),
            pid: 9,
        };
        self.report(Report::Started(started)).await;
    }

    /// Reports that a process exited.
    pub(super) async fn report_exit(&mut self, id: &str, exit_code: u32) {
        let stopped = Stopped {
            container: id.into(),
            exit_code,
            ..Stopped::default()
        };
        self.report(Report::Stopped(stopped)).await;
    }

    /// Takes a stream that the host has opened. Returns its hello with it.
    pub(super) fn take_stream(&self) -> (StreamHello, StdStream) {
        let (mut port, mut space) = ([0; 4], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut into = [std::io::IoSliceMut::new(&mut port)];
        rustix::net::recvmsg(&self.control, &mut into, &mut ancillary, RecvFlags::DONTWAIT).unwrap();
        assert_eq!(u32::from_le_bytes(port), capsid_protocol::STREAM_PORT);
        let mut messages = ancillary.drain();
        let Some(RecvAncillaryMessage::ScmRights(mut fds)) = messages.next() else {
            panic!("no descriptor");
        };
        let mut stream = StdStream::from(fds.next().unwrap());
        let hello: StreamHello = read_frame(&mut stream).unwrap();
        assert_eq!(hello.nonce, self.nonce);
        (hello, stream)
    }
}

/// Failure of a request or process.
pub(super) fn failed(id: &str, step: FailedStep, message: &str) -> Report {
    Report::Failed(Failed {
        container: id.into(),
        step: step as i32,
        errno: 0,
        message: message.into(),
    })
}
