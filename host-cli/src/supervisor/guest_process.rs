//! Process in a guest: a container, an exec process or a task, from its creation to its end.

use std::os::unix::net::UnixStream;

use capsid_protocol::{FailedStep, Stopped};
use tokio::sync::mpsc;

use super::streams::StreamError;
use crate::control::Failure;
use crate::error_text;
use crate::model::exit_code;
use crate::session::{GuestFailure, ProcessEvent, SessionError};

/// Process that was spawned in a guest.
#[derive(Debug)]
pub(crate) struct GuestProcess {
    pub id: String,
    /// Host's ends of its streams: the terminal alone, or stdin when wanted, stdout and stderr.
    pub streams: Vec<UnixStream>,
    events: mpsc::Receiver<ProcessEvent>,
    /// Status of a process that was killed before its program ran.
    early_end: Option<Stopped>,
}

/// Reason why a process did not start, or was lost.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    #[error(transparent)]
    Failed(GuestFailure),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("cannot attach the process's streams")]
    Streams(#[from] StreamError),
}

impl GuestProcess {
    /// Creates the handle of a process whose events arrive at `events`.
    pub(super) fn new(id: String, streams: Vec<UnixStream>, events: mpsc::Receiver<ProcessEvent>) -> Self {
        Self {
            id,
            streams,
            events,
            early_end: None,
        }
    }

    /// Waits until the program runs. One that was killed before has run, too. An end before the creation is refused:
    /// it may be that of an earlier life under the same id.
    pub(crate) async fn started(&mut self) -> Result<(), ProcessError> {
        match self.event().await? {
            ProcessEvent::Created => {}
            _ => return Err(SessionError::Unexpected.into()),
        }
        match self.event().await? {
            ProcessEvent::Started => Ok(()),
            ProcessEvent::Stopped(stopped) => {
                self.early_end = Some(stopped);
                Ok(())
            }
            _ => Err(SessionError::Unexpected.into()),
        }
    }

    /// Waits for the end of a process that has started.
    pub(crate) async fn stopped(&mut self) -> Result<Stopped, ProcessError> {
        if let Some(stopped) = self.early_end.take() {
            return Ok(stopped);
        }
        match self.event().await? {
            ProcessEvent::Stopped(stopped) => Ok(stopped),
            _ => Err(SessionError::Unexpected.into()),
        }
    }

    /// Waits for the start, and then for the end.
    pub(crate) async fn ended(&mut self) -> Result<Stopped, ProcessError> {
        self.started().await?;
        self.stopped().await
    }

    async fn event(&mut self) -> Result<ProcessEvent, ProcessError> {
        match self.events.recv().await.ok_or(SessionError::Closed)? {
            ProcessEvent::Failed(failure) => Err(ProcessError::Failed(failure)),
            event => Ok(event),
        }
    }
}

impl ProcessError {
    /// Returns docker's exit code for the failure.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(failure) => failed_code(failure.step),
            Self::Session(_) | Self::Streams(_) => exit_code::FAILURE,
        }
    }

    /// Whether the session ended: the container ended, and its machine with it.
    pub(crate) fn is_end_of_session(&self) -> bool {
        matches!(self, Self::Session(SessionError::Closed))
    }
}

impl From<ProcessError> for Failure {
    fn from(error: ProcessError) -> Self {
        Self {
            message: error_text::describe(&error),
            code: error.exit_code(),
            console: String::new(),
        }
    }
}

/// Returns docker's exit code for a start that failed at a step.
fn failed_code(step: FailedStep) -> u8 {
    match step {
        FailedStep::ExecNotFound => exit_code::NOT_FOUND,
        FailedStep::ExecRefused => exit_code::NOT_EXECUTABLE,
        _ => exit_code::FAILURE,
    }
}

/// Converts a process's status to the shell's exit code.
pub(crate) fn status_code(stopped: &Stopped) -> u8 {
    match stopped.signal {
        0 => stopped.exit_code.min(255) as u8,
        signal => exit_code::of_signal(signal),
    }
}
