//! cgroup v2: the agent's leaf, and one cgroup for each container with its limits and device rules.

mod cpu;
mod cpuset;
mod devices;
mod memory;
mod pids;

use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use capsid_protocol::ContainerSpec;
use capsid_protocol::spec::Limits;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::limits::{CGROUP_DEPTH_MAX, CGROUP_DESCENDANTS_MAX};
use crate::sys;

/// Where the hierarchy is mounted.
pub(crate) const MOUNT_POINT: &str = "/sys/fs/cgroup";

/// A file of a cgroup and what is written to it.
type Setting = (&'static str, String);

/// Why a cgroup cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupError {
    /// Its folder cannot be made or opened.
    #[error("cannot make the cgroup {path}")]
    Make { path: PathBuf, source: std::io::Error },
    /// A file refuses a value.
    #[error("cannot write {value:?} to {file}")]
    Write {
        file: &'static str,
        value: String,
        source: std::io::Error,
    },
    /// The device rules are refused.
    #[error("cannot restrict the devices")]
    Devices(#[source] Errno),
}

/// Moves the agent to a leaf of its own, and lets the root's children have controllers.
pub(crate) fn set_up_agent() -> Result<(), CgroupError> {
    let root = Path::new(MOUNT_POINT);
    let leaf = root.join("agent");
    fs::create_dir(&leaf).map_err(|source| CgroupError::Make {
        path: leaf.clone(),
        source,
    })?;
    write(&leaf, ("cgroup.procs", "1".into()))?;
    // All at once: each change takes the whole hierarchy's locks.
    if write(
        root,
        ("cgroup.subtree_control", "+cpu +memory +pids +cpuset +io".into()),
    )
    .is_ok()
    {
        return Ok(());
    }
    // Each alone: a kernel without one controller still has the others, and a limit for it fails by name later.
    for controller in ["cpu", "memory", "pids", "cpuset", "io"] {
        if write(root, ("cgroup.subtree_control", format!("+{controller}"))).is_err() {
            crate::log::warn(&format!("the kernel has no {controller} controller"));
        }
    }
    Ok(())
}

/// Bounds of the tree that a container may make below its cgroup, so that removing it is bounded too. They lie outside
/// of what `nsdelegate` lets the container change.
const BOUNDS: [(&str, usize); 2] = [
    ("cgroup.max.depth", CGROUP_DEPTH_MAX),
    ("cgroup.max.descendants", CGROUP_DESCENDANTS_MAX),
];

/// What limits say, as files and values: one module a controller.
fn settings(limits: &Limits) -> Vec<Setting> {
    [
        memory::settings(limits),
        cpu::settings(limits),
        cpuset::settings(limits),
        pids::settings(limits),
    ]
    .concat()
}

fn write(folder: &Path, (file, value): Setting) -> Result<(), CgroupError> {
    fs::write(folder.join(file), &value).map_err(|source| CgroupError::Write { file, value, source })
}

/// The cgroup of one container. Dropping it kills what is still in it and removes it.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    folder: OwnedFd,
}

impl Cgroup {
    /// Makes the cgroup of the container `id` with its limits.
    pub(crate) fn make(id: &str, limits: &Limits) -> Result<Self, CgroupError> {
        let path = Path::new(MOUNT_POINT).join(id);
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
        for setting in settings(limits) {
            let is_swap = setting.0 == memory::SWAP_MAX;
            match write(&cgroup.path, setting) {
                // A kernel without swap has no file to limit it.
                Err(CgroupError::Write { source, .. }) if is_swap && source.kind() == ErrorKind::NotFound => {}
                result => result?,
            }
        }
        Ok(cgroup)
    }

    /// Its folder, for a process to be started in it.
    pub(crate) fn folder(&self) -> &OwnedFd {
        &self.folder
    }

    /// From now on only the devices of `spec` can be opened, unless it has all.
    pub(crate) fn restrict_devices(&self, spec: &ContainerSpec) -> Result<(), CgroupError> {
        if spec.all_devices {
            return Ok(());
        }
        let program = devices::program(&devices::rules(&spec.devices));
        sys::attach_device_program(rustix::fd::AsFd::as_fd(&self.folder), &program).map_err(CgroupError::Devices)
    }

    /// Kills every process in it.
    pub(crate) fn kill(&self) {
        if let Err(e) = fs::write(self.path.join("cgroup.kill"), "1") {
            crate::log::warn(&format!("cannot kill a cgroup: {e}"));
        }
    }

    /// Whether the kernel killed a process in it for its memory limit.
    pub(crate) fn was_oom_killed(&self) -> bool {
        fs::read_to_string(self.path.join("memory.events")).is_ok_and(|events| memory::was_oom_killed(&events))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.kill();
        // A container may have made cgroups below its own.
        if let Err(e) = remove_tree(&self.path) {
            crate::log::warn(&format!("cannot remove a cgroup: {e}"));
        }
    }
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
