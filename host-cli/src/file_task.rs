//! Task of the agent on a container's files, as a command sees it: streams, and an end.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::bail;
use capsid_protocol::spec::Task;
use capsid_protocol::spec::task::Kind;
use prost::Message as _;

use crate::app::AppContext;
use crate::control::{Answer, Connection, Request};
use crate::guest_text::GuestText;
use crate::model::{Status, exit_code};
use crate::supervisor::offline_task::{self, OfflineTask};

/// Time limit for a supervisor to begin: it sends a few messages to the guest first.
const STREAMS_MAX: Duration = Duration::from_secs(60);
/// Most bytes of the agent's error text that are shown.
const WORDS_BYTES_MAX: u64 = 4 << 10;

/// Task in progress.
pub(crate) struct FileTask {
    /// Input stream, present when the task reads an archive.
    pub stdin: Option<UnixStream>,
    pub stdout: UnixStream,
    rest: Rest,
}

/// Remaining part of a task, to be waited for.
pub(crate) struct Rest {
    stderr: UnixStream,
    runner: Runner,
}

/// Process that runs the task.
enum Runner {
    /// Supervisor of the container's own machine.
    Supervisor(Connection),
    /// Machine that was started for the task.
    Machine(Box<OfflineTask>),
}

impl FileTask {
    /// Starts a task in the container `name`, which may run or not.
    pub(crate) async fn start(app: &AppContext, name: &str, kind: Kind) -> anyhow::Result<Self> {
        let container = app.state.find(name)?;
        if container.status == Status::Paused {
            bail!("container {} is paused: unpause it first", container.name);
        }
        let task = Task { kind: Some(kind) };
        let (streams, runner) = loop {
            if let Some(mut connection) = app.connect(&container.id) {
                connection.writer.send(&Request::Task(task.encode_to_vec())).await?;
                let (answer, fds) = connection.receive_within::<Answer>(STREAMS_MAX).await?;
                match answer {
                    Answer::Streams { .. } => {
                        let streams = fds.into_iter().map(UnixStream::from).collect();
                        break (streams, Runner::Supervisor(connection));
                    }
                    Answer::Failed(failure) => return Err(failure.into()),
                    _ => bail!("unexpected answer of the pod's supervisor"),
                }
            }
            // The container was started meanwhile: try once more.
            if let Some(lock) = app.lock(&container.id)? {
                let started = offline_task::start(&app.folders, &app.state, &container, Some(lock), task).await?;
                break (started.0, Runner::Machine(Box::new(started.1)));
            }
        };
        Self::of(streams, runner)
    }

    fn of(mut streams: Vec<UnixStream>, runner: Runner) -> anyhow::Result<Self> {
        for stream in &streams {
            stream.set_nonblocking(false)?;
        }
        let (Some(stderr), Some(stdout)) = (streams.pop(), streams.pop()) else {
            bail!("the pod's supervisor handed over too few streams");
        };
        Ok(Self {
            stdin: streams.pop(),
            stdout,
            rest: Rest { stderr, runner },
        })
    }

    /// Splits the task into its streams and the rest.
    pub(crate) fn split(self) -> (Option<UnixStream>, UnixStream, Rest) {
        (self.stdin, self.stdout, self.rest)
    }
}

impl Rest {
    /// Waits for the end; an error has the agent's own text where it wrote one.
    pub(crate) async fn finish(self) -> anyhow::Result<()> {
        let Self { stderr, runner } = self;
        let words = tokio::task::spawn_blocking(move || read_words(stderr));
        let code = match runner {
            Runner::Machine(task) => task.finish().await?,
            Runner::Supervisor(mut connection) => loop {
                match connection.receive::<Answer>().await?.0 {
                    Answer::Started { .. } => {}
                    Answer::Exited { exit, .. } => break exit.code,
                    Answer::Failed(failure) => return Err(failure.into()),
                    _ => bail!("unexpected answer of the pod's supervisor"),
                }
            },
        };
        let words = words.await?;
        match (code, words.is_empty()) {
            (0, _) => Ok(()),
            (exit_code::KILLED, true) => bail!("the container ended before it was done"),
            (code, true) => bail!("the agent ended with exit code {code}"),
            (_, false) => bail!("{words}"),
        }
    }
}

/// Reads the agent's error text: hostile text, on one line.
fn read_words(mut stderr: UnixStream) -> String {
    let mut bytes = Vec::new();
    // A text that cannot be read counts as absent.
    let _ = stderr.by_ref().take(WORDS_BYTES_MAX).read_to_end(&mut bytes);
    let _ = std::io::copy(&mut stderr, &mut std::io::sink());
    GuestText::new(bytes.trim_ascii()).into()
}
