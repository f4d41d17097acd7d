//! A process that joins a running container (`exec`): it has a life and streams of its own, and everything else of the
//! container.
//!
//! The agent starts a stage in the container's cgroup but in its own pid namespace, where the container does not see it.
//! The stage enters the container's namespaces and forks a child into the container's pid namespace that is the agent's
//! child too; the agent adopts that before it runs anything. See [`crate::stage`] for the other side.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use capsid_protocol::message::agent_message::Kind as Report;
use capsid_protocol::{ContainerSpec, FrameError, Stopped, frame};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::cgroup::Cgroup;
use crate::container::{Admission, Container};
use crate::control;
use crate::life::{self, Ground, Life, LifeError};
use crate::stream::Copies;
use crate::sys::{self, PidNamespace, Spawned};

/// A process beside a container's first.
pub(crate) struct Joiner {
    /// Its own life.
    pub(crate) life: Arc<Life>,
    container: Arc<Container>,
}

impl Joiner {
    /// A process that will join `container`.
    pub(crate) fn new(spec: ContainerSpec, container: Arc<Container>) -> Self {
        Self {
            life: Arc::new(Life::new(spec)),
            container,
        }
    }

    /// Lives its life, telling it by `report`.
    pub(crate) fn live(&self, ground: &Ground, report: impl Fn(Report)) {
        let checked = crate::spec::check(&self.life.spec).map_err(LifeError::Spec);
        let failed = |error: LifeError| report(Report::Failed(error.report(&self.life.id)));
        match checked.and_then(|()| self.container.admit()) {
            // Held over the report: a container's end comes after the ends of those who joined it.
            Ok(admission) => match self.run(ground, &admission, &report) {
                Ok(stopped) => report(Report::Stopped(stopped)),
                Err(error) => failed(error),
            },
            Err(error) => failed(error),
        }
    }

    /// The recipe of a life: each step leaves the state as the next one needs it.
    fn run(&self, ground: &Ground, admission: &Admission, report: &impl Fn(Report)) -> Result<Stopped, LifeError> {
        let (control, pid) = self.join(ground, admission)?;
        let mut copies = Copies::new().map_err(LifeError::Copy)?;
        let outcome = self.life.receive_created(&control).and_then(|ends| {
            let kill = || self.life.kill();
            self.life
                .until_running((control, ends), pid, &mut copies, &kill, report)
        });
        if outcome.is_err() {
            self.life.kill();
        }
        let status = self.life.wait_for_exit();
        copies.finish();
        // The limit is the container's, and so is the word of it.
        outcome.map(|()| self.life.stopped(status, false))
    }

    /// Starts the stage and adopts the process that it forks: its control socket and pid.
    fn join(&self, ground: &Ground, admission: &Admission) -> Result<(UnixStream, Pid), LifeError> {
        let pair = || UnixStream::pair().map_err(|e| LifeError::Control(FrameError::Io(e)));
        // The stage's socket ends with the stage, so that its death is seen whatever its child holds.
        let ((stage_control, stage_end), (control, child_end)) = (pair()?, pair()?);
        let stage = self.spawn(ground, stage_end, &admission.first)?;
        let adopted = self
            .forked(&stage_control, admission, child_end)
            .and_then(|pidfd| self.adopt(ground, pidfd));
        match adopted {
            Ok(pid) => Ok((control, pid)),
            Err(error) => {
                // Gone already, when it failed by itself.
                let _ = sys::send_signal_to(&stage.pidfd, libc::SIGKILL);
                // What failed because the container ended is that, however it looked.
                let is_running = self.container.life.running().is_some();
                Err(if is_running {
                    error
                } else {
                    LifeError::NotRunning(self.container.life.id.clone())
                })
            }
        }
    }

    /// Starts the stage in the container's cgroup. Its own end is nobody's concern.
    fn spawn(&self, ground: &Ground, stage_end: UnixStream, first: &OwnedFd) -> Result<Spawned, LifeError> {
        let spawn_in = |folder: &OwnedFd| {
            let (program, folder) = (ground.program.as_fd(), folder.as_fd());
            let spawn = || sys::spawn_stage(program, folder, stage_end.as_fd(), PidNamespace::Inherited);
            ground.reaper.spawn(spawn, Box::new(|_| {}))
        };
        let spawned = self.container.with_cgroup(|cgroup: &Cgroup| {
            match spawn_in(cgroup.folder()) {
                // The container moved its processes to a cgroup below (as systemd does): no process may be above it.
                Err(Errno::BUSY | Errno::OPNOTSUPP) => spawn_in(&cgroup.folder_of(first)?),
                result => result,
            }
        });
        let spawned = spawned.ok_or_else(|| LifeError::NotRunning(self.container.life.id.clone()))?;
        spawned.map_err(LifeError::Spawn)
    }

    /// Tells the stage what to do: the process that it forked.
    fn forked(
        &self,
        stage_control: &UnixStream,
        admission: &Admission,
        child_end: UnixStream,
    ) -> Result<OwnedFd, LifeError> {
        let spec = frame::encode_frame(&self.life.spec).map_err(LifeError::Control)?;
        let fds = [admission.first.as_fd(), child_end.as_fd()];
        control::send(stage_control, &spec, &fds).map_err(LifeError::Control)?;
        // From here on the child alone holds it, and its closing is the child's exec or end.
        drop(child_end);
        let (message, mut fds) = life::receive(stage_control)?;
        match (message.kind, fds.pop()) {
            (Some(Report::Started(_)), Some(pidfd)) if fds.is_empty() => Ok(pidfd),
            (Some(Report::Failed(failed)), _) => Err(LifeError::Failed(failed)),
            _ => Err(LifeError::Unexpected),
        }
    }

    /// Makes the forked process this life's.
    fn adopt(&self, ground: &Ground, pidfd: OwnedFd) -> Result<Pid, LifeError> {
        match ground.reaper.adopt(&pidfd, self.life.on_exit()) {
            Ok(pid) => {
                self.life.begin(pidfd);
                Ok(pid)
            }
            // Not a child any more: killed, and reaped as nobody's.
            Err(Errno::CHILD) => Err(LifeError::Ended),
            Err(e) => Err(LifeError::Spawn(e)),
        }
    }
}
