//! Messages between host and agent. Tags are part of the contract: never reuse one.

use prost::{Enumeration, Message, Oneof};

use crate::process::ProcessSpec;
use crate::spec::{Limits, Network};
pub use crate::upkeep::{FreePart, KeepFree, Ping, Pong};

/// Message from the host to the agent. Tag 2 is retired.
#[derive(Clone, PartialEq, Message)]
pub struct HostMessage {
    /// Number of a request, unique in its session, which its response repeats; 0 for a message without a response.
    #[prost(uint64, tag = "14")]
    pub request_id: u64,
    /// Content of the message; absent means a message newer than this build.
    #[prost(oneof = "host_message::Kind", tags = "1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15")]
    pub kind: Option<host_message::Kind>,
}

impl From<host_message::Kind> for HostMessage {
    /// Wraps a message without a response.
    fn from(kind: host_message::Kind) -> Self {
        Self {
            request_id: 0,
            kind: Some(kind),
        }
    }
}

/// Kinds of [`HostMessage`].
pub mod host_message {
    use super::*;

    /// One intent of the host.
    #[derive(Clone, PartialEq, Oneof)]
    pub enum Kind {
        /// First message of a session.
        #[prost(message, tag = "1")]
        Hello(super::Hello),
        /// Creates a process, up to the point before its program is executed.
        #[prost(message, tag = "15")]
        Create(Box<ProcessSpec>),
        /// Executes the program of a created process.
        #[prost(message, tag = "3")]
        Start(super::Start),
        /// Sends a signal to a container.
        #[prost(message, tag = "4")]
        Signal(super::Signal),
        /// Reports the new size of the user's terminal.
        #[prost(message, tag = "5")]
        Resize(super::Resize),
        /// Stops everything that still runs, unmounts the disks, and turns the machine off.
        #[prost(message, tag = "6")]
        Shutdown(super::Shutdown),
        /// Stops or resumes every process of a container.
        #[prost(message, tag = "7")]
        Freeze(super::Freeze),
        /// Requests the resource usage of a container.
        #[prost(message, tag = "8")]
        Measure(super::Measure),
        /// Requests the process list of a container.
        #[prost(message, tag = "9")]
        List(super::List),
        /// Changes the limits of a container.
        #[prost(message, tag = "10")]
        Update(super::Update),
        /// Changes the addresses of a container's network device.
        #[prost(message, tag = "11")]
        ConfigureNetwork(super::ConfigureNetwork),
        /// Requests a sign of life from the agent.
        #[prost(message, tag = "12")]
        Ping(super::Ping),
        /// Keeps part of disks free.
        #[prost(message, tag = "13")]
        KeepFree(super::KeepFree),
    }
}

/// Message from the agent to the host. The host must treat its bytes as hostile.
#[derive(Clone, PartialEq, Message)]
pub struct AgentMessage {
    /// Number of the request that this message responds to; 0 for a report that is no response.
    #[prost(uint64, tag = "12")]
    pub request_id: u64,
    /// Content of the message; absent means a message newer than this build.
    #[prost(oneof = "agent_message::Kind", tags = "1, 2, 3, 4, 5, 7, 8, 11, 13")]
    pub kind: Option<agent_message::Kind>,
}

impl From<agent_message::Kind> for AgentMessage {
    /// Wraps a report that is no response.
    fn from(kind: agent_message::Kind) -> Self {
        Self {
            request_id: 0,
            kind: Some(kind),
        }
    }
}

/// Kinds of [`AgentMessage`].
pub mod agent_message {
    use super::*;

    /// One report of the agent.
    #[derive(Clone, PartialEq, Oneof)]
    pub enum Kind {
        /// Answer to the host's `Hello`.
        #[prost(message, tag = "1")]
        Hello(super::Hello),
        /// The container exists; its program is not executed yet.
        #[prost(message, tag = "2")]
        Created(super::Created),
        /// The container's program runs: `execve` succeeded.
        #[prost(message, tag = "3")]
        Started(super::Started),
        /// A request failed. Without a request id, `Create` or `Start` failed, and the container is gone.
        #[prost(message, tag = "4")]
        Failed(super::Failed),
        /// The container ended and its output is drained.
        #[prost(message, tag = "5")]
        Stopped(super::Stopped),
        /// Response to `Measure`.
        #[prost(message, tag = "7")]
        Measured(super::Measured),
        /// Response to `List`.
        #[prost(message, tag = "8")]
        Listed(super::Listed),
        /// Answer to `Ping`.
        #[prost(message, tag = "11")]
        Pong(super::Pong),
        /// Response to `Freeze`, `Update` and `ConfigureNetwork`: what was requested is in effect.
        #[prost(message, tag = "13")]
        Done(super::Done),
    }
}

/// Opens a session, in both directions.
#[derive(Clone, PartialEq, Message)]
pub struct Hello {
    /// [`crate::VERSION`] of the sender; unequal versions refuse each other.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// Build of the sender, only for messages to people.
    #[prost(string, tag = "2")]
    pub build: String,
    /// Nonce chosen by the host. The agent sends it back, and every [`StreamHello`] carries it.
    #[prost(bytes = "vec", tag = "3")]
    pub nonce: Vec<u8>,
    /// Time from kernel entry to the agent's first instruction (`CLOCK_BOOTTIME`), nanoseconds; from agent to host.
    #[prost(uint64, tag = "5")]
    pub agent_start_ns: u64,
    /// Entropy, from host to agent: 32 bytes credited to the guest's pool, so that first reads do not wait.
    #[prost(bytes = "vec", tag = "6")]
    pub entropy: Vec<u8>,
}

/// Executes the program of a created container.
#[derive(Clone, PartialEq, Message)]
pub struct Start {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container: String,
}

/// Sends a signal to a container.
#[derive(Clone, PartialEq, Message)]
pub struct Signal {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container: String,
    /// Signal number, 1 to 64.
    #[prost(uint32, tag = "2")]
    pub number: u32,
}

/// Reports the size of the user's terminal, in characters.
#[derive(Clone, PartialEq, Message)]
pub struct Resize {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container: String,
    /// Number of lines.
    #[prost(uint32, tag = "2")]
    pub rows: u32,
    /// Characters per line.
    #[prost(uint32, tag = "3")]
    pub columns: u32,
}

/// Turns the machine off.
#[derive(Clone, PartialEq, Message)]
pub struct Shutdown {}

/// Maximum number of requests of a session that wait for their responses at a time. More are refused.
pub const REQUESTS_MAX: usize = 64;

/// Stops (`pause`) or resumes (`unpause`) every process of a container, including processes that joined it.
#[derive(Clone, PartialEq, Message)]
pub struct Freeze {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container: String,
    /// Whether the processes are to stop.
    #[prost(bool, tag = "2")]
    pub frozen: bool,
}

/// Requests the resource usage of a container or of the whole guest.
#[derive(Clone, PartialEq, Message)]
pub struct Measure {
    /// Container id; empty means the whole guest.
    #[prost(string, tag = "1")]
    pub container: String,
}

/// Requests the process list of a container.
#[derive(Clone, PartialEq, Message)]
pub struct List {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container: String,
}

/// Changes the limits of a container.
#[derive(Clone, PartialEq, Message)]
pub struct Update {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container: String,
    /// New limits; absent ones stay unchanged.
    #[prost(message, required, tag = "2")]
    pub limits: Limits,
}

/// Replaces the addresses and routes of the device in the network namespace of the container or its pod. A repeated
/// request changes nothing. A failed request may be half applied; a repetition continues it.
#[derive(Clone, PartialEq, Message)]
pub struct ConfigureNetwork {
    /// Container id. A container that belongs to no pod must run. Empty means the pod itself; if there is no pod yet,
    /// the change applies when it is made.
    #[prost(string, tag = "1")]
    pub container: String,
    /// Complete configuration of the device, except the MTU, which stays unchanged.
    #[prost(message, required, tag = "2")]
    pub network: Network,
}

/// Reports that the container exists.
#[derive(Clone, PartialEq, Message)]
pub struct Created {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container: String,
}

/// Reports that the container's program runs.
#[derive(Clone, PartialEq, Message)]
pub struct Started {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container: String,
    /// Pid of the program in the guest's numbering: for people, never used on the host.
    #[prost(uint32, tag = "2")]
    pub pid: u32,
}

/// Reports that a request failed.
#[derive(Clone, PartialEq, Message)]
pub struct Failed {
    /// Container id, as the request named it.
    #[prost(string, tag = "1")]
    pub container: String,
    /// Step that failed.
    #[prost(enumeration = "FailedStep", tag = "2")]
    pub step: i32,
    /// `errno` of the failed step, 0 if there is none.
    #[prost(int32, tag = "3")]
    pub errno: i32,
    /// Step and cause in words, one line.
    #[prost(string, tag = "4")]
    pub message: String,
}

/// Reports that the container ended.
#[derive(Clone, PartialEq, Message)]
pub struct Stopped {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container: String,
    /// Exit code, 0 to 255, if the program exited.
    #[prost(uint32, tag = "2")]
    pub exit_code: u32,
    /// Signal that ended the program, else 0.
    #[prost(uint32, tag = "3")]
    pub signal: u32,
    /// True when the kernel killed a process of the container for its memory limit.
    #[prost(bool, tag = "4")]
    pub oom_killed: bool,
    /// True when a disk of the container could not be unmounted although no other container uses it: nobody else may
    /// use that disk while this machine runs.
    #[prost(bool, tag = "5")]
    pub disks_busy: bool,
}

/// Reports that what was requested is in effect.
#[derive(Clone, PartialEq, Message)]
pub struct Done {}

/// Current resource usage of a container or of the whole guest.
#[derive(Clone, PartialEq, Message)]
pub struct Measured {
    /// Memory charged to the container, page cache included. For the whole guest: memory unavailable to new programs.
    #[prost(uint64, tag = "2")]
    pub memory_current_bytes: u64,
    /// Memory limit of the container; absent means none. For the whole guest: its memory.
    #[prost(uint64, optional, tag = "3")]
    pub memory_max_bytes: Option<u64>,
    /// Peak of the memory charged to the container; 0 for the whole guest.
    #[prost(uint64, tag = "4")]
    pub memory_peak_bytes: u64,
    /// Page cache in `memory_current_bytes` that can be dropped first: docker shows memory without it.
    #[prost(uint64, tag = "5")]
    pub memory_inactive_file_bytes: u64,
    /// Processor time since the start, microseconds.
    #[prost(uint64, tag = "6")]
    pub cpu_usage_us: u64,
    /// Number of processes and threads.
    #[prost(uint64, tag = "7")]
    pub pids_current: u64,
    /// Limit of processes and threads; absent means none.
    #[prost(uint64, optional, tag = "8")]
    pub pids_max: Option<u64>,
    /// Number of processes that the kernel killed for the memory limit.
    #[prost(uint64, tag = "9")]
    pub oom_kills: u64,
    /// Bytes read from disks.
    #[prost(uint64, tag = "10")]
    pub io_read_bytes: u64,
    /// Bytes written to disks.
    #[prost(uint64, tag = "11")]
    pub io_write_bytes: u64,
    /// Total memory of the guest (`MemTotal`).
    #[prost(uint64, tag = "12")]
    pub guest_memory_total_bytes: u64,
    /// Memory of the guest available to new programs (`MemAvailable`).
    #[prost(uint64, tag = "13")]
    pub guest_memory_available_bytes: u64,
}

/// Maximum number of processes in a list: all that a container has, unless its limit was raised far.
pub const PROCESSES_MAX: usize = 4_096;

/// Process list of a container.
#[derive(Clone, PartialEq, Message)]
pub struct Listed {
    /// True when there are more processes than the list holds.
    #[prost(bool, tag = "3")]
    pub truncated: bool,
    /// [`Process`]es, each behind its length, in the order of their pids in the guest. [`Listed::processes`] decodes
    /// them one by one: as a repeated field, two bytes of a frame would become a hundred of memory, however many there
    /// are.
    #[prost(bytes = "vec", tag = "4")]
    pub packed: Vec<u8>,
}

impl Listed {
    /// Packs processes for [`Listed::packed`].
    #[must_use]
    pub fn pack(processes: &[Process]) -> Vec<u8> {
        processes
            .iter()
            .flat_map(Message::encode_length_delimited_to_vec)
            .collect()
    }

    /// Decodes the processes, [`PROCESSES_MAX`] at most.
    ///
    /// # Errors
    /// A malformed process.
    pub fn processes(&self) -> Result<Vec<Process>, prost::DecodeError> {
        let mut packed = self.packed.as_slice();
        let mut processes = Vec::new();
        while !packed.is_empty() && processes.len() < PROCESSES_MAX {
            processes.push(Process::decode_length_delimited(&mut packed)?);
        }
        Ok(processes)
    }
}

/// One process. The text in it is what the process reports about itself: hostile.
#[derive(Clone, PartialEq, Message)]
pub struct Process {
    /// Pid in the guest's numbering.
    #[prost(uint32, tag = "1")]
    pub pid: u32,
    /// Pid of the parent in the guest's numbering.
    #[prost(uint32, tag = "2")]
    pub ppid: u32,
    /// Pid in the numbering of the process's own pid namespace.
    #[prost(uint32, tag = "3")]
    pub inner_pid: u32,
    /// Pid of the parent as seen in the container; 0 if the parent is outside of it.
    #[prost(uint32, tag = "4")]
    pub inner_ppid: u32,
    /// Effective user.
    #[prost(uint32, tag = "5")]
    pub uid: u32,
    /// State letter as `ps` shows it (`R`, `S`, `Z`), an ASCII code.
    #[prost(uint32, tag = "6")]
    pub state: u32,
    /// Processor time, milliseconds.
    #[prost(uint64, tag = "7")]
    pub cpu_time_ms: u64,
    /// Start time: the guest's wall clock, milliseconds since 1970.
    #[prost(uint64, tag = "8")]
    pub start_time_ms: u64,
    /// Name of the program (`comm`), at most 15 bytes.
    #[prost(bytes = "vec", tag = "9")]
    pub name: Vec<u8>,
    /// Arguments, each ended by a zero byte, cut at a limit; empty for a zombie.
    #[prost(bytes = "vec", tag = "10")]
    pub args: Vec<u8>,
    /// Resident memory.
    #[prost(uint64, tag = "11")]
    pub resident_bytes: u64,
    /// Number of the controlling terminal below `/dev/pts`, if there is one.
    #[prost(uint32, optional, tag = "12")]
    pub terminal: Option<u32>,
}

/// Step of create or start that failed; the exit code is chosen by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum FailedStep {
    /// Unspecified, or newer than this build.
    Unknown = 0,
    /// The spec itself is wrong or over a limit.
    Spec = 1,
    /// Disk or filesystem of the container.
    Mount = 2,
    /// Cgroup and its limits.
    Cgroup = 3,
    /// Namespaces, hostname, sysctls.
    Namespace = 4,
    /// User or group not found, or not permitted.
    User = 5,
    /// Working directory.
    WorkingDirectory = 6,
    /// Capabilities, seccomp, rlimits, no_new_privs.
    Confinement = 7,
    /// A stdio stream is missing.
    Stream = 8,
    /// The program is not found: exit code 127.
    ExecNotFound = 9,
    /// The program exists but cannot be executed: exit code 126.
    ExecRefused = 10,
}

/// First frame of a stream connection, from host to agent. The agent does not answer: raw bytes follow.
#[derive(Clone, PartialEq, Message)]
pub struct StreamHello {
    /// Nonce of the session.
    #[prost(bytes = "vec", tag = "1")]
    pub nonce: Vec<u8>,
    /// Container id.
    #[prost(string, tag = "2")]
    pub container: String,
    /// Stream that this connection carries.
    #[prost(enumeration = "StreamKind", tag = "3")]
    pub stream: i32,
}

/// Stdio stream of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum StreamKind {
    /// Unspecified.
    Unspecified = 0,
    /// Input, from host to container.
    Stdin = 1,
    /// Output, from container to host.
    Stdout = 2,
    /// Error output, from container to host.
    Stderr = 3,
    /// The container's terminal, in both directions.
    Terminal = 4,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Address;

    #[test]
    fn a_response_names_its_request() {
        let address = Address {
            address: vec![10, 89, 0, 2],
            prefix_bits: 24,
            gateway: vec![10, 89, 0, 1],
        };
        let network = Network {
            addresses: vec![address],
            mtu: 1500,
            resolvers: vec![vec![169, 254, 7, 7], vec![0; 16]],
        };
        let request = HostMessage {
            request_id: u64::MAX,
            kind: Some(host_message::Kind::ConfigureNetwork(ConfigureNetwork {
                container: "c".into(),
                network,
            })),
        };
        let wire = request.encode_to_vec();
        assert_eq!(HostMessage::decode(wire.as_slice()).unwrap(), request);
        let response = AgentMessage {
            request_id: u64::MAX,
            kind: Some(agent_message::Kind::Done(Done {})),
        };
        let wire = response.encode_to_vec();
        assert_eq!(AgentMessage::decode(wire.as_slice()).unwrap(), response);
    }

    #[test]
    fn processes_come_back_and_are_bounded() {
        let process = |pid| Process {
            pid,
            args: b"a\0b".to_vec(),
            ..Process::default()
        };
        let listed = |packed| Listed {
            packed,
            ..Listed::default()
        };
        let some = [process(1), process(7)];
        assert_eq!(listed(Listed::pack(&some)).processes().unwrap(), some);
        // Millions of empty ones fit into a frame.
        let many = listed(vec![0; 4 << 20]);
        assert_eq!(many.processes().unwrap().len(), PROCESSES_MAX);
        assert!(listed(vec![9, 1]).processes().is_err());
    }
}
