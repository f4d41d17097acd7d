//! Messages of the agent, sorted by who waits for them. All that an agent sends is hostile: what does not fit here ends
//! the session.

use capsid_protocol::message::agent_message::Kind;
use capsid_protocol::{AgentMessage, Failed, FailedStep, Hello, Listed, Measured, Pong, Stopped};

use super::SessionError;
use crate::guest_text::GuestText;

/// Message of the agent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Incoming {
    /// Opening of the session.
    Hello(Hello),
    /// Sign of life.
    Pong(Pong),
    /// Change of a process, identified by its id.
    Event { process: String, event: ProcessEvent },
    /// Response to the request of this id.
    Response { request_id: u64, response: Response },
}

/// Change of a process: a container, an exec process or a task.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ProcessEvent {
    /// The process exists; its program is not executed yet.
    Created,
    /// The program runs.
    Started,
    /// The process ended and its output is drained.
    Stopped(Stopped),
    /// The process could not be created or started.
    Failed(GuestFailure),
}

/// Response to a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Response {
    /// Success of a request that has no result.
    Done,
    /// Resource usage.
    Measured(Measured),
    /// Process list.
    Listed(Listed),
    /// Refusal of the request.
    Failed(GuestFailure),
}

/// Failure that the guest reports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct GuestFailure {
    pub step: FailedStep,
    pub text: GuestText,
}

impl From<Failed> for GuestFailure {
    fn from(failed: Failed) -> Self {
        Self {
            step: failed.step(),
            text: GuestText::new(failed.message.as_bytes()),
        }
    }
}

impl TryFrom<AgentMessage> for Incoming {
    type Error = SessionError;

    fn try_from(message: AgentMessage) -> Result<Self, SessionError> {
        let kind = message.kind.ok_or(SessionError::Unexpected)?;
        match message.request_id {
            0 => unrequested(kind),
            request_id => Ok(Self::Response {
                request_id,
                response: response(kind)?,
            }),
        }
    }
}

/// Sorts a message that is no response.
fn unrequested(kind: Kind) -> Result<Incoming, SessionError> {
    let (process, event) = match kind {
        Kind::Hello(hello) => return Ok(Incoming::Hello(hello)),
        Kind::Pong(pong) => return Ok(Incoming::Pong(pong)),
        Kind::Created(created) => (created.container, ProcessEvent::Created),
        Kind::Started(started) => (started.container, ProcessEvent::Started),
        Kind::Stopped(stopped) => (stopped.container.clone(), ProcessEvent::Stopped(stopped)),
        Kind::Failed(failed) => (failed.container.clone(), ProcessEvent::Failed(failed.into())),
        Kind::Done(_) | Kind::Measured(_) | Kind::Listed(_) => return Err(SessionError::Unexpected),
    };
    Ok(Incoming::Event { process, event })
}

fn response(kind: Kind) -> Result<Response, SessionError> {
    match kind {
        Kind::Done(_) => Ok(Response::Done),
        Kind::Measured(measured) => Ok(Response::Measured(measured)),
        Kind::Listed(listed) => Ok(Response::Listed(listed)),
        Kind::Failed(failed) => Ok(Response::Failed(failed.into())),
        Kind::Hello(_) | Kind::Pong(_) | Kind::Created(_) | Kind::Started(_) | Kind::Stopped(_) => {
            Err(SessionError::Unexpected)
        }
    }
}

#[cfg(test)]
mod tests {
    use capsid_protocol::{Created, Done, Started};

    use super::*;

    fn sorted(request_id: u64, kind: Kind) -> Result<Incoming, SessionError> {
        let kind = Some(kind);
        AgentMessage { request_id, kind }.try_into()
    }

    fn failed() -> Failed {
        Failed {
            container: "c".into(),
            step: FailedStep::ExecNotFound as i32,
            errno: 2,
            message: "no\x07 such file".into(),
        }
    }

    #[test]
    fn changes_of_a_process_name_it() {
        let container = || "c".to_owned();
        let stopped = Stopped {
            container: container(),
            exit_code: 3,
            ..Stopped::default()
        };
        let changes = [
            (Kind::Created(Created { container: container() }), ProcessEvent::Created),
            (
                Kind::Started(Started {
                    container: container(),
                    pid: 7,
                }),
                ProcessEvent::Started,
            ),
            (Kind::Stopped(stopped.clone()), ProcessEvent::Stopped(stopped)),
            (Kind::Failed(failed()), ProcessEvent::Failed(failed().into())),
        ];
        for (kind, event) in changes {
            let process = container();
            assert_eq!(sorted(0, kind).unwrap(), Incoming::Event { process, event });
        }
    }

    #[test]
    fn a_failure_is_a_response_only_with_a_request() {
        let Incoming::Response { request_id, response } = sorted(9, Kind::Failed(failed())).unwrap() else {
            panic!("no response");
        };
        assert_eq!((request_id, response), (9, Response::Failed(failed().into())));
    }

    #[test]
    fn the_text_of_a_failure_is_cleaned() {
        let failure = GuestFailure::from(failed());
        assert_eq!(failure.step, FailedStep::ExecNotFound);
        assert_eq!(failure.to_string(), "no\\u{7} such file");
    }

    #[test]
    fn a_step_of_another_version_is_an_unknown_one() {
        let failed = Failed { step: 77, ..failed() };
        assert_eq!(GuestFailure::from(failed).step, FailedStep::Unknown);
    }

    #[test]
    fn what_is_out_of_place_ends_the_session() {
        let refused = [
            sorted(0, Kind::Done(Done {})),
            sorted(0, Kind::Listed(Listed::default())),
            sorted(0, Kind::Measured(Measured::default())),
            sorted(1, Kind::Hello(Hello::default())),
            sorted(1, Kind::Pong(Pong::default())),
            sorted(1, Kind::Created(Created::default())),
            sorted(1, Kind::Stopped(Stopped::default())),
            AgentMessage::default().try_into(),
        ];
        for message in refused {
            assert!(matches!(message, Err(SessionError::Unexpected)), "{message:?}");
        }
    }
}
