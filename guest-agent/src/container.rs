//! One container: its state, and the thread that lives its life.

use std::fs::File;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use capsid_protocol::message::agent_message::Kind as Report;
use capsid_protocol::message::host_message::Kind as HostKind;
use capsid_protocol::spec::TerminalSize;
use capsid_protocol::{
    AgentMessage, ContainerSpec, Created, Failed, FrameError, HostMessage, Stage, Start, Started, Stopped, StreamKind,
    frame, read_frame, write_frame,
};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};
use rustix::process::{Pid, WaitStatus};

use crate::cgroup::{Cgroup, CgroupError};
use crate::limits::{PENDING_SIGNALS_MAX, STREAM_WAIT};
use crate::reaper::Reaper;
use crate::spec::SpecError;
use crate::stream::{self, Copies};
use crate::{log, stage, sys, terminal};

/// What the containers of a session share.
pub(crate) struct Ground {
    /// The agent's own program, for stages.
    pub(crate) program: OwnedFd,
    /// Waits for all of them.
    pub(crate) reaper: Reaper,
}

/// Why a container was not created or did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LifeError {
    /// The spec did not pass the door.
    #[error("the spec is refused")]
    Spec(#[source] SpecError),
    /// Its cgroup.
    #[error("cannot make the cgroup")]
    Cgroup(#[source] CgroupError),
    /// The stage could not be started.
    #[error("cannot start a process")]
    Spawn(#[source] Errno),
    /// The stage could not be spoken to.
    #[error("the container's first process does not answer")]
    Control(#[source] FrameError),
    /// The stage ended without a word.
    #[error("the container's first process was ended while it was made")]
    Ended,
    /// The stage said something else than expected.
    #[error("unexpected message from the container's first process")]
    Unexpected,
    /// The stage itself failed.
    #[error("the stage failed")]
    Failed(Failed),
    /// Streams did not come.
    #[error("no {0:?} connection within {STREAM_WAIT:?}")]
    Stream(StreamKind),
    /// A thread for a stream could not be started.
    #[error("cannot copy a stream")]
    Copy(#[source] std::io::Error),
}

impl LifeError {
    /// What the host is told.
    fn report(self, id: &str) -> Failed {
        let stage = match &self {
            Self::Failed(_) => Stage::Unknown,
            Self::Spec(_) => Stage::Spec,
            Self::Cgroup(_) | Self::Ended => Stage::Cgroup,
            Self::Spawn(_) => Stage::Namespace,
            Self::Control(_) | Self::Unexpected => Stage::Unknown,
            Self::Stream(_) | Self::Copy(_) => Stage::Stream,
        };
        match self {
            Self::Failed(failed) => failed,
            error => stage::failed(id, stage, &error),
        }
    }
}

/// A container, from its spec to its end.
pub(crate) struct Container {
    /// Its id.
    pub(crate) id: String,
    spec: ContainerSpec,
    state: Mutex<State>,
    changed: Condvar,
}

/// What the threads of the session and of the container know of it together.
#[derive(Default)]
struct State {
    phase: Phase,
    is_start_wanted: bool,
    connections: Vec<(StreamKind, OwnedFd)>,
    /// Signals that came before the program could have them.
    pending: Vec<i32>,
    /// Status of its first process.
    exit: Option<WaitStatus>,
}

/// How far it is, with what exists only there.
#[derive(Default)]
enum Phase {
    /// The stage has not said that it is ready.
    #[default]
    Preparing,
    /// Everything but the program.
    Created(Process),
    /// The program runs.
    Running(Process),
    /// Its first process is gone.
    Stopped,
}

/// A container's first process.
struct Process {
    pidfd: OwnedFd,
    /// The agent's end of its terminal.
    terminal: Option<OwnedFd>,
}

impl Container {
    /// A container that nothing was done for yet.
    pub(crate) fn new(spec: ContainerSpec) -> Self {
        Self {
            id: spec.id.clone(),
            spec,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host wants its program to run.
    pub(crate) fn start(&self) {
        self.state().is_start_wanted = true;
        self.changed.notify_all();
    }

    /// The host connected a stream. A stream that the spec does not have, or has already, is closed.
    pub(crate) fn attach(&self, kind: StreamKind, connection: OwnedFd) {
        let mut state = self.state();
        let is_expected = stream::kinds(&self.spec).contains(&kind);
        if !is_expected || state.connections.iter().any(|(k, _)| *k == kind) {
            log::warn(&format!("refusing an unexpected {kind:?} connection"));
            return;
        }
        state.connections.push((kind, connection));
        self.changed.notify_all();
    }

    /// Sends it a signal, kept until its program runs. `SIGKILL` waits for nothing.
    pub(crate) fn signal(&self, number: i32) {
        let mut state = self.state();
        match &state.phase {
            Phase::Running(process) => send(process, number),
            Phase::Created(process) if number == libc::SIGKILL => send(process, number),
            Phase::Preparing | Phase::Created(_)
                if number == libc::SIGKILL || state.pending.len() < PENDING_SIGNALS_MAX =>
            {
                state.pending.push(number);
            }
            _ => {}
        }
    }

    /// The user's terminal has a new size.
    pub(crate) fn resize(&self, size: TerminalSize) {
        let state = self.state();
        let (Phase::Created(process) | Phase::Running(process)) = &state.phase else {
            return;
        };
        if let Some(terminal) = &process.terminal
            && let Err(e) = terminal::set_size(terminal, size)
        {
            log::warn(&format!("cannot resize a terminal: {e}"));
        }
    }

    /// Lives the container's life, telling it by `report`.
    pub(crate) fn live(self: &Arc<Self>, ground: &Ground, report: impl Fn(Report)) {
        // Dropped last: to take the root's mounts apart takes longer than a short program runs.
        let mut mounts = None;
        match self.life(ground, &report, &mut mounts) {
            Ok(stopped) => report(Report::Stopped(stopped)),
            Err(error) => report(Report::Failed(error.report(&self.id))),
        }
    }

    /// The recipe of a life: each step leaves the state as the next one needs it.
    fn life(
        self: &Arc<Self>,
        ground: &Ground,
        report: &impl Fn(Report),
        mounts: &mut Option<File>,
    ) -> Result<Stopped, LifeError> {
        crate::spec::check(&self.spec).map_err(LifeError::Spec)?;
        let cgroup = Cgroup::make(&self.id, &self.spec.limits).map_err(LifeError::Cgroup)?;
        let (control, stage_end) = UnixStream::pair().map_err(|e| LifeError::Control(FrameError::Io(e)))?;
        let pid = self.spawn(ground, &cgroup, stage_end)?;
        let mut copies = Copies::default();
        let outcome = self.until_running(&cgroup, control, pid, mounts, &mut copies, report);
        if outcome.is_err() {
            cgroup.kill();
        }
        let status = self.wait_for_exit();
        copies.finish();
        self.state().phase = Phase::Stopped;
        outcome.map(|()| self.stopped(status, cgroup.was_oom_killed()))
    }

    /// Starts the stage in the cgroup.
    fn spawn(self: &Arc<Self>, ground: &Ground, cgroup: &Cgroup, stage_end: UnixStream) -> Result<Pid, LifeError> {
        let container = Arc::clone(self);
        let on_exit = Box::new(move |status| {
            container.state().exit = Some(status);
            container.changed.notify_all();
        });
        let spawn = || sys::spawn_stage(ground.program.as_fd(), cgroup.folder().as_fd(), stage_end.as_fd());
        let spawned = ground.reaper.spawn(spawn, on_exit).map_err(LifeError::Spawn)?;
        // The terminal follows when the stage has opened it.
        self.state().phase = Phase::Created(Process {
            pidfd: spawned.pidfd,
            terminal: None,
        });
        Ok(spawned.pid)
    }

    /// Creates, waits for `Start` and the streams, and lets the program run. Also `Ok` when it was killed before.
    fn until_running(
        &self,
        cgroup: &Cgroup,
        mut control: UnixStream,
        pid: Pid,
        mounts: &mut Option<File>,
        copies: &mut Copies,
        report: &impl Fn(Report),
    ) -> Result<(), LifeError> {
        write_frame(&mut control, &self.spec).map_err(LifeError::Control)?;
        let ends = self.receive_created(&mut control)?;
        // Its mount namespace. Nothing depends on it: a process that is gone takes its mounts with it.
        *mounts = File::open(format!("/proc/{}/ns/mnt", pid.as_raw_nonzero())).ok();
        // Only now: the stage itself opens disks.
        cgroup.restrict_devices(&self.spec).map_err(LifeError::Cgroup)?;
        report(Report::Created(Created {
            container: self.id.clone(),
        }));
        if !self.wait_for_start(cgroup)? {
            return Ok(());
        }
        self.start_copies(ends, copies)?;
        let start = HostMessage {
            kind: Some(HostKind::Start(Start {
                container: self.id.clone(),
            })),
        };
        write_frame(&mut control, &start).map_err(LifeError::Control)?;
        match read_frame::<AgentMessage>(&mut control) {
            // The program's exec closed the socket.
            Err(FrameError::Closed) => {}
            Err(e) => return Err(LifeError::Control(e)),
            Ok(AgentMessage {
                kind: Some(Report::Failed(failed)),
            }) => return Err(LifeError::Failed(failed)),
            Ok(_) => return Err(LifeError::Unexpected),
        }
        report(Report::Started(Started {
            container: self.id.clone(),
            pid: pid.as_raw_nonzero().get() as u32,
        }));
        self.deliver_pending();
        Ok(())
    }

    /// Receives the stage's first message, and the agent's ends of the streams with it.
    fn receive_created(&self, control: &mut UnixStream) -> Result<Vec<OwnedFd>, LifeError> {
        let (message, ends) = receive_with_fds(control)?;
        match message.kind {
            Some(Report::Created(_)) if ends.len() == stream::kinds(&self.spec).len() => {}
            Some(Report::Failed(failed)) => return Err(LifeError::Failed(failed)),
            _ => return Err(LifeError::Unexpected),
        }
        if self.spec.terminal.is_some()
            && let Some(end) = ends.first()
        {
            let copy = end.try_clone().map_err(LifeError::Copy)?;
            if let Phase::Created(process) = &mut self.state().phase {
                process.terminal = Some(copy);
            }
        }
        Ok(ends)
    }

    /// Waits for `Start` and then for the streams. `false` when the container was killed meanwhile.
    fn wait_for_start(&self, cgroup: &Cgroup) -> Result<bool, LifeError> {
        let mut state = self.state();
        if state.pending.contains(&libc::SIGKILL) {
            cgroup.kill();
        }
        while !state.is_start_wanted && state.exit.is_none() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let deadline = Instant::now() + STREAM_WAIT;
        loop {
            if state.exit.is_some() {
                return Ok(false);
            }
            let is_there = |kind: &StreamKind| state.connections.iter().any(|(k, _)| k == kind);
            let Some(missing) = stream::kinds(&self.spec).into_iter().find(|k| !is_there(k)) else {
                return Ok(true);
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(LifeError::Stream(missing));
            }
            (state, _) = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Joins each of the agent's ends with its connection.
    fn start_copies(&self, ends: Vec<OwnedFd>, copies: &mut Copies) -> Result<(), LifeError> {
        let mut connections = std::mem::take(&mut self.state().connections);
        for (kind, end) in stream::kinds(&self.spec).into_iter().zip(ends) {
            let Some(at) = connections.iter().position(|(k, _)| *k == kind) else {
                return Err(LifeError::Stream(kind));
            };
            let (_, connection) = connections.swap_remove(at);
            copies
                .start(kind, end, connection, self.spec.stdin)
                .map_err(LifeError::Copy)?;
        }
        Ok(())
    }

    /// The program runs: it gets the signals that came before.
    fn deliver_pending(&self) {
        let mut state = self.state();
        let pending = std::mem::take(&mut state.pending);
        if let Phase::Created(process) = std::mem::take(&mut state.phase) {
            pending.into_iter().for_each(|number| send(&process, number));
            state.phase = Phase::Running(process);
        }
    }

    fn wait_for_exit(&self) -> WaitStatus {
        let mut state = self.state();
        loop {
            if let Some(status) = state.exit {
                return status;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn stopped(&self, status: WaitStatus, oom_killed: bool) -> Stopped {
        Stopped {
            container: self.id.clone(),
            exit_code: status.exit_status().unwrap_or(0) as u32,
            signal: status.terminating_signal().unwrap_or(0) as u32,
            oom_killed,
        }
    }
}

/// Sends a signal; a process that is gone needs none.
fn send(process: &Process, number: i32) {
    match sys::send_signal_to(&process.pidfd, number) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(e) => log::warn(&format!("cannot send signal {number}: {e}")),
    }
}

/// Reads one frame and the descriptors that came with its first bytes.
fn receive_with_fds(control: &mut UnixStream) -> Result<(AgentMessage, Vec<OwnedFd>), LifeError> {
    let mut prefix = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        &*control,
        &mut [IoSliceMut::new(&mut prefix)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL,
    );
    let received = received.map_err(|e| LifeError::Control(FrameError::Io(e.into())))?;
    if received.bytes < prefix.len() || received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(LifeError::Ended);
    }
    let fds = ancillary
        .drain()
        .filter_map(|m| {
            if let RecvAncillaryMessage::ScmRights(fds) = m {
                Some(fds)
            } else {
                None
            }
        })
        .flatten()
        .collect();
    let mut body = vec![0; frame::body_len(prefix).map_err(LifeError::Control)?];
    std::io::Read::read_exact(control, &mut body).map_err(|e| LifeError::Control(FrameError::Io(e)))?;
    Ok((frame::decode_body(&body).map_err(LifeError::Control)?, fds))
}
