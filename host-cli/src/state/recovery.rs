//! What killed processes left behind.

use super::{Container, Exit, Pending, PodStatus, State, StateError, Status, Step};
use crate::container_lock::ContainerLock;
use crate::folders::Folders;
use crate::supervisor_process::SupervisorProcess;
use crate::volumes::{self, VolumeError};
use crate::{clock, events, id, network, store_folder};

/// The error of what ended without a word.
const SUPERVISOR_KILLED: &str = "the pod's supervisor was killed";

/// Why there is no cleaning up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoverError {
    #[error("cannot clean up after killed commands")]
    State(#[from] StateError),
    #[error("cannot clean up after a killed supervisor")]
    Folder(#[source] std::io::Error),
    #[error("cannot remove the volumes of a container that was to be removed")]
    Volumes(#[from] VolumeError),
}

/// Brings rows and folders to what is true: a container whose supervisor is gone has exited, and what was recorded as
/// being made or removed, and has no row, is removed. Cheap when there is nothing to do.
pub(crate) fn recover(state: &State, folders: &Folders) -> Result<(), RecoverError> {
    // Verbs that only read work in a read-only data folder, and see what killed processes have left.
    if state.is_read_only() {
        return Ok(());
    }
    for container in state.unfinished()? {
        end_lost(state, folders, &container)?;
    }
    for pod in state.pods()? {
        if pod.status == PodStatus::Running {
            end_lost_pod(state, folders, &pod.id)?;
        }
    }
    for kind in [Pending::Container, Pending::Pod] {
        for (id, step) in state.pending(kind)? {
            finish(state, folders, kind, &id, step)?;
        }
    }
    for (id, _) in state.pending(Pending::Network)? {
        if id::is_id(&id) && matches!(state.network(&id), Err(StateError::UnknownNetwork(_))) {
            network::forget(&folders.run, &id).map_err(RecoverError::Folder)?;
            state.finish_pending(Pending::Network, &id);
        }
    }
    Ok(volumes::sweep(state, &folders.data)?)
}

/// A row that only a living supervisor leaves so: one that runs, or one that ended and is about to be removed.
fn is_unfinished(container: &Container) -> bool {
    container.status.is_live() || (container.config.remove && container.status == Status::Exited)
}

/// Does what a supervisor that is gone would have done.
fn end_lost(state: &State, folders: &Folders, container: &Container) -> Result<(), RecoverError> {
    let Ok(Some(lock)) = ContainerLock::try_take(&folders.run, &container.id) else {
        return Ok(());
    };
    // Another command may have been here first, or the supervisor may have ended well since the row was read.
    let now = match state.container(&container.id) {
        Err(StateError::Unknown(_)) => return lock.remove().map_err(RecoverError::Folder),
        Err(_) => return Ok(()),
        Ok(now) => now,
    };
    if !is_unfinished(&now) || SupervisorProcess::find(&now.id).is_some() {
        // It runs out of reach: the lock is a new one, in place of one that somebody removed.
        return Ok(());
    }
    if now.config.remove {
        // The row goes first: see `create::remove`.
        volumes::remove_container(state, &folders.data, &now, true)?;
        events::record(&folders.data, &now, "destroy", &[]);
        store_folder::remove(&folders.data, &now.id).map_err(RecoverError::Folder)?;
        lock.remove().map_err(RecoverError::Folder)?;
        state.finish_pending(Pending::Container, &now.id);
        return Ok(());
    }
    let exit = Exit {
        code: 137,
        oom_killed: false,
        error: SUPERVISOR_KILLED.into(),
    };
    state.set_exited(&now.id, clock::now_ns(), &exit, Status::Exited)?;
    events::record(&folders.data, &now, "die", &[("exitCode", "137")]);
    Ok(())
}

/// Says that a pod's supervisor was killed, if it was. Its containers are told of one by one.
fn end_lost_pod(state: &State, folders: &Folders, id: &str) -> Result<(), RecoverError> {
    let Ok(Some(_lock)) = ContainerLock::try_take(&folders.run, id) else {
        return Ok(());
    };
    match state.pod(id) {
        Ok(now) if now.status == PodStatus::Running && SupervisorProcess::find(id).is_none() => {
            Ok(state.set_pod_exited(id, clock::now_ns(), SUPERVISOR_KILLED)?)
        }
        _ => Ok(()),
    }
}

/// Removes the folders of a container or pod that a command was making or removing when it was killed.
fn finish(state: &State, folders: &Folders, kind: Pending, id: &str, step: Step) -> Result<(), RecoverError> {
    if !id::is_id(id) {
        return Ok(());
    }
    let Ok(Some(lock)) = ContainerLock::try_take(&folders.run, id) else {
        return Ok(());
    };
    // Held now: a command that was making it has finished, or is dead.
    let is_unknown = match kind {
        Pending::Container => matches!(state.container(id), Err(StateError::Unknown(_))),
        _ => matches!(state.pod(id), Err(StateError::UnknownPod(_))),
    };
    if !is_unknown {
        return Ok(());
    }
    if kind == Pending::Container {
        store_folder::remove(&folders.data, id).map_err(RecoverError::Folder)?;
    }
    if step == Step::Make {
        // Before the lock is free: its maker may be about to take it, and then records it once more.
        state.finish_pending(kind, id);
        return lock.remove().map_err(RecoverError::Folder);
    }
    lock.remove().map_err(RecoverError::Folder)?;
    state.finish_pending(kind, id);
    Ok(())
}
