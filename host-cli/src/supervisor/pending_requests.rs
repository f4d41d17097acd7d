//! Requests to an agent that wait for their responses. Each has an id of its own, so that many may wait at a time, and
//! a response that comes too late is nobody else's.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use capsid_protocol::message::REQUESTS_MAX;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use crate::session::{Response, SessionError};

/// Number of requests that may wait at a time; more wait for their turn. Half of what the agent performs: it may still
/// be busy with some that are not waited for any more.
const WAITING_MAX: usize = REQUESTS_MAX / 2;

/// Requests of one session that wait for their responses.
#[derive(Debug)]
pub(super) struct PendingRequests {
    /// Id of the last request.
    last_id: Cell<u64>,
    waiting: RefCell<HashMap<u64, oneshot::Sender<Response>>>,
    turns: Semaphore,
}

/// Request that waits for its response, as long as this value lives.
#[derive(Debug)]
pub(super) struct PendingRequest<'a> {
    id: u64,
    response: oneshot::Receiver<Response>,
    requests: &'a PendingRequests,
    _turn: SemaphorePermit<'a>,
}

impl Default for PendingRequests {
    fn default() -> Self {
        Self {
            last_id: Cell::default(),
            waiting: RefCell::default(),
            turns: Semaphore::new(WAITING_MAX),
        }
    }
}

impl PendingRequests {
    /// Adds a request, as soon as it is its turn.
    ///
    /// # Errors
    /// [`SessionError::Closed`] when the session is over.
    pub(super) async fn add(&self) -> Result<PendingRequest<'_>, SessionError> {
        let turn = self.turns.acquire().await.map_err(|_| SessionError::Closed)?;
        let id = self.last_id.get() + 1;
        self.last_id.set(id);
        let (sender, response) = oneshot::channel();
        self.waiting.borrow_mut().insert(id, sender);
        Ok(PendingRequest {
            id,
            response,
            requests: self,
            _turn: turn,
        })
    }

    /// Hands a response to the task that waits for it. A response that nobody waits for any more is dropped.
    ///
    /// # Errors
    /// [`SessionError::Unexpected`] for a response to a request that was never made.
    pub(super) fn respond(&self, id: u64, response: Response) -> Result<(), SessionError> {
        if id > self.last_id.get() {
            return Err(SessionError::Unexpected);
        }
        if let Some(sender) = self.waiting.borrow_mut().remove(&id) {
            // The task may be about to give up.
            let _ = sender.send(response);
        }
        Ok(())
    }

    /// Fails all requests, also future ones: the session is over.
    pub(super) fn end(&self) {
        self.turns.close();
        self.waiting.borrow_mut().clear();
    }
}

impl PendingRequest<'_> {
    /// Returns the id that the request is sent with.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Waits for the response.
    ///
    /// # Errors
    /// [`SessionError::Closed`] when the session ends before.
    pub(super) async fn response(&mut self) -> Result<Response, SessionError> {
        (&mut self.response).await.map_err(|_| SessionError::Closed)
    }
}

impl Drop for PendingRequest<'_> {
    fn drop(&mut self) {
        self.requests.waiting.borrow_mut().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::session::Response::Done;

    #[tokio::test(start_paused = true)]
    async fn responses_reach_their_requests_in_any_order() {
        let requests = PendingRequests::default();
        let (mut first, mut second) = (requests.add().await.unwrap(), requests.add().await.unwrap());
        requests.respond(second.id(), Done).unwrap();
        assert_eq!(second.response().await.unwrap(), Done);
        assert!(timeout(Duration::from_secs(1), first.response()).await.is_err());
        requests.respond(first.id(), Done).unwrap();
        assert_eq!(first.response().await.unwrap(), Done);
    }

    #[tokio::test]
    async fn a_late_response_is_nobody_elses() {
        let requests = PendingRequests::default();
        let late = requests.add().await.unwrap().id();
        let mut next = requests.add().await.unwrap();
        requests.respond(late, Done).unwrap();
        assert_eq!(requests.waiting.borrow().len(), 1);
        requests.end();
        assert!(matches!(next.response().await, Err(SessionError::Closed)));
    }

    #[tokio::test]
    async fn a_second_response_to_a_request_is_dropped() {
        let requests = PendingRequests::default();
        let mut request = requests.add().await.unwrap();
        requests.respond(request.id(), Done).unwrap();
        requests.respond(request.id(), Done).unwrap();
        assert_eq!(request.response().await.unwrap(), Done);
    }

    #[tokio::test]
    async fn a_response_without_a_request_breaks_the_protocol() {
        let requests = PendingRequests::default();
        assert!(matches!(requests.respond(1, Done), Err(SessionError::Unexpected)));
        let request = requests.add().await.unwrap();
        assert!(matches!(
            requests.respond(request.id() + 1, Done),
            Err(SessionError::Unexpected)
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn more_requests_than_the_agent_performs_wait_for_their_turn() {
        let requests = PendingRequests::default();
        let mut waiting = Vec::new();
        for _ in 0..WAITING_MAX {
            waiting.push(requests.add().await.unwrap());
        }
        assert!(timeout(Duration::from_secs(60), requests.add()).await.is_err());
        waiting.pop();
        assert!(timeout(Duration::from_secs(60), requests.add()).await.is_ok());
    }

    #[tokio::test]
    async fn no_request_is_added_after_the_end() {
        let requests = PendingRequests::default();
        requests.end();
        assert!(matches!(requests.add().await, Err(SessionError::Closed)));
    }
}
