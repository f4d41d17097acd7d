//! The messages themselves.

use capsid_protocol::spec::TerminalSize;
use serde::{Deserialize, Serialize};

use crate::error_text;
use crate::state::{Exit, RestartPolicy};

/// What a command wants. `Signal` and `Resize` may follow an `Attach` or `Exec` on the same connection.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Nothing but to be told: `Started` or `Failed`.
    Start,
    /// The container's streams, then its end. `stdin`: the client's is the container's.
    Attach { stdin: bool },
    /// Another process in the container.
    Exec(Box<ExecRequest>),
    /// Work of the agent's own in the container, a [`capsid_protocol::spec::Task`] as the agent reads it. Answered
    /// as an `Exec` is.
    Task(Vec<u8>),
    /// To the container, or on a connection of an exec to that.
    Signal(i32),
    /// The user's terminal has a new size.
    Resize { rows: u32, columns: u32 },
    /// The stop signal, then SIGKILL after so many seconds (the container's own number when absent).
    Stop { timeout_s: Option<u64> },
    /// As `Stop`, but it is the host that stops: the restart policy starts the container afterwards.
    HostStops,
    /// No cgroup of the container runs.
    Pause,
    /// It runs again.
    Unpause,
    /// Its end, whenever that is.
    Wait,
    /// The row has another name now.
    Renamed(String),
    /// The row's networks changed: the machine is to follow. Answered by `Rewired`.
    NetworksChanged,
    /// Limits and restart policy.
    Update(UpdateRequest),
    /// Its processes.
    List,
    /// What it uses.
    Measure,
    /// The client's own reader has gone: the container is told by broken streams.
    OutputClosed,
}

/// What a command wants of the supervisor of a pod of several containers, on the pod's own socket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum PodRequest {
    /// Its machine runs: `Done`, or `Failed`.
    Start,
    /// Comes with a container's lock and the connection that its supervisor would be started with. This one stays open
    /// for as long as the container is attended.
    Adopt { container: String },
    /// All its containers stopped as with `Request::Stop`, and then its machine.
    Stop { timeout_s: Option<u64> },
    /// The row's networks changed: the machine is to follow. Answered by `Rewired`.
    NetworksChanged,
    /// What all of it uses.
    Measure,
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

/// What changes of a running container.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct UpdateRequest {
    /// What the agent is told, [`capsid_protocol::spec::Limits`] as it reads them.
    pub changes: Vec<u8>,
    /// The limits afterwards, in the same form.
    pub limits: Vec<u8>,
    pub restart: Option<RestartPolicy>,
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
    Failed(Failure),
    /// The machine is on the networks that its row names; why none of them leads out, where one should.
    Rewired { no_way_out: Option<String> },
    /// Processes.
    Listed(Vec<ProcessLine>),
    /// Usage.
    Measured(Usage),
}

/// Why something could not be done.
#[derive(Debug, Clone, Default, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub message: String,
    /// docker's exit code for it: what `run` and `exec` exit with.
    pub code: u8,
    /// Last lines of the guest's console, when the machine ended.
    pub console: String,
}

impl Failure {
    /// With docker's code for its own errors.
    pub(crate) fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::because(error_text::describe(error))
    }

    /// In these words.
    pub(crate) fn because(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: 125,
            console: String::new(),
        }
    }
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
