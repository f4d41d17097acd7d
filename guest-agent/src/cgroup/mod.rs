//! cgroup v2: the agent's leaf, and one cgroup for each container with its limits and device rules.

mod cpu;
mod cpuset;
mod devices;
mod freezer;
mod memory;
mod pids;
mod usage;

use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use capsid_protocol::message::PROCESSES_MAX;
use capsid_protocol::spec::Limits;
use capsid_protocol::{ContainerSpec, Measured};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::limits::{CGROUP_DEPTH_MAX, CGROUP_DESCENDANTS_MAX, FREEZE_WAIT};
use crate::{reaper, sys};

/// Mount point of the cgroup hierarchy.
pub(crate) const MOUNT_POINT: &str = "/sys/fs/cgroup";

/// Leaf cgroup of the agent.
pub(crate) const AGENT: &str = "/sys/fs/cgroup/agent";

/// Time limit for killed processes to be reaped by another container's PID 1.
const EMPTY_WAIT: Duration = Duration::from_secs(2);
/// Interval between attempts to remove a cgroup.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// File of a cgroup and the value to write to it.
type Setting = (&'static str, String);

/// Error of creating or changing a cgroup.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupError {
    /// The folder of the cgroup cannot be created or opened.
    #[error("cannot make the cgroup {path}")]
    Make { path: PathBuf, source: std::io::Error },
    /// A file refuses a value.
    #[error("cannot write {value:?} to {file}")]
    Write {
        file: &'static str,
        value: String,
        source: std::io::Error,
    },
    /// The state of the cgroup cannot be watched.
    #[error("cannot read the state of the cgroup")]
    Watch(#[source] Errno),
    /// A process does not stop, for example because it waits in the kernel for something that does not happen.
    #[error("not every process stopped or resumed within {FREEZE_WAIT:?}")]
    Freeze,
    /// The device rules are refused.
    #[error("cannot restrict the devices")]
    Devices(#[source] Errno),
}

/// Processor weight of the agent beside containers that want all of it, the largest there is: the host takes an agent
/// that does not answer for dead, however busy its containers are.
const AGENT_CPU_WEIGHT: &str = "10000";

/// Moves the agent to a leaf of its own, and enables controllers for the root's children.
pub(crate) fn set_up_agent() -> Result<(), CgroupError> {
    let root = Path::new(MOUNT_POINT);
    let leaf = PathBuf::from(AGENT);
    fs::create_dir(&leaf).map_err(|source| CgroupError::Make {
        path: leaf.clone(),
        source,
    })?;
    write(&leaf, ("cgroup.procs", "1".into()))?;
    share_out(root);
    if let Err(e) = write(&leaf, ("cpu.weight", AGENT_CPU_WEIGHT.into())) {
        // Without the controller all processes have the same share.
        crate::log::warn(&crate::log::chain(&e));
    }
    Ok(())
}

/// Enables controllers for the children of a cgroup.
fn share_out(folder: &Path) {
    // All at once: each change takes the whole hierarchy's locks.
    let all = "+cpu +memory +pids +cpuset +io";
    if write(folder, ("cgroup.subtree_control", all.into())).is_ok() {
        return;
    }
    // Each alone: a kernel without one controller still has the others, and a limit for the missing one fails by name
    // later.
    for controller in ["cpu", "memory", "pids", "cpuset", "io"] {
        if write(folder, ("cgroup.subtree_control", format!("+{controller}"))).is_err() {
            crate::log::warn(&format!("the kernel has no {controller} controller"));
        }
    }
}

/// Bounds of the tree that a container may make below its cgroup, so that removing it is bounded too. `nsdelegate` does
/// not let the container change them.
const BOUNDS: [(&str, usize); 2] = [
    ("cgroup.max.depth", CGROUP_DEPTH_MAX),
    ("cgroup.max.descendants", CGROUP_DESCENDANTS_MAX),
];

/// Returns limits as files and values: one module per controller.
fn settings(limits: &Limits) -> Vec<Setting> {
    [
        memory::settings(limits),
        cpu::settings(limits),
        cpuset::settings(limits),
        pids::settings(limits),
    ]
    .concat()
}

/// Formats a limit for the kernel: `u64::MAX` is `max`, no limit.
fn limit(n: u64) -> String {
    if n == u64::MAX { "max".into() } else { n.to_string() }
}

fn write(folder: &Path, (file, value): Setting) -> Result<(), CgroupError> {
    fs::write(folder.join(file), &value).map_err(|source| CgroupError::Write { file, value, source })
}

/// Cgroup of one container. Dropping it kills the remaining processes and removes the cgroup.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    folder: OwnedFd,
}

impl Cgroup {
    /// Creates the cgroup of the container `id` with its limits, below the cgroup of its pod, if it has one.
    pub(crate) fn make(above: Option<&Self>, id: &str, limits: &Limits) -> Result<Self, CgroupError> {
        let parent = above.map_or(Path::new(MOUNT_POINT), |above| &above.path);
        let path = parent.join(id);
        let failed = |source| CgroupError::Make {
            path: path.clone(),
            source,
        };
        fs::create_dir(&path).map_err(failed)?;
        let folder = rustix::fs::open(
            &path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| failed(e.into()))?;
        let cgroup = Self { path, folder };
        for (file, bound) in BOUNDS {
            write(&cgroup.path, (file, bound.to_string()))?;
        }
        cgroup.update(limits)?;
        Ok(cgroup)
    }

    /// Enables controllers for the cgroups below, so that they have limits of their own.
    pub(crate) fn share_out(&self) {
        share_out(&self.path);
    }

    /// Changes the limits that are present. If one is refused, those written before it stay.
    pub(crate) fn update(&self, limits: &Limits) -> Result<(), CgroupError> {
        for setting in settings(limits) {
            let is_swap = setting.0 == memory::SWAP_MAX;
            match write(&self.path, setting) {
                // A kernel without swap has no file to limit it.
                Err(CgroupError::Write { source, .. }) if is_swap && source.kind() == ErrorKind::NotFound => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// Returns the folder of the cgroup, for a process to be started in it.
    pub(crate) fn folder(&self) -> &OwnedFd {
        &self.folder
    }

    /// Restricts opening to the devices of `spec`, unless it has all devices.
    pub(crate) fn restrict_devices(&self, spec: &ContainerSpec) -> Result<(), CgroupError> {
        if spec.all_devices {
            return Ok(());
        }
        let program = devices::program(&devices::rules(&spec.devices));
        sys::attach_device_program(rustix::fd::AsFd::as_fd(&self.folder), &program).map_err(CgroupError::Devices)
    }

    /// Opens the folder of the cgroup, at or below this one, that contains the process `pidfd`.
    pub(crate) fn folder_of(&self, pidfd: &OwnedFd) -> Result<OwnedFd, Errno> {
        let pid = reaper::pid_of(pidfd)?.as_raw_nonzero();
        let line = fs::read_to_string(format!("/proc/{pid}/cgroup"));
        let line = line.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        // The pid may belong to another process by now: wherever that is, only a cgroup below this one is opened.
        let path = place(&line).ok_or(Errno::NOENT)?;
        let below = path.strip_prefix(&self.path).map_err(|_| Errno::NOENT)?;
        let below = if below.as_os_str().is_empty() {
            Path::new(".")
        } else {
            below
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat2(&self.folder, below, flags, Mode::empty(), ResolveFlags::BENEATH)
    }

    /// Stops or resumes every process in the cgroup, and waits until they are in that state. If not all of them can be
    /// stopped, all are resumed.
    pub(crate) fn freeze(&self, frozen: bool) -> Result<(), CgroupError> {
        write(&self.path, (freezer::FREEZE, freezer::value(frozen).into()))?;
        if freezer::wait_until(&self.path, frozen).map_err(CgroupError::Watch)? {
            return Ok(());
        }
        if frozen {
            write(&self.path, (freezer::FREEZE, freezer::value(false).into()))?;
        }
        Err(CgroupError::Freeze)
    }

    /// Whether the processes of the cgroup are stopped, or about to be.
    pub(crate) fn is_frozen(&self) -> bool {
        let value = fs::read_to_string(self.path.join(freezer::FREEZE));
        value.is_ok_and(|value| value.trim() == freezer::value(true))
    }

    /// Measures the current usage of the cgroup.
    pub(crate) fn measure(&self) -> Measured {
        usage::of_cgroup(&self.path)
    }

    /// Returns the pids in the cgroup and below: at most one more than [`PROCESSES_MAX`].
    pub(crate) fn processes(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        collect_processes(&self.path, &mut pids);
        pids
    }

    /// Kills every process in the cgroup.
    pub(crate) fn kill(&self) {
        if let Err(e) = fs::write(self.path.join("cgroup.kill"), "1") {
            crate::log::warn(&format!("cannot kill a cgroup: {e}"));
        }
    }

    /// Whether the kernel killed a process of the cgroup for its memory limit.
    pub(crate) fn was_oom_killed(&self) -> bool {
        fs::read_to_string(self.path.join("memory.events")).is_ok_and(|events| memory::was_oom_killed(&events))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.kill();
        let deadline = Instant::now() + EMPTY_WAIT;
        // A container may have made cgroups below its own.
        while let Err(e) = remove_tree(&self.path) {
            // In a pid namespace that lives on, killed processes take a moment to be reaped.
            if e.kind() != ErrorKind::ResourceBusy || Instant::now() > deadline {
                return crate::log::warn(&format!("cannot remove a cgroup: {e}"));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

/// Measures the current usage of the whole guest.
pub(crate) fn measure_guest() -> Measured {
    usage::of_guest()
}

/// Adds the pids of a cgroup and those below it: [`BOUNDS`] keep the recursion shallow. A cgroup that was removed
/// meanwhile, or has only threads, has none.
fn collect_processes(path: &Path, pids: &mut Vec<u32>) {
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    let left = (PROCESSES_MAX + 1).saturating_sub(pids.len());
    pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).take(left));
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if pids.len() <= PROCESSES_MAX && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_processes(&entry.path(), pids);
        }
    }
}

/// Parses the cgroup folder named in a `/proc/*/cgroup` (its line `0::/path`, `cgroups(7)`).
fn place(text: &str) -> Option<PathBuf> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(MOUNT_POINT).join(path))
}

/// Removes a cgroup and those below it: [`BOUNDS`] keep the recursion shallow.
fn remove_tree(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}
