//! The processes that serve a machine its shares: one for each, and the machine ends when one of them does.

use std::future::Future;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::task::Poll;
use std::time::Duration;

use capsid_protocol::spec::SHARED_FILE;
use tokio::process::Child;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::process::{HandedFiles, StartError, collect_complaints, ended, spawn};
use super::{MachineEnd, RunningMachine};
use crate::parts;
use crate::state::ShareMount;

/// A file server ends well when its machine has hung up: how long the machine's own end may take to be told.
const MACHINE_PATIENCE: Duration = Duration::from_secs(2);

/// A share as a machine gets it.
#[derive(Debug)]
pub(crate) struct Share {
    /// Tag of the virtio-fs device.
    pub tag: String,
    /// Connected to the file server, which speaks vhost-user.
    pub socket: UnixStream,
}

/// A process that serves one share.
#[derive(Debug)]
pub(crate) struct FileServer {
    source: String,
    child: Child,
    complaints: JoinHandle<String>,
}

impl FileServer {
    /// Starts one for `source`, which is the file with this device and inode number. `listener` has one connection
    /// waiting.
    pub(crate) fn start(
        share: &ShareMount,
        source: &Path,
        identity: (u64, u64),
        listener: UnixListener,
    ) -> Result<Self, StartError> {
        let mut files = HandedFiles::default();
        let socket = files.add(listener).to_string();
        let source = source.display().to_string();
        let identity = format!("{}:{}", identity.0, identity.1);
        let mut arguments: Vec<String> = ["--socket-fd", &socket, "--source", &source, "--identity", &identity]
            .map(String::from)
            .to_vec();
        if share.is_file {
            arguments.extend(["--file", SHARED_FILE].map(String::from));
        }
        if share.readonly {
            arguments.push("--readonly".into());
        }
        let mut child = spawn(&parts::file_server()?, &arguments, files, Stdio::piped())?;
        // Its words are a cause, told with the machine's end.
        let complaints = tokio::task::spawn_local(collect_complaints(child.stderr.take()));
        Ok(Self {
            source,
            child,
            complaints,
        })
    }
}

/// The same machine, ended when one of `servers` ends. They are ended, and waited for, after it.
pub(crate) fn guard(machine: RunningMachine, mut servers: Vec<FileServer>) -> RunningMachine {
    if servers.is_empty() {
        return machine;
    }
    let (end_sender, end) = oneshot::channel();
    let (kill, killed) = oneshot::channel::<()>();
    tokio::task::spawn_local(async move {
        let mut machine = machine;
        let told = tokio::select! {
            biased;
            end = &mut machine.end => end.ok(),
            end = first_end(&mut servers) => Some(end),
            _ = killed => None,
        };
        machine.stop().await;
        for server in &mut servers {
            // Failing to kill means that it has ended.
            let _ = server.child.kill().await;
        }
        if let Some(end) = told {
            // The supervisor may be gone already: then nobody needs to know.
            let _ = end_sender.send(end);
        }
    });
    RunningMachine { end, kill }
}

/// Waits until one of the servers has ended: the machine's end by it.
async fn first_end(servers: &mut [FileServer]) -> MachineEnd {
    let (index, status) = std::future::poll_fn(|context| {
        for (index, server) in servers.iter_mut().enumerate() {
            if let Poll::Ready(status) = pin!(server.child.wait()).poll(context) {
                return Poll::Ready((index, status));
            }
        }
        Poll::Pending
    })
    .await;
    if status.as_ref().is_ok_and(ExitStatus::success) {
        tokio::time::sleep(MACHINE_PATIENCE).await;
    }
    let server = &mut servers[index];
    let mut end = ended(&format!("the file server of {}", server.source), status, String::new());
    let complaints = (&mut server.complaints).await.unwrap_or_default();
    if let Some(line) = complaints.lines().rev().find(|line| !line.trim().is_empty()) {
        end.reason = format!("{}: {}", end.reason, line.trim());
    }
    end
}
