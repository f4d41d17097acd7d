//! Messages of the control protocol.

use capsid_protocol::spec::TerminalSize;
use serde::{Deserialize, Serialize};

use crate::error_text;
use crate::model::{Exit, RestartPolicy, exit_code};

/// Request of a command to a container, or to a pod that is not implicit: that accepts `Start`, `Adopt`, `Stop` and
/// `NetworksChanged`. An implicit pod shares its container's socket. `Signal` and `Resize` may follow an `Attach` or `Exec` on the same connection.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Waits for the start: answered by `Started` or `Failed`; by `Done` for a pod.
    Start,
    /// Hands over a container to a pod that is not implicit: comes with its lock and with the connection that its
    /// supervisor would be started with. The connection of this request stays open for as long as the container is
    /// supervised.
    Adopt { container: String },
    /// Asks for the container's streams, then its end. With `stdin`, the client's stdin becomes the container's.
    Attach { stdin: bool },
    /// Runs an exec process in the container.
    Exec(Box<ExecRequest>),
    /// Runs a task of the agent in the container, a [`capsid_protocol::spec::Task`] as the agent parses it. Answered
    /// like an `Exec`.
    Task(Vec<u8>),
    /// Sends a signal to the container or, on the connection of an exec, to the exec process.
    Signal(i32),
    /// Reports a new size of the user's terminal.
    Resize { rows: u32, columns: u32 },
    /// Sends the stop signal, then SIGKILL after so many seconds (the container's own number when absent); to all
    /// containers of a pod, whose machine ends then.
    Stop { timeout_s: Option<u64> },
    /// Stops the container like `Stop`, but because the host stops: the restart policy starts the container afterwards.
    HostStops,
    /// Freezes all cgroups of the container.
    Pause,
    /// Lets the container run again.
    Unpause,
    /// Waits for the container's end, whenever that is.
    Wait,
    /// Reports that the row has another name now.
    Renamed(String),
    /// Reports that the pod's row names other networks, so that the machine follows. Answered by `Reconciled`.
    NetworksChanged,
    /// Changes limits and restart policy.
    Update(UpdateRequest),
    /// Lists the container's processes.
    List,
    /// Measures the container's usage.
    Measure,
    /// Reports that the client's own reader has closed: the container sees broken streams.
    OutputClosed,
}

/// Exec process to be run in a container beside its own process.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct ExecRequest {
    /// Arguments as byte strings: not always UTF-8.
    pub args: Vec<Vec<u8>>,
    /// Environment variables as `NAME=value`, added to the container's own.
    pub env: Vec<String>,
    /// Working directory; the container's own when absent.
    pub cwd: Option<String>,
    pub user: Option<String>,
    pub terminal: Option<(u32, u32)>,
    pub stdin: bool,
    pub privileged: bool,
    /// Whether nobody reads the output.
    pub detached: bool,
}

impl ExecRequest {
    /// Returns the terminal's first size.
    pub(crate) fn size(&self) -> Option<TerminalSize> {
        self.terminal.map(|(rows, columns)| TerminalSize { rows, columns })
    }
}

/// Changes to a running container.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct UpdateRequest {
    /// Changes for the agent: [`capsid_protocol::spec::Limits`] as it parses them.
    pub changes: Vec<u8>,
    /// Limits after the change, in the same form.
    pub limits: Vec<u8>,
    pub restart: Option<RestartPolicy>,
}

/// Answer of a supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Streams of the process, as descriptors: stdin when wanted, then stdout and stderr; or the terminal alone.
    Streams { terminal: bool },
    /// Start of the program.
    Started { moments: Vec<Moment>, agent_start_ns: u64 },
    /// End of the process, after all its output was handed over.
    Exited { exit: Exit, moments: Vec<Moment> },
    /// Success of the requested operation.
    Done,
    /// Failure of the requested operation.
    Failed(Failure),
    /// Notice that the machine is on the networks that its row names; with the reason why none of them leads out, where
    /// one should.
    Reconciled { no_default_route: Option<String> },
    /// Processes of the container.
    Listed(Vec<ProcessLine>),
    /// Usage of the container or pod.
    Measured(Usage),
}

/// Reason why an operation failed.
#[derive(Debug, Clone, Default, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub message: String,
    /// docker's exit code for the failure: `run` and `exec` exit with it.
    pub code: u8,
    /// Last lines of the guest's console, when the machine ended.
    pub console: String,
}

impl Failure {
    /// Describes an error, with docker's code for its own errors.
    pub(crate) fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::because(error_text::describe(error))
    }

    /// Creates a failure with this message, and docker's code for its own errors.
    pub(crate) fn because(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: exit_code::FAILURE,
            console: String::new(),
        }
    }
}

/// Process of a container.
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

/// Usage of a container according to its cgroup in the guest, and the cost of its pod on the host.
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

/// Step of a start that ended, on the host's monotonic clock, which all processes share.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Moment {
    pub step: String,
    pub at_ns: u64,
}
