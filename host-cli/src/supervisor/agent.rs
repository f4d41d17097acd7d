//! The session with a pod's agent, shared by all who speak to the guest.

use std::cell::RefCell;
use std::collections::HashMap;

use capsid_protocol::message::{agent_message, host_message};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;

use super::streams::StreamOpener;
use crate::session::{Receiver, Sender, SessionError};

/// Messages that may wait for one process: Created, Started, Stopped. An agent that sends more is out of order.
const WAITING_MAX: usize = 8;
/// Processes that may be waited for at a time: the agent allows fewer.
const ROUTES_MAX: usize = 4096;
/// How long an answer to a request may take.
const ANSWER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

/// Speaks to the agent.
#[derive(Debug)]
pub(crate) struct Agent {
    sender: Mutex<Sender>,
    /// Opens streams into the guest.
    pub opener: StreamOpener,
    /// Who waits for messages of which process.
    routes: RefCell<HashMap<String, mpsc::Sender<agent_message::Kind>>>,
    /// One request at a time waits for its answer.
    asking: Mutex<()>,
    asked: RefCell<Option<(String, oneshot::Sender<agent_message::Kind>)>>,
}

impl Agent {
    pub(crate) fn new(sender: Sender, opener: StreamOpener) -> Self {
        Self {
            sender: Mutex::new(sender),
            opener,
            routes: RefCell::default(),
            asking: Mutex::default(),
            asked: RefCell::default(),
        }
    }

    /// Says something.
    pub(crate) async fn send(&self, kind: host_message::Kind) -> Result<(), SessionError> {
        self.sender.lock().await.send(kind).await
    }

    /// What the agent will say of a process from now on.
    pub(crate) fn listen_to(&self, id: &str) -> mpsc::Receiver<agent_message::Kind> {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let mut routes = self.routes.borrow_mut();
        routes.retain(|_, route| !route.is_closed());
        if routes.len() < ROUTES_MAX {
            routes.insert(id.into(), sender);
        }
        receiver
    }

    /// Says something about a container and waits for the answer.
    pub(crate) async fn ask(&self, id: &str, kind: host_message::Kind) -> Result<agent_message::Kind, SessionError> {
        let _turn = self.asking.lock().await;
        let (sender, answer) = oneshot::channel();
        *self.asked.borrow_mut() = Some((id.into(), sender));
        self.send(kind).await?;
        let answer = timeout(ANSWER_TIMEOUT, answer).await;
        self.asked.borrow_mut().take();
        answer
            .map_err(|_| SessionError::Silent)?
            .map_err(|_| SessionError::Closed)
    }

    /// Hands out what the agent says until the session ends: why it did.
    pub(crate) async fn hand_out(&self, receiver: &mut Receiver) -> SessionError {
        let end = loop {
            let message = match receiver.receive().await {
                Ok(message) => message,
                Err(error) => break error,
            };
            if let Err(error) = self.hand_out_one(message) {
                break error;
            }
        };
        self.routes.borrow_mut().clear();
        self.asked.borrow_mut().take();
        end
    }

    fn hand_out_one(&self, message: agent_message::Kind) -> Result<(), SessionError> {
        let (id, answers_request) = subject(&message).ok_or(SessionError::Unexpected)?;
        if answers_request {
            if let Some((_, answer)) = self.asked.borrow_mut().take_if(|(about, _)| *about == id) {
                // Whoever asked may have gone.
                let _ = answer.send(message);
            }
            return Ok(());
        }
        let route = self.routes.borrow().get(&id).cloned();
        match route {
            // A process that nobody waits for: an exec whose client is gone.
            None => Ok(()),
            Some(route) => match route.try_send(message) {
                Err(mpsc::error::TrySendError::Full(_)) => Err(SessionError::Unexpected),
                _ => Ok(()),
            },
        }
    }
}

/// Which process a message is about, and whether it answers a request; `None` for one that has no place here.
fn subject(message: &agent_message::Kind) -> Option<(String, bool)> {
    use agent_message::Kind;
    match message {
        Kind::Hello(_) => None,
        Kind::Created(m) => Some((m.container.clone(), false)),
        Kind::Started(m) => Some((m.container.clone(), false)),
        Kind::Failed(m) => Some((
            m.container.clone(),
            m.request() != capsid_protocol::message::Request::Run,
        )),
        Kind::Stopped(m) => Some((m.container.clone(), false)),
        Kind::Frozen(m) => Some((m.container.clone(), true)),
        Kind::Measured(m) => Some((m.container.clone(), true)),
        Kind::Listed(m) => Some((m.container.clone(), true)),
        Kind::Updated(m) => Some((m.container.clone(), true)),
    }
}
