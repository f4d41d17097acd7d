//! PID 1 of the guest: its own root, the kernel's filesystems, and the shutdown of the system.

use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::DumpableBehavior;
use rustix::system::RebootCommand;

use crate::cgroup::{self, CgroupError};
use crate::limits::DESCRIPTORS_MAX;
use crate::mount::{MountError, attach, filesystem};
use crate::plan::attribute;
use crate::{log, sys};

/// Error of setting up the guest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestError {
    /// The initramfs cannot be left for a root that can be pivoted from.
    #[error("cannot make the agent's root")]
    Root(#[source] Errno),
    /// The agent's root filesystem cannot be mounted.
    #[error("cannot mount the agent's root")]
    MountRoot(#[source] MountError),
    /// A mount point cannot be made.
    #[error("cannot make {path}")]
    Folder { path: PathBuf, source: Errno },
    /// A filesystem of the kernel cannot be mounted.
    #[error("cannot mount {path}")]
    Mount { path: &'static str, source: MountError },
    /// The standard streams cannot be opened.
    #[error("cannot open the standard streams")]
    Streams(#[source] Errno),
    /// Protection from the out-of-memory killer cannot be set.
    #[error("cannot set the out-of-memory score")]
    OomScore(#[source] std::io::Error),
    /// Protection from being traced and read cannot be set.
    #[error("cannot become non-dumpable")]
    Dumpable(#[source] Errno),
    /// A resource limit cannot be raised.
    #[error("cannot raise resource limit {resource}")]
    Rlimit { resource: u32, source: Errno },
    /// A kernel parameter cannot be set.
    #[error("cannot set the kernel parameter {name}")]
    Parameter { name: &'static str, source: std::io::Error },
    /// The agent's cgroup cannot be made.
    #[error("cannot make the agent's cgroup")]
    Cgroup(#[source] CgroupError),
    /// The agent's own program cannot be opened.
    #[error("cannot open the agent's program")]
    Program(#[source] Errno),
}

/// Attributes of all mounts but `/dev`: no programs and no devices.
const NO_PROGRAMS: u64 = attribute::NOSUID | attribute::NODEV | attribute::NOEXEC;

/// Kernel parameters whose defaults are too low for what people run, while those of servers are higher.
const PARAMETERS: [(&str, &str); 4] = [
    // Elasticsearch and others that map many files: the value of Debian 13, Ubuntu and Fedora (the kernel's is 65530).
    ("vm/max_map_count", "1048576"),
    // Watches of a large source tree. The kernel allows 1% of memory for them: 8192 in a machine of 1 GiB. Each is
    // charged to the memory limit of its container.
    ("fs/inotify/max_user_watches", "524288"),
    // Open files of all containers together: systemd's value, since limits of memory and of open files count already.
    ("fs/file-max", "9223372036854775807"),
    // Reserving memory is not using it. The kernel refuses a mapping larger than the machine, which is as small as the
    // container's limit and not the host: JVMs, Go programs and databases that reserve much would not start where they
    // do under docker. Used memory counts against the limit, as there.
    ("vm/overcommit_memory", "1"),
];

/// Makes the guest ready for containers. Returns the agent's own program, to be started again as container inits.
pub(crate) fn set_up() -> Result<OwnedFd, GuestError> {
    reserve_standard_streams()?;
    leave_initramfs()?;
    for path in ["/dev", "/proc", "/sys", "/run"] {
        rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)).map_err(|source| GuestError::Folder {
            path: path.into(),
            source,
        })?;
    }
    mount_one("/dev", "devtmpfs", &[], &[], attribute::NOSUID | attribute::NOEXEC)?;
    open_standard_streams()?;
    mount_one("/proc", "proc", &[], &[], NO_PROGRAMS)?;
    mount_one("/sys", "sysfs", &[], &[], NO_PROGRAMS)?;
    mount_one("/run", "tmpfs", &[("mode", "0755")], &[], NO_PROGRAMS)?;
    // nsdelegate: a container cannot change its own limits, nor move processes out of its cgroup.
    mount_one(
        cgroup::MOUNT_POINT,
        "cgroup2",
        &[],
        &["nsdelegate", "memory_recursiveprot"],
        NO_PROGRAMS,
    )?;
    std::fs::write("/proc/self/oom_score_adj", "-1000").map_err(GuestError::OomScore)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(GuestError::Dumpable)?;
    raise_limits()?;
    set_parameters()?;
    cgroup::set_up_agent().map_err(GuestError::Cgroup)?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::open("/proc/self/exe", flags, Mode::empty()).map_err(GuestError::Program)
}

fn set_parameters() -> Result<(), GuestError> {
    PARAMETERS.into_iter().try_for_each(|(name, value)| {
        std::fs::write(Path::new("/proc/sys").join(name), value)
            .map_err(|source| GuestError::Parameter { name, source })
    })
}

/// Raises the limits of the agent, and of containers whose specs set none: the kernel's own for PID 1 are too low for
/// many streams (1024 descriptors). Processes are counted by each container's cgroup instead.
fn raise_limits() -> Result<(), GuestError> {
    for (resource, limit) in [(libc::RLIMIT_NOFILE, DESCRIPTORS_MAX), (libc::RLIMIT_NPROC, u64::MAX)] {
        sys::set_rlimit(resource, limit, limit).map_err(|source| GuestError::Rlimit { resource, source })?;
    }
    Ok(())
}

/// Reserves the numbers of the standard streams, so that no other file gets them: without a console, PID 1 starts
/// without these streams.
fn reserve_standard_streams() -> Result<(), GuestError> {
    loop {
        let fd = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(GuestError::Streams)?;
        if std::os::fd::AsRawFd::as_raw_fd(&fd) > 2 {
            return Ok(());
        }
        // Held for ever, or until the real streams replace it.
        let _ = fd.into_raw_fd();
    }
}

/// Puts a tmpfs over the initramfs and moves into it: the kernel refuses `pivot_root` from the initramfs itself. The
/// initramfs, with the agent's program in it, is read-only from here: `/proc/1/exe` of a container with an init leads
/// there (CVE-2019-5736 shows the risk of a writable one).
fn leave_initramfs() -> Result<(), GuestError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let initramfs = rustix::fs::open("/", flags, Mode::empty()).map_err(GuestError::Root)?;
    sys::set_mount_attributes(initramfs.as_fd(), attribute::READONLY, false).map_err(GuestError::Root)?;
    let root =
        filesystem("tmpfs", &[("mode", "0755"), ("size", "1m")], &[], NO_PROGRAMS).map_err(GuestError::MountRoot)?;
    attach(&root, CWD, "/").map_err(GuestError::MountRoot)?;
    rustix::process::fchdir(&root).map_err(GuestError::Root)?;
    rustix::process::chroot(".").map_err(GuestError::Root)
}

fn mount_one(
    path: &'static str,
    kind: &'static str,
    options: &[(&str, &str)],
    flags: &[&str],
    attributes: u64,
) -> Result<(), GuestError> {
    filesystem(kind, options, flags, attributes)
        .and_then(|mount| attach(&mount, CWD, path))
        .map_err(|source| GuestError::Mount { path, source })
}

/// Opens the standard streams: an empty input, and the kernel's log as output.
fn open_standard_streams() -> Result<(), GuestError> {
    let open = |path, flags| rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty());
    let null = open("/dev/null", OFlags::RDONLY).map_err(GuestError::Streams)?;
    let log = open("/dev/kmsg", OFlags::WRONLY).or_else(|_| open("/dev/null", OFlags::WRONLY));
    let log = log.map_err(GuestError::Streams)?;
    for (number, stream) in [(0, &null), (1, &log), (2, &log)] {
        sys::set_standard_stream(number, stream.as_fd()).map_err(GuestError::Streams)?;
    }
    Ok(())
}

/// Writes unwritten data and resets the machine, which ends it: there is no other way to turn it off.
pub(crate) fn power_off() {
    rustix::fs::sync();
    if let Err(e) = rustix::system::reboot(RebootCommand::Restart) {
        log::warn(&format!("cannot reset the machine: {e}"));
    }
}
