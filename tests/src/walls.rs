//! Confinement of a process, as the host sees it in `/proc`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::resident::{Process, descendants};

/// Process and its confinement.
#[derive(Debug)]
pub struct Walls {
    /// Process id.
    pub pid: u32,
    /// Name, 15 bytes at most.
    pub name: String,
    /// Lines of `/proc/PID/status`.
    pub status: BTreeMap<String, String>,
    /// Hard limits in `/proc/PID/limits`, by name; unlimited ones are left out.
    pub limits: BTreeMap<String, u64>,
    /// Namespaces that are not this process's.
    pub own_namespaces: BTreeSet<String>,
    /// Everything below the process's root directory but folders; the files of `/fd` are [`Walls::files`].
    pub root: Vec<String>,
    /// Open files of the process.
    pub files: Vec<String>,
}

/// Number of seccomp filters of QEMU: two of ours, and one of its own at least.
const QEMU_FILTERS_MIN: usize = 3;

/// Names of namespaces in `/proc/PID/ns`.
const NAMESPACES: [&str; 7] = ["user", "mnt", "net", "ipc", "uts", "cgroup", "pid"];

impl Walls {
    /// Reads the confinement of a living process.
    ///
    /// # Panics
    /// A process that is gone, or may not be inspected.
    #[must_use]
    pub fn of(process: &Process) -> Self {
        let folder = PathBuf::from(format!("/proc/{}", process.pid));
        let status = fs::read_to_string(folder.join("status")).expect("its status");
        let limits = fs::read_to_string(folder.join("limits")).expect("its limits");
        let field = |line: &str| {
            line.split_once(':')
                .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        };
        let namespace = |pid: &Path, name: &str| fs::read_link(pid.join("ns").join(name)).expect("a namespace");
        let is_own = |name: &&&str| namespace(&folder, name) != namespace(Path::new("/proc/self"), name);
        let files = fs::read_dir(folder.join("fd")).expect("its files").flatten();
        let files = files.filter_map(|file| fs::read_link(file.path()).ok());
        Self {
            pid: process.pid,
            name: process.name.clone(),
            status: status.lines().filter_map(field).collect(),
            limits: limits.lines().filter_map(limit).collect(),
            own_namespaces: NAMESPACES
                .iter()
                .filter(is_own)
                .map(|name| (*name).to_owned())
                .collect(),
            root: list(&folder.join("root")),
            files: files.map(|file| file.display().to_string()).collect(),
        }
    }

    /// Returns a line of the process's status.
    #[must_use]
    pub fn status(&self, name: &str) -> &str {
        self.status.get(name).map_or("", String::as_str)
    }

    /// Returns the effective user on the host.
    #[must_use]
    pub fn user(&self) -> Option<u32> {
        self.status("Uid").split_whitespace().nth(1)?.parse().ok()
    }

    /// Requires a seccomp filter, no new privileges, namespaces of its own and no capabilities but `capabilities`.
    #[track_caller]
    pub fn assert_confined(&self, capabilities: &str) {
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            let expected = match set {
                "CapPrm" | "CapEff" => capabilities,
                _ => NO_CAPABILITIES,
            };
            assert_eq!(self.status(set), expected, "{set} of {self:?}");
        }
        assert_eq!(self.status("NoNewPrivs"), "1", "{self:?}");
        assert_eq!(self.status("Seccomp"), "2", "{self:?}");
        assert_eq!(self.own_namespaces.len(), NAMESPACES.len(), "{self:?}");
    }

    /// Requires hard limits of at most these values.
    #[track_caller]
    pub fn assert_limits(&self, most: &[(&str, u64)]) {
        for (name, most) in most {
            let limit = self.limits.get(*name);
            assert!(
                limit.is_some_and(|limit| limit <= most),
                "{name}: {limit:?} of {self:?}"
            );
        }
    }

    /// Requires that the process is QEMU, confined, with nothing but QEMU's own files.
    #[track_caller]
    pub fn assert_is_confined_qemu(&self) {
        self.assert_confined(NO_CAPABILITIES);
        // Our own filters, and those of QEMU's `-sandbox on`.
        let filters: usize = self.status("Seccomp_filters").parse().expect("a number of filters");
        assert!(filters >= QEMU_FILTERS_MIN, "{filters} filters: {self:?}");
        self.assert_limits(&[
            ("Max open files", 1 << 10),
            ("Max processes", 1 << 8),
            ("Max file size", 64 << 30),
        ]);
        let is_qemus = |name: &String| {
            matches!(
                name.as_str(),
                "/qemu-system-x86_64" | "/qboot.rom" | "/accel-tcg-x86_64.so" | "/fd"
            ) || name.starts_with("/lib") && name.contains(".so")
        };
        assert!(self.root.iter().all(is_qemus), "{:?}", self.root);
        let is_handed_over = |file: &String| {
            ["socket:", "pipe:", "anon_inode:[event", "anon_inode:[signalfd]", "/memfd:", "/dev/null"]
                .iter()
                .any(|start| file.starts_with(start))
                || file.ends_with("/vmlinux")
                // The network's socket, without a name.
                || file.ends_with("/passing (deleted)")
        };
        assert!(self.files.iter().all(is_handed_over), "{:?}", self.files);
    }
}

/// Parses a line of `/proc/PID/limits`: name, soft limit, hard limit, each in a column.
fn limit(line: &str) -> Option<(String, u64)> {
    let (name, values) = line.split_at_checked(26)?;
    let hard = values.split_whitespace().nth(1)?;
    Some((name.trim().to_owned(), hard.parse().ok()?))
}

/// Value of a capability set.
pub const NO_CAPABILITIES: &str = "0000000000000000";

/// Returns the confined processes below a supervisor, by name: those that have a namespace of pids to themselves.
#[must_use]
pub fn confined_below(supervisor: u32) -> Vec<Walls> {
    let all = descendants(supervisor)
        .into_iter()
        .filter(|process| process.state != 'Z');
    let walls = all.map(|process| Walls::of(&process));
    walls.filter(|walls| walls.own_namespaces.contains("pid")).collect()
}

/// Lists all entries below `root` but folders; the content of a mount of `/proc/self/fd` is skipped.
fn list(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = format!("/{}", entry.path().strip_prefix(root).unwrap_or(&folder).display());
            if name != "/fd" && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            } else {
                found.push(name);
            }
        }
    }
    found
}
