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

use super::process::{HandedFiles, StartError, collect_complaints, ended, spawn};
use super::{MachineEnd, RunningMachine};

/// A helper ends well when its machine has hung up: how long the machine's own end may take to be told.
const MACHINE_PATIENCE: Duration = Duration::from_secs(1);
/// passt says so of each of its own lines where there is no system log.
const NO_SYSLOG: &str = "Failed to send";

/// One of them.
#[derive(Debug)]
pub(crate) struct Helper {
    /// What it is to a user, as "the file server of /srv".
    name: String,
    life: Life,
}

/// How it is known to live.
#[derive(Debug)]
enum Life {
    /// It is a child of ours.
    Child {
        child: Child,
        complaints: JoinHandle<String>,
    },
    /// Somebody else watches several, which come and go, and says which one ended.
    Told(mpsc::UnboundedReceiver<String>),
}

impl Helper {
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
            life: Life::Child { child, complaints },
        })
    }

    /// Any of several that others watch; the name of one that ended comes by `ended`.
    pub(crate) fn told(ended: mpsc::UnboundedReceiver<String>) -> Self {
        Self {
            name: String::new(),
            life: Life::Told(ended),
        }
    }

    /// Waits until it has ended: the machine's end by it.
    async fn end(&mut self) -> MachineEnd {
        match &mut self.life {
            Life::Child { child, complaints } => {
                let status = child.wait().await;
                child_end(&self.name, status, complaints).await
            }
            Life::Told(ended) => match ended.recv().await {
                Some(name) => MachineEnd {
                    reason: format!("{name} ended"),
                    killed: true,
                    console: String::new(),
                },
                // Nobody watches any more: the machine is about to end.
                None => std::future::pending().await,
            },
        }
    }

    /// Ends it, if it is ours.
    async fn stop(self) {
        if let Life::Child { mut child, .. } = self.life {
            // Failing to kill means that it has ended.
            let _ = child.kill().await;
        }
    }
}

/// The same machine, ended when one of `helpers` ends. They are ended, and waited for, after it.
pub(crate) fn guard(machine: RunningMachine, mut helpers: Vec<Helper>) -> RunningMachine {
    if helpers.is_empty() {
        return machine;
    }
    let (end_sender, end) = oneshot::channel();
    let (kill, killed) = oneshot::channel::<()>();
    tokio::task::spawn_local(async move {
        let mut machine = machine;
        let told = tokio::select! {
            biased;
            end = &mut machine.end => end.ok(),
            end = first_end(&mut helpers) => Some(end),
            _ = killed => None,
        };
        machine.stop().await;
        for helper in helpers {
            helper.stop().await;
        }
        if let Some(end) = told {
            // The supervisor may be gone already: then nobody needs to know.
            let _ = end_sender.send(end);
        }
    });
    RunningMachine { end, kill }
}

/// Waits until one of the helpers has ended: the machine's end by it.
async fn first_end(helpers: &mut [Helper]) -> MachineEnd {
    let mut ends: Vec<_> = helpers.iter_mut().map(|helper| Box::pin(helper.end())).collect();
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
    let words = |line: &&str| !line.trim().is_empty() && !line.starts_with(NO_SYSLOG);
    if let Some(line) = complaints.lines().rev().find(words) {
        end.reason = format!("{}: {}", end.reason, line.trim());
    }
    end
}
