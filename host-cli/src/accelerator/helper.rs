//! The processes that serve a machine besides its VMM: file servers, and what carries its frames. The machine ends when
//! one of them does.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::task::Poll;
use std::time::Duration;

use tokio::process::Child;
use tokio::sync::oneshot;
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
    child: Child,
    complaints: JoinHandle<String>,
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
            child,
            complaints,
        })
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
        for helper in &mut helpers {
            // Failing to kill means that it has ended.
            let _ = helper.child.kill().await;
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
    let (index, status) = std::future::poll_fn(|context| {
        for (index, helper) in helpers.iter_mut().enumerate() {
            if let Poll::Ready(status) = pin!(helper.child.wait()).poll(context) {
                return Poll::Ready((index, status));
            }
        }
        Poll::Pending
    })
    .await;
    if status.as_ref().is_ok_and(ExitStatus::success) {
        tokio::time::sleep(MACHINE_PATIENCE).await;
    }
    let helper = &mut helpers[index];
    let mut end = ended(&helper.name, status, String::new());
    let complaints = (&mut helper.complaints).await.unwrap_or_default();
    let words = |line: &&str| !line.trim().is_empty() && !line.starts_with(NO_SYSLOG);
    if let Some(line) = complaints.lines().rev().find(words) {
        end.reason = format!("{}: {}", end.reason, line.trim());
    }
    end
}
