//! Conversation with a guest's agent: frames to it, messages from it, and its heartbeat, for as long as the session
//! lasts.

use std::rc::Rc;

use tokio::sync::mpsc;

use super::guest::Guest;
use super::heartbeat;
use super::streams::StreamOpener;
use crate::session::{Receiver, Sender, Session, SessionError};

/// Conversation that is to be driven: nothing reaches the guest, and nothing comes from it, otherwise.
#[derive(Debug)]
pub(super) struct Conversation {
    guest: Rc<Guest>,
    receiver: Receiver,
    sender: Sender,
    /// Frames to the agent, sent in order.
    frames: mpsc::Receiver<Vec<u8>>,
}

impl Conversation {
    /// Takes over a session, and creates the guest's handle. Streams are opened by `opener`.
    pub(super) fn new(session: Session, opener: StreamOpener) -> Self {
        let (guest, frames) = Guest::new(opener);
        Self {
            guest: Rc::new(guest),
            receiver: session.receiver,
            sender: session.sender,
            frames,
        }
    }

    /// Returns the handle of the guest.
    pub(super) fn guest(&self) -> Rc<Guest> {
        Rc::clone(&self.guest)
    }

    /// Sends frames, dispatches the agent's messages, and checks its heartbeat, until the session ends. Returns the
    /// reason.
    pub(super) async fn run(mut self) -> SessionError {
        // Neither direction can keep the other one from its turn.
        let talk = async {
            tokio::select! {
                error = receive(&self.guest, &mut self.receiver) => error,
                error = send(&mut self.frames, &mut self.sender) => error,
            }
        };
        tokio::select! {
            // A message that has arrived is read before the heartbeat can miss it.
            biased;
            error = talk => error,
            error = heartbeat::watch(&self.guest) => error,
        }
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        // Clients that wait for a process of the guest need not wait for the machine's end.
        self.guest.end();
    }
}

/// Dispatches the agent's messages until the session ends. Returns the reason of the end.
async fn receive(guest: &Guest, receiver: &mut Receiver) -> SessionError {
    loop {
        let dispatched = receiver.receive().await.and_then(|incoming| guest.dispatch(incoming));
        if let Err(error) = dispatched {
            return error;
        }
    }
}

/// Sends frames until the session ends. Returns the reason of the end.
async fn send(frames: &mut mpsc::Receiver<Vec<u8>>, sender: &mut Sender) -> SessionError {
    while let Some(frame) = frames.recv().await {
        if let Err(error) = sender.send_frame(&frame).await {
            return error;
        }
    }
    SessionError::Closed
}
