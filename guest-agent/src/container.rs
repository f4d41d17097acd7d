//! One container: its life, its cgroup, and who joined it.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use capsid_protocol::message::agent_message::Kind as Report;
use capsid_protocol::{ContainerSpec, FrameError, Stopped, frame, write_frame};
use rustix::process::{Pid, WaitStatus};

use crate::cgroup::Cgroup;
use crate::claim::Writing;
use crate::life::{Ground, Life, LifeError};
use crate::limits::JOINERS_WAIT;
use crate::pod::Pod;
use crate::stream::Copies;
use crate::sys::{self, PidNamespace};
use crate::{devices, disk, log, threads};

/// A container, from its spec to its end.
pub(crate) struct Container {
    /// The life of its first process.
    pub(crate) life: Arc<Life>,
    /// What it shares with others, once that is there.
    pod: OnceLock<Arc<Pod>>,
    /// There from before its first process to after its last.
    cgroup: Mutex<Option<Cgroup>>,
    /// Processes that joined it and whose ends the host does not know yet.
    joiners: Mutex<usize>,
    joiners_changed: Condvar,
    /// Mount namespace, which keeps the container's mounts until its end is known.
    mounts: Mutex<Option<File>>,
}

/// Has everything written, unless the host has no room for what is to go to these disks.
fn sync(serials: &[String]) {
    let (done, waits) = std::sync::mpsc::channel();
    let spawned = threads::spawn("sync", move || {
        rustix::fs::sync();
        // Nobody waits any more.
        let _ = done.send(());
    });
    let mut writing = Writing::to(disk::names(serials));
    while spawned.is_ok()
        && waits.recv_timeout(Duration::from_millis(100)) == Err(RecvTimeoutError::Timeout)
        && !writing.is_stuck()
    {}
}

/// The right to start a process in a running container, and to have the container wait for its report.
pub(crate) struct Admission {
    container: Arc<Container>,
    /// The container's first process.
    pub(crate) first: OwnedFd,
}

impl Drop for Admission {
    fn drop(&mut self) {
        *self.container.joiners() -= 1;
        self.container.joiners_changed.notify_all();
    }
}

impl Container {
    /// A container that nothing was done for yet.
    pub(crate) fn new(spec: ContainerSpec) -> Self {
        Self {
            life: Arc::new(Life::new(spec)),
            pod: OnceLock::new(),
            cgroup: Mutex::default(),
            joiners: Mutex::default(),
            mounts: Mutex::default(),
            joiners_changed: Condvar::new(),
        }
    }

    fn joiners(&self) -> MutexGuard<'_, usize> {
        self.joiners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cgroup(&self) -> MutexGuard<'_, Option<Cgroup>> {
        self.cgroup.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with its cgroup, which stays while it is done; `None` before its making and after its end.
    pub(crate) fn with_cgroup<T>(&self, act: impl FnOnce(&Cgroup) -> T) -> Option<T> {
        self.cgroup().as_ref().map(act)
    }

    /// Its network namespace, or its first process, which is in it: `setns` takes either. `None` while there is neither.
    pub(crate) fn network(&self) -> Option<OwnedFd> {
        match self.pod.get() {
            Some(pod) => pod.network().try_clone_to_owned().ok(),
            None => self.life.running(),
        }
    }

    /// Lets a process join, when the program runs and is not frozen.
    pub(crate) fn admit(self: &Arc<Self>) -> Result<Admission, LifeError> {
        let not_running = || LifeError::NotRunning(self.life.id.clone());
        // Counted before the look at the life: a container that ends afterwards waits.
        *self.joiners() += 1;
        let first = self.life.running();
        let admission = first.map(|first| Admission {
            container: Arc::clone(self),
            first,
        });
        let Some(admission) = admission else {
            *self.joiners() -= 1;
            self.joiners_changed.notify_all();
            return Err(not_running());
        };
        match self.with_cgroup(Cgroup::is_frozen) {
            None => Err(not_running()),
            Some(true) => Err(LifeError::Paused(self.life.id.clone())),
            Some(false) => Ok(admission),
        }
    }

    /// Lives the container's life, telling it by `report`.
    pub(crate) fn live(&self, ground: &Ground, report: impl Fn(Report)) {
        match self.live_in_cgroup(ground, &report) {
            Ok(stopped) => report(Report::Stopped(stopped)),
            Err(error) => report(Report::Failed(error.report(&self.life.id))),
        }
        self.mounts.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The life with what is around it; cgroup and mounts are gone before the end is reported, but for mounts of disks
    /// that are thrown away.
    fn live_in_cgroup(&self, ground: &Ground, report: &impl Fn(Report)) -> Result<Stopped, LifeError> {
        crate::spec::check(&self.life.spec).map_err(LifeError::Spec)?;
        let spec = devices::resolve(&self.life.spec).map_err(LifeError::Device)?;
        let pod = ground.pod_of(&self.life.spec)?;
        if let Some(pod) = &pod {
            self.pod.get_or_init(|| Arc::clone(pod));
        }
        let above = pod.as_deref().map(Pod::cgroup);
        let cgroup = Cgroup::make(above, &self.life.id, &self.life.spec.limits).map_err(LifeError::Cgroup)?;
        *self.cgroup() = Some(cgroup);
        let discards = self.life.spec.discards_disks;
        let disks = if discards {
            Vec::new()
        } else {
            disk::serials(&self.life.spec)
        };
        ground.claims.take(&disks);
        let outcome = self.run(ground, &spec, pod.as_deref(), report);
        let cgroup = self.cgroup().take();
        let was_oom_killed = cgroup.is_some_and(|cgroup| cgroup.was_oom_killed());
        if !discards {
            self.unmount();
        }
        // After the last process: the host may use them elsewhere as soon as it knows of the end.
        let are_free = ground.claims.give_back(&disks);
        if !are_free {
            log::warn("a disk of a container is still mounted after its end");
            sync(&disks);
        }
        outcome.map(|status| Stopped {
            disks_busy: !are_free,
            ..self.life.stopped(status, was_oom_killed)
        })
    }

    /// The recipe of a life: each step leaves the state as the next one needs it. `spec` names all its devices.
    fn run(
        &self,
        ground: &Ground,
        spec: &ContainerSpec,
        pod: Option<&Pod>,
        report: &impl Fn(Report),
    ) -> Result<WaitStatus, LifeError> {
        let (mut control, stage_end) = UnixStream::pair().map_err(|e| LifeError::Control(FrameError::Io(e)))?;
        let pid = self.spawn(ground, pod, stage_end)?;
        let mut copies = Copies::new().map_err(LifeError::Copy)?;
        let outcome = self
            .tell(&mut control, spec, pod)
            .and_then(|()| self.until_running((control, spec), pid, &mut copies, report));
        if outcome.is_err() {
            self.kill();
        }
        let status = self.life.wait_for_exit();
        // Who joined and has not reached the pid namespace yet.
        self.kill();
        copies.finish();
        self.wait_for_joiners();
        outcome.map(|()| status)
    }

    /// Begins to take its mounts apart, in a thread that waits for what the kernel has to write.
    fn unmount(&self) {
        let mounts = self.mounts.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Without a thread, here.
        let _ = threads::spawn("unmount", move || drop(mounts));
    }

    /// Kills every process in it.
    fn kill(&self) {
        self.with_cgroup(Cgroup::kill);
    }

    /// Starts the stage in the cgroup.
    fn spawn(&self, ground: &Ground, pod: Option<&Pod>, stage_end: UnixStream) -> Result<Pid, LifeError> {
        let spawned = self.with_cgroup(|cgroup| {
            let (program, folder) = (ground.program.as_fd(), cgroup.folder().as_fd());
            let spawn = || match pod {
                None => sys::spawn_stage(program, folder, stage_end.as_fd(), PidNamespace::New),
                Some(pod) => pod.spawn(program, folder, stage_end.as_fd()),
            };
            ground.reaper.spawn(spawn, self.life.on_exit())
        });
        let spawned = spawned.ok_or(LifeError::Ended)?.map_err(LifeError::Spawn)?;
        self.life.begin(spawned.pidfd);
        Ok(spawned.pid)
    }

    /// Tells the stage what to become, and hands over what it shares.
    fn tell(&self, control: &mut UnixStream, spec: &ContainerSpec, pod: Option<&Pod>) -> Result<(), LifeError> {
        let told = match pod {
            None => write_frame(control, spec),
            Some(pod) => {
                frame::encode_frame(spec).and_then(|spec| crate::control::send(control, &spec, &pod.namespaces()))
            }
        };
        told.map_err(LifeError::Control)
    }

    /// Has the stage make everything but the program, and then run it.
    fn until_running(
        &self,
        (control, spec): (UnixStream, &ContainerSpec),
        pid: Pid,
        copies: &mut Copies,
        report: &impl Fn(Report),
    ) -> Result<(), LifeError> {
        let ends = self.life.receive_created(&control)?;
        // To take the root's mounts apart takes longer than a short program runs, and for ever while the host has no room
        // for what is not written yet. Nothing depends on this: a process that is gone takes its mounts with it.
        let mounts = File::open(format!("/proc/{}/ns/mnt", pid.as_raw_nonzero())).ok();
        *self.mounts.lock().unwrap_or_else(PoisonError::into_inner) = mounts;
        // Only now: the stage itself opens disks.
        self.with_cgroup(|cgroup| cgroup.restrict_devices(spec))
            .unwrap_or(Ok(()))
            .map_err(LifeError::Cgroup)?;
        self.life
            .until_running((control, ends), pid, copies, &|| self.kill(), report)
    }

    /// Waits until the host knows the ends of those who joined. Bounded: one whose output nobody takes must not keep
    /// the container.
    fn wait_for_joiners(&self) {
        let waited = self
            .joiners_changed
            .wait_timeout_while(self.joiners(), JOINERS_WAIT, |n| *n > 0);
        let left = *waited.unwrap_or_else(PoisonError::into_inner).0;
        if left > 0 {
            log::warn("a container ends before those who joined it");
        }
    }
}
