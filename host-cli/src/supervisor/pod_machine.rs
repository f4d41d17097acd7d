//! Machine of a pod, from its start to its end.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::boot::{BootError, boot};
use super::machine::{self, Interruption, MachineError, Sockets, StepError, Wanted, while_running};
use super::pod::{Phase, Pod};
use crate::error_text;
use crate::folders::Folders;
use crate::network::PodNetworks;
use crate::process::{MachineEnd, RunningMachine};
use crate::session::SessionError;
use crate::state::State;

/// Error when the machine did not start, or reason why it ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum PodError {
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error("the session with the guest failed")]
    Session(#[source] SessionError),
    #[error("{}", .0.reason)]
    Ended(MachineEnd),
    #[error("the pod was stopped")]
    Stopped,
}

impl From<Interruption> for PodError {
    fn from(interruption: Interruption) -> Self {
        match interruption {
            Interruption::Ended(end) => Self::Ended(end),
            Interruption::Halted => Self::Stopped,
        }
    }
}

impl StepError for PodError {
    fn is_broken_session(&self) -> bool {
        match self {
            Self::Session(error) | Self::Boot(BootError::Session(error)) => {
                !matches!(error, SessionError::Unresponsive(_))
            }
            _ => false,
        }
    }
}

/// Runs the machine from its start to its end. Returns the reason of the end.
pub(super) async fn run(
    pod: &Rc<Pod>,
    folders: &Folders,
    row: &crate::model::Pod,
    state: &State,
    disk_slots: OwnedFd,
) -> PodError {
    let error = match start(folders, row, state, disk_slots) {
        Err(error) => error.into(),
        Ok((mut machine, sockets)) => {
            if let Some(attachments) = &sockets.network {
                // A pod has one machine in its life.
                let _ = pod.attachments.set(Rc::clone(attachments));
            }
            let error = run_started(pod, &mut machine, sockets).await;
            machine.stop().await;
            error
        }
    };
    let end = match &error {
        PodError::Ended(end) => end.clone(),
        error => MachineEnd {
            reason: error_text::describe(error),
            killed: matches!(
                error,
                PodError::Stopped | PodError::Session(SessionError::Unresponsive(_))
            ),
            console: String::new(),
        },
    };
    pod.phase.send_replace(Phase::Down(end));
    error
}

/// Starts the pod's machine, which ends with each of the processes that serve its shares.
fn start(
    folders: &Folders,
    row: &crate::model::Pod,
    state: &State,
    disk_slots: OwnedFd,
) -> Result<(RunningMachine, Sockets), MachineError> {
    let config = &row.config;
    let pod_networks = PodNetworks::of_pod(row, state).map_err(|e| MachineError::Prepare(e.into()))?;
    let wanted = Wanted {
        id: &row.id,
        accelerator: config.accelerator,
        size: config.machine,
        kernel: config.kernel.as_deref(),
        disks: Vec::new(),
        disk_slots: Some(disk_slots),
        shares: &config.shares,
        pod_networks: Some(pod_networks),
    };
    machine::prepare(folders, wanted)?.start()
}

/// Boots the guest, and converses with it until the machine or the session ends. Returns the reason.
async fn run_started(pod: &Pod, machine: &mut RunningMachine, sockets: Sockets) -> PodError {
    let ended = while_running(machine, pod.halt.notified(), async {
        let booted = boot(sockets).await?;
        pod.phase.send_replace(Phase::Up(booted.conversation.guest()));
        Err::<(), _>(PodError::Session(booted.conversation.run().await))
    });
    match ended.await {
        Ok(()) => PodError::Stopped,
        Err(error) => error,
    }
}
