//! Specs of processes: a container, a program beside a container's own, and a task of the agent.

use prost::{Message, Oneof};

use crate::message::StreamKind;
use crate::spec::{ContainerSpec, Rlimit, Task, TerminalSize, Unit};

/// Description of a process that the host asks for.
#[derive(Clone, PartialEq, Message)]
pub struct ProcessSpec {
    /// Kind of the process; absent means newer than this build.
    #[prost(oneof = "process_spec::Kind", tags = "1, 2, 3")]
    pub kind: Option<process_spec::Kind>,
}

/// Kinds of [`ProcessSpec`].
pub mod process_spec {
    use super::*;

    /// Purpose of a process.
    #[derive(Clone, PartialEq, Oneof)]
    pub enum Kind {
        /// Program of a container, which is created for it and ends with it.
        #[prost(message, tag = "1")]
        Container(Box<ContainerSpec>),
        /// Program beside that of a running container (`exec`).
        #[prost(message, tag = "2")]
        Exec(Box<super::ExecSpec>),
        /// Task that the agent itself performs on a container's files.
        #[prost(message, tag = "3")]
        Task(Box<super::TaskSpec>),
    }
}

impl From<ContainerSpec> for ProcessSpec {
    fn from(spec: ContainerSpec) -> Self {
        Self {
            kind: Some(process_spec::Kind::Container(Box::new(spec))),
        }
    }
}

impl From<ExecSpec> for ProcessSpec {
    fn from(spec: ExecSpec) -> Self {
        Self {
            kind: Some(process_spec::Kind::Exec(Box::new(spec))),
        }
    }
}

impl From<TaskSpec> for ProcessSpec {
    fn from(spec: TaskSpec) -> Self {
        Self {
            kind: Some(process_spec::Kind::Task(Box::new(spec))),
        }
    }
}

impl ProcessSpec {
    /// Returns the id by which messages name the process; empty for an unknown kind.
    #[must_use]
    pub fn id(&self) -> &str {
        match &self.kind {
            Some(process_spec::Kind::Container(spec)) => &spec.id,
            Some(process_spec::Kind::Exec(spec)) => &spec.id,
            Some(process_spec::Kind::Task(spec)) => &spec.id,
            None => "",
        }
    }

    /// Returns the standard streams of the process.
    #[must_use]
    pub fn stdio(&self) -> Stdio {
        match &self.kind {
            Some(process_spec::Kind::Container(spec)) => spec.stdio(),
            Some(process_spec::Kind::Exec(spec)) => spec.stdio(),
            Some(process_spec::Kind::Task(spec)) => spec.stdio(),
            None => Stdio::default(),
        }
    }
}

/// Description of a program beside that of a running container. It has the container's namespaces, cgroup and device
/// rules.
#[derive(Clone, PartialEq, Message)]
pub struct ExecSpec {
    /// Id of the process: 64 lower-case hexadecimal digits. `Start`, `Signal`, `Resize` and stream connections name it.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Id of the running container.
    #[prost(string, tag = "2")]
    pub container: String,
    /// Program and arguments, `args[0]` looked up in `PATH`. Byte strings: not always UTF-8.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub args: Vec<Vec<u8>>,
    /// Environment, `NAME=value` each.
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub env: Vec<Vec<u8>>,
    /// Working directory, absolute; not created if missing.
    #[prost(string, tag = "5")]
    pub cwd: String,
    /// `user[:group]`, names or numbers, resolved from the container's own files; empty is root.
    #[prost(string, tag = "6")]
    pub user: String,
    /// Supplementary groups, names or numbers.
    #[prost(string, repeated, tag = "7")]
    pub additional_groups: Vec<String>,
    /// Terminal with its first size, in place of three pipes.
    #[prost(message, optional, tag = "8")]
    pub terminal: Option<TerminalSize>,
    /// Whether a stdin stream follows; with a terminal: whether input follows.
    #[prost(bool, tag = "9")]
    pub stdin: bool,
    /// Capabilities of the bounding, permitted and effective sets: bit n is capability number n.
    #[prost(uint64, tag = "10")]
    pub capabilities: u64,
    /// Whether to set `no_new_privs`.
    #[prost(bool, tag = "11")]
    pub no_new_privs: bool,
    /// Seccomp program, as in [`ContainerSpec::seccomp`].
    #[prost(bytes = "vec", tag = "12")]
    pub seccomp: Vec<u8>,
    /// Resource limits.
    #[prost(message, repeated, tag = "13")]
    pub rlimits: Vec<Rlimit>,
}

impl ExecSpec {
    /// Returns the standard streams.
    #[must_use]
    pub fn stdio(&self) -> Stdio {
        Stdio {
            terminal: self.terminal,
            stdin: self.stdin,
        }
    }
}

/// Description of a task that the agent performs in a container, in place of a program. The task's kind defines what it
/// reads from stdin and writes to stdout; its stderr is text for people, and its exit code is 0 on success.
#[derive(Clone, PartialEq, Message)]
pub struct TaskSpec {
    /// Id of the process: that of the container, unless the container runs.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Task to perform.
    #[prost(message, required, tag = "2")]
    pub task: Task,
    /// Container on whose files the task works. If it runs, only `id` and what names its files are used: `root`,
    /// `mounts`, `files` and `devices`. Otherwise the container is created for the task, and its program does not run.
    #[prost(message, required, tag = "3")]
    pub container: ContainerSpec,
    /// Whether the container runs, and the process joins it.
    #[prost(bool, tag = "4")]
    pub is_running: bool,
    /// Whether the task takes input.
    #[prost(bool, tag = "5")]
    pub stdin: bool,
}

impl TaskSpec {
    /// Returns the standard streams.
    #[must_use]
    pub fn stdio(&self) -> Stdio {
        Stdio {
            terminal: None,
            stdin: self.stdin,
        }
    }
}

impl ContainerSpec {
    /// Returns the standard streams of the container's program.
    #[must_use]
    pub fn stdio(&self) -> Stdio {
        Stdio {
            terminal: self.terminal,
            stdin: self.stdin,
        }
    }
}

/// Standard streams of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stdio {
    /// Terminal with its first size, in place of three pipes.
    pub terminal: Option<TerminalSize>,
    /// Whether there is input.
    pub stdin: bool,
}

impl Stdio {
    /// Returns the streams between host and process, in the order in which they are handed over.
    #[must_use]
    pub fn streams(&self) -> &'static [StreamKind] {
        match (self.terminal.is_some(), self.stdin) {
            (true, _) => &[StreamKind::Terminal],
            (false, true) => &[StreamKind::Stdin, StreamKind::Stdout, StreamKind::Stderr],
            (false, false) => &[StreamKind::Stdout, StreamKind::Stderr],
        }
    }
}

/// Order of the agent to a container init, which is the same binary.
#[derive(Clone, PartialEq, Message)]
pub struct InitOrder {
    /// Kind of the order.
    #[prost(oneof = "init_order::Kind", tags = "1, 2, 3")]
    pub kind: Option<init_order::Kind>,
}

/// Kinds of [`InitOrder`].
pub mod init_order {
    use super::*;

    /// Purpose of an order.
    #[derive(Clone, PartialEq, Oneof)]
    pub enum Kind {
        /// Prepares to become this process, up to the point before its program is executed.
        #[prost(message, tag = "1")]
        Prepare(Box<super::ProcessSpec>),
        /// Becomes the first process of a pod's pid namespace, which only reaps.
        #[prost(message, tag = "2")]
        ReapPod(super::Unit),
        /// Executes the prepared program, or begins the task.
        #[prost(message, tag = "3")]
        Start(super::Unit),
    }
}

impl From<init_order::Kind> for InitOrder {
    fn from(kind: init_order::Kind) -> Self {
        Self { kind: Some(kind) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_names_its_streams() {
        let exec = ExecSpec {
            id: "e".into(),
            stdin: true,
            ..ExecSpec::default()
        };
        let exec = ProcessSpec::from(exec);
        assert_eq!((exec.id(), exec.stdio().streams().len()), ("e", 3));
        let container = ContainerSpec {
            terminal: Some(TerminalSize::default()),
            ..ContainerSpec::default()
        };
        let terminal = ProcessSpec::from(container).stdio();
        assert_eq!(terminal.streams(), [StreamKind::Terminal]);
        assert_eq!(ProcessSpec::from(TaskSpec::default()).stdio().streams().len(), 2);
        assert_eq!(ProcessSpec::default().id(), "");
    }
}
