//! Tasks of the agent on a container's files. When the container runs, its own machine does the task, in a process that
//! joins the container. When it does not, a machine is started on its disks for the duration of the task, without the
//! container's program. That machine belongs to the command, which holds the container's lock meanwhile, and ends with
//! it.

use std::os::unix::net::UnixStream as StdStream;
use std::rc::Rc;

use anyhow::{Context as _, bail};
use capsid_protocol::message::{agent_message, host_message};
use capsid_protocol::spec::mount::Source;
use capsid_protocol::spec::task::Kind;
use capsid_protocol::spec::{Mount, Task};
use capsid_protocol::{ContainerSpec, Start};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::BOOT_TIMEOUT;
use super::agent::Agent;
use super::lifecycle::{exit_code, sanitise, start_machine};
use super::streams::StreamOpener;
use crate::accelerator::RunningMachine;
use crate::container_lock::ContainerLock;
use crate::folders::Folders;
use crate::model::Container;
use crate::session::{Session, SessionError};
use crate::state::State;

/// Machine that runs a task.
pub(crate) struct OfflineTask {
    machine: RunningMachine,
    messages: mpsc::Receiver<agent_message::Kind>,
    /// Task of the session with the agent, with the reason for which it ended.
    broken: JoinHandle<SessionError>,
    /// Lock that prevents start and removal of the container; absent when the supervisor itself runs the task.
    _lock: Option<ContainerLock>,
}

fn takes_input(task: &Task) -> bool {
    matches!(task.kind, Some(Kind::Unpack(_)))
}

/// Creates the spec of a process that does `task` in the running container of `spec`.
pub(super) fn beside(spec: &ContainerSpec, id: String, task: Task) -> ContainerSpec {
    ContainerSpec {
        join: Some(spec.id.clone()),
        id,
        stdin: takes_input(&task),
        cwd: "/".into(),
        // For a comparison: the location of the container's files, and what was created as mount points.
        root: spec.root.clone(),
        mounts: spec.mounts.clone(),
        files: spec.files.clone(),
        devices: spec.devices.clone(),
        task: Some(task),
        ..ContainerSpec::default()
    }
}

/// Creates the container's spec with `task` in place of its program, alone in its machine whatever pod it is in.
fn in_place(spec: &ContainerSpec, task: Task) -> ContainerSpec {
    let is_own = |mount: &&Mount| !matches!(mount.source, Some(Source::PodShm(_)));
    ContainerSpec {
        pod: None,
        mounts: spec.mounts.iter().filter(is_own).cloned().collect(),
        terminal: None,
        stdin: takes_input(&task),
        init: false,
        discards_disks: false,
        task: Some(task),
        ..spec.clone()
    }
}

/// Starts a machine that does `task` on the disks of a held container. Returns the task's streams, and a handle to
/// finish it.
pub(crate) async fn start(
    folders: &Folders,
    state: &State,
    container: &Container,
    lock: Option<ContainerLock>,
    task: Task,
) -> anyhow::Result<(Vec<StdStream>, OfflineTask)> {
    let (mut machine, sockets) = start_machine(container, state, folders)?;
    let session = tokio::select! {
        opened = timeout(BOOT_TIMEOUT, Session::open(sockets.session)) => {
            opened.context("the machine did not become ready in time")?.context("the session with the guest failed")?
        }
        end = &mut machine.end => bail!("the machine ended: {}", end.map_or_else(|_| String::new(), |end| end.reason)),
    };
    let opener = StreamOpener {
        control: sockets.control,
        nonce: session.nonce,
    };
    let (agent, mut outbox) = Agent::new(session.sender, opener);
    let agent = Rc::new(agent);
    let messages = agent.listen_to(&container.id);
    let (speaker, mut receiver) = (Rc::clone(&agent), session.receiver);
    // The task ends with the session, which ends with the machine.
    let broken = tokio::task::spawn_local(async move {
        let error = speaker.converse(&mut receiver, &mut outbox).await;
        speaker.end();
        error
    });
    let spec = in_place(&container.spec, task);
    let stdin = spec.stdin;
    agent.send(host_message::Kind::Create(Box::new(spec))).await?;
    let start = Start {
        container: container.id.clone(),
    };
    agent.send(host_message::Kind::Start(start)).await?;
    let streams = agent.opener.open_all(&container.id, false, stdin)?;
    let offline_task = OfflineTask {
        machine,
        messages,
        broken,
        _lock: lock,
    };
    Ok((streams, offline_task))
}

impl OfflineTask {
    /// Waits until the task is done and the disks are free. Returns its exit code.
    pub(crate) async fn finish(mut self) -> anyhow::Result<u8> {
        let ended = loop {
            match self.messages.recv().await {
                Some(agent_message::Kind::Created(_) | agent_message::Kind::Started(_)) => {}
                Some(agent_message::Kind::Stopped(stopped)) => break Ok(exit_code(&stopped)),
                Some(agent_message::Kind::Failed(failed)) => break Err(anyhow::anyhow!(sanitise(&failed.message))),
                Some(_) => break Err(anyhow::anyhow!("the agent sent an unexpected message")),
                None => break Err(self.broken.await?).context("the machine ended before its work was done"),
            }
        };
        self.machine.stop().await;
        ended
    }
}
