//! One life of a container in the machine of its pod: in one that boots for it, or in one that runs already.
//!
//! ```text
//! machine up ─► disks plugged ─► Create, streams, Start ─► Started ─► Stopped ─► output drained ─► machine ended
//!        └──────────── whatever ends the machine, or `SupervisedContainer::kill`, ends all of it ──────────┘
//! ```

use std::convert::Infallible;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use capsid_protocol::{ContainerSpec, Stopped};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::boot::BootError;
use super::disk_slots::{self, DiskSlots, DiskSlotsError};
use super::guest::Guest;
use super::guest_process::{GuestProcess, ProcessError, status_code};
use super::machine::{MachineDisks, MachineError};
use super::pod::{Disks, Pod};
use super::pod_machine::{self, PodError};
use super::supervised_container::{ContainerPhase, Outcome, Running, SupervisedContainer};
use super::{LAST_WORDS, container_disks, first_use, free_space, health};
use crate::clock;
use crate::control::Failure;
use crate::folders::Folders;
use crate::guest_text::GuestText;
use crate::log::LogStream;
use crate::model::{Exit, exit_code};
use crate::process::MachineEnd;
use crate::session::SessionError;
use crate::state::{State, StateError};
use crate::{sys, volumes};

/// Time limit from Create to Started: disks mounted, program executed.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Time limit for a killed container of a pod to end: afterwards the pod continues without it.
const KILL_GRACE: Duration = Duration::from_secs(5);
/// Interval of checking whether a client that does not read is all that remains of a container.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Error text for data that a container wrote, and did not sync, and that is lost.
const NO_ROOM: &str =
    "the host's disk was full when the container ended: what it had written and not synced may be lost";
/// Maximum number of lines shown of a guest's console: an oops with its registers and trace, and the panic that
/// follows.
const CONSOLE_LINES_MAX: usize = 60;

/// Error when a container did not run to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum LifecycleError {
    #[error("cannot prepare the machine")]
    Prepare(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error(transparent)]
    Pod(Failure),
    #[error("cannot give the container its disks")]
    DiskSlots(#[from] DiskSlotsError),
    #[error("cannot use a stream of the guest's")]
    Socket(#[source] std::io::Error),
    #[error("the container did not start within {} s", START_TIMEOUT.as_secs())]
    StartTimeout,
    #[error("the session with the guest failed")]
    Session(#[source] SessionError),
    #[error(transparent)]
    Process(ProcessError),
    #[error("cannot write the container's output")]
    Output(#[source] std::io::Error),
    #[error("cannot write that the container runs")]
    State(#[from] StateError),
    #[error("the machine ended: {}", .0.reason)]
    MachineEnded(MachineEnd),
    #[error("the container was killed")]
    Killed,
}

impl From<ProcessError> for LifecycleError {
    fn from(error: ProcessError) -> Self {
        match error {
            ProcessError::Session(error) => Self::Session(error),
            error => Self::Process(error),
        }
    }
}

impl From<PodError> for LifecycleError {
    fn from(error: PodError) -> Self {
        match error {
            PodError::Machine(error) => Self::Machine(error),
            PodError::Boot(error) => Self::Boot(error),
            PodError::Session(error) => Self::Session(error),
            PodError::Ended(end) => Self::MachineEnded(end),
            PodError::Stopped => Self::Killed,
        }
    }
}

impl LifecycleError {
    /// Whether the session broke, mostly because the machine is ending.
    fn is_broken_session(&self) -> bool {
        matches!(self, Self::Session(error) if error.is_broken())
    }

    fn prepare(error: anyhow::Error) -> Self {
        Self::Prepare(error.reallocate_into_boxed_dyn_error_without_backtrace())
    }
}

/// Runs the container once.
pub(super) async fn run_once(
    supervised: &Rc<SupervisedContainer>,
    state: &State,
    folders: &Folders,
    pod: &Rc<Pod>,
) -> Outcome {
    supervised.phase.send_replace(ContainerPhase::Starting);
    supervised.output.begin();
    let mut started = false;
    let lived = match (prepare_volumes(supervised, state, folders).await, &pod.disks) {
        (Err(error), _) => Err(error),
        (Ok(()), Disks::AtBoot) => run_in_new_machine(supervised, state, folders, pod, &mut started).await,
        (Ok(()), Disks::HotPlugged(slots)) => {
            run_in_running_machine(supervised, state, folders, (pod, slots), &mut started).await
        }
    };
    supervised.output.finish();
    match lived {
        Ok(stopped) => Outcome::Exited(exit(&stopped, &supervised.data)),
        // A machine that goes on writes what waits as soon as there is room.
        Err(error) => {
            let is_lost = matches!(pod.disks, Disks::AtBoot) && free_space::is_used_up(&supervised.data);
            conclude(&error, started, is_lost)
        }
    }
}

/// Prepares new volumes that the container itself will not write to.
async fn prepare_volumes(
    supervised: &SupervisedContainer,
    state: &State,
    folders: &Folders,
) -> Result<(), LifecycleError> {
    let container = supervised.container.borrow().clone();
    tokio::select! {
        prepared = first_use::prepare(folders, state, &container) => prepared.map_err(LifecycleError::prepare),
        () = supervised.kill.notified() => Err(LifecycleError::Killed),
    }
}

/// Runs the container in a machine that boots with its disks, and is gone on return.
async fn run_in_new_machine(
    supervised: &Rc<SupervisedContainer>,
    state: &State,
    folders: &Folders,
    pod: &Rc<Pod>,
    started: &mut bool,
) -> Result<Stopped, LifecycleError> {
    let disks = container_disks::boot_disks(&supervised.container.borrow(), state, folders);
    let disks = MachineDisks::AtBoot(disks.map_err(LifecycleError::prepare)?);
    let halt = Notify::new();
    let mark = |step: &str| supervised.mark(step);
    let machine = pod_machine::run(pod, folders, state, disks, halt.notified(), mark);
    let life = async {
        let lived = async {
            let guest = up(supervised, pod).await?;
            supervised.mark("agent ready");
            supervised.agent_start_ns.set(pod.agent_start_ns.get());
            let spec = supervised.container.borrow().spec.clone();
            run_until_end(supervised, state, pod, &guest, spec, started).await
        };
        let lived = lived.await;
        halt.notify_one();
        lived
    };
    // The machine first: the pod's phase is that of this machine from then on.
    let (machine_end, lived) = tokio::join!(biased; machine, life);
    supervised.mark("machine ended");
    match lived {
        // The machine has ended by itself, and its own reason is the cause of the life's.
        Err(LifecycleError::Pod(_) | LifecycleError::MachineEnded(_)) => Err(machine_end.into()),
        Err(error) if error.is_broken_session() && !matches!(machine_end, PodError::Stopped) => Err(machine_end.into()),
        lived => lived,
    }
}

/// Runs the container in a machine that continues afterwards, with its disks plugged in meanwhile.
async fn run_in_running_machine(
    supervised: &Rc<SupervisedContainer>,
    state: &State,
    folders: &Folders,
    (pod, slots): (&Rc<Pod>, &DiskSlots),
    started: &mut bool,
) -> Result<Stopped, LifecycleError> {
    let guest = up(supervised, pod).await?;
    supervised.mark("machine ready");
    let needed = container_disks::needed_slots(&supervised.container.borrow(), state, folders, slots);
    let placed = slots.plug(needed.map_err(LifecycleError::prepare)?).await?;
    supervised.mark("disks in the machine");
    let spec = disk_slots::with_slots(&supervised.container.borrow().spec, &placed);
    let lived = run_until_end(supervised, state, pod, &guest, spec, started).await;
    match &lived {
        Ok(Stopped { disks_busy: false, .. }) | Err(LifecycleError::Process(ProcessError::Failed(_))) => {
            slots.unplug(&placed).await;
        }
        _ => slots.leave(&placed),
    }
    lived
}

/// Waits until the pod's guest is up.
async fn up(supervised: &SupervisedContainer, pod: &Pod) -> Result<Rc<Guest>, LifecycleError> {
    tokio::select! {
        up = pod.up() => up.map_err(LifecycleError::Pod),
        () = supervised.kill.notified() => Err(LifecycleError::Killed),
    }
}

/// Runs the container until it stops, the machine ends, or it is killed.
async fn run_until_end(
    supervised: &Rc<SupervisedContainer>,
    state: &State,
    pod: &Rc<Pod>,
    guest: &Rc<Guest>,
    mut spec: ContainerSpec,
    started: &mut bool,
) -> Result<Stopped, LifecycleError> {
    pod.apply_to(&mut spec);
    let course = run_in(supervised, state, guest, spec, started);
    tokio::pin!(course);
    let lived = tokio::select! {
        // An end that has arrived counts, whatever follows it.
        biased;
        lived = &mut course => lived,
        end = pod.down() => return Err(LifecycleError::MachineEnded(end)),
        () = supervised.kill.notified() => match pod.disks {
            // The machine ends with the container.
            Disks::AtBoot => return Err(LifecycleError::Killed),
            Disks::HotPlugged(_) => {
                let _ = guest.signal(&supervised.id, libc::SIGKILL).await;
                timeout(KILL_GRACE, &mut course).await.unwrap_or(Err(LifecycleError::Killed))
            }
        },
    };
    match lived {
        // The machine's own reason is better, as in `while_running`.
        Err(error) if error.is_broken_session() => match timeout(LAST_WORDS, pod.down()).await {
            Ok(end) => Err(LifecycleError::MachineEnded(end)),
            Err(_) => Err(error),
        },
        lived => lived,
    }
}

/// Runs the container in a guest that is ready.
pub(super) async fn run_in(
    supervised: &Rc<SupervisedContainer>,
    state: &State,
    guest: &Rc<Guest>,
    spec: ContainerSpec,
    started: &mut bool,
) -> Result<Stopped, LifecycleError> {
    let mut process = guest.spawn(spec.clone()).await?;
    let mut outputs = connect_streams(supervised, &mut process, &spec)?;
    timeout(START_TIMEOUT, process.started())
        .await
        .map_err(|_| LifecycleError::StartTimeout)??;
    state.set_running(&supervised.id, clock::now_ns(), std::process::id())?;
    volumes::record_prepared(state, &supervised.container.borrow())?;
    *started = true;
    supervised.mark("container started");
    supervised.record_event("start", &[]);
    supervised.note_stopped(false);
    let running = Rc::new(Running::new(Rc::clone(guest), spec));
    supervised.phase.send_replace(ContainerPhase::Running(running));
    let _ends = EndsRunning(supervised);
    sys::forget_code();
    let stopped = tokio::select! {
        stopped = process.stopped() => stopped?,
        never = notice_end(supervised, guest) => match never {},
        never = health::watch(supervised, guest) => match never {},
        never = free_space::watch(supervised, guest) => match never {},
    };
    supervised.output.end();
    while let Some(drained) = outputs.join_next().await {
        drained.unwrap_or(Ok(())).map_err(LifecycleError::Output)?;
    }
    supervised.mark("container stopped");
    Ok(stopped)
}

/// Ends the phase in which a container runs, whatever the reason is.
struct EndsRunning<'a>(&'a SupervisedContainer);

impl Drop for EndsRunning<'_> {
    fn drop(&mut self) {
        self.0.phase.send_replace(ContainerPhase::Ending);
    }
}

/// Connects the streams of the container's process with its output and input. Returns the tasks that drain the output.
fn connect_streams(
    supervised: &Rc<SupervisedContainer>,
    process: &mut GuestProcess,
    spec: &ContainerSpec,
) -> Result<JoinSet<std::io::Result<()>>, LifecycleError> {
    let mut streams = process.streams.drain(..);
    let mut next = || streams.next().ok_or(LifecycleError::Session(SessionError::Unexpected));
    let mut outputs = JoinSet::new();
    if spec.terminal.is_some() {
        // The half is kept also without input: the agent sees a dropped half as a hang-up.
        let (read, write) = tokio_stream(next()?)?.into_split();
        supervised.output.set_input(Some(write));
        let supervised = Rc::clone(supervised);
        outputs.spawn_local(async move { supervised.output.drain_half(LogStream::Stdout, read).await });
        return Ok(outputs);
    }
    if spec.stdin {
        let (_, write) = tokio_stream(next()?)?.into_split();
        supervised.output.set_input(Some(write));
    }
    for stream in [LogStream::Stdout, LogStream::Stderr] {
        let (from, supervised) = (next()?, Rc::clone(supervised));
        outputs.spawn_local(async move { supervised.output.drain(stream, from).await });
    }
    Ok(outputs)
}

fn tokio_stream(stream: std::os::unix::net::UnixStream) -> Result<UnixStream, LifecycleError> {
    stream.set_nonblocking(true).map_err(LifecycleError::Socket)?;
    UnixStream::from_std(stream).map_err(LifecycleError::Socket)
}

/// Notifies the output that the container has ended while a client that does not read keeps the agent from reporting
/// it: the agent reports the end after the last output was delivered.
async fn notice_end(supervised: &SupervisedContainer, guest: &Guest) -> Infallible {
    loop {
        sleep(LOOK_EVERY).await;
        if !supervised.output.is_stalled() {
            continue;
        }
        let listed = guest.list(&supervised.id).await;
        if listed.is_ok_and(|listed| listed.packed.is_empty()) {
            supervised.output.end();
            std::future::pending::<()>().await;
        }
    }
}

/// Converts a stopped container's status to the shell's exit code, with the error of lost data.
fn exit(stopped: &Stopped, data: &Path) -> Exit {
    let is_cut_off = stopped.disks_busy && free_space::is_used_up(data);
    Exit {
        code: status_code(stopped),
        oom_killed: stopped.oom_killed,
        error: if is_cut_off { NO_ROOM.into() } else { String::new() },
    }
}

/// Converts an error to an outcome: a container that ran has ended by it, one that did not has failed to start.
/// `is_lost` tells that what the guest had not written yet had no room on the host's disk.
pub(super) fn conclude(error: &LifecycleError, started: bool, is_lost: bool) -> Outcome {
    let mut failure = Failure::of(error);
    match error {
        LifecycleError::Process(error) => failure.code = error.exit_code(),
        LifecycleError::Killed => failure.code = exit_code::KILLED,
        // Its machine is killed because of that.
        LifecycleError::Session(SessionError::Unresponsive(_)) if started => failure.code = exit_code::KILLED,
        LifecycleError::MachineEnded(end) => {
            failure.console = last_lines(&end.console);
            failure.code = match (started, end.killed) {
                (true, true) => exit_code::KILLED,
                (true, false) => exit_code::MACHINE_ENDED,
                (false, _) => exit_code::FAILURE,
            };
        }
        _ => {}
    }
    match (started, error) {
        (true, LifecycleError::Killed) => Outcome::Exited(Exit {
            code: exit_code::KILLED,
            error: if is_lost { NO_ROOM.into() } else { String::new() },
            ..Exit::default()
        }),
        (true, _) => Outcome::Ended(failure),
        (false, _) => Outcome::Failed(failure),
    }
}

/// Returns the last lines of a console: the kernel's oops with its panic, or other output before the end.
fn last_lines(console: &str) -> String {
    let lines: Vec<&str> = console.lines().filter(|line| !line.trim().is_empty()).collect();
    let first = lines.len().saturating_sub(CONSOLE_LINES_MAX);
    let shown = lines[first..]
        .iter()
        .map(|line| GuestText::new(line.as_bytes()).to_string());
    shown.collect::<Vec<_>>().join("\n")
}
