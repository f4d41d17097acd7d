//! Processes under a test, from `/proc`: who descends from whom, and how much memory they hold.

use std::fs;

/// A process as `/proc` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Process id of the parent.
    pub parent: u32,
    /// Name, 15 bytes at most.
    pub name: String,
    /// State letter.
    pub state: char,
}

/// Returns all processes of this host.
pub fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").expect("procfs");
    entries
        .flatten()
        .filter_map(|entry| read_process(entry.file_name().to_str()?.parse().ok()?))
        .collect()
}

/// Parses `/proc/PID/stat`: the name may hold spaces and parentheses, so it ends at the last one.
fn read_process(pid: u32) -> Option<Process> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, tail) = text.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let mut fields = tail.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some(Process {
        pid,
        parent: fields.next()?.parse().ok()?,
        name,
        state,
    })
}

/// Returns the descendants of a process, without itself.
pub fn descendants(ancestor: u32) -> Vec<Process> {
    let all = processes();
    let mut found: Vec<Process> = Vec::new();
    let mut parents = vec![ancestor];
    while let Some(parent) = parents.pop() {
        for process in all.iter().filter(|process| process.parent == parent) {
            parents.push(process.pid);
            found.push(process.clone());
        }
    }
    found
}

/// Returns the private memory of a process in KiB: its cost apart from files and shared guest memory.
pub fn private_kib(pid: u32) -> u64 {
    field_kib(pid, "smaps_rollup", "Private_Dirty:").saturating_sub(field_kib(pid, "status", "RssShmem:"))
}

/// Returns the process's share of memory that holds data, in KiB: without the code of programs, of which each user's
/// share grows when another one ends.
#[must_use]
pub fn data_kib(pid: u32) -> u64 {
    field_kib(pid, "smaps_rollup", "Pss_Anon:") + field_kib(pid, "smaps_rollup", "Pss_Shmem:")
}

/// Returns `RssAnon` of a process in KiB.
pub fn anonymous_kib(pid: u32) -> u64 {
    field_kib(pid, "status", "RssAnon:")
}

fn field_kib(pid: u32, file: &str, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0)
}

/// Resources that a process holds.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    /// Number of open descriptors.
    pub fds: usize,
    /// Number of threads.
    pub threads: usize,
    /// Resident memory.
    pub resident_kib: u64,
    /// Resident memory that is not backed by a file: pages of code vary with the latest requests.
    pub anonymous_kib: u64,
}

impl Held {
    /// Measures a living process now.
    pub fn of(pid: u32) -> Self {
        let entries = |folder: &str| fs::read_dir(format!("/proc/{pid}/{folder}")).expect("procfs").count();
        Self {
            fds: entries("fd"),
            threads: entries("task"),
            resident_kib: field_kib(pid, "status", "VmRSS:"),
            anonymous_kib: field_kib(pid, "status", "RssAnon:"),
        }
    }
}
