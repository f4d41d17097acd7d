//! Start of a container by its pod's supervisor, a process that outlives this one, and that may have to be started
//! first. That of an implicit pod is started with the container.

use std::io;
use std::process::Stdio;

use command_fds::{CommandFdExt, FdMapping};
use tokio::process::{Child, Command};

use crate::confinement::{self, RequirementError};
use crate::container_lock::{self, ContainerLock, ContainerLockError};
use crate::control::{self, Connection, ControlError, Request};
use crate::folders::Folders;
use crate::model::Container;
use crate::sys;

/// Number of the lock's descriptor in the supervisor.
const LOCK_FD: i32 = 3;
const CONNECTION_FD: i32 = 4;
/// Environment variables that the supervisor and its sidecars need: paths, and nothing else of the user's.
const KEPT_VARIABLES: [&str; 6] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
];

/// Reason why there is no supervisor.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("cannot make the connection to the pod's supervisor")]
    Connection(#[source] io::Error),
    #[error("cannot hand over the container's lock")]
    Lock(#[source] io::Error),
    #[error("cannot hand descriptors to the pod's supervisor")]
    Fds(#[source] command_fds::FdMappingCollision),
    #[error("cannot start the pod's supervisor")]
    Spawn(#[source] io::Error),
    #[error(transparent)]
    ContainerLock(#[from] ContainerLockError),
    #[error("the container was not started")]
    Requirement(#[from] RequirementError),
    #[error("cannot hand the container over to its pod")]
    Adopt(#[source] ControlError),
}

/// Container that was handed over to a supervisor, with the first connection to it.
#[derive(Debug)]
pub(crate) struct Started {
    pub connection: Connection,
    care: Care,
}

/// Handle that ends when the container is not supervised any more.
#[derive(Debug)]
enum Care {
    Process(Child),
    Connection(Connection),
}

impl Started {
    /// Waits until nobody supervises the container: all of it has ended, and its lock is free.
    pub(crate) async fn gone(self) {
        drop(self.connection);
        match self.care {
            // Nobody else can have waited for it.
            Care::Process(mut child) => drop(child.wait().await),
            // No message is ever sent on it.
            Care::Connection(mut connection) => drop(connection.reader.receive::<()>().await),
        }
    }
}

/// Starts a held container. The container begins to run with the first request on the connection.
pub(crate) async fn container(
    folders: &Folders,
    lock: ContainerLock,
    container: &Container,
) -> Result<Started, StartError> {
    if container.pod.is_implicit {
        let (connection, child) = supervisor(folders, lock, &container.pod.id)?;
        let care = Care::Process(child);
        return Ok(Started { connection, care });
    }
    // Checked here because a running pod may have been started by a user who required less.
    let processes = confinement::processes(
        container.pod.config.accelerator.as_str(),
        !container.config.shares.is_empty(),
        container.pod.config.network.is_some(),
    );
    confinement::check(&processes)?;
    let care = self::pod(folders, &container.pod.id)?;
    let (connection, theirs) = Connection::pair().map_err(StartError::Connection)?;
    let lock = std::os::fd::AsFd::as_fd(&lock)
        .try_clone_to_owned()
        .map_err(StartError::Lock)?;
    let adopt = Request::Adopt {
        container: container.id.clone(),
    };
    care.writer
        .send_with(&adopt, &[lock, theirs])
        .await
        .map_err(StartError::Adopt)?;
    Ok(Started {
        connection,
        care: Care::Connection(care),
    })
}

/// Connects to the supervisor of a pod that is not implicit, and starts one when there is none.
pub(crate) fn pod(folders: &Folders, id: &str) -> Result<Connection, StartError> {
    let folder = container_lock::folder(&folders.run, id);
    loop {
        if let Ok(connection) = control::connect(&folder) {
            return Ok(connection);
        }
        let is_running = || control::connect(&folder).is_ok();
        if let Some(lock) = ContainerLock::take(&folders.run, id, is_running)? {
            return supervisor(folders, lock, id).map(|(connection, _)| connection);
        }
    }
}

/// Starts the supervisor process of a pod.
fn supervisor(folders: &Folders, lock: ContainerLock, id: &str) -> Result<(Connection, Child), StartError> {
    let (connection, theirs) = Connection::pair().map_err(StartError::Connection)?;
    let lock = std::os::fd::AsFd::as_fd(&lock)
        .try_clone_to_owned()
        .map_err(StartError::Lock)?;
    let program = std::env::current_exe().map_err(StartError::Spawn)?;
    let mut command = Command::new(program);
    command
        .env_clear()
        .envs(
            KEPT_VARIABLES
                .iter()
                .filter_map(|name| Some((name, std::env::var_os(name)?))),
        )
        .arg("--data-dir")
        .arg(&folders.data)
        .arg("--run-dir")
        .arg(&folders.run)
        .args(confinement::flag())
        .args([
            "supervise",
            "--lock-fd",
            &LOCK_FD.to_string(),
            "--connection-fd",
            &CONNECTION_FD.to_string(),
            id,
        ])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    sys::lead_session(command.as_std_mut());
    let mappings = vec![
        FdMapping {
            parent_fd: lock,
            child_fd: LOCK_FD,
        },
        FdMapping {
            parent_fd: theirs,
            child_fd: CONNECTION_FD,
        },
    ];
    command.as_std_mut().fd_mappings(mappings).map_err(StartError::Fds)?;
    let child = command.spawn().map_err(StartError::Spawn)?;
    Ok((connection, child))
}
