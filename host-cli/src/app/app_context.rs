//! Context of the verbs that work on containers.

use std::time::Duration;

use anyhow::bail;

use super::Context;
use crate::container_lock::{self, ContainerLock, ContainerLockError};
use crate::control::{self, Answer, Connection, Request};
use crate::folders::Folders;
use crate::model::Container;
use crate::state::{State, StateError};
use crate::supervisor_process::SupervisorProcess;

/// Time limit from the end of a container's stop timeout to the end of its supervisor: a guest that does not kill it
/// gets some seconds before its machine is ended, and attached clients get some to read the last of the output.
const STOP_MARGIN: Duration = Duration::from_secs(30);

/// Time limit for a supervisor to end that has noticed by itself that nobody can reach it.
const ENDING_WAIT: Duration = Duration::from_secs(30);

/// Folders and open state of a verb.
pub(crate) struct AppContext {
    pub(crate) folders: Folders,
    pub(crate) state: State,
}

impl AppContext {
    /// Opens the state.
    pub(crate) fn open(context: Context) -> anyhow::Result<Self> {
        let (folders, state) = context.state()?;
        Ok(Self { folders, state })
    }

    /// Returns the current container, and a connection to its supervisor when it has one.
    pub(crate) fn find(&self, name: &str) -> anyhow::Result<(Container, Option<Connection>)> {
        let container = self.state.find(name)?;
        let connection = self.connect(&container.id);
        Ok((container, connection))
    }

    /// Connects to a container's supervisor, when it has one.
    pub(crate) fn connect(&self, id: &str) -> Option<Connection> {
        control::connect(&container_lock::folder(&self.folders.run, id)).ok()
    }

    /// Whether a container, or pod, has a supervisor.
    pub(crate) fn is_supervised(&self, id: &str) -> bool {
        match control::connect(&container_lock::folder(&self.folders.run, id)) {
            Ok(_) => true,
            // Too many clients already wait for the supervisor.
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }

    /// Returns a container and a connection to its supervisor; an error when it does not run.
    pub(crate) fn running(&self, name: &str) -> anyhow::Result<(Container, Connection)> {
        match self.find(name)? {
            (container, Some(connection)) => Ok((container, connection)),
            (container, None) => bail!("container {} is not running", container.name),
        }
    }

    /// Takes the lock of a container that does not run; `None` when it does. Fails for a container that was removed
    /// while this waited for the lock.
    pub(crate) fn lock(&self, id: &str) -> anyhow::Result<Option<ContainerLock>> {
        let Some(lock) = ContainerLock::take(&self.folders.run, id, || self.is_supervised(id))? else {
            return Ok(None);
        };
        match self.state.container(id) {
            Err(error) => {
                if matches!(error, StateError::Unknown(_)) {
                    lock.remove()?;
                }
                Err(error.into())
            }
            Ok(container) => match SupervisorProcess::find(id) {
                None => Ok(Some(lock)),
                // The supervisor has noticed that it is unreachable, and is about to end.
                Some(supervisor) if !container.status.is_live() => {
                    supervisor.end(ENDING_WAIT);
                    Ok(Some(lock))
                }
                Some(_) => bail!(
                    "container {} runs, and cannot be reached in {}: use the run directory that it was started with, or \
                     `capsid stop` or `capsid rm -f` to end it",
                    container.name,
                    self.folders.run.display()
                ),
            },
        }
    }

    /// Takes the lock of a pod that does not run and is not implicit; `None` when it does.
    pub(crate) fn lock_pod(&self, id: &str) -> Result<Option<ContainerLock>, ContainerLockError> {
        ContainerLock::take(&self.folders.run, id, || self.is_supervised(id))
    }

    /// Stops the container, if it runs or is about to. Nothing of it runs afterwards, and the caller holds its lock.
    pub(crate) async fn stop(&self, id: &str, timeout_s: Option<u64>) -> anyhow::Result<ContainerLock> {
        let patience = timeout_s.unwrap_or(self.state.container(id)?.config.stop_timeout_s);
        loop {
            if let Some(mut connection) = self.connect(id) {
                // However the request ended, also by a hang-up in the middle: the supervisor has ended.
                if connection.writer.send(&Request::Stop { timeout_s }).await.is_ok() {
                    connection.end_within::<Answer>(stop_limit(patience)).await;
                }
            }
            let is_live = |container: &Container| container.status.is_live();
            if self.state.container(id).as_ref().is_ok_and(is_live)
                && let Some(supervisor) = SupervisorProcess::find(id)
            {
                end_unasked(&supervisor, timeout_s, patience);
            }
            // When it was started again meanwhile, or by a command whose supervisor did not listen yet, the loop
            // repeats.
            if let Some(lock) = self.lock(id)? {
                return Ok(lock);
            }
        }
    }
}

/// Ends a supervisor that accepts no stop request, with the time limit that the request would have: none where the user
/// gave none.
pub(crate) fn end_unasked(supervisor: &SupervisorProcess, timeout_s: Option<u64>, patience_s: u64) {
    let is_at_once = timeout_s == Some(0);
    supervisor.end(if is_at_once {
        Duration::ZERO
    } else {
        stop_limit(patience_s)
    });
}

/// Time limit for a supervisor to stop a container with this stop timeout: SIGKILL, and the machine's end, follow after
/// the timeout.
pub(crate) fn stop_limit(timeout_s: u64) -> Duration {
    Duration::from_secs(timeout_s).saturating_add(STOP_MARGIN)
}
