//! The lifecycle of one process that the host requested, a container's first or one that joins it: the state shared by
//! the session's threads and its own thread, and the steps that both kinds share.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use capsid_protocol::message::agent_message::Kind as Report;
use capsid_protocol::process::init_order::Kind as Order;
use capsid_protocol::spec::{Network, TerminalSize, Unit};
use capsid_protocol::{
    AgentMessage, ContainerSpec, Created, Failed, FailedStep, FrameError, InitOrder, Started, Stdio, Stopped,
    StreamKind, frame, read_frame, write_frame,
};
use rustix::io::Errno;
use rustix::process::{Pid, WaitStatus};

use crate::cgroup::CgroupError;
use crate::devices::DeviceError;
use crate::disk_users::DiskUsers;
use crate::limits::{PENDING_SIGNALS_MAX, STREAM_WAIT};
use crate::network::{self, NetworkError};
use crate::pod::{Pod, PodError};
use crate::spawner::Spawner;
use crate::stream::Copies;
use crate::{control, failure, log, sys, terminal};

/// Context shared by all containers and processes of a session.
pub(crate) struct AgentContext {
    /// Means to start processes.
    pub(crate) spawner: Spawner,
    /// Reference counts of disks.
    pub(crate) disk_users: DiskUsers,
    /// Pod that containers share, once there is one.
    pub(crate) pod: Mutex<Option<Arc<Pod>>>,
    /// Network of the pod, if it was changed before there was a pod.
    pub(crate) pod_network: Mutex<Option<Network>>,
}

impl AgentContext {
    /// Returns the pod of this spec; made for its first container.
    pub(crate) fn pod_of(&self, spec: &ContainerSpec) -> Result<Option<Arc<Pod>>, LifecycleError> {
        let Some(wanted) = &spec.pod else { return Ok(None) };
        let mut pod = self.pod.lock().unwrap_or_else(PoisonError::into_inner);
        if pod.is_none() {
            let mut first = spec.clone();
            let changed = self.pod_network.lock().unwrap_or_else(PoisonError::into_inner).take();
            first.network = changed.or(first.network);
            *pod = Some(Arc::new(
                Pod::make(&first, wanted, &self.spawner).map_err(LifecycleError::Pod)?,
            ));
        }
        Ok(pod.clone())
    }

    /// Applies the addresses to the pod: now, or when it is made.
    pub(crate) fn configure_pod_network(&self, network: &Network) -> Result<(), NetworkError> {
        let pod = self.pod.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pod) = &*pod else {
            *self.pod_network.lock().unwrap_or_else(PoisonError::into_inner) = Some(network.clone());
            return Ok(());
        };
        let place = pod.network().try_clone_to_owned().map_err(NetworkError::Namespace)?;
        network::configure_network(place, network.clone())
    }
}

/// Error of creating or starting a container.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LifecycleError {
    /// The container to join has ended, or has not begun.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// The container to join is frozen.
    #[error("container {0} is paused, unpause the container before exec")]
    Paused(String),
    /// A device that the spec asks for cannot be given.
    #[error("cannot give the container a device")]
    Device(#[source] DeviceError),
    /// The cgroup cannot be made or changed.
    #[error("cannot make the cgroup")]
    Cgroup(#[source] CgroupError),
    /// The pod cannot be made.
    #[error("cannot make what the containers of the pod share")]
    Pod(#[source] PodError),
    /// The container init could not be started.
    #[error("cannot start a process")]
    Spawn(#[source] Errno),
    /// The control socket to the container init failed.
    #[error("the first process does not answer")]
    Control(#[source] FrameError),
    /// The container init ended without a message.
    #[error("the first process was ended while it was made")]
    Ended,
    /// The container init sent an unexpected message.
    #[error("unexpected message from the first process")]
    Unexpected,
    /// The container init itself failed.
    #[error("the container init failed")]
    Failed(Failed),
    /// A stream connection is missing.
    #[error("no {0:?} connection within {STREAM_WAIT:?}")]
    Stream(StreamKind),
    /// A thread for a stream could not be started.
    #[error("cannot copy a stream")]
    Copy(#[source] std::io::Error),
}

impl LifecycleError {
    /// Converts the error to a report for the host.
    pub(crate) fn report(self, id: &str) -> Failed {
        let step = match &self {
            Self::Failed(_) => FailedStep::Unknown,
            Self::NotRunning(_) | Self::Paused(_) => FailedStep::Spec,
            Self::Cgroup(_) | Self::Ended => FailedStep::Cgroup,
            Self::Spawn(_) | Self::Pod(_) => FailedStep::Namespace,
            Self::Device(_) => FailedStep::Mount,
            Self::Control(_) | Self::Unexpected => FailedStep::Unknown,
            Self::Stream(_) | Self::Copy(_) => FailedStep::Stream,
        };
        match self {
            Self::Failed(failed) => failed,
            error => failure::failed(id, step, &error),
        }
    }
}

/// The lifecycle of one process, from its spec to its end.
pub(crate) struct ProcessLifecycle {
    /// Id of the container or the exec process.
    pub(crate) id: String,
    /// Standard streams of the process.
    stdio: Stdio,
    state: Mutex<State>,
    changed: Condvar,
}

/// State shared by the threads of the session and of the process.
#[derive(Default)]
struct State {
    phase: LifecycleState,
    is_start_wanted: bool,
    connections: Vec<(StreamKind, OwnedFd)>,
    /// Signals that arrived before the program could receive them.
    pending: Vec<i32>,
    /// Exit status of the process.
    exit: Option<WaitStatus>,
}

/// Phase of the lifecycle, with the values that exist only in it.
#[derive(Default)]
enum LifecycleState {
    /// The container init is not ready yet.
    #[default]
    Preparing,
    /// Everything but the program is ready.
    Created(Process),
    /// The program runs.
    Running(Process),
    /// The process is gone.
    Stopped,
}

/// Process with its terminal.
struct Process {
    pidfd: OwnedFd,
    /// Agent's end of the terminal.
    terminal: Option<OwnedFd>,
}

impl ProcessLifecycle {
    /// Creates a lifecycle whose process is not started.
    pub(crate) fn new(id: String, stdio: Stdio) -> Self {
        Self {
            id,
            stdio,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the host's request to run the program.
    pub(crate) fn start(&self) {
        self.state().is_start_wanted = true;
        self.changed.notify_all();
    }

    /// Records a stream connection of the host. A connection that the spec does not have, or that is there already, is
    /// closed.
    pub(crate) fn attach(&self, kind: StreamKind, connection: OwnedFd) {
        let mut state = self.state();
        let is_expected = self.stdio.streams().contains(&kind);
        if !is_expected || state.connections.iter().any(|(k, _)| *k == kind) {
            log::warn(&format!("refusing an unexpected {kind:?} connection"));
            return;
        }
        state.connections.push((kind, connection));
        self.changed.notify_all();
    }

    /// Sends a signal to the process. Before its program runs, the signal is kept, except `SIGKILL` to a process that
    /// exists.
    pub(crate) fn signal(&self, number: i32) {
        let mut state = self.state();
        match &state.phase {
            LifecycleState::Running(process) => send(process, number),
            LifecycleState::Created(process) if number == libc::SIGKILL => send(process, number),
            LifecycleState::Preparing | LifecycleState::Created(_)
                if number == libc::SIGKILL || state.pending.len() < PENDING_SIGNALS_MAX =>
            {
                state.pending.push(number);
            }
            _ => {}
        }
    }

    /// Applies the new size of the user's terminal.
    pub(crate) fn resize(&self, size: TerminalSize) {
        let state = self.state();
        let (LifecycleState::Created(process) | LifecycleState::Running(process)) = &state.phase else {
            return;
        };
        if let Some(terminal) = &process.terminal
            && let Err(e) = terminal::set_size(terminal, size)
        {
            log::warn(&format!("cannot resize a terminal: {e}"));
        }
    }

    /// Records that the process exists: the container init that will become its program, or the adopted process.
    pub(crate) fn begin(&self, pidfd: OwnedFd) {
        // The terminal follows when the container init has opened it.
        self.state().phase = LifecycleState::Created(Process { pidfd, terminal: None });
    }

    /// Returns the callback for the reaper, which records the end.
    pub(crate) fn on_exit(self: &Arc<Self>) -> Box<dyn FnOnce(WaitStatus) + Send> {
        let lifecycle = Arc::clone(self);
        Box::new(move |status| {
            lifecycle.state().exit = Some(status);
            lifecycle.changed.notify_all();
        })
    }

    /// Returns a reference to the process while its program runs.
    pub(crate) fn running(&self) -> Option<OwnedFd> {
        let state = self.state();
        match &state.phase {
            LifecycleState::Running(process) if state.exit.is_none() => process.pidfd.try_clone().ok(),
            _ => None,
        }
    }

    /// Kills the process alone.
    pub(crate) fn kill(&self) {
        if let LifecycleState::Created(process) | LifecycleState::Running(process) = &self.state().phase {
            send(process, libc::SIGKILL);
        }
    }

    /// Continues after the container init's `Created`: waits for `Start` and the streams, and runs the program. Also
    /// `Ok` if the process was killed before. `kill` ends everything of this process.
    pub(crate) fn until_running(
        &self,
        (mut control, ends): (UnixStream, Vec<OwnedFd>),
        pid: Pid,
        copies: &mut Copies,
        kill: &impl Fn(),
        report: &impl Fn(Report),
    ) -> Result<(), LifecycleError> {
        report(Report::Created(Created {
            container: self.id.clone(),
        }));
        if !self.wait_for_start(kill)? {
            return Ok(());
        }
        self.start_copies(ends, copies)?;
        let start = InitOrder::from(Order::Start(Unit {}));
        match write_frame(&mut control, &start) {
            Ok(()) => {}
            // Killed, and not yet reaped.
            Err(FrameError::Io(e)) if e.kind() == ErrorKind::BrokenPipe => return Ok(()),
            Err(e) => return Err(LifecycleError::Control(e)),
        }
        match read_frame::<AgentMessage>(&mut control) {
            // The program's exec closed the socket.
            Err(FrameError::Closed) => {}
            // Killed before it read the message.
            Err(FrameError::Io(e)) if e.kind() == ErrorKind::ConnectionReset => return Ok(()),
            Err(e) => return Err(LifecycleError::Control(e)),
            Ok(AgentMessage {
                kind: Some(Report::Failed(failed)),
                ..
            }) => return Err(LifecycleError::Failed(failed)),
            Ok(_) => return Err(LifecycleError::Unexpected),
        }
        report(Report::Started(Started {
            container: self.id.clone(),
            pid: pid.as_raw_nonzero().get() as u32,
        }));
        self.deliver_pending();
        Ok(())
    }

    /// Receives the container init's first message, with the agent's ends of the streams.
    pub(crate) fn receive_created(&self, control: &UnixStream) -> Result<Vec<OwnedFd>, LifecycleError> {
        let (message, ends) = receive(control)?;
        match message.kind {
            Some(Report::Created(_)) if ends.len() == self.stdio.streams().len() => {}
            Some(Report::Failed(failed)) => return Err(LifecycleError::Failed(failed)),
            _ => return Err(LifecycleError::Unexpected),
        }
        if self.stdio.terminal.is_some()
            && let Some(end) = ends.first()
        {
            let copy = end.try_clone().map_err(LifecycleError::Copy)?;
            if let LifecycleState::Created(process) = &mut self.state().phase {
                process.terminal = Some(copy);
            }
        }
        Ok(ends)
    }

    /// Waits for `Start` and then for the streams; `false` if the process was killed meanwhile.
    fn wait_for_start(&self, kill: &impl Fn()) -> Result<bool, LifecycleError> {
        if self.state().pending.contains(&libc::SIGKILL) {
            kill();
        }
        let mut state = self.state();
        while !state.is_start_wanted && state.exit.is_none() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let deadline = Instant::now() + STREAM_WAIT;
        loop {
            if state.exit.is_some() {
                return Ok(false);
            }
            let is_there = |kind: &StreamKind| state.connections.iter().any(|(k, _)| k == kind);
            let Some(missing) = self.stdio.streams().iter().copied().find(|k| !is_there(k)) else {
                return Ok(true);
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(LifecycleError::Stream(missing));
            }
            (state, _) = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Connects each of the agent's ends with its connection.
    fn start_copies(&self, ends: Vec<OwnedFd>, copies: &mut Copies) -> Result<(), LifecycleError> {
        let mut connections = std::mem::take(&mut self.state().connections);
        for (kind, end) in self.stdio.streams().iter().copied().zip(ends) {
            let Some(at) = connections.iter().position(|(k, _)| *k == kind) else {
                return Err(LifecycleError::Stream(kind));
            };
            let (_, connection) = connections.swap_remove(at);
            copies
                .start(kind, end, connection, self.stdio.stdin)
                .map_err(LifecycleError::Copy)?;
        }
        Ok(())
    }

    /// Marks the program as running and delivers the signals that arrived before.
    fn deliver_pending(&self) {
        let mut state = self.state();
        let pending = std::mem::take(&mut state.pending);
        if let LifecycleState::Created(process) = std::mem::take(&mut state.phase) {
            pending.into_iter().for_each(|number| send(&process, number));
            state.phase = LifecycleState::Running(process);
        }
    }

    /// Waits for the end. No request can reach the process afterwards.
    pub(crate) fn wait_for_exit(&self) -> WaitStatus {
        let mut state = self.state();
        loop {
            if let Some(status) = state.exit {
                state.phase = LifecycleState::Stopped;
                return status;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Returns the report of an end for the host.
    pub(crate) fn stopped(&self, status: WaitStatus, oom_killed: bool) -> Stopped {
        Stopped {
            container: self.id.clone(),
            exit_code: status.exit_status().unwrap_or(0) as u32,
            signal: status.terminating_signal().unwrap_or(0) as u32,
            oom_killed,
            disks_busy: false,
        }
    }
}

/// Sends a signal; a process that is gone is ignored.
fn send(process: &Process, number: i32) {
    match sys::send_signal_to(&process.pidfd, number) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(e) => log::warn(&format!("cannot send signal {number}: {e}")),
    }
}

/// Receives a container init's message.
pub(crate) fn receive(control: &UnixStream) -> Result<(AgentMessage, Vec<OwnedFd>), LifecycleError> {
    match control::receive(control) {
        Ok((body, fds)) => Ok((frame::decode_body(&body).map_err(LifecycleError::Control)?, fds)),
        Err(FrameError::Closed) => Err(LifecycleError::Ended),
        // Ended before it read all that was sent.
        Err(FrameError::Io(e)) if e.kind() == ErrorKind::ConnectionReset => Err(LifecycleError::Ended),
        Err(e) => Err(LifecycleError::Control(e)),
    }
}
