//! The container init: a fresh, single-threaded process that turns itself into the container's program.
//!
//! It is PID 1 of the container's pid namespace and sits in its cgroup from its first instruction. Its standard input
//! is the control socket: the order to [`Prepare`](Order::Prepare) comes in, [`Created`] goes out with the agent's ends
//! of the streams, [`Start`](Order::Start) comes in, and then either the socket closes (the program runs) or
//! [`Failed`](Report::Failed) goes out. A container init that [`join`]s a container is not in the container's pid
//! namespace, and forks the process that does the same.

mod join;
mod streams;

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use capsid_protocol::message::agent_message::Kind as Report;
use capsid_protocol::process::init_order::Kind as Order;
use capsid_protocol::process::process_spec::Kind as Process;
use capsid_protocol::spec::{Rlimit, Task};
use capsid_protocol::{
    AgentMessage, ContainerSpec, Created, ExecSpec, FailedStep, FrameError, InitOrder, Stdio, TaskSpec, frame,
    read_frame, write_frame,
};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;
use rustix::process::{DumpableBehavior, Pid};

use crate::beneath::Root;
use crate::capability::{PrivilegeError, become_user};
use crate::disk::{DiskError, STAGING, add_slots, mount_root};
use crate::exec::{self, ExecError};
use crate::limits::STAGING_TMPFS;
use crate::mount::{self, MountError};
use crate::namespaces::{self, NamespaceError};
use crate::network::Device;
use crate::plan::plan;
use crate::pod_init::{self, PodInitError};
use crate::rootfs::{self, StepError};
use crate::task::{self, Prepared};
use crate::user::{Identity, UserError, resolve};
use crate::{control, failure, init, pod, sys};
use streams::{Streams, find_null, make_streams, take_streams};

/// Failed step of a container init.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InitError {
    /// The control socket failed.
    #[error("the agent's control socket failed")]
    Control(#[source] FrameError),
    /// The streams' ends could not be handed over.
    #[error("cannot hand over the streams")]
    HandOver(#[source] FrameError),
    /// The agent sent an unexpected message.
    #[error("unexpected message from the agent")]
    Unexpected,
    /// The namespaces of the container cannot be joined.
    #[error("cannot join the container's namespaces")]
    Join(#[source] Errno),
    /// New namespaces cannot be made.
    #[error("cannot make the namespaces")]
    Namespaces(#[source] Errno),
    /// The new namespaces cannot be set up.
    #[error(transparent)]
    SetUp(#[from] NamespaceError),
    /// The first process of a pod's pid namespace failed.
    #[error(transparent)]
    PodInit(#[from] PodInitError),
    /// Mount propagation cannot be turned off.
    #[error("cannot make the mounts private")]
    Private(#[source] Errno),
    /// Protection from being traced and read cannot be set.
    #[error("cannot become non-dumpable")]
    Dumpable(#[source] Errno),
    /// The score for the out-of-memory killer cannot be set.
    #[error("cannot set the out-of-memory score")]
    OomScore(#[source] std::io::Error),
    /// The tmpfs in which the container init assembles the root cannot be mounted.
    #[error("cannot mount the staging tmpfs")]
    Staging(#[source] MountError),
    /// The disks cannot be mounted.
    #[error("cannot mount the root")]
    Disk(#[source] DiskError),
    /// The assembled root cannot be opened or entered.
    #[error("cannot enter the root")]
    Root(#[source] Errno),
    /// A step of the plan failed.
    #[error("cannot prepare the root")]
    Step(#[source] StepError),
    /// User and groups cannot be resolved; the message uses docker's own words.
    #[error(transparent)]
    User(UserError),
    /// The working directory cannot be entered.
    #[error("cannot change to the working directory {path}")]
    WorkingDirectory { path: String, source: Errno },
    /// The streams cannot be set up.
    #[error("cannot make the streams")]
    Streams(#[source] Errno),
    /// The session or its terminal cannot be set up.
    #[error("cannot make the terminal the controlling one")]
    ControllingTerminal(#[source] Errno),
    /// The session keyring cannot be joined.
    #[error("cannot join a session keyring")]
    Keyring(#[source] Errno),
    /// A resource limit cannot be set.
    #[error("cannot set resource limit {resource}")]
    Rlimit { resource: u32, source: Errno },
    /// `no_new_privs` cannot be set.
    #[error("cannot set no_new_privs")]
    NoNewPrivileges(#[source] Errno),
    /// The seccomp program cannot be installed.
    #[error("cannot install the seccomp program")]
    Seccomp(#[source] Errno),
    /// User, groups or capabilities cannot be changed.
    #[error("cannot change privileges")]
    Privileges(#[source] PrivilegeError),
    /// No process can be forked for the program under an init.
    #[error("cannot fork the program")]
    Fork(#[source] Errno),
    /// The program itself cannot be executed; the message uses docker's own words.
    #[error(transparent)]
    Exec(ExecError),
}

impl InitError {
    /// Returns the protocol's name of the step.
    fn step(&self) -> FailedStep {
        match self {
            Self::Control(_) | Self::Unexpected | Self::HandOver(_) | Self::Fork(_) => FailedStep::Unknown,
            Self::Join(_) | Self::Namespaces(_) | Self::Private(_) | Self::SetUp(_) => FailedStep::Namespace,
            Self::PodInit(error) => error.step(),
            Self::WorkingDirectory { .. } | Self::Step(StepError::WorkingDirectory { .. }) => {
                FailedStep::WorkingDirectory
            }
            Self::Staging(_) | Self::Disk(_) | Self::Root(_) | Self::Step(_) => FailedStep::Mount,
            Self::User(_) => FailedStep::User,

            Self::Streams(_) | Self::ControllingTerminal(_) => FailedStep::Stream,
            Self::Dumpable(_)
            | Self::Keyring(_)
            | Self::Rlimit { .. }
            | Self::NoNewPrivileges(_)
            | Self::OomScore(_) => FailedStep::Confinement,
            Self::Seccomp(_) | Self::Privileges(_) => FailedStep::Confinement,
            Self::Exec(ExecError::NotInPath(_) | ExecError::NotFound { .. }) => FailedStep::ExecNotFound,
            Self::Exec(ExecError::Refused { .. }) => FailedStep::ExecRefused,
        }
    }
}

/// Runs the container init. Returns the exit code if there is anything left to exit.
pub(crate) fn run() -> i32 {
    let Ok(control) = sys::take_standard_stream(0) else {
        return 1;
    };
    let mut control = UnixStream::from(control);
    let Ok((order, fds)) = receive_order(&control) else {
        return 1;
    };
    let id = match &order.kind {
        Some(Order::Prepare(process)) => process.id().to_owned(),
        _ => String::new(),
    };
    let error = match handle_order(order, fds, &mut control) {
        Ok(exit_code) => return exit_code,
        Err(error) => error,
    };
    let failed = failure::failed(&id, error.step(), &error);
    // Without the agent nobody can be notified.
    let _ = write_frame(&mut control, &AgentMessage::from(Report::Failed(failed)));
    1
}

/// Receives the first order and the descriptors that come with it.
fn receive_order(control: &UnixStream) -> Result<(InitOrder, Vec<OwnedFd>), FrameError> {
    let (body, fds) = control::receive(control)?;
    Ok((frame::decode_body(&body)?, fds))
}

/// Carries out the first order. The program's process, when it is a child of this one or of the agent, reports and ends
/// by itself.
fn handle_order(order: InitOrder, fds: Vec<OwnedFd>, control: &mut UnixStream) -> Result<i32, InitError> {
    let process = match order.kind {
        Some(Order::Prepare(process)) => process.kind,
        Some(Order::ReapPod(_)) => return pod_init::be_first().map_err(InitError::PodInit),
        Some(Order::Start(_)) | None => None,
    };
    match process.ok_or(InitError::Unexpected)? {
        Process::Container(spec) => become_program(*spec, fds, control),
        Process::Exec(spec) => join::become_exec_process(*spec, fds, control),
        Process::Task(spec) if spec.is_running => join::become_task_beside(&spec, fds, control),
        Process::Task(spec) => become_task(&spec, fds, control),
    }
}

/// Runs all steps of a container init. Returns the exit code of an init, or the error; does not return once a program
/// runs.
fn become_program(spec: ContainerSpec, fds: Vec<OwnedFd>, control: &mut UnixStream) -> Result<i32, InitError> {
    leave_agent(&spec, fds)?;
    let identity = |root: &Root| resolve(root, &spec.user, &spec.additional_groups).map_err(InitError::User);
    let (root, streams, identity) = make_root(&spec, spec.stdio(), identity)?;
    mount::enter(&root).map_err(InitError::Root)?;
    rustix::process::chdir(spec.cwd.as_str()).map_err(|source| InitError::WorkingDirectory {
        path: spec.cwd.clone(),
        source,
    })?;
    let own = hand_over(&spec.id, streams, control)?;
    wait_for_start(control)?;
    take_streams(spec.stdio(), &own)?;
    drop(own);
    confine(&Confinement::of(&spec), &identity)?;
    let env = with_home(spec.env, &identity);
    if !spec.init {
        return Err(execute(&spec.args, &env));
    }
    let (unconnected, _) = UnixStream::pair().map_err(|e| InitError::Control(FrameError::Io(e)))?;
    match sys::fork().map_err(InitError::Fork)? {
        None => {
            lead_foreground(spec.terminal.is_some());
            Err(execute(&spec.args, &env))
        }
        Some(program) => {
            // Our copy would keep the agent from seeing that the program's exec closed the other.
            *control = unconnected;
            Ok(init::supervise(program))
        }
    }
}

/// Runs all steps of a container init that performs a task as root, in place of the container's program. Returns its
/// exit code.
fn become_task(spec: &TaskSpec, fds: Vec<OwnedFd>, control: &mut UnixStream) -> Result<i32, InitError> {
    leave_agent(&spec.container, fds)?;
    let task = prepare_task(&spec.task, &spec.container)?;
    let (root, streams, _) = make_root(&spec.container, spec.stdio(), |_| Ok(Identity::root()))?;
    mount::enter(&root).map_err(InitError::Root)?;
    do_task(spec, task, streams, control)
}

/// Prepares a task from the agent's own folders, while they are there.
fn prepare_task(task: &Task, container: &ContainerSpec) -> Result<Prepared, InitError> {
    let kind = task.kind.clone().ok_or(InitError::Unexpected)?;
    task::prepare(kind, container).map_err(InitError::Disk)
}

/// Performs the task in place of a program. Returns its exit code.
fn do_task(spec: &TaskSpec, task: Prepared, streams: Streams, control: &mut UnixStream) -> Result<i32, InitError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = Root::new(rustix::fs::open("/", flags, Mode::empty()).map_err(InitError::Root)?);
    let own = hand_over(&spec.id, streams, control)?;
    wait_for_start(control)?;
    take_streams(spec.stdio(), &own)?;
    drop(own);
    let (unconnected, _) = UnixStream::pair().map_err(|e| InitError::Control(FrameError::Io(e)))?;
    // Closing it tells the agent that the task has begun.
    *control = unconnected;
    Ok(task::execute(&root, task))
}

/// Makes new namespaces and their contents, while the agent's `/proc` is still there.
fn leave_agent(spec: &ContainerSpec, pod: Vec<OwnedFd>) -> Result<(), InitError> {
    // A failure leaves only the default, which the pid namespace makes harmless.
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    rustix::process::umask(Mode::empty());
    let device = match (&spec.network, &spec.pod) {
        (Some(_), None) => Some(Device::here().map_err(NamespaceError::Network)?),
        _ => None,
    };
    match &spec.pod {
        None => sys::unshare_namespaces().map_err(InitError::Namespaces)?,
        Some(_) => {
            pod::enter(&pod).map_err(InitError::Join)?;
            sys::unshare_own_namespaces().map_err(InitError::Namespaces)?;
        }
    }
    drop(pod);
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(InitError::Private)?;
    if spec.pod.is_none() {
        namespaces::set_up(spec, device)?;
    }
    fs::write("/proc/self/oom_score_adj", "0").map_err(InitError::OomScore)
}

/// Assembles the complete root. Returns its path, the streams, and the identity of the process, which is found in the
/// root.
fn make_root(
    spec: &ContainerSpec,
    stdio: Stdio,
    find_identity: impl FnOnce(&Root) -> Result<Identity, InitError>,
) -> Result<(std::path::PathBuf, Streams, Identity), InitError> {
    mount::filesystem("tmpfs", &[("size", STAGING_TMPFS), ("mode", "0755")], &[], 0)
        .and_then(|m| mount::attach(&m, CWD, STAGING))
        .map_err(InitError::Staging)?;
    add_slots(&spec.slots).map_err(InitError::Disk)?;
    let path = mount_root(&spec.root).map_err(InitError::Disk)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = Root::new(rustix::fs::open(&path, flags, Mode::empty()).map_err(InitError::Root)?);
    let terminal = rootfs::execute(&root, &plan(spec), spec).map_err(InitError::Step)?;
    let identity = find_identity(&root)?;
    let streams = make_streams(stdio, || null(&root), terminal, &identity).map_err(InitError::Streams)?;
    Ok((path, streams, identity))
}

/// Opens the null device as the container's input: its own, otherwise one that the agent makes.
fn null(root: &Root) -> Result<OwnedFd, Errno> {
    match find_null(root)? {
        Some(found) => Ok(found),
        None => rootfs::null_device(OFlags::RDONLY),
    }
}

/// Sends `Created` with the agent's ends.
fn hand_over(id: &str, streams: Streams, control: &UnixStream) -> Result<Vec<OwnedFd>, InitError> {
    let created = Created { container: id.into() };
    let message = AgentMessage::from(Report::Created(created));
    let bytes = frame::encode_frame(&message).map_err(InitError::Control)?;
    let fds: Vec<BorrowedFd<'_>> = streams.agent.iter().map(AsFd::as_fd).collect();
    control::send(control, &bytes, &fds).map_err(InitError::HandOver)?;
    Ok(streams.own)
}

/// Waits for the agent's `Start`.
fn wait_for_start(control: &mut UnixStream) -> Result<(), InitError> {
    match read_frame::<InitOrder>(control).map_err(InitError::Control)?.kind {
        Some(Order::Start(_)) => Ok(()),
        Some(Order::Prepare(_) | Order::ReapPod(_)) | None => Err(InitError::Unexpected),
    }
}

/// Confinement of a program.
struct Confinement<'a> {
    rlimits: &'a [Rlimit],
    no_new_privs: bool,
    capabilities: u64,
    seccomp: &'a [u8],
}

impl<'a> Confinement<'a> {
    fn of(spec: &'a ContainerSpec) -> Self {
        Self {
            rlimits: &spec.rlimits,
            no_new_privs: spec.no_new_privs,
            capabilities: spec.capabilities,
            seccomp: &spec.seccomp,
        }
    }

    fn of_exec(spec: &'a ExecSpec) -> Self {
        Self {
            rlimits: &spec.rlimits,
            no_new_privs: spec.no_new_privs,
            capabilities: spec.capabilities,
            seccomp: &spec.seccomp,
        }
    }
}

/// Drops the agent's privileges, in runc's order: without `no_new_privs` only `CAP_SYS_ADMIN` may install a filter, so
/// it is installed before that is dropped; with it, last, so that the filter need not allow the steps.
fn confine(program: &Confinement<'_>, identity: &Identity) -> Result<(), InitError> {
    match sys::join_session_keyring() {
        // A kernel without keyrings has none to share.
        Ok(()) | Err(Errno::NOSYS) => {}
        Err(e) => return Err(InitError::Keyring(e)),
    }
    for limit in program.rlimits {
        sys::set_rlimit(limit.resource, limit.soft, limit.hard).map_err(|source| InitError::Rlimit {
            resource: limit.resource,
            source,
        })?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    if program.no_new_privs {
        rustix::thread::set_no_new_privs(true).map_err(InitError::NoNewPrivileges)?;
        become_user(identity, program.capabilities).map_err(InitError::Privileges)?;
    }
    if !program.seccomp.is_empty() {
        sys::install_seccomp(program.seccomp).map_err(InitError::Seccomp)?;
    }
    if !program.no_new_privs {
        become_user(identity, program.capabilities).map_err(InitError::Privileges)?;
    }
    Ok(())
}

/// Adds a `HOME` to `env` if it has none: the user's own.
fn with_home(mut env: Vec<Vec<u8>>, identity: &Identity) -> Vec<Vec<u8>> {
    if !env.iter().any(|v| v.starts_with(b"HOME=")) {
        env.push([b"HOME=", identity.home.as_slice()].concat());
    }
    env
}

/// Under an init: makes a process group of the program's own, in the terminal's foreground, so that the keys reach only
/// the program.
fn lead_foreground(has_terminal: bool) {
    let own: Option<Pid> = None;
    let group = rustix::process::setpgid(own, own).and_then(|()| rustix::process::getpgid(own));
    if let (Ok(group), true) = (group, has_terminal) {
        // Refused only for a terminal that hung up.
        let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), group);
    }
}

/// Replaces the process with the program. Returns only the error.
fn execute(args: &[Vec<u8>], env: &[Vec<u8>]) -> InitError {
    if let Err(e) = sys::close_on_exec_from(3) {
        return InitError::Streams(e);
    }
    sys::reset_signals();
    InitError::Exec(exec::execute(args, env))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> Identity {
        Identity {
            uid: 33,
            gid: 33,
            groups: vec![33],
            home: b"/var/www".to_vec(),
        }
    }

    #[test]
    fn home_is_the_users_unless_the_spec_says() {
        assert_eq!(
            with_home(vec![b"A=1".to_vec()], &web()),
            [b"A=1".to_vec(), b"HOME=/var/www".to_vec()]
        );
        assert_eq!(with_home(vec![b"HOME=/x".to_vec()], &web()), [b"HOME=/x".to_vec()]);
    }

    #[test]
    fn a_failure_carries_its_step_and_the_deepest_errno() {
        let error = InitError::Disk(DiskError::Mount {
            disk: "scratch",
            source: MountError::Make {
                filesystem: "ext4",
                source: Errno::IO,
            },
        });
        let failed = failure::failed("id", error.step(), &error);
        assert_eq!(
            (failed.step(), failed.errno),
            (FailedStep::Mount, Errno::IO.raw_os_error())
        );
        assert!(
            failed
                .message
                .ends_with("cannot make the ext4 filesystem: input/output error"),
            "{}",
            failed.message
        );
    }

    #[test]
    fn dockers_exit_codes_follow_from_the_stage() {
        let absent = InitError::Exec(ExecError::NotInPath("x".into()));
        let refused = InitError::Exec(ExecError::Refused {
            name: "x".into(),
            source: Errno::ACCESS,
        });
        assert_eq!(
            (absent.step(), refused.step()),
            (FailedStep::ExecNotFound, FailedStep::ExecRefused)
        );
    }
}
