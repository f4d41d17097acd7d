//! Sidecars: the processes that serve a machine besides its VMM, such as file servers and the network relay. The
//! machine ends when one of them ends.

use std::future::Future;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::task::Poll;
use std::time::Duration;

use tokio::process::Child;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::child::{HandedFiles, SpawnError, collect_complaints, ended, last_complaint, spawn};
use super::running_machine::{MachineEnd, RunningMachine};

/// Time limit for the machine's own end to be reported after a sidecar has ended without error: a sidecar does so when
/// its machine has hung up.
const MACHINE_PATIENCE: Duration = Duration::from_secs(1);
/// Start of the line that passt prints after each of its own lines where there is no system log.
const NO_SYSLOG: &str = "Failed to send";

/// Sidecar process, a child of this process.
#[derive(Debug)]
pub(crate) struct Sidecar {
    /// Name for the user, such as "the file server of /srv".
    name: String,
    child: Child,
    complaints: JoinHandle<String>,
}

/// Sender of notices about sidecars that start and end while a machine runs, or that others watch. The watcher of the
/// machine receives them.
#[derive(Debug, Clone)]
pub(crate) struct Sidecars(mpsc::UnboundedSender<Word>);

/// Receiver of the notices about sidecars.
#[derive(Debug)]
pub(crate) struct Words(mpsc::UnboundedReceiver<Word>);

#[derive(Debug)]
enum Word {
    Comes(Sidecar),
    /// Ends the sidecar of this name, which is not needed any more.
    Goes {
        name: String,
        gone: oneshot::Sender<()>,
    },
    /// Reports the end of a process that is not a child of this one.
    Ended(String),
}

impl Sidecars {
    /// Creates the notice channel of one machine.
    pub(crate) fn new() -> (Self, Words) {
        let (sender, words) = mpsc::unbounded_channel();
        (Self(sender), Words(words))
    }

    /// Adds a sidecar, whose end also ends the machine.
    pub(crate) fn come(&self, sidecar: Sidecar) {
        // Without a receiver, the sidecar ends here.
        let _ = self.0.send(Word::Comes(sidecar));
    }

    /// Ends the sidecar of this name, and waits for its end. The machine continues.
    pub(crate) async fn end(&self, name: &str) {
        let (gone, heard) = oneshot::channel();
        let name = name.into();
        // Without a receiver, all sidecars end anyway.
        let _ = self.0.send(Word::Goes { name, gone });
        let _ = heard.await;
    }

    /// Reports the end of another process that the machine depends on.
    pub(crate) fn notify_end(&self, name: String) {
        // Nobody receives this when the machine ends anyway.
        let _ = self.0.send(Word::Ended(name));
    }
}

impl Sidecar {
    /// Starts `program` with only `files` open.
    pub(crate) fn start(
        name: &str,
        program: &Path,
        arguments: &[String],
        files: HandedFiles,
    ) -> Result<Self, SpawnError> {
        let mut child = spawn(program, arguments, files, Stdio::piped())?;
        // The sidecar's stderr explains a failure and is reported with the machine's end.
        let complaints = tokio::task::spawn_local(collect_complaints(child.stderr.take()));
        Ok(Self {
            name: name.into(),
            child,
            complaints,
        })
    }

    /// Waits until the sidecar has ended, and returns the resulting end of the machine.
    async fn end(&mut self) -> MachineEnd {
        let status = self.child.wait().await;
        child_end(&self.name, status, &mut self.complaints).await
    }

    /// Kills the sidecar and waits for its end.
    async fn stop(mut self) {
        // Failing to kill means that the process has already ended.
        let _ = self.child.kill().await;
    }
}

/// Returns the same machine, which now also ends when one of `sidecars` ends, or when `words` report an end. The
/// sidecars are then ended, and waited for, after the machine.
pub(crate) fn watch_sidecars(machine: RunningMachine, mut sidecars: Vec<Sidecar>, mut words: Words) -> RunningMachine {
    let (end_sender, end) = oneshot::channel();
    let (kill, killed) = oneshot::channel::<()>();
    tokio::task::spawn_local(async move {
        let mut machine = machine;
        let reported = tokio::select! {
            biased;
            end = &mut machine.end => end.ok(),
            end = attend(&mut sidecars, &mut words) => Some(end),
            _ = killed => None,
        };
        machine.stop().await;
        while let Ok(word) = words.0.try_recv() {
            if let Word::Comes(sidecar) = word {
                sidecars.push(sidecar);
            }
        }
        for sidecar in sidecars {
            sidecar.stop().await;
        }
        if let Some(end) = reported {
            // The supervisor may have ended already: then nobody needs the result.
            let _ = end_sender.send(end);
        }
    });
    RunningMachine { end, kill }
}

/// Handles notices about the sidecars until one sidecar has ended, and returns the resulting end of the machine.
async fn attend(sidecars: &mut Vec<Sidecar>, words: &mut Words) -> MachineEnd {
    loop {
        let word = tokio::select! {
            // A requested end takes precedence: the sidecar ends because of the request.
            biased;
            Some(word) = words.0.recv() => word,
            end = first_end(sidecars) => return end,
        };
        match word {
            Word::Comes(sidecar) => sidecars.push(sidecar),
            Word::Goes { name, gone } => {
                if let Some(at) = sidecars.iter().position(|sidecar| sidecar.name == name) {
                    sidecars.swap_remove(at).stop().await;
                }
                // The requester may have been dropped.
                let _ = gone.send(());
            }
            Word::Ended(name) => {
                return MachineEnd {
                    reason: format!("{name} ended"),
                    killed: true,
                    console: String::new(),
                };
            }
        }
    }
}

/// Waits until one of the sidecars has ended, and returns the resulting end of the machine.
async fn first_end(sidecars: &mut [Sidecar]) -> MachineEnd {
    let mut ends: Vec<_> = sidecars.iter_mut().map(|sidecar| Box::pin(sidecar.end())).collect();
    std::future::poll_fn(|context| {
        let first = ends.iter_mut().find_map(|end| match end.as_mut().poll(context) {
            Poll::Ready(end) => Some(end),
            Poll::Pending => None,
        });
        first.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// Converts the end of a sidecar process into the end of the machine.
async fn child_end(name: &str, status: io::Result<ExitStatus>, complaints: &mut JoinHandle<String>) -> MachineEnd {
    if status.as_ref().is_ok_and(ExitStatus::success) {
        tokio::time::sleep(MACHINE_PATIENCE).await;
    }
    let mut end = ended(name, status, String::new());
    let complaints = complaints.await.unwrap_or_default();
    if let Some(words) = last_complaint(&complaints, |line| !line.starts_with(NO_SYSLOG)) {
        end.reason = format!("{}: {words}", end.reason);
    }
    end
}
