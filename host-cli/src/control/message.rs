//! The messages themselves.

use capsid_protocol::spec::{Limits, TerminalSize};
use serde::{Deserialize, Serialize};

use crate::state::Exit;

/// What a command wants. `Signal` and `Resize` may follow an `Attach` or `Exec` on the same connection.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Nothing but to be told: `Started` or `Failed`.
    Start,
    /// The container's streams, then its end.
    Attach(StreamsWanted),
    /// Another process in the container.
    Exec(Box<ExecRequest>),
    /// To the container, or on a connection of an exec to that.
    Signal(i32),
    /// The user's terminal has a new size.
    Resize { rows: u32, columns: u32 },
    /// The stop signal, then SIGKILL after so many seconds (the container's own number when absent).
    Stop { timeout_s: Option<u64> },
    /// No cgroup of the container runs.
    Pause,
    /// It runs again.
    Unpause,
    /// Its end, whenever that is.
    Wait,
    /// Its processes.
    List,
    /// What it uses.
    Measure,
    /// The client's own reader has gone: the container is told by broken streams.
    OutputClosed,
    /// Other limits from now on.
    Update(#[serde(with = "limits")] Limits),
}

/// Which streams a client of `Attach` takes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct StreamsWanted {
    pub stdin: bool,
    pub output: bool,
}

/// A process to be run in a container beside its own.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ExecRequest {
    /// Byte strings: not always UTF-8.
    pub args: Vec<Vec<u8>>,
    /// `NAME=value` each, over the container's own.
    pub env: Vec<String>,
    /// The container's own when absent.
    pub cwd: Option<String>,
    pub user: Option<String>,
    pub terminal: Option<(u32, u32)>,
    pub stdin: bool,
    pub privileged: bool,
    /// Nobody reads its output.
    pub detached: bool,
}

impl ExecRequest {
    /// The terminal's first size.
    pub(crate) fn size(&self) -> Option<TerminalSize> {
        self.terminal.map(|(rows, columns)| TerminalSize { rows, columns })
    }
}

/// What a supervisor says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Comes with descriptors: stdin when wanted, then stdout and stderr; or the terminal alone.
    Streams { terminal: bool },
    /// The program runs.
    Started { moments: Vec<Moment>, agent_start_ns: u64 },
    /// It ended, and all its output was handed over.
    Exited { exit: Exit, moments: Vec<Moment> },
    /// What was asked for was done.
    Done,
    /// It could not be done.
    Failed {
        message: String,
        /// What `run` and `exec` exit with.
        code: u8,
        /// Last lines of the guest's console, when the machine ended.
        console: String,
    },
    /// Processes.
    Listed(Vec<ProcessLine>),
    /// Usage.
    Measured(Usage),
}

/// A process of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ProcessLine {
    pub pid: u32,
    pub ppid: u32,
    pub uid: u32,
    pub state: String,
    pub cpu_ms: u64,
    pub start_ms: u64,
    pub args: String,
}

/// What a container uses, as its cgroup in the guest says, and what its pod costs the host.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Usage {
    pub memory_bytes: u64,
    pub memory_max_bytes: u64,
    pub cpu_us: u64,
    pub pids: u64,
    pub read_bytes: u64,
    pub write_bytes: u64,
    pub guest_total_bytes: u64,
    pub guest_available_bytes: u64,
}

/// A step of a start that ended, on the host's monotonic clock, which all processes share.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Moment {
    pub step: String,
    pub at_ns: u64,
}

/// Limits as JSON.
mod limits {
    use capsid_protocol::spec::Limits;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Fields {
        memory_max_bytes: Option<u64>,
        swap_max_bytes: Option<u64>,
        cpu_quota_us: Option<u64>,
        cpuset_cpus: Option<String>,
        pids_max: Option<u64>,
        cpu_weight: Option<u64>,
    }

    pub(super) fn serialize<S: Serializer>(limits: &Limits, serializer: S) -> Result<S::Ok, S::Error> {
        let limits = limits.clone();
        Fields {
            memory_max_bytes: limits.memory_max_bytes,
            swap_max_bytes: limits.swap_max_bytes,
            cpu_quota_us: limits.cpu_quota_us,
            cpuset_cpus: limits.cpuset_cpus,
            pids_max: limits.pids_max,
            cpu_weight: limits.cpu_weight,
        }
        .serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Limits, D::Error> {
        let fields = Fields::deserialize(deserializer)?;
        Ok(Limits {
            memory_max_bytes: fields.memory_max_bytes,
            swap_max_bytes: fields.swap_max_bytes,
            cpu_quota_us: fields.cpu_quota_us,
            cpuset_cpus: fields.cpuset_cpus,
            pids_max: fields.pids_max,
            cpu_weight: fields.cpu_weight,
        })
    }
}
