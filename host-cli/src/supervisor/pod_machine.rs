//! Machine of a pod, from its start to its end. An implicit pod has one after the other.

use super::boot::{BootError, boot};
use super::machine::{self, Interruption, MachineDisks, MachineError, Sockets, StepError, Wanted, while_running};
use super::pod::{MachinePhase, Pod};
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
            Self::Session(error) | Self::Boot(BootError::Session(error)) => error.is_broken(),
            _ => false,
        }
    }
}

/// Runs a machine from its start to its end, or until `halt`, and calls `mark` after each step of its start. Returns the
/// reason of the end.
pub(super) async fn run(
    pod: &Pod,
    folders: &Folders,
    state: &State,
    disks: MachineDisks,
    halt: impl Future<Output = ()>,
    mark: impl Fn(&str),
) -> PodError {
    pod.phase.send_replace(MachinePhase::Booting);
    let error = match start(pod, folders, state, disks, mark) {
        Err(error) => error.into(),
        Ok((mut machine, sockets)) => {
            pod.attachments.replace(sockets.network.clone());
            let error = run_started(pod, &mut machine, sockets, halt).await;
            machine.stop().await;
            pod.attachments.take();
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
    pod.phase.send_replace(MachinePhase::Down(end));
    error
}

/// Starts the pod's machine, which ends with each of the processes that serve its shares.
fn start(
    pod: &Pod,
    folders: &Folders,
    state: &State,
    disks: MachineDisks,
    mark: impl Fn(&str),
) -> Result<(RunningMachine, Sockets), MachineError> {
    // Read for each machine: its size and its networks may have changed since the one before.
    let row = state.pod(&pod.id).map_err(|e| MachineError::Prepare(e.into()))?;
    let pod_networks = PodNetworks::of(&row, state).map_err(|e| MachineError::Prepare(e.into()))?;
    let wanted = Wanted {
        id: &row.id,
        config: &row.config,
        disks,
        shares: &row.config.shares,
        pod_networks: Some(pod_networks),
    };
    let prepared = machine::prepare(folders, wanted)?;
    mark("machine prepared");
    let started = prepared.start()?;
    mark("machine processes started");
    Ok(started)
}

/// Boots the guest, and converses with it until the machine or the session ends. Returns the reason.
async fn run_started(
    pod: &Pod,
    machine: &mut RunningMachine,
    sockets: Sockets,
    halt: impl Future<Output = ()>,
) -> PodError {
    let ended = while_running(machine, halt, async {
        let booted = boot(sockets).await?;
        pod.agent_start_ns.set(booted.agent_start_ns);
        pod.phase.send_replace(MachinePhase::Up(booted.conversation.guest()));
        Err::<(), _>(PodError::Session(booted.conversation.run().await))
    });
    match ended.await {
        Ok(()) => PodError::Stopped,
        Err(error) => error,
    }
}
