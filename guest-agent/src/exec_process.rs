//! An exec process, which joins a running container: it has a lifecycle and streams of its own, and everything else of
//! the container.
//!
//! The agent starts a container init in the container's cgroup but in its own pid namespace, where the container does
//! not see it. The container init enters the container's namespaces and forks a child into the container's pid
//! namespace that is the agent's child too; the agent adopts that before it runs anything. See
//! [`crate::container_init`] for the other side.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use capsid_protocol::message::agent_message::Kind as Report;
use capsid_protocol::process::init_order::Kind as Order;
use capsid_protocol::{FrameError, InitOrder, ProcessSpec, Stopped, frame};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::cgroup::Cgroup;
use crate::container::{Admission, Container};
use crate::control;
use crate::process_lifecycle::{self, AgentContext, LifecycleError, ProcessLifecycle};
use crate::stream::Copies;
use crate::sys::{self, PidNamespace, Spawned};

/// Process beside a container's first.
pub(crate) struct ExecProcess {
    /// Lifecycle of the exec process.
    pub(crate) lifecycle: Arc<ProcessLifecycle>,
    spec: ProcessSpec,
    container: Arc<Container>,
}

impl ExecProcess {
    /// Creates a process that will join `container`.
    pub(crate) fn new(spec: ProcessSpec, container: Arc<Container>) -> Self {
        Self {
            lifecycle: Arc::new(ProcessLifecycle::new(spec.id().into(), spec.stdio())),
            spec,
            container,
        }
    }

    /// Runs the process from start to end, and reports each change with `report`.
    pub(crate) fn run_once(&self, context: &AgentContext, report: impl Fn(Report)) {
        let failed = |error: LifecycleError| report(Report::Failed(error.report(&self.lifecycle.id)));
        match self.container.admit() {
            // Held over the report: a container's end is reported after the ends of its exec processes.
            Ok(admission) => match self.run(context, &admission, &report) {
                Ok(stopped) => report(Report::Stopped(stopped)),
                Err(error) => failed(error),
            },
            Err(error) => failed(error),
        }
    }

    /// Runs all steps of a lifecycle: each leaves the state as the next one needs it.
    fn run(
        &self,
        context: &AgentContext,
        admission: &Admission,
        report: &impl Fn(Report),
    ) -> Result<Stopped, LifecycleError> {
        let (control, pid) = self.join(context, admission)?;
        let mut copies = Copies::new().map_err(LifecycleError::Copy)?;
        let outcome = self.lifecycle.receive_created(&control).and_then(|ends| {
            let kill = || self.lifecycle.kill();
            self.lifecycle
                .until_running((control, ends), pid, &mut copies, &kill, report)
        });
        if outcome.is_err() {
            self.lifecycle.kill();
        }
        let status = self.lifecycle.wait_for_exit();
        copies.finish();
        // The memory limit belongs to the container, and so does the report of it.
        outcome.map(|()| self.lifecycle.stopped(status, false))
    }

    /// Starts the container init and adopts the process that it forks. Returns its control socket and pid.
    fn join(&self, context: &AgentContext, admission: &Admission) -> Result<(UnixStream, Pid), LifecycleError> {
        let pair = || UnixStream::pair().map_err(|e| LifecycleError::Control(FrameError::Io(e)));
        // The container init's socket ends with the container init, so that its death is seen whatever its child holds.
        let ((init_control, init_end), (control, child_end)) = (pair()?, pair()?);
        let init = self.spawn(context, init_end, &admission.first)?;
        let adopted = self
            .forked(&init_control, admission, child_end)
            .and_then(|pidfd| self.adopt(context, pidfd));
        match adopted {
            Ok(pid) => Ok((control, pid)),
            Err(error) => {
                // Gone already, when it failed by itself.
                let _ = sys::send_signal_to(&init.pidfd, libc::SIGKILL);
                // Anything that failed because the container ended is reported as that, whatever the error was.
                let is_running = self.container.lifecycle.running().is_some();
                Err(if is_running {
                    error
                } else {
                    LifecycleError::NotRunning(self.container.lifecycle.id.clone())
                })
            }
        }
    }

    /// Starts the container init in the container's cgroup. Nobody waits for its own end.
    fn spawn(&self, context: &AgentContext, init_end: UnixStream, first: &OwnedFd) -> Result<Spawned, LifecycleError> {
        let spawn_in = |folder: &OwnedFd| {
            let (program, folder) = (context.spawner.program.as_fd(), folder.as_fd());
            let spawn = || sys::spawn_init(program, folder, init_end.as_fd(), PidNamespace::Inherited);
            context.spawner.reaper.spawn(spawn, Box::new(|_| {}))
        };
        let spawned = self.container.with_cgroup(|cgroup: &Cgroup| {
            match spawn_in(cgroup.folder()) {
                // The container moved its processes to a cgroup below (as systemd does): no process may be above it.
                Err(Errno::BUSY | Errno::OPNOTSUPP) => spawn_in(&cgroup.folder_of(first)?),
                result => result,
            }
        });
        let spawned = spawned.ok_or_else(|| LifecycleError::NotRunning(self.container.lifecycle.id.clone()))?;
        spawned.map_err(LifecycleError::Spawn)
    }

    /// Sends the container init the order to prepare. Returns the process that it forked.
    fn forked(
        &self,
        init_control: &UnixStream,
        admission: &Admission,
        child_end: UnixStream,
    ) -> Result<OwnedFd, LifecycleError> {
        let order = InitOrder::from(Order::Prepare(Box::new(self.spec.clone())));
        let order = frame::encode_frame(&order).map_err(LifecycleError::Control)?;
        let fds = [admission.first.as_fd(), child_end.as_fd()];
        control::send(init_control, &order, &fds).map_err(LifecycleError::Control)?;
        // From here on the child alone holds it, and its closing is the child's exec or end.
        drop(child_end);
        let (message, mut fds) = process_lifecycle::receive(init_control)?;
        match (message.kind, fds.pop()) {
            (Some(Report::Started(_)), Some(pidfd)) if fds.is_empty() => Ok(pidfd),
            (Some(Report::Failed(failed)), _) => Err(LifecycleError::Failed(failed)),
            _ => Err(LifecycleError::Unexpected),
        }
    }

    /// Makes the forked process this lifecycle's.
    fn adopt(&self, context: &AgentContext, pidfd: OwnedFd) -> Result<Pid, LifecycleError> {
        match context.spawner.reaper.adopt(&pidfd, self.lifecycle.on_exit()) {
            Ok(pid) => {
                self.lifecycle.begin(pidfd);
                Ok(pid)
            }
            // Not a child any more: it was killed, and reaped as an orphan.
            Err(Errno::CHILD) => Err(LifecycleError::Ended),
            Err(e) => Err(LifecycleError::Spawn(e)),
        }
    }
}
