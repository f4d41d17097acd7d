//! Recovery from killed processes: corrects their rows and removes their remains.

use crate::container_lock::ContainerLock;
use crate::folders::Folders;
use crate::model::{Container, Exit, PodStatus, Status, exit_code};
use crate::state::{Pending, State, StateError, Step};
use crate::supervisor_process::SupervisorProcess;
use crate::volumes::{self, VolumeError};
use crate::{clock, events, id, network, store_folder};

/// Error of a container or pod whose supervisor ended without reporting an end.
const SUPERVISOR_KILLED: &str = "the pod's supervisor was killed";

/// Error when the recovery fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoverError {
    #[error("cannot clean up after killed commands")]
    State(#[from] StateError),
    #[error("cannot clean up after a killed supervisor")]
    Folder(#[source] std::io::Error),
    #[error("cannot remove the volumes of a container that was to be removed")]
    Volumes(#[from] VolumeError),
}

/// Corrects rows and folders: a container whose supervisor is gone has exited, and what was recorded as being created
/// or removed, and has no row, is removed. Cheap when there is nothing to do.
pub(crate) fn recover(state: &State, folders: &Folders) -> Result<(), RecoverError> {
    // Verbs that only read work in a read-only data folder, and show what killed processes have left.
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

/// Whether only a living supervisor leaves a row like this: of a container that runs, or that ended and is to be
/// removed.
fn is_unfinished(container: &Container) -> bool {
    container.status.is_live() || (container.config.remove && container.status == Status::Exited)
}

/// Ends a container in place of its supervisor, if that is gone.
fn end_lost(state: &State, folders: &Folders, container: &Container) -> Result<(), RecoverError> {
    let Ok(Some(lock)) = ContainerLock::try_take(&folders.run, &container.id) else {
        return Ok(());
    };
    // Another command may have been first, or the supervisor may have ended properly since the row was read.
    let now = match state.container(&container.id) {
        Err(StateError::Unknown(_)) => return lock.remove().map_err(RecoverError::Folder),
        Err(_) => return Ok(()),
        Ok(now) => now,
    };
    if !is_unfinished(&now) || SupervisorProcess::find(&now.id).is_some() {
        // The supervisor runs, but is unreachable: the lock is a new file, in place of one that somebody removed.
        return Ok(());
    }
    if now.config.remove {
        // The row is deleted first: see `create::remove`.
        volumes::remove_container(state, &folders.data, &now, true)?;
        events::record(&folders.data, &now, "destroy", &[]);
        store_folder::remove(&folders.data, &now.id).map_err(RecoverError::Folder)?;
        lock.remove().map_err(RecoverError::Folder)?;
        state.finish_pending(Pending::Container, &now.id);
        return Ok(());
    }
    let exit = Exit {
        code: exit_code::KILLED,
        oom_killed: false,
        error: SUPERVISOR_KILLED.into(),
    };
    state.set_exited(&now.id, clock::now_ns(), &exit, Status::Exited)?;
    events::record(&folders.data, &now, "die", &[("exitCode", &exit.code.to_string())]);
    Ok(())
}

/// Records that a pod's supervisor was killed, if it was. The pod's containers are recorded one by one.
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

/// Removes the folders of a container or pod that a command was creating or removing when it was killed.
fn finish(state: &State, folders: &Folders, kind: Pending, id: &str, step: Step) -> Result<(), RecoverError> {
    if !id::is_id(id) {
        return Ok(());
    }
    let Ok(Some(lock)) = ContainerLock::try_take(&folders.run, id) else {
        return Ok(());
    };
    // With the lock held, a command that was creating it has finished, or is dead.
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
        // The record is deleted before the lock is free: the creator may be about to take it, and then records the name
        // again.
        state.finish_pending(kind, id);
        return lock.remove().map_err(RecoverError::Folder);
    }
    lock.remove().map_err(RecoverError::Folder)?;
    state.finish_pending(kind, id);
    Ok(())
}
