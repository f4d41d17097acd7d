//! Guest of a running machine, as all tasks share it: processes that are spawned in it, orders, and requests to its
//! agent.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::Duration;

use capsid_protocol::message::{ConfigureNetwork, List, Measure, Update, host_message};
use capsid_protocol::spec::{Limits, Network};
use capsid_protocol::{
    FreePart, Freeze, HostMessage, KeepFree, Listed, Measured, Ping, ProcessSpec, Resize, Signal, Start,
};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::guest_clock::GuestClock;
use super::guest_process::{GuestProcess, ProcessError};
use super::pending_requests::PendingRequests;
use super::streams::StreamOpener;
use crate::clock;
use crate::session::{self, GuestFailure, Incoming, ProcessEvent, Response, SessionError};

/// Maximum number of events that may wait for one process: Created, Started, Stopped. An agent that sends more breaks
/// the protocol.
const EVENTS_MAX: usize = 8;
/// Maximum number of processes whose events are waited for: the agent allows fewer processes.
const PROCESSES_MAX: usize = 4096;
/// Time limit for a request: its turn, and its response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit for queueing a message while the guest does not read. A caller that ends the container does not wait
/// longer.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of frames that may wait to be sent. Each is 4 MiB at most.
const FRAMES_MAX: usize = 4;

/// Guest whose agent is ready.
#[derive(Debug)]
pub(crate) struct Guest {
    /// Queue to the session: a client that leaves in the middle of a message leaves no half of it in the session.
    frames: mpsc::Sender<Vec<u8>>,
    opener: StreamOpener,
    /// Receivers of events, by process.
    processes: RefCell<HashMap<String, mpsc::Sender<ProcessEvent>>>,
    requests: PendingRequests,
    /// Whether the session is over: no more messages will arrive.
    ended: Cell<bool>,
    /// Number of messages that the agent has sent.
    received: Cell<u64>,
    clock: GuestClock,
}

/// Error of a request to the guest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error(transparent)]
    Refused(GuestFailure),
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl Guest {
    /// Creates the handle, and the queue of the frames that [`super::conversation::Conversation`] sends.
    pub(super) fn new(opener: StreamOpener) -> (Self, mpsc::Receiver<Vec<u8>>) {
        let (frames, queue) = mpsc::channel(FRAMES_MAX);
        let guest = Self {
            frames,
            opener,
            processes: RefCell::default(),
            requests: PendingRequests::default(),
            ended: Cell::default(),
            received: Cell::default(),
            clock: GuestClock::default(),
        };
        (guest, queue)
    }

    /// Spawns a process: sends Create, opens the streams and sends Start without waiting for anything in between.
    pub(crate) async fn spawn(&self, spec: impl Into<ProcessSpec>) -> Result<GuestProcess, ProcessError> {
        let spec = spec.into();
        let (id, stdio) = (spec.id().to_owned(), spec.stdio());
        let events = self.events_of(&id);
        self.send(host_message::Kind::Create(Box::new(spec))).await?;
        let start = Start { container: id.clone() };
        self.send(host_message::Kind::Start(start)).await?;
        let streams = self.opener.open_all(&id, stdio)?;
        Ok(GuestProcess::new(id, streams, events))
    }

    /// Returns a receiver of the events of a process from now on.
    fn events_of(&self, id: &str) -> mpsc::Receiver<ProcessEvent> {
        let (sender, receiver) = mpsc::channel(EVENTS_MAX);
        let mut processes = self.processes.borrow_mut();
        processes.retain(|_, events| !events.is_closed());
        if processes.len() < PROCESSES_MAX && !self.ended.get() {
            processes.insert(id.into(), sender);
        }
        receiver
    }

    /// Sends a signal to a process. One that has ended does not get it.
    pub(crate) async fn signal(&self, process: &str, number: i32) -> Result<(), SessionError> {
        let signal = Signal {
            container: process.into(),
            number: u32::try_from(number).unwrap_or(0),
        };
        self.send(host_message::Kind::Signal(signal)).await
    }

    /// Changes the size of a process's terminal, in characters.
    pub(crate) async fn resize(&self, process: &str, rows: u32, columns: u32) -> Result<(), SessionError> {
        let resize = Resize {
            container: process.into(),
            rows,
            columns,
        };
        self.send(host_message::Kind::Resize(resize)).await
    }

    /// Makes the guest keep parts of disks free.
    pub(crate) async fn keep_free(&self, disks: Vec<FreePart>) -> Result<(), SessionError> {
        self.send(host_message::Kind::KeepFree(KeepFree { disks })).await
    }

    /// Stops or resumes every process of a container.
    pub(crate) async fn freeze(&self, container: &str, frozen: bool) -> Result<(), RequestError> {
        let container = container.into();
        self.change(host_message::Kind::Freeze(Freeze { container, frozen }))
            .await
    }

    /// Changes the limits of a container; absent ones stay unchanged.
    pub(crate) async fn update(&self, container: &str, limits: Limits) -> Result<(), RequestError> {
        let container = container.into();
        self.change(host_message::Kind::Update(Update { container, limits }))
            .await
    }

    /// Replaces the addresses and routes of a container's network device; of the pod's for an empty id.
    pub(crate) async fn configure_network(&self, container: &str, network: Network) -> Result<(), RequestError> {
        let container = container.into();
        let configure = ConfigureNetwork { container, network };
        self.change(host_message::Kind::ConfigureNetwork(configure)).await
    }

    /// Lists the processes of a container.
    pub(crate) async fn list(&self, container: &str) -> Result<Listed, RequestError> {
        let list = List {
            container: container.into(),
        };
        match self.request(host_message::Kind::List(list)).await? {
            Response::Listed(listed) => Ok(listed),
            _ => Err(SessionError::Unexpected.into()),
        }
    }

    /// Measures the resource usage of a container; of the whole guest for an empty id.
    pub(crate) async fn measure(&self, container: &str) -> Result<Measured, RequestError> {
        let measure = Measure {
            container: container.into(),
        };
        match self.request(host_message::Kind::Measure(measure)).await? {
            Response::Measured(measured) => Ok(measured),
            _ => Err(SessionError::Unexpected.into()),
        }
    }

    /// Makes a request that has no result.
    async fn change(&self, kind: host_message::Kind) -> Result<(), RequestError> {
        match self.request(kind).await? {
            Response::Done => Ok(()),
            _ => Err(SessionError::Unexpected.into()),
        }
    }

    /// Makes a request and waits for the response. Other requests go on meanwhile.
    async fn request(&self, kind: host_message::Kind) -> Result<Response, RequestError> {
        let response = async {
            let mut pending = self.requests.add().await?;
            let message = HostMessage {
                request_id: pending.id(),
                kind: Some(kind),
            };
            self.send_message(&message).await?;
            pending.response().await
        };
        match timeout(RESPONSE_TIMEOUT, response)
            .await
            .map_err(|_| SessionError::Silent)??
        {
            Response::Failed(failure) => Err(RequestError::Refused(failure)),
            response => Ok(response),
        }
    }

    /// Queues a message that has no response.
    async fn send(&self, kind: host_message::Kind) -> Result<(), SessionError> {
        self.send_message(&kind.into()).await
    }

    async fn send_message(&self, message: &HostMessage) -> Result<(), SessionError> {
        let sent = timeout(SEND_TIMEOUT, self.frames.send(session::encode(message)?)).await;
        sent.map_err(|_| SessionError::Silent)?
            .map_err(|_| SessionError::Closed)
    }

    /// Sends the agent a ping, unless the queue is full: then other messages already wait for the agent.
    pub(super) fn ping(&self) {
        self.send_ping(self.clock.ping(clock::now_ns()));
    }

    fn send_ping(&self, ping: Ping) {
        if let Ok(frame) = session::encode(&host_message::Kind::Ping(ping).into()) {
            let _ = self.frames.try_send(frame);
        }
    }

    /// Number of messages that the agent has sent: every one is a sign of life.
    pub(super) fn received(&self) -> u64 {
        self.received.get()
    }

    /// Hands a message of the agent to the task that waits for it.
    ///
    /// # Errors
    /// A message that breaks the protocol: the session must end.
    pub(super) fn dispatch(&self, incoming: Incoming) -> Result<(), SessionError> {
        self.received.set(self.received.get().wrapping_add(1));
        match incoming {
            Incoming::Hello(_) => Err(SessionError::Unexpected),
            Incoming::Pong(pong) => {
                if let Some(correction) = self.clock.pong(&pong, clock::now_ns()) {
                    self.send_ping(correction);
                }
                Ok(())
            }
            Incoming::Response { request_id, response } => self.requests.respond(request_id, response),
            Incoming::Event { process, event } => self.dispatch_event(&process, event),
        }
    }

    fn dispatch_event(&self, process: &str, event: ProcessEvent) -> Result<(), SessionError> {
        match self.processes.borrow().get(process) {
            // Nobody waits for this process: an exec whose client is gone.
            None => Ok(()),
            Some(events) => match events.try_send(event) {
                Err(mpsc::error::TrySendError::Full(_)) => Err(SessionError::Unexpected),
                _ => Ok(()),
            },
        }
    }

    /// Notifies everybody who waits for the guest that it is gone.
    pub(super) fn end(&self) {
        self.ended.set(true);
        self.processes.borrow_mut().clear();
        self.requests.end();
    }
}
