//! Session with a pod's agent, shared by all tasks that communicate with the guest.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::Duration;

use capsid_protocol::Ping;
use capsid_protocol::message::{Request, agent_message, host_message};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;

use super::guest_clock::GuestClock;
use super::heartbeat;
use super::streams::StreamOpener;
use crate::clock;
use crate::session::{self, Receiver, Sender, SessionError};

/// Maximum number of messages that may wait for one process: Created, Started, Stopped. An agent that sends more breaks
/// the protocol.
const WAITING_MAX: usize = 8;
/// Maximum number of processes with waiting receivers: the agent allows fewer processes.
const ROUTES_MAX: usize = 4096;
/// Time limit for the answer to a request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit for queueing a message while the guest does not read. A caller that ends the container does not wait
/// longer.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of frames that may wait to be sent. Each is 4 MiB at most.
const FRAMES_MAX: usize = 4;

/// Handle to a pod's agent.
#[derive(Debug)]
pub(crate) struct Agent {
    /// Queue to the [`Outbox`]: a client that leaves in the middle of a message leaves no half of it in the session.
    frames: mpsc::Sender<Vec<u8>>,
    /// Opener of streams into the guest.
    pub opener: StreamOpener,
    /// Receivers of messages, by process.
    routes: RefCell<HashMap<String, mpsc::Sender<agent_message::Kind>>>,
    /// Lock that permits one pending request at a time.
    asking: Mutex<()>,
    asked: RefCell<Option<Asked>>,
    /// Whether the session is over: no more messages will arrive.
    ended: Cell<bool>,
    /// Number of messages that the agent has sent.
    heard: Cell<u64>,
    clock: GuestClock,
}

/// Request that waits for its answer.
#[derive(Debug)]
struct Asked {
    id: String,
    what: Request,
    answer: oneshot::Sender<agent_message::Kind>,
}

/// Queue of frames to the agent, sent in order.
#[derive(Debug)]
pub(crate) struct Outbox {
    frames: mpsc::Receiver<Vec<u8>>,
    sender: Sender,
}

impl Outbox {
    /// Sends frames until the session ends. Returns the reason of the end.
    async fn deliver(&mut self) -> SessionError {
        while let Some(frame) = self.frames.recv().await {
            if let Err(error) = self.sender.send_frame(&frame).await {
                return error;
            }
        }
        SessionError::Closed
    }
}

impl Agent {
    /// Creates the agent's handle and its outbox, which [`Agent::converse`] drives.
    pub(crate) fn new(sender: Sender, opener: StreamOpener) -> (Self, Outbox) {
        let (frames, waiting) = mpsc::channel(FRAMES_MAX);
        let agent = Self {
            frames,
            opener,
            routes: RefCell::default(),
            asking: Mutex::default(),
            asked: RefCell::default(),
            ended: Cell::default(),
            heard: Cell::default(),
            clock: GuestClock::default(),
        };
        let outbox = Outbox {
            frames: waiting,
            sender,
        };
        (agent, outbox)
    }

    /// Queues a message to the agent.
    pub(crate) async fn send(&self, kind: host_message::Kind) -> Result<(), SessionError> {
        let sent = timeout(SEND_TIMEOUT, self.frames.send(session::encode(kind)?)).await;
        sent.map_err(|_| SessionError::Silent)?
            .map_err(|_| SessionError::Closed)
    }

    /// Notifies everybody who waits for the agent that it is gone.
    pub(crate) fn end(&self) {
        self.ended.set(true);
        self.routes.borrow_mut().clear();
        self.asked.borrow_mut().take();
    }

    /// Returns a receiver of the messages that the agent sends about a process from now on.
    pub(crate) fn listen_to(&self, id: &str) -> mpsc::Receiver<agent_message::Kind> {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let mut routes = self.routes.borrow_mut();
        routes.retain(|_, route| !route.is_closed());
        if routes.len() < ROUTES_MAX && !self.ended.get() {
            routes.insert(id.into(), sender);
        }
        receiver
    }

    /// Sends a request about a container and waits for the answer.
    pub(crate) async fn ask(
        &self,
        id: &str,
        what: Request,
        kind: host_message::Kind,
    ) -> Result<agent_message::Kind, SessionError> {
        let _turn = self.asking.lock().await;
        let (sender, answer) = oneshot::channel();
        *self.asked.borrow_mut() = Some(Asked {
            id: id.into(),
            what,
            answer: sender,
        });
        self.send(kind).await?;
        let answer = timeout(ANSWER_TIMEOUT, answer).await;
        self.asked.borrow_mut().take();
        answer
            .map_err(|_| SessionError::Silent)?
            .map_err(|_| SessionError::Closed)
    }

    /// Sends frames, dispatches the agent's messages, and checks its heartbeat, until the session ends. Returns the
    /// reason.
    pub(crate) async fn converse(&self, receiver: &mut Receiver, outbox: &mut Outbox) -> SessionError {
        tokio::select! {
            // A message that has arrived is read before the heartbeat can miss it.
            biased;
            error = self.hand_out(receiver) => error,
            error = outbox.deliver() => error,
            error = heartbeat::watch(self) => error,
        }
    }

    /// Sends the agent a ping, unless the queue is full: then other messages already wait for the agent.
    pub(super) fn ping(&self) {
        self.send_ping(self.clock.ping(clock::now_ns()));
    }

    fn send_ping(&self, ping: Ping) {
        if let Ok(frame) = session::encode(host_message::Kind::Ping(ping)) {
            let _ = self.frames.try_send(frame);
        }
    }

    /// Number of messages that the agent has sent: every one is a sign of life.
    pub(super) fn heard(&self) -> u64 {
        self.heard.get()
    }

    /// Dispatches the agent's messages until the session ends. Returns the reason of the end.
    async fn hand_out(&self, receiver: &mut Receiver) -> SessionError {
        loop {
            let message = match receiver.receive().await {
                Ok(message) => message,
                Err(error) => return error,
            };
            self.heard.set(self.heard.get().wrapping_add(1));
            if let agent_message::Kind::Pong(pong) = message {
                if let Some(correction) = self.clock.pong(&pong, clock::now_ns()) {
                    self.send_ping(correction);
                }
                continue;
            }
            if let Err(error) = self.hand_out_one(message) {
                return error;
            }
        }
    }

    fn hand_out_one(&self, message: agent_message::Kind) -> Result<(), SessionError> {
        let (id, request) = subject(&message).ok_or(SessionError::Unexpected)?;
        if request != Request::Run {
            // A late answer to a request that was given up is ignored.
            let is_for = |asked: &mut Asked| asked.id == id && asked.what == request;
            if let Some(asked) = self.asked.borrow_mut().take_if(is_for) {
                // The requester may be gone.
                let _ = asked.answer.send(message);
            }
            return Ok(());
        }
        let route = self.routes.borrow().get(&id).cloned();
        match route {
            // Nobody waits for this process: an exec whose client is gone.
            None => Ok(()),
            Some(route) => match route.try_send(message) {
                Err(mpsc::error::TrySendError::Full(_)) => Err(SessionError::Unexpected),
                _ => Ok(()),
            },
        }
    }
}

/// Returns the process that a message is about, and the request that it answers; `None` for an unexpected message.
fn subject(message: &agent_message::Kind) -> Option<(String, Request)> {
    use agent_message::Kind;
    match message {
        Kind::Hello(_) | Kind::Pong(_) => None,
        Kind::Created(m) => Some((m.container.clone(), Request::Run)),
        Kind::Started(m) => Some((m.container.clone(), Request::Run)),
        Kind::Failed(m) => Some((m.container.clone(), m.request())),
        Kind::Stopped(m) => Some((m.container.clone(), Request::Run)),
        Kind::Frozen(m) => Some((m.container.clone(), Request::Freeze)),
        Kind::Measured(m) => Some((m.container.clone(), Request::Measure)),
        Kind::Listed(m) => Some((m.container.clone(), Request::List)),
        Kind::Updated(m) => Some((m.container.clone(), Request::Update)),
        Kind::NetworkConfigured(m) => Some((m.container.clone(), Request::ConfigureNetwork)),
    }
}
