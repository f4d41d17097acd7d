//! Count of everything that exists on the host on behalf of Capsid, before and after: the difference is a leak.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use crate::capsid::Capsid;
use crate::environment::patience;
use crate::resident::descendants;

/// Count at one moment, as lines that a person can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census(BTreeSet<String>);

impl Census {
    /// Makes orphans of this test's processes its own children, so that none escapes the count. Once per executable.
    pub fn adopt_orphans() {
        nix::sys::prctl::set_child_subreaper(true).expect("prctl");
    }

    /// Counts now.
    pub fn take(capsid: &Capsid) -> Self {
        let mut found = BTreeSet::new();
        reap();
        found.extend(
            descendants(process::id())
                .into_iter()
                .map(|p| format!("process {} {} {}", p.pid, p.name, p.state)),
        );
        found.extend(mounts());
        found.extend(capsid.files().into_iter().map(|path| format!("file {path}")));
        found.extend(named_after_capsid("/tmp", "temporary file"));
        found.extend(named_after_capsid("/dev/shm", "shared memory"));
        found.extend(named_after_capsid("/run", "runtime file"));
        found.extend(cgroups());
        found.extend(sockets(capsid));
        found.insert(format!("own descriptors {}", own_descriptors()));
        Self(found)
    }

    /// Requires that nothing new is there; ending processes may take a moment.
    #[track_caller]
    pub fn assert_nothing_new(&self, capsid: &Capsid) {
        let deadline = Instant::now() + patience(10);
        loop {
            let now = Self::take(capsid);
            let new: Vec<&String> = now.0.difference(&self.0).collect();
            if new.is_empty() {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "left behind:\n  {}",
                new.iter().map(|line| line.as_str()).collect::<Vec<_>>().join("\n  ")
            );
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Reaps adopted orphans that have ended. They are not leaks of Capsid: their parent, this test, must reap them.
/// Children that a fixture still waits for are left alone.
fn reap() {
    for zombie in descendants(process::id()) {
        let orphan = zombie.state == 'Z' && zombie.parent == process::id() && is_ours(&zombie.name);
        if orphan {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(zombie.pid).expect("a pid"));
            let _ = nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
        }
    }
}

fn is_ours(name: &str) -> bool {
    ["capsid", "qemu", "passt"].iter().any(|start| name.starts_with(start))
}

fn mounts() -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("procfs");
    let points = text.lines().filter_map(|line| line.split(' ').nth(4));
    // An image that another executable's fixture is making does not belong to this test.
    points
        .filter(|point| !point.contains("/mmdebstrap."))
        .map(|point| format!("mount {point}"))
        .collect()
}

fn named_after_capsid(folder: &str, what: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    // Folders of other tests and of a lab that run beside this one appear and disappear.
    let others = ["capsid-test-", "capsid-registry-", "capsid-lab."];
    names
        .filter(|name| is_ours(name) && !others.iter().any(|other| name.starts_with(other)))
        .map(|name| format!("{what} {folder}/{name}"))
        .collect()
}

fn cgroups() -> Vec<String> {
    let mut found = Vec::new();
    collect_cgroups(Path::new("/sys/fs/cgroup"), 0, &mut found);
    found
}

fn collect_cgroups(folder: &Path, depth: usize, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
    {
        if entry.file_name().to_string_lossy().contains("capsid") {
            found.push(format!("cgroup {}", entry.path().display()));
        }
        if depth < 6 {
            collect_cgroups(&entry.path(), depth + 1, found);
        }
    }
}

/// Lists UNIX sockets bound inside the test's folders, or with our name in the abstract namespace.
fn sockets(capsid: &Capsid) -> Vec<String> {
    let folder = capsid.folder("").display().to_string();
    let text = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let path = |line: &str| line.split_whitespace().nth(7).map(str::to_owned);
    let ours = |path: &String| path.starts_with(&folder) || path.starts_with("@capsid");
    text.lines()
        .filter_map(path)
        .filter(ours)
        .map(|path| format!("socket {path}"))
        .collect()
}

fn own_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("procfs").count()
}
