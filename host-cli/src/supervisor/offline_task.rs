//! Tasks of the agent on a container's files. When the container runs, its own machine does the task, in a process that
//! joins the container. When it does not, a machine is started on its disks for the duration of the task, without the
//! container's program. That machine belongs to the command, which holds the container's lock meanwhile, and ends with
//! it.

use std::os::unix::net::UnixStream as StdStream;

use anyhow::Context as _;
use capsid_protocol::spec::Task;
use tokio::task::JoinHandle;

use super::boot::{BootError, boot};
use super::guest_process::{GuestProcess, status_code};
use super::machine::{self, Interruption, MachineDisks, MachineError, StepError, Wanted, while_running};
use super::{container_disks, specs};
use crate::container_lock::ContainerLock;
use crate::folders::Folders;
use crate::model::Container;
use crate::process::RunningMachine;
use crate::session::SessionError;
use crate::state::State;

/// Machine that runs a task.
pub(crate) struct OfflineTask {
    machine: RunningMachine,
    process: GuestProcess,
    /// Task of the conversation with the agent, with the reason for which it ended.
    conversation: JoinHandle<SessionError>,
    /// Lock that prevents start and removal of the container; absent when the supervisor itself runs the task.
    _lock: Option<ContainerLock>,
}

/// Reason why the machine of a task did not become ready.
#[derive(Debug, thiserror::Error)]
enum OfflineError {
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error("the machine ended: {0}")]
    Ended(String),
}

impl From<Interruption> for OfflineError {
    fn from(interruption: Interruption) -> Self {
        Self::Ended(match interruption {
            Interruption::Ended(end) => end.reason,
            Interruption::Halted => "it was halted".into(),
        })
    }
}

impl StepError for OfflineError {
    fn is_broken_session(&self) -> bool {
        matches!(self, Self::Boot(BootError::Session(error)) if error.is_broken())
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
    let disks = container_disks::boot_disks(container, state, folders).map_err(MachineError::prepare)?;
    let wanted = Wanted {
        id: &container.id,
        config: &container.pod.config,
        disks: MachineDisks::AtBoot(disks),
        shares: &container.config.shares,
        pod_networks: None,
    };
    let (mut machine, sockets) = machine::prepare(folders, wanted)?.start()?;
    let booted = while_running(&mut machine, std::future::pending(), async {
        Ok::<_, OfflineError>(boot(sockets).await?)
    })
    .await?;
    let guest = booted.conversation.guest();
    // The task ends with the session, which ends with the machine.
    let conversation = tokio::task::spawn_local(booted.conversation.run());
    let mut process = guest.spawn(specs::task_in_place(&container.spec, task)).await?;
    let streams = std::mem::take(&mut process.streams);
    let offline_task = OfflineTask {
        machine,
        process,
        conversation,
        _lock: lock,
    };
    Ok((streams, offline_task))
}

impl OfflineTask {
    /// Waits until the task is done and the disks are free. Returns its exit code.
    pub(crate) async fn finish(mut self) -> anyhow::Result<u8> {
        let ended = match self.process.ended().await {
            Ok(stopped) => Ok(status_code(&stopped)),
            Err(error) if error.is_end_of_session() => {
                Err(self.conversation.await?).context("the machine ended before its work was done")
            }
            Err(error) => Err(error.into()),
        };
        self.machine.stop().await;
        ended
    }
}
