//! The processes that serve a machine besides its VMM: file servers, and what carries its frames. The machine ends when
//! one of them does.

use std::future::Future;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::task::Poll;
use std::time::Duration;

use tokio::process::Child;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::process::{HandedFiles, StartError, collect_complaints, ended, last_complaint, spawn};
use super::{MachineEnd, RunningMachine};

/// A sidecar ends well when its machine has hung up: how long the machine's own end may take to be told.
const MACHINE_PATIENCE: Duration = Duration::from_secs(1);
/// passt says so of each of its own lines where there is no system log.
const NO_SYSLOG: &str = "Failed to send";

/// One of them, a child of ours.
#[derive(Debug)]
pub(crate) struct Sidecar {
    /// What it is to a user, as "the file server of /srv".
    name: String,
    child: Child,
    complaints: JoinHandle<String>,
}

/// Those that come and go while a machine runs, and others that somebody else watches: what is said of them to whom
/// guards the machine.
#[derive(Debug, Clone)]
pub(crate) struct Sidecars(mpsc::UnboundedSender<Word>);

/// What was said.
#[derive(Debug)]
pub(crate) struct Words(mpsc::UnboundedReceiver<Word>);

#[derive(Debug)]
enum Word {
    Comes(Sidecar),
    /// The one of this name is not needed any more.
    Goes {
        name: String,
        gone: oneshot::Sender<()>,
    },
    /// One that is not ours has ended.
    Ended(String),
}

impl Sidecars {
    /// Of one machine.
    pub(crate) fn new() -> (Self, Words) {
        let (sender, words) = mpsc::unbounded_channel();
        (Self(sender), Words(words))
    }

    /// The machine ends with this one too.
    pub(crate) fn come(&self, sidecar: Sidecar) {
        // Without anybody who hears it, it ends here.
        let _ = self.0.send(Word::Comes(sidecar));
    }

    /// Ends the one of this name, and waits for its end. The machine goes on.
    pub(crate) async fn end(&self, name: &str) {
        let (gone, heard) = oneshot::channel();
        let name = name.into();
        // Without anybody who hears it, all of them end anyway.
        let _ = self.0.send(Word::Goes { name, gone });
        let _ = heard.await;
    }

    /// Something else that the machine cannot do without has ended.
    pub(crate) fn tell_end(&self, name: String) {
        // Nobody hears it when the machine ends anyway.
        let _ = self.0.send(Word::Ended(name));
    }
}

impl Sidecar {
    /// Starts `program`, which finds only `files` open.
    pub(crate) fn start(
        name: &str,
        program: &Path,
        arguments: &[String],
        files: HandedFiles,
    ) -> Result<Self, StartError> {
        let mut child = spawn(program, arguments, files, Stdio::piped())?;
        // Its words are a cause, told with the machine's end.
        let complaints = tokio::task::spawn_local(collect_complaints(child.stderr.take()));
        Ok(Self {
            name: name.into(),
            child,
            complaints,
        })
    }

    /// Waits until it has ended: the machine's end by it.
    async fn end(&mut self) -> MachineEnd {
        let status = self.child.wait().await;
        child_end(&self.name, status, &mut self.complaints).await
    }

    /// Ends it.
    async fn stop(mut self) {
        // Failing to kill means that it has ended.
        let _ = self.child.kill().await;
    }
}

/// The same machine, ended when one of `sidecars` ends, or one that `words` tell of. They are ended, and waited for,
/// after it.
pub(crate) fn watch_sidecars(machine: RunningMachine, mut sidecars: Vec<Sidecar>, mut words: Words) -> RunningMachine {
    let (end_sender, end) = oneshot::channel();
    let (kill, killed) = oneshot::channel::<()>();
    tokio::task::spawn_local(async move {
        let mut machine = machine;
        let told = tokio::select! {
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
        if let Some(end) = told {
            // The supervisor may be gone already: then nobody needs to know.
            let _ = end_sender.send(end);
        }
    });
    RunningMachine { end, kill }
}

/// Follows what is said of the sidecars until one of them has ended: the machine's end by it.
async fn attend(sidecars: &mut Vec<Sidecar>, words: &mut Words) -> MachineEnd {
    loop {
        let word = tokio::select! {
            // One that is to end ends because of that.
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
                // Who asked may have been given up.
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

/// Waits until one of the sidecars has ended: the machine's end by it.
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

/// The machine's end by that of a process.
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
