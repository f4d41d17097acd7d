//! Starting a container's supervisor, as a process that outlives this one.

use std::io;
use std::process::Stdio;

use command_fds::{CommandFdExt, FdMapping};
use tokio::process::{Child, Command};

use crate::control::Connection;
use crate::folders::Folders;
use crate::hold::Hold;
use crate::sys;

/// Descriptors as the supervisor finds them.
const LOCK_FD: i32 = 3;
const CONNECTION_FD: i32 = 4;
/// What the supervisor and its helpers need of our environment: where things are, and nothing else of the user's.
const KEPT_VARIABLES: [&str; 6] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
];

/// Why there is no supervisor.
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
}

/// A supervisor that was just started, and the first connection to it.
#[derive(Debug)]
pub(crate) struct Started {
    pub connection: Connection,
    child: Child,
}

impl Started {
    /// Waits until its process is gone: all of its pod is, and its lock is free.
    pub(crate) async fn gone(mut self) {
        drop(self.connection);
        // Nobody else can have waited for it.
        let _ = self.child.wait().await;
    }
}

/// Starts the supervisor of a held container. It begins with the first request on the connection.
pub(crate) fn supervisor(folders: &Folders, hold: Hold, id: &str) -> Result<Started, StartError> {
    let (connection, theirs) = Connection::pair().map_err(StartError::Connection)?;
    let lock = std::os::fd::AsFd::as_fd(&hold)
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
    Ok(Started { connection, child })
}
