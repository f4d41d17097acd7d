//! The container init of a process that joins a running container, in runc's order and for its reasons (`nsexec.c`).
//!
//! The container is hostile and runs. So the container init is closed to tracing and reading before it is anywhere near
//! it, it stays in the agent's pid namespace, where the container has no name for it, and everything it opens by a path
//! of the container it opens with the container's root as root. The child that the container can see inherits all of
//! that, holds no folder of the agent (CVE-2024-21626), and is confined like a container's first process.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use capsid_protocol::message::agent_message::Kind as Report;
use capsid_protocol::{AgentMessage, ExecSpec, Started, TaskSpec, frame};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::DumpableBehavior;

use super::streams::{empty_input, find_null, make_streams, take_streams};
use super::{Confinement, InitError, confine, do_task, execute, hand_over, prepare_task, wait_for_start, with_home};
use crate::beneath::Root;
use crate::control;
use crate::rootfs::StepError;
use crate::sys::{self, Spawned};
use crate::task::Prepared;
use crate::terminal::Terminal;
use crate::user::{Identity, resolve};

/// Runs all steps of a joining process. Returns the container init's exit code, or the error; `control` is then the
/// socket of the process that failed.
pub(super) fn become_exec_process(
    spec: ExecSpec,
    fds: Vec<OwnedFd>,
    control: &mut UnixStream,
) -> Result<i32, InitError> {
    leave_agent()?;
    match join(&spec.id, fds, control)? {
        Side::Init => Ok(0),
        Side::Child => Err(run(spec, control)),
    }
}

/// Runs all steps of a joining process that performs a task. Returns the exit code, or the error, as
/// [`become_exec_process`] does.
pub(super) fn become_task_beside(
    spec: &TaskSpec,
    fds: Vec<OwnedFd>,
    control: &mut UnixStream,
) -> Result<i32, InitError> {
    leave_agent()?;
    let task = prepare_task(&spec.task, &spec.container)?;
    match join(&spec.id, fds, control)? {
        Side::Init => Ok(0),
        Side::Child => run_task(spec, task, control),
    }
}

/// Protects this process from the container that it is about to meet.
fn leave_agent() -> Result<(), InitError> {
    // A container's init can do without; this one meets a container that runs.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(InitError::Dumpable)?;
    rustix::process::umask(Mode::empty());
    // The agent's own /proc: the container's may be anything.
    fs::write("/proc/self/oom_score_adj", "0").map_err(InitError::OomScore)
}

/// Process after the fork.
enum Side {
    /// The container init, whose work is done.
    Init,
    /// Child in the container, whose control socket is the current one.
    Child,
}

/// Joins the container's namespaces, and forks the process that is in all of them.
fn join(id: &str, fds: Vec<OwnedFd>, control: &mut UnixStream) -> Result<Side, InitError> {
    let [container, child_control] = <[OwnedFd; 2]>::try_from(fds).map_err(|_| InitError::Unexpected)?;
    sys::join_namespaces(container.as_fd()).map_err(InitError::Join)?;
    drop(container);
    match sys::fork_sibling().map_err(InitError::Fork)? {
        Some(child) => announce(id, &child, control).map(|()| Side::Init),
        None => {
            *control = UnixStream::from(child_control);
            Ok(Side::Child)
        }
    }
}

/// Announces the child to the agent, in the agent's own numbering.
fn announce(id: &str, child: &Spawned, control: &UnixStream) -> Result<(), InitError> {
    let message = AgentMessage::from(Report::Started(Started {
        container: id.into(),
        pid: child.pid.as_raw_nonzero().get() as u32,
    }));
    let bytes = frame::encode_frame(&message).map_err(InitError::Control)?;
    control::send(control, &bytes, &[child.pidfd.as_fd()]).map_err(InitError::HandOver)
}

/// Performs the task in the child, as root and with every right that the guest can give: it stays in the container
/// because it opens only paths beneath the container's root.
fn run_task(spec: &TaskSpec, task: Prepared, control: &mut UnixStream) -> Result<i32, InitError> {
    for number in 0..3 {
        sys::set_standard_stream(number, control.as_fd()).map_err(InitError::Streams)?;
    }
    let streams = make_streams(spec.stdio(), empty_input, None, &Identity::root()).map_err(InitError::Streams)?;
    do_task(spec, task, streams, control)
}

/// Runs the program in the child. Returns only the error.
fn run(spec: ExecSpec, control: &mut UnixStream) -> InitError {
    match prepare(&spec, control) {
        Ok(env) => execute(&spec.args, &env),
        Err(error) => error,
    }
}

/// Performs all steps before the program. Returns its environment.
fn prepare(spec: &ExecSpec, control: &mut UnixStream) -> Result<Vec<Vec<u8>>, InitError> {
    // These are the container init's socket, whose closing tells the agent of its end, and the guest's log.
    for number in 0..3 {
        sys::set_standard_stream(number, control.as_fd()).map_err(InitError::Streams)?;
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let folder = rustix::fs::open("/", flags | OFlags::CLOEXEC, Mode::empty()).map_err(InitError::Root)?;
    let root = Root::new(folder);
    let identity = resolve(&root, &spec.user, &spec.additional_groups).map_err(InitError::User)?;
    let terminal = spec.terminal.map(|_| Terminal::open(&root)).transpose();
    let terminal = terminal.map_err(|e| InitError::Step(StepError::Terminal(e)))?;
    let null = || -> Result<OwnedFd, Errno> { find_null(&root)?.map_or_else(empty_input, Ok) };
    let streams = make_streams(spec.stdio(), null, terminal, &identity).map_err(InitError::Streams)?;
    // Not chdir: a magic link of a hostile /proc would lead out of the root.
    root.open(Path::new(&spec.cwd), flags)
        .and_then(rustix::process::fchdir)
        .map_err(|source| InitError::WorkingDirectory {
            path: spec.cwd.clone(),
            source,
        })?;
    drop(root);
    let own = hand_over(&spec.id, streams, control)?;
    wait_for_start(control)?;
    take_streams(spec.stdio(), &own)?;
    drop(own);
    confine(&Confinement::of_exec(spec), &identity)?;
    Ok(with_home(spec.env.clone(), &identity))
}
