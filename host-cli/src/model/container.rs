//! Containers as plain data: spec, configuration, status and end.

use std::str::FromStr;

use capsid_protocol::ContainerSpec;
use serde::{Deserialize, Serialize};

use super::pod::Pod;
use super::restart::RestartPolicy;
use super::volume::{ShareMount, VolumeMount};

/// Container: its spec and configuration, and its status.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    /// Id of 64 hexadecimal digits.
    pub id: String,
    pub name: String,
    /// Pod of the container: its machine and its networks.
    pub pod: Box<Pod>,
    /// Name of the image as the user wrote it.
    pub image: String,
    /// Id of the image: a moved tag changes nothing.
    pub image_id: String,
    pub created_ns: i64,
    pub spec: ContainerSpec,
    pub config: ContainerConfig,
    pub status: Status,
    /// Time of the last start in nanoseconds since 1970; 0 is never.
    pub started_ns: i64,
    /// Time of the last end in nanoseconds since 1970; 0 is never.
    pub finished_ns: i64,
    pub exit_code: u8,
    pub oom_killed: bool,
    /// Reason why the container did not run, or ended without an exit of its own; empty when there is none.
    pub error: String,
    /// Number of times that the restart policy started the container again.
    pub restarts: u32,
    /// Process id of the supervisor; 0 when there is none.
    pub supervisor_pid: u32,
}

impl Container {
    /// Returns the container's pod unless it is implicit.
    pub(crate) fn explicit_pod(&self) -> Option<&Pod> {
        Some(&*self.pod).filter(|pod| !pod.is_implicit)
    }
}

/// Options of a container that its spec, which the agent reads, does not contain.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub(crate) struct ContainerConfig {
    pub labels: Vec<String>,
    /// Signal that asks the container to stop.
    pub stop_signal: u32,
    /// Number of seconds between that signal and SIGKILL.
    pub stop_timeout_s: u64,
    /// Whether the container is removed when it ends (`--rm`).
    pub remove: bool,
    /// Whether stdin ends with the first client that was attached to it (`run -i` without `-d`).
    pub stdin_once: bool,
    pub restart: RestartPolicy,
    /// Whether the user stopped the container, and has not started it since: `unless-stopped` does not restart it then.
    #[serde(default)]
    pub was_stopped: bool,
    pub log: LogOptions,
    #[serde(default)]
    pub health: Option<HealthCheck>,
    /// Volumes of the container; containers created before there were any have none.
    #[serde(default)]
    pub mounts: Vec<VolumeMount>,
    /// Shared folders and files of the host; containers created before there were any have none.
    #[serde(default)]
    pub shares: Vec<ShareMount>,
    /// Declared properties; containers created before these were kept have none.
    #[serde(default)]
    pub declared: Option<Declared>,
}

/// Properties from image and user that a container's spec does not keep separately, in docker's notation.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct Declared {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// Exposed ports such as `80/tcp`, the image's and the user's.
    pub exposed_ports: Vec<String>,
    /// Paths of unnamed volumes, the image's and the user's.
    pub volumes: Vec<String>,
    /// Values of `-v`, except for unnamed volumes.
    pub binds: Vec<String>,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub security_opt: Vec<String>,
}

/// Health check: a command that is run in the container repeatedly.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct HealthCheck {
    /// Program and arguments.
    pub command: Vec<String>,
    pub interval_ns: u64,
    pub timeout_ns: u64,
    /// Time after the start in which failures do not count.
    pub start_period_ns: u64,
    /// Number of consecutive failures that make the container unhealthy.
    pub retries: u32,
}

/// Limits of a container's kept output. The defaults are those of docker's `local` driver: a container that writes too
/// much does not fill the host's disk.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct LogOptions {
    /// Whether output is kept; `--log-driver none` keeps nothing.
    pub keep: bool,
    /// Maximum size of one file in bytes.
    pub max_size: u64,
    /// Maximum number of files, the current one included.
    pub max_files: u32,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            keep: true,
            max_size: 20 << 20,
            max_files: 5,
        }
    }
}

/// Status of a container, in docker's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// Created, and never started.
    Created,
    Running,
    Paused,
    /// Ended, and about to be started again.
    Restarting,
    Exited,
}

impl Status {
    /// Returns docker's word for the status.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
        }
    }

    /// Whether a supervisor must be alive for a container with this status.
    pub(crate) fn is_live(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
    }
}

impl FromStr for Status {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        [
            Self::Created,
            Self::Running,
            Self::Paused,
            Self::Restarting,
            Self::Exited,
        ]
        .into_iter()
        .find(|status| status.as_str() == word)
        .ok_or_else(|| format!("{word:?} is no status: created, running, paused, restarting or exited"))
    }
}

/// Result of a container that ended.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Exit {
    /// Exit code as in the shell: 128 + n for a signal.
    pub code: u8,
    pub oom_killed: bool,
    /// Reason of the end when it was not the container's own exit.
    pub error: String,
}
