//! Facts about this host that [`checks`](super::checks) judges.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::unistd::{Gid, Group, geteuid};
use rustix::fs::Access;

use crate::probe::KvmVerdict;

/// Bit of CAP_SYS_RESOURCE (include/uapi/linux/capability.h).
const SYS_RESOURCE: u64 = 1 << 24;

/// Switches that decide whether a user namespace can be created; `None`: this kernel has no such switch.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    pub(super) root: bool,
    pub(super) max_user: Option<u64>,
    /// Switch of Debian's kernels.
    pub(super) unprivileged_clone: Option<u64>,
    /// Switch of Ubuntu's kernels.
    pub(super) apparmor_restricts: Option<u64>,
}

/// Limits of this process.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) root: bool,
    /// Hard limit, up to which Capsid raises its own; `None`: unlimited.
    pub(super) open_files: Option<u64>,
    pub(super) sys_resource: bool,
}

/// State of one of Capsid's folders.
#[derive(Debug)]
pub(super) enum Folder {
    Good,
    /// Absent folder that can be created.
    NotYet,
    Foreign {
        owner: u32,
    },
    /// Path that something else occupies.
    Occupied,
    NotWritable {
        error: io::Error,
    },
}

/// Returns the name of the group that could open `/dev/kvm`.
pub(super) fn group_name(verdict: &KvmVerdict) -> Option<String> {
    let KvmVerdict::NotPermitted { group } = verdict else {
        return None;
    };
    Some(Group::from_gid(Gid::from_raw(*group)).ok()??.name)
}

/// Returns the first line of a program's `--version`, shortened to the version where it has the usual form.
pub(super) fn version(program: &Path) -> Option<String> {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next()?.trim();
    let version = line.split_once("version ").map_or(line, |(_, rest)| rest);
    (output.status.success() && !version.is_empty()).then(|| version.chars().take(60).collect())
}

/// Reads the switches of user namespaces.
pub(super) fn namespaces() -> Namespaces {
    Namespaces {
        root: geteuid().is_root(),
        max_user: number("/proc/sys/user/max_user_namespaces"),
        unprivileged_clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
        apparmor_restricts: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
    }
}

/// Reads the limits of this process.
pub(super) fn limits() -> Limits {
    let open_files = getrlimit(Resource::RLIMIT_NOFILE)
        .ok()
        .map(|(_, hard)| hard)
        .filter(|hard| *hard != RLIM_INFINITY);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = effective_capabilities(&status).unwrap_or(0);
    Limits {
        root: geteuid().is_root(),
        open_files,
        sys_resource: capabilities & SYS_RESOURCE != 0,
    }
}

/// Returns the bytes that this user may still write where `folder` is or will be.
pub(super) fn free_space(folder: &Path) -> Option<u64> {
    let space = rustix::fs::statvfs(nearest(folder)?).ok()?;
    Some(space.f_bavail.saturating_mul(space.f_frsize))
}

/// Examines the state of `folder`. Leaves nothing behind: creates a file without a name, or none at all for a folder
/// that does not exist yet.
pub(super) fn folder(folder: &Path) -> Folder {
    let metadata = match fs::metadata(folder) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return to_be_made(folder),
        Err(error) => return Folder::NotWritable { error },
    };
    if !metadata.is_dir() {
        return Folder::Occupied;
    }
    if metadata.uid() != geteuid().as_raw() {
        return Folder::Foreign { owner: metadata.uid() };
    }
    match tempfile::tempfile_in(folder) {
        Ok(_) => Folder::Good,
        Err(error) => Folder::NotWritable { error },
    }
}

fn to_be_made(folder: &Path) -> Folder {
    let Some(parent) = nearest(folder) else {
        return Folder::Occupied;
    };
    match rustix::fs::access(parent, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Folder::NotYet,
        Err(error) => Folder::NotWritable { error: error.into() },
    }
}

/// Returns `folder`, or the closest folder above it that exists.
fn nearest(folder: &Path) -> Option<&Path> {
    folder.ancestors().find(|path| path.is_dir())
}

/// Reads `/proc/self/cgroup`; empty where there is none.
pub(super) fn own_cgroups() -> String {
    fs::read_to_string("/proc/self/cgroup").unwrap_or_default()
}

/// Returns the bytes of memory that new processes can have without swapping.
pub(super) fn available_memory() -> Option<u64> {
    mem_available(&fs::read_to_string("/proc/meminfo").ok()?)
}

/// Returns the bytes of all memory.
pub(super) fn total_memory() -> Option<u64> {
    field(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")
}

/// Parses the line `MemAvailable:  123 kB` of proc_meminfo(5) into bytes.
fn mem_available(meminfo: &str) -> Option<u64> {
    field(meminfo, "MemAvailable:")
}

fn field(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim()
        .strip_suffix(" kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

/// Parses the line `CapEff: 000001ffffffffff` of proc_pid_status(5).
fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read_by_their_lines() {
        assert_eq!(
            mem_available("MemTotal: 8 kB\nMemAvailable:     2048 kB\n"),
            Some(2 << 20)
        );
        assert_eq!(mem_available("MemTotal: 8 kB\n"), None);
        assert_eq!(mem_available("MemAvailable: x kB\n"), None);
        assert_eq!(
            effective_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n"),
            Some(0x1ff_ffff_ffff)
        );
        assert_eq!(effective_capabilities(""), None);
    }

    #[test]
    fn folders_are_told_apart() {
        let place = tempfile::tempdir().expect("a folder");
        assert!(matches!(folder(place.path()), Folder::Good));
        assert!(matches!(folder(&place.path().join("a/b")), Folder::NotYet));
        fs::write(place.path().join("file"), "").expect("a writable folder");
        assert!(matches!(folder(&place.path().join("file")), Folder::Occupied));
        assert!(matches!(
            folder(Path::new("/proc/self/not-there")),
            Folder::NotWritable { .. } | Folder::NotYet
        ));
        assert_eq!(place.path().read_dir().expect("a folder").count(), 1);
    }

    #[test]
    fn this_host_has_memory_and_space() {
        assert!(available_memory() > Some(0));
        assert!(free_space(Path::new("/nonexistent/folder")) > Some(0));
        assert!(version(Path::new("/nonexistent")).is_none());
    }
}
