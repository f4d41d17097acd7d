//! Attachment of a user to a process: streams, signals and sizes, until the process ends or the user leaves.

use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use crate::control::{Answer, Connection, ControlError, Failure, Moment, Request};
use crate::detach::DetachKeys;
use crate::model::{Exit, exit_code};
use crate::signals::Signals;
use crate::stdio::{self, Drained, Pumps, StreamError};
use crate::terminal::{self, RawMode};

/// Number of SIGINT and SIGTERM after which a container that ignores them is killed: docker's client counts to three as
/// well.
const INTERRUPTIONS_MAX: u32 = 3;
/// Time that a container may continue after its user's terminal has closed: the grace period of `docker stop`.
const HANG_UP_GRACE: Duration = Duration::from_secs(10);
/// Time limit for a killed container to be reported as ended.
const KILL_PATIENCE: Duration = Duration::from_secs(15);

/// Options of an attachment.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub stdin: bool,
    pub keys: DetachKeys,
    /// Whether signals to this process are passed on (`--sig-proxy`).
    pub signals: bool,
}

/// Reason why an attachment ended before its process did.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttachError {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("cannot attach to the container's streams")]
    Streams(#[from] StreamError),
    #[error("cannot write the container's output")]
    Output(#[source] std::io::Error),
    #[error("cannot set the terminal to raw mode")]
    Terminal(#[source] std::io::Error),
    #[error(transparent)]
    Refused(Failure),
    #[error("interrupted by signal {0}")]
    Interrupted(i32),
    #[error("unexpected answer of the pod's supervisor")]
    Unexpected,
}

impl AttachError {
    /// Returns docker's exit code for the error.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(failure) => failure.code,
            Self::Interrupted(number) => exit_code::of_signal(number.unsigned_abs()),
            // The supervisor, and with it the machine, was killed.
            Self::Control(ControlError::Closed) => exit_code::KILLED,
            _ => exit_code::FAILURE,
        }
    }
}

/// End of an attachment.
#[derive(Debug)]
pub(crate) enum End {
    Exited(Exit),
    /// Detached by the user; the process continues.
    Detached,
}

/// Time course of a start, as the supervisor reports it.
#[derive(Debug, Default)]
pub(crate) struct Course {
    pub moments: Vec<Moment>,
    pub agent_start_ns: u64,
}

/// Attachment in progress.
struct Attachment<'a> {
    connection: &'a mut Connection,
    wanted: Wanted,
    pumps: Option<Pumps>,
    /// Raw mode, held while the process has the terminal.
    raw: Option<RawMode>,
    terminal: bool,
    started: bool,
    interruptions: u32,
    hung_up: Option<Instant>,
}

/// Follows a process whose `Attach` or `Exec` has been sent.
pub(crate) async fn follow(
    connection: &mut Connection,
    wanted: Wanted,
    signals: &mut Signals,
    course: &mut Course,
) -> Result<End, AttachError> {
    let mut attachment = Attachment {
        connection,
        wanted,
        pumps: None,
        raw: None,
        terminal: false,
        started: false,
        interruptions: 0,
        hung_up: None,
    };
    let end = attachment.attend(signals, course).await;
    if let Err(AttachError::Interrupted(_)) = end {
        attachment.kill().await;
    }
    end
}

impl Attachment<'_> {
    async fn attend(&mut self, signals: &mut Signals, course: &mut Course) -> Result<End, AttachError> {
        loop {
            let (writer, peer) = (self.connection.writer.clone(), self.connection.peer());
            let hung_up = self.hung_up;
            tokio::select! {
                message = self.connection.reader.receive::<Answer>() => {
                    let (answer, fds) = message?;
                    match answer {
                        Answer::Streams { terminal } => self.join(fds, terminal)?,
                        Answer::Started { moments, agent_start_ns } => {
                            *course = Course { moments, agent_start_ns };
                            self.started = true;
                            // The terminal may have been resized while the machine booted.
                            self.resize().await?;
                        }
                        Answer::Exited { exit, moments } => {
                            if !moments.is_empty() {
                                course.moments = moments;
                            }
                            self.finish(signals).await?;
                            return Ok(End::Exited(exit));
                        }
                        Answer::Failed(failure) => {
                            self.finish(signals).await?;
                            return Err(AttachError::Refused(failure));
                        }
                        _ => return Err(AttachError::Unexpected),
                    }
                }
                // Only before the start: a running process may be stopped for a while together with its machine.
                pid = peer.stopped(), if self.pumps.is_none() => return Err(ControlError::Stopped(pid).into()),
                number = signals.next() => self.handle_signal(number).await?,
                event = next_event(&mut self.pumps) => match event.map_err(AttachError::Output)? {
                    Event::Drained(Drained::ReaderGone) => writer.send(&Request::OutputClosed).await?,
                    Event::Drained(Drained::Whole) => {}
                    Event::Detached => return Ok(End::Detached),
                },
                () = until(hung_up) => return Err(AttachError::Interrupted(libc::SIGHUP)),
            }
        }
    }

    fn join(&mut self, fds: Vec<std::os::fd::OwnedFd>, terminal: bool) -> Result<(), AttachError> {
        self.terminal = terminal;
        let takes_keys = terminal && self.wanted.stdin && terminal::stdin_is_terminal();
        self.raw = takes_keys
            .then(RawMode::enter)
            .transpose()
            .map_err(AttachError::Terminal)?;
        self.pumps = Some(stdio::join(fds, terminal, self.wanted.stdin, self.wanted.keys.clone())?);
        Ok(())
    }

    /// Handles a signal that the user sent.
    async fn handle_signal(&mut self, number: i32) -> Result<(), AttachError> {
        if number == libc::SIGWINCH {
            return self.resize().await;
        }
        let asks_to_end = matches!(number, libc::SIGINT | libc::SIGTERM | libc::SIGHUP | libc::SIGQUIT);
        if asks_to_end && (!self.started || !self.wanted.signals) {
            return Err(AttachError::Interrupted(number));
        }
        self.interruptions += u32::from(matches!(number, libc::SIGINT | libc::SIGTERM));
        if self.interruptions >= INTERRUPTIONS_MAX {
            return Err(AttachError::Interrupted(number));
        }
        if number == libc::SIGHUP {
            self.hung_up.get_or_insert_with(|| Instant::now() + HANG_UP_GRACE);
        }
        Ok(self.connection.writer.send(&Request::Signal(number)).await?)
    }

    async fn resize(&mut self) -> Result<(), AttachError> {
        let Some(size) = terminal::size().filter(|_| self.terminal) else {
            return Ok(());
        };
        let resize = Request::Resize {
            rows: size.rows,
            columns: size.columns,
        };
        Ok(self.connection.writer.send(&resize).await?)
    }

    /// Waits until the output is written, then restores the terminal.
    async fn finish(&mut self, signals: &mut Signals) -> Result<(), AttachError> {
        for output in self.pumps.take().into_iter().flat_map(|pumps| pumps.outputs) {
            tokio::select! {
                // A thread that ended without a result has nothing left to write.
                written = output => written.unwrap_or(Ok(Drained::Whole)).map(drop).map_err(AttachError::Output)?,
                number = signals.interruption() => return Err(AttachError::Interrupted(number)),
            }
        }
        self.raw = None;
        Ok(())
    }

    /// Kills the process that the user has interrupted. An attachment without signals only leaves.
    async fn kill(&mut self) {
        if !self.wanted.signals {
            return;
        }
        let asked = self.connection.writer.send(&Request::Signal(libc::SIGKILL)).await;
        if asked.is_err() {
            return;
        }
        let ended = async {
            while let Ok((answer, _)) = self.connection.reader.receive::<Answer>().await {
                if matches!(answer, Answer::Exited { .. } | Answer::Failed(_)) {
                    return;
                }
            }
        };
        let _ = timeout(KILL_PATIENCE, ended).await;
    }
}

/// Event between the user and a process.
enum Event {
    /// End of an output.
    Drained(Drained),
    /// Detach keys, typed by the user.
    Detached,
}

/// Returns the next event; waits for ever without pumps.
async fn next_event(pumps: &mut Option<Pumps>) -> std::io::Result<Event> {
    std::future::poll_fn(|context| {
        let Some(pumps) = pumps else { return Poll::Pending };
        for at in 0..pumps.outputs.len() {
            if let Poll::Ready(drained) = Pin::new(&mut pumps.outputs[at]).poll(context) {
                drop(pumps.outputs.remove(at));
                return Poll::Ready(drained.unwrap_or(Ok(Drained::Whole)).map(Event::Drained));
            }
        }
        if !pumps.detached.is_terminated()
            && let Poll::Ready(Ok(())) = Pin::new(&mut pumps.detached).poll(context)
        {
            return Poll::Ready(Ok(Event::Detached));
        }
        Poll::Pending
    })
    .await
}

/// Waits until a moment, or for ever without one.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
