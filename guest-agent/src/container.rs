//! One container: its lifecycle, its cgroup, and the processes that joined it.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use capsid_protocol::message::agent_message::Kind as Report;
use capsid_protocol::process::init_order::Kind as Order;
use capsid_protocol::{ContainerSpec, FrameError, InitOrder, ProcessSpec, Stopped, TaskSpec, frame, write_frame};
use rustix::process::{Pid, WaitStatus};

use crate::cgroup::Cgroup;
use crate::disk_users::Writing;
use crate::limits::EXEC_PROCESSES_WAIT;
use crate::pod::Pod;
use crate::process_lifecycle::{AgentContext, LifecycleError, ProcessLifecycle};
use crate::stream::Copies;
use crate::sys::{self, PidNamespace};
use crate::{devices, disk, log, threads};

/// Container, from its spec to its end.
pub(crate) struct Container {
    /// Lifecycle of the container's first process.
    pub(crate) lifecycle: Arc<ProcessLifecycle>,
    spec: ContainerSpec,
    /// Task in place of the container's program.
    task: Option<TaskSpec>,
    /// Pod whose namespaces the container shares, once it exists.
    pod: OnceLock<Arc<Pod>>,
    /// Cgroup of the container, present from before its first process to after its last.
    cgroup: Mutex<Option<Cgroup>>,
    /// Number of processes that joined the container and whose ends the host does not know yet.
    exec_processes: Mutex<usize>,
    exec_processes_changed: Condvar,
    /// Mount namespace, which keeps the container's mounts until its end is known.
    mounts: Mutex<Option<File>>,
}

/// Syncs all filesystems, unless the host has no room for the data of these disks.
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

/// Right to start a process in a running container; the container waits for the process's report.
pub(crate) struct Admission {
    container: Arc<Container>,
    /// First process of the container.
    pub(crate) first: OwnedFd,
}

impl Drop for Admission {
    fn drop(&mut self) {
        *self.container.exec_processes() -= 1;
        self.container.exec_processes_changed.notify_all();
    }
}

impl Container {
    /// Creates a container for which nothing was done yet.
    pub(crate) fn new(spec: ContainerSpec) -> Self {
        Self::made(ProcessLifecycle::new(spec.id.clone(), spec.stdio()), spec, None)
    }

    /// Creates a container for a task on its files, in place of its program.
    pub(crate) fn for_task(mut task: TaskSpec) -> Self {
        let mut spec = std::mem::take(&mut task.container);
        // The task's streams are its own.
        spec.terminal = None;
        Self::made(ProcessLifecycle::new(task.id.clone(), task.stdio()), spec, Some(task))
    }

    fn made(lifecycle: ProcessLifecycle, spec: ContainerSpec, task: Option<TaskSpec>) -> Self {
        Self {
            lifecycle: Arc::new(lifecycle),
            spec,
            task,
            pod: OnceLock::new(),
            cgroup: Mutex::default(),
            exec_processes: Mutex::default(),
            mounts: Mutex::default(),
            exec_processes_changed: Condvar::new(),
        }
    }

    fn exec_processes(&self) -> MutexGuard<'_, usize> {
        self.exec_processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cgroup(&self) -> MutexGuard<'_, Option<Cgroup>> {
        self.cgroup.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `act` with the cgroup, which stays meanwhile; `None` before its creation and after its end.
    pub(crate) fn with_cgroup<T>(&self, act: impl FnOnce(&Cgroup) -> T) -> Option<T> {
        self.cgroup().as_ref().map(act)
    }

    /// Returns the network namespace, or the container's first process, which is in it: `setns` takes either. `None` if
    /// there is neither.
    pub(crate) fn network(&self) -> Option<OwnedFd> {
        match self.pod.get() {
            Some(pod) => pod.network().try_clone_to_owned().ok(),
            None => self.lifecycle.running(),
        }
    }

    /// Admits a process that joins, if the program runs and is not frozen.
    pub(crate) fn admit(self: &Arc<Self>) -> Result<Admission, LifecycleError> {
        let not_running = || LifecycleError::NotRunning(self.lifecycle.id.clone());
        // Counted before the check of the state: a container that ends afterwards waits.
        *self.exec_processes() += 1;
        let first = self.lifecycle.running();
        let admission = first.map(|first| Admission {
            container: Arc::clone(self),
            first,
        });
        let Some(admission) = admission else {
            *self.exec_processes() -= 1;
            self.exec_processes_changed.notify_all();
            return Err(not_running());
        };
        match self.with_cgroup(Cgroup::is_frozen) {
            None => Err(not_running()),
            Some(true) => Err(LifecycleError::Paused(self.lifecycle.id.clone())),
            Some(false) => Ok(admission),
        }
    }

    /// Runs the container from start to end, and reports each change with `report`.
    pub(crate) fn run_once(&self, context: &AgentContext, report: impl Fn(Report)) {
        match self.run_in_cgroup(context, &report) {
            Ok(stopped) => report(Report::Stopped(stopped)),
            Err(error) => report(Report::Failed(error.report(&self.lifecycle.id))),
        }
        self.mounts.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Runs the lifecycle with cgroup, pod and disks around it. Cgroup and mounts are gone before the end is reported,
    /// except mounts of disks that are thrown away.
    fn run_in_cgroup(&self, context: &AgentContext, report: &impl Fn(Report)) -> Result<Stopped, LifecycleError> {
        let spec = devices::resolve(&self.spec).map_err(LifecycleError::Device)?;
        let pod = context.pod_of(&self.spec)?;
        if let Some(pod) = &pod {
            self.pod.get_or_init(|| Arc::clone(pod));
        }
        let above = pod.as_deref().map(Pod::cgroup);
        let cgroup = Cgroup::make(above, &self.lifecycle.id, &self.spec.limits).map_err(LifecycleError::Cgroup)?;
        *self.cgroup() = Some(cgroup);
        let discards = self.spec.discards_disks;
        let disks = if discards {
            Vec::new()
        } else {
            disk::serials(&self.spec)
        };
        context.disk_users.take(&disks);
        let outcome = self.run(context, &spec, pod.as_deref(), report);
        let cgroup = self.cgroup().take();
        let was_oom_killed = cgroup.is_some_and(|cgroup| cgroup.was_oom_killed());
        if !discards {
            self.unmount();
        }
        // After the last process: the host may use the disks elsewhere as soon as it knows of the end.
        let are_free = context.disk_users.give_back(&disks);
        if !are_free {
            log::warn("a disk of a container is still mounted after its end");
            sync(&disks);
        }
        outcome.map(|status| Stopped {
            disks_busy: !are_free,
            ..self.lifecycle.stopped(status, was_oom_killed)
        })
    }

    /// Runs all steps of a lifecycle: each leaves the state as the next one needs it. `spec` names all its devices.
    fn run(
        &self,
        context: &AgentContext,
        spec: &ContainerSpec,
        pod: Option<&Pod>,
        report: &impl Fn(Report),
    ) -> Result<WaitStatus, LifecycleError> {
        let (mut control, init_end) = UnixStream::pair().map_err(|e| LifecycleError::Control(FrameError::Io(e)))?;
        let pid = self.spawn(context, pod, init_end)?;
        let mut copies = Copies::new().map_err(LifecycleError::Copy)?;
        let outcome = self
            .send_order(&mut control, spec, pod)
            .and_then(|()| self.until_running((control, spec), pid, &mut copies, report));
        if outcome.is_err() {
            self.kill();
        }
        let status = self.lifecycle.wait_for_exit();
        // Processes that joined and have not reached the pid namespace yet.
        self.kill();
        copies.finish();
        self.wait_for_exec_processes();
        outcome.map(|()| status)
    }

    /// Starts to take the container's mounts apart, in a thread that waits for the kernel's writes.
    fn unmount(&self) {
        let mounts = self.mounts.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Without a thread, the mounts are dropped here.
        let _ = threads::spawn("unmount", move || drop(mounts));
    }

    /// Kills every process in the container.
    fn kill(&self) {
        self.with_cgroup(Cgroup::kill);
    }

    /// Starts the container init in the cgroup.
    fn spawn(&self, context: &AgentContext, pod: Option<&Pod>, init_end: UnixStream) -> Result<Pid, LifecycleError> {
        let spawned = self.with_cgroup(|cgroup| {
            let (program, folder) = (context.spawner.program.as_fd(), cgroup.folder().as_fd());
            let spawn = || match pod {
                None => sys::spawn_init(program, folder, init_end.as_fd(), PidNamespace::New),
                Some(pod) => pod.spawn(program, folder, init_end.as_fd()),
            };
            context.spawner.reaper.spawn(spawn, self.lifecycle.on_exit())
        });
        let spawned = spawned.ok_or(LifecycleError::Ended)?.map_err(LifecycleError::Spawn)?;
        self.lifecycle.begin(spawned.pidfd);
        Ok(spawned.pid)
    }

    /// Sends the container init the order to prepare, with the descriptors of the namespaces that it shares.
    fn send_order(
        &self,
        control: &mut UnixStream,
        spec: &ContainerSpec,
        pod: Option<&Pod>,
    ) -> Result<(), LifecycleError> {
        let process = match &self.task {
            None => ProcessSpec::from(spec.clone()),
            Some(task) => ProcessSpec::from(TaskSpec {
                container: spec.clone(),
                ..task.clone()
            }),
        };
        let order = InitOrder::from(Order::Prepare(Box::new(process)));
        let sent = match pod {
            None => write_frame(control, &order),
            Some(pod) => {
                frame::encode_frame(&order).and_then(|order| crate::control::send(control, &order, &pod.namespaces()))
            }
        };
        sent.map_err(LifecycleError::Control)
    }

    /// Lets the container init prepare everything but the program, and then run the program.
    fn until_running(
        &self,
        (control, spec): (UnixStream, &ContainerSpec),
        pid: Pid,
        copies: &mut Copies,
        report: &impl Fn(Report),
    ) -> Result<(), LifecycleError> {
        let ends = self.lifecycle.receive_created(&control)?;
        // Taking the root's mounts apart takes longer than a short program runs, and for ever while the host has no
        // room for unwritten data. Nothing depends on this: a process that is gone takes its mounts with it.
        let mounts = File::open(format!("/proc/{}/ns/mnt", pid.as_raw_nonzero())).ok();
        *self.mounts.lock().unwrap_or_else(PoisonError::into_inner) = mounts;
        // Only now: the container init itself opens disks.
        self.with_cgroup(|cgroup| cgroup.restrict_devices(spec))
            .unwrap_or(Ok(()))
            .map_err(LifecycleError::Cgroup)?;
        self.lifecycle
            .until_running((control, ends), pid, copies, &|| self.kill(), report)
    }

    /// Waits until the host knows the ends of the processes that joined. Bounded: a process whose output nobody takes
    /// must not keep the container.
    fn wait_for_exec_processes(&self) {
        let waited = self
            .exec_processes_changed
            .wait_timeout_while(self.exec_processes(), EXEC_PROCESSES_WAIT, |n| *n > 0);
        let left = *waited.unwrap_or_else(PoisonError::into_inner).0;
        if left > 0 {
            log::warn("a container ends before those who joined it");
        }
    }
}
