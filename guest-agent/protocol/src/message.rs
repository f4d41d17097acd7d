//! What host and agent say to each other. Tags are part of the contract: never reuse one.

use prost::{Enumeration, Message, Oneof};

use crate::spec::{ContainerSpec, Limits, Network};
pub use crate::upkeep::{FreePart, KeepFree, Ping, Pong};

/// From host to agent.
#[derive(Clone, PartialEq, Message)]
pub struct HostMessage {
    /// What is said; absent means a message newer than this build.
    #[prost(oneof = "host_message::Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13")]
    pub kind: Option<host_message::Kind>,
}

/// The kinds of [`HostMessage`].
pub mod host_message {
    use super::*;

    /// One intent of the host.
    #[derive(Clone, PartialEq, Oneof)]
    pub enum Kind {
        /// First message of a session.
        #[prost(message, tag = "1")]
        Hello(super::Hello),
        /// Make a container up to the point before its program is executed.
        #[prost(message, tag = "2")]
        Create(Box<ContainerSpec>),
        /// Execute the program of a created container.
        #[prost(message, tag = "3")]
        Start(super::Start),
        /// Send a signal to a container.
        #[prost(message, tag = "4")]
        Signal(super::Signal),
        /// The user's terminal has a new size.
        #[prost(message, tag = "5")]
        Resize(super::Resize),
        /// Stop what still runs, unmount, turn the machine off.
        #[prost(message, tag = "6")]
        Shutdown(super::Shutdown),
        /// Stop or resume every process of a container.
        #[prost(message, tag = "7")]
        Freeze(super::Freeze),
        /// Tell what a container uses.
        #[prost(message, tag = "8")]
        Measure(super::Measure),
        /// Tell the processes of a container.
        #[prost(message, tag = "9")]
        List(super::List),
        /// Change the limits of a container.
        #[prost(message, tag = "10")]
        Update(super::Update),
        /// Change the addresses of a container's network device.
        #[prost(message, tag = "11")]
        ConfigureNetwork(super::ConfigureNetwork),
        /// Show that the agent is alive.
        #[prost(message, tag = "12")]
        Ping(super::Ping),
        /// Keep part of disks free.
        #[prost(message, tag = "13")]
        KeepFree(super::KeepFree),
    }
}

/// From agent to host: hostile bytes to the host.
#[derive(Clone, PartialEq, Message)]
pub struct AgentMessage {
    /// What is said; absent means a message newer than this build.
    #[prost(oneof = "agent_message::Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11")]
    pub kind: Option<agent_message::Kind>,
}

/// The kinds of [`AgentMessage`].
pub mod agent_message {
    use super::*;

    /// One report of the agent.
    #[derive(Clone, PartialEq, Oneof)]
    pub enum Kind {
        /// Answer to the host's `Hello`.
        #[prost(message, tag = "1")]
        Hello(super::Hello),
        /// The container exists; its program is not yet executed.
        #[prost(message, tag = "2")]
        Created(super::Created),
        /// The container's program runs: `execve` succeeded.
        #[prost(message, tag = "3")]
        Started(super::Started),
        /// A request failed; after `Create` or `Start` the container is gone.
        #[prost(message, tag = "4")]
        Failed(super::Failed),
        /// The container ended and its output is drained.
        #[prost(message, tag = "5")]
        Stopped(super::Stopped),
        /// Answer to `Freeze`: the container's processes are all in the state asked for.
        #[prost(message, tag = "6")]
        Frozen(super::Frozen),
        /// Answer to `Measure`.
        #[prost(message, tag = "7")]
        Measured(super::Measured),
        /// Answer to `List`.
        #[prost(message, tag = "8")]
        Listed(super::Listed),
        /// Answer to `Update`: the limits hold.
        #[prost(message, tag = "9")]
        Updated(super::Updated),
        /// Answer to `ConfigureNetwork`: the addresses and routes hold.
        #[prost(message, tag = "10")]
        NetworkConfigured(super::NetworkConfigured),
        /// Answer to `Ping`.
        #[prost(message, tag = "11")]
        Pong(super::Pong),
    }
}

/// Opens a session, in both directions.
#[derive(Clone, PartialEq, Message)]
pub struct Hello {
    /// [`crate::VERSION`] of the sender; unequal versions refuse each other.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// The sender's build, for messages to people only.
    #[prost(string, tag = "2")]
    pub build: String,
    /// Chosen by the host; the agent sends it back, and every [`StreamHello`] carries it.
    #[prost(bytes = "vec", tag = "3")]
    pub nonce: Vec<u8>,
    /// Agent to host: nanoseconds from kernel entry to the agent's first instruction (`CLOCK_BOOTTIME`).
    #[prost(uint64, tag = "5")]
    pub agent_start_ns: u64,
    /// Host to agent: 32 bytes of entropy credited to the guest's pool, so that first reads do not wait.
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

/// Tells the size of the user's terminal, in characters.
#[derive(Clone, PartialEq, Message)]
pub struct Resize {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container: String,
    /// Lines.
    #[prost(uint32, tag = "2")]
    pub rows: u32,
    /// Characters a line.
    #[prost(uint32, tag = "3")]
    pub columns: u32,
}

/// Turns the machine off.
#[derive(Clone, PartialEq, Message)]
pub struct Shutdown {}

/// Stops (`pause`) or resumes (`unpause`) every process of a container, those that joined it included.
#[derive(Clone, PartialEq, Message)]
pub struct Freeze {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container: String,
    /// Whether they stop.
    #[prost(bool, tag = "2")]
    pub frozen: bool,
}

/// Asks what a container uses.
#[derive(Clone, PartialEq, Message)]
pub struct Measure {
    /// Container id; empty is the whole guest.
    #[prost(string, tag = "1")]
    pub container: String,
}

/// Asks for the processes of a container.
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
    /// The new limits; absent ones stay as they are.
    #[prost(message, required, tag = "2")]
    pub limits: Limits,
}

/// Gives the device of the container's network namespace, its pod's, these addresses and routes in place of those that
/// it has. The same again changes nothing. One that failed may be half done, and goes on when it is asked for again.
#[derive(Clone, PartialEq, Message)]
pub struct ConfigureNetwork {
    /// Container id. One that is no pod's must run. Empty: the pod itself, if there is none yet when it is made.
    #[prost(string, tag = "1")]
    pub container: String,
    /// All that the device is to have; the length of its packets stays as it is.
    #[prost(message, required, tag = "2")]
    pub network: Network,
}

/// The container exists.
#[derive(Clone, PartialEq, Message)]
pub struct Created {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container: String,
}

/// The container's program runs.
#[derive(Clone, PartialEq, Message)]
pub struct Started {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container: String,
    /// Its pid in the guest's own numbering: for people, never used on the host.
    #[prost(uint32, tag = "2")]
    pub pid: u32,
}

/// A request failed.
#[derive(Clone, PartialEq, Message)]
pub struct Failed {
    /// Container id, as the request named it.
    #[prost(string, tag = "1")]
    pub container: String,
    /// The step that failed.
    #[prost(enumeration = "FailedStep", tag = "2")]
    pub step: i32,
    /// `errno` of that step, 0 when there is none.
    #[prost(int32, tag = "3")]
    pub errno: i32,
    /// The step and its cause in words, one line.
    #[prost(string, tag = "4")]
    pub message: String,
    /// What failed. Only [`Request::Run`] ends the container; after any other but [`Request::ConfigureNetwork`] it is
    /// as it was.
    #[prost(enumeration = "Request", tag = "5")]
    pub request: i32,
}

/// The requests that are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum Request {
    /// `Create` or `Start`.
    Run = 0,
    /// `Freeze`.
    Freeze = 1,
    /// `Measure`.
    Measure = 2,
    /// `List`.
    List = 3,
    /// `Update`.
    Update = 4,
    /// `ConfigureNetwork`.
    ConfigureNetwork = 5,
}

/// The container ended.
#[derive(Clone, PartialEq, Message)]
pub struct Stopped {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container: String,
    /// Exit code, 0 to 255, when it exited.
    #[prost(uint32, tag = "2")]
    pub exit_code: u32,
    /// Signal that ended it, else 0.
    #[prost(uint32, tag = "3")]
    pub signal: u32,
    /// The kernel killed a process of it for its memory limit.
    #[prost(bool, tag = "4")]
    pub oom_killed: bool,
    /// A disk of it could not be unmounted, though no other container has it: nobody else may use that disk while this
    /// machine runs.
    #[prost(bool, tag = "5")]
    pub disks_busy: bool,
}

/// The container's processes are all stopped, or none is.
#[derive(Clone, PartialEq, Message)]
pub struct Frozen {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container: String,
    /// Which of the two.
    #[prost(bool, tag = "2")]
    pub frozen: bool,
}

/// What a container, or the whole guest, uses now.
#[derive(Clone, PartialEq, Message)]
pub struct Measured {
    /// Container id; empty is the whole guest.
    #[prost(string, tag = "1")]
    pub container: String,
    /// Memory charged to it, page cache included. For the whole guest: what new programs could not have.
    #[prost(uint64, tag = "2")]
    pub memory_current_bytes: u64,
    /// Its limit; absent is none. For the whole guest: its memory.
    #[prost(uint64, optional, tag = "3")]
    pub memory_max_bytes: Option<u64>,
    /// The most that was ever charged to it; 0 for the whole guest.
    #[prost(uint64, tag = "4")]
    pub memory_peak_bytes: u64,
    /// Page cache in `memory_current_bytes` that can be dropped first: docker shows memory without it.
    #[prost(uint64, tag = "5")]
    pub memory_inactive_file_bytes: u64,
    /// Processor time since its start, microseconds.
    #[prost(uint64, tag = "6")]
    pub cpu_usage_us: u64,
    /// Processes and threads.
    #[prost(uint64, tag = "7")]
    pub pids_current: u64,
    /// Their limit; absent is none.
    #[prost(uint64, optional, tag = "8")]
    pub pids_max: Option<u64>,
    /// Processes that the kernel killed for its memory limit.
    #[prost(uint64, tag = "9")]
    pub oom_kills: u64,
    /// Read from disks.
    #[prost(uint64, tag = "10")]
    pub io_read_bytes: u64,
    /// Written to disks.
    #[prost(uint64, tag = "11")]
    pub io_write_bytes: u64,
    /// Memory of the guest (`MemTotal`).
    #[prost(uint64, tag = "12")]
    pub guest_memory_total_bytes: u64,
    /// What of it new programs could have (`MemAvailable`).
    #[prost(uint64, tag = "13")]
    pub guest_memory_available_bytes: u64,
}

/// Most processes that are told of: all that a container has, unless its limit was raised far.
pub const PROCESSES_MAX: usize = 4_096;

/// The processes of a container.
#[derive(Clone, PartialEq, Message)]
pub struct Listed {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container: String,
    /// There are more than are told.
    #[prost(bool, tag = "3")]
    pub truncated: bool,
    /// [`Process`]es, each behind its length, in the order of their pids in the guest. They are taken out one by one,
    /// by [`Listed::processes`]: as a repeated field, two bytes of a frame would become a hundred of memory, however
    /// many there are.
    #[prost(bytes = "vec", tag = "4")]
    pub packed: Vec<u8>,
}

impl Listed {
    /// Packs processes.
    #[must_use]
    pub fn pack(processes: &[Process]) -> Vec<u8> {
        processes
            .iter()
            .flat_map(Message::encode_length_delimited_to_vec)
            .collect()
    }

    /// The processes, [`PROCESSES_MAX`] at most.
    ///
    /// # Errors
    /// When one of them is malformed.
    pub fn processes(&self) -> Result<Vec<Process>, prost::DecodeError> {
        let mut packed = self.packed.as_slice();
        let mut processes = Vec::new();
        while !packed.is_empty() && processes.len() < PROCESSES_MAX {
            processes.push(Process::decode_length_delimited(&mut packed)?);
        }
        Ok(processes)
    }
}

/// One process. Text in it is what the process says of itself: hostile.
#[derive(Clone, PartialEq, Message)]
pub struct Process {
    /// Its pid in the guest's own numbering.
    #[prost(uint32, tag = "1")]
    pub pid: u32,
    /// Its parent's in the same numbering.
    #[prost(uint32, tag = "2")]
    pub ppid: u32,
    /// Its pid as its own pid namespace numbers it.
    #[prost(uint32, tag = "3")]
    pub inner_pid: u32,
    /// Its parent's as seen in the container; 0 when the parent is outside of it.
    #[prost(uint32, tag = "4")]
    pub inner_ppid: u32,
    /// Effective user.
    #[prost(uint32, tag = "5")]
    pub uid: u32,
    /// The letter of its state, as `ps` shows it (`R`, `S`, `Z`), an ASCII code.
    #[prost(uint32, tag = "6")]
    pub state: u32,
    /// Processor time, milliseconds.
    #[prost(uint64, tag = "7")]
    pub cpu_time_ms: u64,
    /// When it started: the guest's wall clock, milliseconds since 1970.
    #[prost(uint64, tag = "8")]
    pub start_time_ms: u64,
    /// Name of its program (`comm`), at most 15 bytes.
    #[prost(bytes = "vec", tag = "9")]
    pub name: Vec<u8>,
    /// Arguments, each ended by a zero byte, cut at a limit; empty for a zombie.
    #[prost(bytes = "vec", tag = "10")]
    pub args: Vec<u8>,
    /// Resident memory.
    #[prost(uint64, tag = "11")]
    pub resident_bytes: u64,
    /// Number of its terminal below `/dev/pts`, when it has one.
    #[prost(uint32, optional, tag = "12")]
    pub terminal: Option<u32>,
}

/// The limits hold.
#[derive(Clone, PartialEq, Message)]
pub struct Updated {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container: String,
}

/// The addresses and routes hold.
#[derive(Clone, PartialEq, Message)]
pub struct NetworkConfigured {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container: String,
}

/// The step of create or start that failed: what the exit code is chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum FailedStep {
    /// Not said, or newer than this build.
    Unknown = 0,
    /// The spec itself is wrong or over a limit.
    Spec = 1,
    /// A disk or a filesystem of the container.
    Mount = 2,
    /// The cgroup and its limits.
    Cgroup = 3,
    /// Namespaces, hostname, sysctls.
    Namespace = 4,
    /// User or group not found, or not permitted.
    User = 5,
    /// Working directory.
    WorkingDirectory = 6,
    /// Capabilities, seccomp, rlimits, no_new_privs.
    Confinement = 7,
    /// A stdio stream did not come.
    Stream = 8,
    /// The program is not found: exit code 127.
    ExecNotFound = 9,
    /// The program is there but cannot be executed: exit code 126.
    ExecRefused = 10,
}

/// First frame of a stream connection, host to agent. The agent answers nothing: bytes follow.
#[derive(Clone, PartialEq, Message)]
pub struct StreamHello {
    /// The session's nonce.
    #[prost(bytes = "vec", tag = "1")]
    pub nonce: Vec<u8>,
    /// Container id.
    #[prost(string, tag = "2")]
    pub container: String,
    /// Which stream this connection is.
    #[prost(enumeration = "StreamKind", tag = "3")]
    pub stream: i32,
}

/// A stdio stream of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum StreamKind {
    /// Not said.
    Unspecified = 0,
    /// Host to container.
    Stdin = 1,
    /// Container to host.
    Stdout = 2,
    /// Container to host.
    Stderr = 3,
    /// Both ways: the container's terminal.
    Terminal = 4,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Address;

    #[test]
    fn other_addresses_are_asked_for_and_answered() {
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
        let asked = HostMessage {
            kind: Some(host_message::Kind::ConfigureNetwork(ConfigureNetwork {
                container: "c".into(),
                network,
            })),
        };
        let wire = asked.encode_to_vec();
        assert_eq!(HostMessage::decode(wire.as_slice()).unwrap(), asked);
        let answered = AgentMessage {
            kind: Some(agent_message::Kind::NetworkConfigured(NetworkConfigured {
                container: "c".into(),
            })),
        };
        let wire = answered.encode_to_vec();
        assert_eq!(AgentMessage::decode(wire.as_slice()).unwrap(), answered);
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
