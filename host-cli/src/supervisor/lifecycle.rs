//! One life of a container: a machine of its own, from its start to its end, or a stay in the machine of its pod.
//!
//! ```text
//! start machine ─► Hello ─► Create, streams, Start ─► Started ─► Stopped ─► output drained ─► machine ended
//!        └──────────── whatever ends the machine, or `SupervisedContainer::kill`, ends all of it ──────────┘
//! ```

use std::convert::Infallible;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use capsid_protocol::message::{List, Request, agent_message, host_message};
use capsid_protocol::{ContainerSpec, Failed, FailedStep, Signal, Start, Stopped};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::agent::Agent;
use super::disk_slots::{self, DiskKey, DiskSlotsError, Needed};
use super::machine::{self, MachineError, Prepared, Sockets, Wanted};
use super::pod::Pod;
use super::streams::{StreamError, StreamOpener};
use super::supervised_container::{Outcome, Phase, SupervisedContainer};
use super::{BOOT_TIMEOUT, LAST_WORDS};
use super::{first_use, free_space, health};
use crate::accelerator::{Disk, MachineEnd, RunningMachine};
use crate::clock;
use crate::control::Failure;
use crate::folders::Folders;
use crate::log::LogStream;
use crate::model::{Container, Exit};
use crate::network::{AttachmentsError, PodNetworks};
use crate::plan::{ROOTFS_SERIAL, SCRATCH_SERIAL};
use crate::session::{Session, SessionError};
use crate::state::{State, StateError};
use crate::{scratch, store_folder, sys, volumes};

/// Time limit from Create to Started: disks mounted, program executed.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Time limit for a killed container of a pod to end: afterwards the pod continues without it.
const KILL_GRACE: Duration = Duration::from_secs(5);
/// Interval of checking whether a client that does not read is all that remains of a container.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Error text for data that a container wrote, and did not sync, and that is lost.
const NO_ROOM: &str = "the host's disk was full when the container ended: what it had written and not synced is lost";
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
    Pod(Failure),
    #[error("cannot give the container its disks")]
    DiskSlots(#[from] DiskSlotsError),
    #[error("cannot use a stream of the guest's")]
    Socket(#[source] std::io::Error),
    #[error("the machine did not become ready within {} s", BOOT_TIMEOUT.as_secs())]
    BootTimeout,
    #[error("the container did not start within {} s", START_TIMEOUT.as_secs())]
    StartTimeout,
    #[error("the session with the guest failed")]
    Session(#[from] SessionError),
    #[error("cannot connect the machine to its networks")]
    NetworkAttachments(#[from] AttachmentsError),
    #[error("cannot attach the container's streams")]
    Streams(#[from] StreamError),
    #[error("cannot write the container's output")]
    Output(#[source] std::io::Error),
    #[error("cannot write that the container runs")]
    State(#[from] StateError),
    #[error("the machine ended: {}", .0.reason)]
    MachineEnded(MachineEnd),
    #[error("{}", sanitise(&.0.message))]
    Failed(Failed),
    #[error("the container was killed")]
    Killed,
}

impl LifecycleError {
    /// Wraps an error, keeping the cause's type, which `first_use` searches for: `anyhow`'s plain conversion hides it.
    pub(super) fn prepare(error: anyhow::Error) -> Self {
        Self::Prepare(error.reallocate_into_boxed_dyn_error_without_backtrace())
    }
}

/// Runs the container once: in a machine of its own, which is gone on return, or in its pod's.
pub(crate) async fn run_once(
    supervised: &Rc<SupervisedContainer>,
    state: &State,
    folders: &Folders,
    pod: Option<&Rc<Pod>>,
) -> Outcome {
    supervised.phase.send_replace(Phase::Starting);
    supervised.paused.set(false);
    supervised.output.begin();
    let mut started = false;
    let lived = match (prepare_volumes(supervised, state, folders).await, pod) {
        (Err(error), _) => Err(error),
        (Ok(()), None) => run_alone(supervised, state, folders, &mut started).await,
        (Ok(()), Some(pod)) => run_in_pod(supervised, state, folders, pod, &mut started).await,
    };
    supervised.output.finish();
    match lived {
        Ok(stopped) => Outcome::Exited(exit(&stopped, &supervised.data)),
        Err(error) => conclude(&error, started),
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

/// Runs the container in a machine of its own.
async fn run_alone(
    supervised: &Rc<SupervisedContainer>,
    state: &State,
    folders: &Folders,
    started: &mut bool,
) -> Result<Stopped, LifecycleError> {
    let (mut machine, sockets) = start(supervised, state, folders)?;
    let lived = live_in(supervised, state, &mut machine, sockets, started).await;
    supervised.attachments.take();
    if let Some(agent) = supervised.agent.borrow_mut().take() {
        // Clients that wait for another process of this container need not wait for the machine's end.
        agent.end();
    }
    machine.stop().await;
    supervised.mark("machine ended");
    lived
}

/// Runs the container in the machine of a pod, which continues afterwards.
async fn run_in_pod(
    supervised: &Rc<SupervisedContainer>,
    state: &State,
    folders: &Folders,
    pod: &Rc<Pod>,
    started: &mut bool,
) -> Result<Stopped, LifecycleError> {
    let agent = tokio::select! {
        up = pod.up() => up.map_err(LifecycleError::Pod)?,
        () = supervised.kill.notified() => return Err(LifecycleError::Killed),
    };
    supervised.mark("machine ready");
    let needed = needed(&supervised.container.borrow(), state, folders, pod);
    let placed = pod.disk_slots.plug(needed.map_err(LifecycleError::prepare)?).await?;
    supervised.mark("disks in the machine");
    let mut spec = disk_slots::with_slots(&supervised.container.borrow().spec, &placed);
    pod.apply_to(&mut spec);
    supervised.guest_spec.replace(Some(spec.clone()));
    let lived = live_among_others(supervised, state, pod, &agent, spec, started).await;
    supervised.guest_spec.take();
    supervised.agent.borrow_mut().take();
    match &lived {
        Ok(Stopped { disks_busy: false, .. }) | Err(LifecycleError::Failed(_)) => pod.disk_slots.unplug(&placed).await,
        _ => pod.disk_slots.leave(&placed),
    }
    lived
}

async fn live_among_others(
    supervised: &Rc<SupervisedContainer>,
    state: &State,
    pod: &Rc<Pod>,
    agent: &Rc<Agent>,
    spec: ContainerSpec,
    started: &mut bool,
) -> Result<Stopped, LifecycleError> {
    let course = run_in(supervised, state, agent, spec, started);
    tokio::pin!(course);
    let lived = tokio::select! {
        lived = &mut course => lived,
        end = pod.down() => return Err(LifecycleError::MachineEnded(end)),
        // The pod's machine must not end with this container.
        () = supervised.kill.notified() => {
            let kill = Signal { container: supervised.id.clone(), number: libc::SIGKILL as u32 };
            let _ = agent.send(host_message::Kind::Signal(kill)).await;
            timeout(KILL_GRACE, &mut course).await.unwrap_or(Err(LifecycleError::Killed))
        }
    };
    match lived {
        // The machine's own reason is better, as in `while_machine_runs`.
        Err(LifecycleError::Session(SessionError::Closed | SessionError::Io(_))) => {
            match timeout(LAST_WORDS, pod.down()).await {
                Ok(end) => Err(LifecycleError::MachineEnded(end)),
                Err(_) => lived,
            }
        }
        lived => lived,
    }
}

/// Returns the disks of a container in a pod, opened unless they are plugged already.
fn needed(container: &Container, state: &State, folders: &Folders, pod: &Pod) -> anyhow::Result<Vec<Needed>> {
    let need = |key: DiskKey, serial: &str, readonly: bool, open: &dyn Fn() -> anyhow::Result<Disk>| {
        let disk = if pod.disk_slots.has(&key) { None } else { Some(open()?) };
        Ok::<_, anyhow::Error>(Needed {
            key,
            serial: serial.into(),
            readonly,
            disk,
        })
    };
    let root = DiskKey::Rootfs(container.image_id.clone());
    let own = DiskKey::Scratch(container.id.clone());
    let mut needed = vec![
        need(root, ROOTFS_SERIAL, true, &|| rootfs_disk(container, folders))?,
        need(own, SCRATCH_SERIAL, false, &|| scratch_disk(container, folders))?,
    ];
    for volume in volumes::needed(state, container, &siblings(container, state)?)? {
        let open = || Ok(volumes::open_disk(state, &folders.data, container, &volume)?);
        let key = DiskKey::Volume(volume.name.clone());
        needed.push(need(key, &volume.serial, volume.readonly, &open)?);
    }
    Ok(needed)
}

/// Returns the containers of the container's pod, if it is in one.
pub(super) fn siblings(container: &Container, state: &State) -> Result<Vec<Container>, StateError> {
    let pod = container.pod.as_deref();
    pod.map_or_else(|| Ok(Vec::new()), |pod| state.containers_of(pod))
}

/// Starts the container's own machine.
fn start(
    supervised: &SupervisedContainer,
    state: &State,
    folders: &Folders,
) -> Result<(RunningMachine, Sockets), LifecycleError> {
    let container = supervised.container.borrow();
    let pod_networks = PodNetworks::of_container(&container, state).map_err(|e| LifecycleError::Prepare(e.into()))?;
    let machine = prepare(&container, Some(pod_networks), state, folders)?;
    supervised.mark("machine prepared");
    let started = machine.start()?;
    supervised.mark("machine processes started");
    Ok(started)
}

/// Starts a machine with a container's disks and shares, and no network.
pub(super) fn start_machine(
    container: &Container,
    state: &State,
    folders: &Folders,
) -> Result<(RunningMachine, Sockets), LifecycleError> {
    Ok(prepare(container, None, state, folders)?.start()?)
}

/// Opens all that a container's machine needs.
fn prepare(
    container: &Container,
    pod_networks: Option<PodNetworks<'_>>,
    state: &State,
    folders: &Folders,
) -> Result<Prepared, LifecycleError> {
    let disks = disks(container, state, folders).map_err(LifecycleError::prepare)?;
    let wanted = Wanted {
        id: &container.id,
        accelerator: container.config.accelerator,
        size: container.config.machine,
        kernel: container.config.kernel.as_deref(),
        disks,
        disk_slots: None,
        shares: &container.config.shares,
        pod_networks,
    };
    Ok(machine::prepare(folders, wanted)?)
}

fn disks(container: &Container, state: &State, folders: &Folders) -> anyhow::Result<Vec<Disk>> {
    let mut disks = vec![rootfs_disk(container, folders)?, scratch_disk(container, folders)?];
    disks.extend(volumes::open(state, &folders.data, container)?);
    Ok(disks)
}

fn rootfs_disk(container: &Container, folders: &Folders) -> anyhow::Result<Disk> {
    let store = crate::app::open_store(folders)?;
    let image = store
        .find(&container.image_id)?
        .with_context(|| format!("the image {} of this container is gone", container.image))?;
    let rootfs = store.rootfs(&image)?;
    Ok(Disk {
        serial: ROOTFS_SERIAL.into(),
        readonly: true,
        is_durable: false,
        files: std::iter::once(rootfs.metadata).chain(rootfs.data).collect(),
    })
}

fn scratch_disk(container: &Container, folders: &Folders) -> anyhow::Result<Disk> {
    let path = store_folder::scratch(&folders.data, &container.id);
    Ok(Disk {
        serial: SCRATCH_SERIAL.into(),
        readonly: false,
        is_durable: !container.config.remove,
        files: vec![scratch::open(&path)?],
    })
}

/// Leads a container from a starting machine to its stop.
async fn live_in(
    supervised: &Rc<SupervisedContainer>,
    state: &State,
    machine: &mut RunningMachine,
    sockets: Sockets,
    started: &mut bool,
) -> Result<Stopped, LifecycleError> {
    let opened = while_machine_runs(supervised, machine, async {
        timeout(BOOT_TIMEOUT, Session::open(sockets.session))
            .await
            .map_err(|_| LifecycleError::BootTimeout)?
            .map_err(Into::into)
    });
    let session = opened.await?;
    supervised.mark("agent ready");
    supervised.agent_start_ns.set(session.hello.agent_start_ns);
    let opener = StreamOpener {
        control: sockets.control,
        nonce: session.nonce,
    };
    let (agent, mut outbox) = Agent::new(session.sender, opener);
    let agent = Rc::new(agent);
    let mut receiver = session.receiver;
    let speaker = Rc::clone(&agent);
    // The future ends with the session, which ends with the machine.
    let broken = async move { speaker.converse(&mut receiver, &mut outbox).await };
    tokio::pin!(broken);
    let mut spec = supervised.container.borrow().spec.clone();
    if let Some(attachments) = &sockets.network {
        while_machine_runs(supervised, machine, async { Ok(attachments.plug().await?) }).await?;
        attachments.apply_to(&mut spec);
        supervised.attachments.replace(Some(Rc::clone(attachments)));
    }
    let course = run_in(supervised, state, &agent, spec, started);
    while_machine_runs(supervised, machine, async {
        tokio::select! {
            biased;
            result = course => result,
            error = &mut broken => Err(error.into()),
        }
    })
    .await
}

/// Runs the container in a guest whose agent is ready.
async fn run_in(
    supervised: &Rc<SupervisedContainer>,
    state: &State,
    agent: &Rc<Agent>,
    spec: ContainerSpec,
    started: &mut bool,
) -> Result<Stopped, LifecycleError> {
    let mut messages = agent.listen_to(&supervised.id);
    let mut outputs = begin(supervised, agent, spec).await?;
    timeout(START_TIMEOUT, wait_started(&mut messages))
        .await
        .map_err(|_| LifecycleError::StartTimeout)??;
    state.set_running(&supervised.id, clock::now_ns(), std::process::id())?;
    volumes::record_prepared(state, &supervised.container.borrow())?;
    *started = true;
    *supervised.agent.borrow_mut() = Some(Rc::clone(agent));
    supervised.mark("container started");
    supervised.record_event("start", &[]);
    supervised.note_stopped(false);
    supervised.phase.send_replace(Phase::Running);
    sys::forget_code();
    let stopped = tokio::select! {
        stopped = wait_stopped(&mut messages) => stopped?,
        never = notice_end(supervised, agent) => match never {},
        never = health::watch(supervised, agent) => match never {},
        never = free_space::watch(supervised, agent) => match never {},
    };
    supervised.output.end();
    while let Some(drained) = outputs.join_next().await {
        drained.unwrap_or(Ok(())).map_err(LifecycleError::Output)?;
    }
    supervised.mark("container stopped");
    Ok(stopped)
}

/// Sends Create, opens the streams and sends Start without waiting for anything in between.
async fn begin(
    supervised: &Rc<SupervisedContainer>,
    agent: &Agent,
    spec: ContainerSpec,
) -> Result<JoinSet<std::io::Result<()>>, LifecycleError> {
    let (terminal, stdin) = (spec.terminal.is_some(), spec.stdin);
    agent.send(host_message::Kind::Create(Box::new(spec))).await?;
    let start = Start {
        container: supervised.id.clone(),
    };
    agent.send(host_message::Kind::Start(start)).await?;
    let mut streams = agent.opener.open_all(&supervised.id, terminal, stdin)?.into_iter();
    let mut outputs = JoinSet::new();
    let mut next = || streams.next().ok_or(LifecycleError::Session(SessionError::Unexpected));
    if terminal {
        // The half is kept also without input: the agent sees a dropped half as a hang-up.
        let (read, write) = tokio_stream(next()?)?.into_split();
        supervised.output.set_input(Some(write));
        let supervised = Rc::clone(supervised);
        outputs.spawn_local(async move { supervised.output.drain_half(LogStream::Stdout, read).await });
        return Ok(outputs);
    }
    if stdin {
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

async fn wait_started(messages: &mut mpsc::Receiver<agent_message::Kind>) -> Result<(), LifecycleError> {
    loop {
        match messages.recv().await.ok_or(SessionError::Closed)? {
            agent_message::Kind::Created(_) => {}
            agent_message::Kind::Started(_) => return Ok(()),
            agent_message::Kind::Failed(failed) => return Err(LifecycleError::Failed(failed)),
            _ => return Err(SessionError::Unexpected.into()),
        }
    }
}

async fn wait_stopped(messages: &mut mpsc::Receiver<agent_message::Kind>) -> Result<Stopped, LifecycleError> {
    match messages.recv().await.ok_or(SessionError::Closed)? {
        agent_message::Kind::Stopped(stopped) => Ok(stopped),
        agent_message::Kind::Failed(failed) => Err(LifecycleError::Failed(failed)),
        _ => Err(SessionError::Unexpected.into()),
    }
}

/// Notifies the output that the container has ended while a client that does not read keeps the agent from reporting
/// it: the agent reports the end after the last output was delivered.
async fn notice_end(supervised: &SupervisedContainer, agent: &Agent) -> Infallible {
    loop {
        sleep(LOOK_EVERY).await;
        if !supervised.output.is_stalled() {
            continue;
        }
        let list = List {
            container: supervised.id.clone(),
        };
        let listed = agent
            .ask(&supervised.id, Request::List, host_message::Kind::List(list))
            .await;
        if matches!(listed, Ok(agent_message::Kind::Listed(listed)) if listed.packed.is_empty()) {
            supervised.output.end();
            std::future::pending::<()>().await;
        }
    }
}

/// Awaits `step`, unless the machine ends or is killed first.
async fn while_machine_runs<T>(
    supervised: &SupervisedContainer,
    machine: &mut RunningMachine,
    step: impl Future<Output = Result<T, LifecycleError>>,
) -> Result<T, LifecycleError> {
    let result = tokio::select! {
        result = step => result,
        end = &mut machine.end => return Err(LifecycleError::MachineEnded(machine::ended(end.ok()))),
        () = supervised.kill.notified() => return Err(LifecycleError::Killed),
    };
    match result {
        // A session mostly breaks because the machine is ending: the machine's reason is better.
        Err(LifecycleError::Session(SessionError::Closed | SessionError::Io(_))) => {
            match timeout(LAST_WORDS, &mut machine.end).await {
                Ok(end) => Err(LifecycleError::MachineEnded(machine::ended(end.ok()))),
                Err(_) => result,
            }
        }
        result => result,
    }
}

/// Converts a stopped container's status to the shell's exit code, with the error of lost data.
fn exit(stopped: &Stopped, data: &Path) -> Exit {
    let is_cut_off = stopped.disks_busy && free_space::is_used_up(data);
    Exit {
        code: exit_code(stopped),
        oom_killed: stopped.oom_killed,
        error: if is_cut_off { NO_ROOM.into() } else { String::new() },
    }
}

/// Converts a process's status to the shell's exit code.
pub(super) fn exit_code(stopped: &Stopped) -> u8 {
    match stopped.signal {
        0 => stopped.exit_code.min(255) as u8,
        signal => 128u8.saturating_add(signal.min(127) as u8),
    }
}

/// Converts an error to an outcome: a container that ran has ended by it, one that did not has failed to start.
fn conclude(error: &LifecycleError, started: bool) -> Outcome {
    let mut failure = Failure::of(error);
    match error {
        LifecycleError::Failed(failed) => failure.code = failed_code(failed),
        LifecycleError::Killed => failure.code = 137,
        // Its machine is killed because of that.
        LifecycleError::Session(SessionError::Unresponsive(_)) if started => failure.code = 137,
        LifecycleError::MachineEnded(end) => {
            failure.console = last_lines(&end.console);
            failure.code = match (started, end.killed) {
                (true, true) => 137,
                (true, false) => 255,
                (false, _) => 125,
            };
        }
        _ => {}
    }
    match (started, error) {
        (true, LifecycleError::Killed) => Outcome::Exited(Exit {
            code: 137,
            ..Exit::default()
        }),
        (true, _) => Outcome::Ended(failure),
        (false, _) => Outcome::Failed(failure),
    }
}

/// Returns docker's exit code for a failed start.
pub(super) fn failed_code(failed: &Failed) -> u8 {
    match failed.step() {
        FailedStep::ExecNotFound => 127,
        FailedStep::ExecRefused => 126,
        _ => 125,
    }
}

/// Returns the last lines of a console: the kernel's oops with its panic, or other output before the end.
fn last_lines(console: &str) -> String {
    let lines: Vec<&str> = console.lines().filter(|line| !line.trim().is_empty()).collect();
    let first = lines.len().saturating_sub(CONSOLE_LINES_MAX);
    let shown: Vec<String> = lines.into_iter().skip(first).map(sanitise).collect();
    shown.join("\n")
}

/// Formats text of the guest on one line, without control characters that could control the user's terminal.
pub(crate) fn sanitise(text: &str) -> String {
    text.chars()
        .take(1000)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
