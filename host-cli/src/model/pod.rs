//! Pods as plain data: the machine of one container, or of several.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::machine::{AccelChoice, MachineSize};
use super::network::NetworkConfig;
use super::volume::{ShareMount, VolumeMount};

/// Pod: its configuration, and its status. Every container is in one.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    /// Id of 64 hexadecimal digits; that of its container if the pod is implicit.
    pub id: String,
    /// Name; that of its container if the pod is implicit.
    pub name: String,
    /// Whether the pod came with a container that was created without one, and goes with it. Its status is not kept:
    /// its machine runs only while the container does.
    pub is_implicit: bool,
    pub created_ns: i64,
    pub config: PodConfig,
    pub status: PodStatus,
    /// Time of the last start in nanoseconds since 1970; 0 is never.
    pub started_ns: i64,
    /// Time of the last end in nanoseconds since 1970; 0 is never.
    pub finished_ns: i64,
    /// Reason why the machine did not run, or ended without being asked to; empty when there is none.
    pub error: String,
    /// Process id of the supervisor; 0 when there is none.
    pub supervisor_pid: u32,
}

impl Pod {
    /// Creates the row of a pod that was not started yet.
    pub(crate) fn new(id: String, name: String, created_ns: i64, config: PodConfig) -> Self {
        Self {
            id,
            name,
            is_implicit: false,
            created_ns,
            config,
            status: PodStatus::Created,
            started_ns: 0,
            finished_ns: 0,
            error: String::new(),
            supervisor_pid: 0,
        }
    }

    /// Creates the row of the implicit pod of a container.
    pub(crate) fn implicit(container: &str, created_ns: i64, config: PodConfig) -> Self {
        Self {
            is_implicit: true,
            ..Self::new(container.into(), container.into(), created_ns, config)
        }
    }

    pub(crate) fn is_called(&self, word: &str) -> bool {
        self.name == word || self.id == word
    }
}

/// Options that a pod was created with.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub(crate) struct PodConfig {
    pub machine: MachineSize,
    /// Accelerator, `kvm` or `emulate`, as chosen when the pod was created.
    pub accelerator: AccelChoice,
    /// Guest kernel, when `--kernel` was given.
    pub kernel: Option<PathBuf>,
    pub labels: Vec<String>,
    /// Host name of all containers of the pod.
    pub hostname: String,
    /// Whether the pod's containers see each other's processes.
    pub shares_pids: bool,
    pub shm_bytes: u64,
    /// Sysctls, `NAME=VALUE` each.
    pub sysctls: Vec<String>,
    pub limits: PodLimits,
    /// Named volumes that all containers of the pod have; without serials, which each container numbers for itself.
    #[serde(default)]
    pub volumes: Vec<VolumeMount>,
    /// Folders and files of the host that are shared with the machine and with all its containers.
    #[serde(default)]
    pub shares: Vec<ShareMount>,
    /// Network of the pod's machine; pods created before there were any have none.
    #[serde(default)]
    pub network: Option<NetworkConfig>,
    /// Lines of `/etc/hosts` of all containers of the pod: an address and a name each.
    #[serde(default)]
    pub hosts: Vec<(IpAddr, String)>,
}

impl PodConfig {
    /// Creates the configuration of an implicit pod: all else is its container's own.
    pub(crate) fn implicit(machine: MachineSize, accelerator: AccelChoice, hostname: String) -> Self {
        Self {
            machine,
            accelerator,
            kernel: None,
            labels: Vec::new(),
            hostname,
            shares_pids: false,
            shm_bytes: 0,
            sysctls: Vec::new(),
            limits: PodLimits::default(),
            volumes: Vec::new(),
            shares: Vec::new(),
            network: None,
            hosts: Vec::new(),
        }
    }
}

/// Limits of all containers together.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct PodLimits {
    pub memory_max_bytes: Option<u64>,
    /// CPU time in microseconds of each 100 000.
    pub cpu_quota_us: Option<u64>,
    pub pids_max: Option<u64>,
}

/// Status of a pod's machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PodStatus {
    /// Created, and never started.
    Created,
    /// Running: a supervisor must be alive for the pod.
    Running,
    Exited,
}

impl PodStatus {
    /// Returns podman's word for the status.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Created => "Created",
            Self::Running => "Running",
            Self::Exited => "Exited",
        }
    }
}

impl FromStr for PodStatus {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        [Self::Created, Self::Running, Self::Exited]
            .into_iter()
            .find(|status| status.as_str().eq_ignore_ascii_case(word))
            .ok_or_else(|| format!("{word:?} is no status of a pod: created, running or exited"))
    }
}
