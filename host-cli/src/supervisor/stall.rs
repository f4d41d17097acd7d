//! Time that the host kept from a machine's processes, so that a busy host is not mistaken for a dead guest: threads
//! that were ready to run and had no processor, or waited for a disk.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use crate::resident::descendants;

/// Maximum number of threads that are inspected: a machine has one for each vCPU, and a few more.
const THREADS_MAX: usize = 4096;

/// Stalls of the machine's processes, as one inspection found them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Stall {
    /// Longest time since the last inspection for which one thread waited for a processor.
    pub waited: Duration,
    /// Whether a thread waits for a disk, or is being debugged.
    pub is_blocked: bool,
    /// Process that somebody has stopped with a signal, such as "123 (qemu-system-x86)".
    pub stopped: Option<String>,
}

/// Observer that repeatedly inspects the processes that this one has started.
#[derive(Debug, Default)]
pub(super) struct Observer {
    /// Number of nanoseconds that each thread has waited for a processor in its life.
    waits: HashMap<u32, u64>,
}

impl Observer {
    /// Returns the stalls since the last inspection; the first one finds no waits.
    pub(super) fn look(&mut self) -> Stall {
        let mut stall = Stall::default();
        let mut waits = HashMap::new();
        for pid in descendants(std::process::id()) {
            for thread in threads(pid) {
                if waits.len() >= THREADS_MAX {
                    break;
                }
                self.look_at(pid, thread, &mut stall, &mut waits);
            }
        }
        self.waits = waits;
        stall
    }

    fn look_at(&self, pid: u32, thread: u32, stall: &mut Stall, waits: &mut HashMap<u32, u64>) {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/task/{thread}/{file}")).unwrap_or_default();
        let wait = run_queue_wait(&read("schedstat")).unwrap_or(0);
        let before = self.waits.get(&thread).copied().unwrap_or(wait);
        stall.waited = stall.waited.max(Duration::from_nanos(wait.saturating_sub(before)));
        waits.insert(thread, wait);
        match name_and_state(&read("stat")) {
            Some((_, 'D' | 't')) => stall.is_blocked = true,
            Some((name, 'T')) => stall.stopped = Some(format!("{pid} ({name})")),
            _ => {}
        }
    }
}

fn threads(pid: u32) -> impl Iterator<Item = u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Number of nanoseconds on a run queue, the second number of `schedstat`; kernels without scheduler statistics have
/// none.
fn run_queue_wait(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().nth(1)?.parse().ok()
}

/// Parses name and state letter of a `stat` file (`proc(5)`). The name is between the first and the last bracket.
fn name_and_state(stat: &str) -> Option<(&str, char)> {
    let (_, rest) = stat.split_once('(')?;
    let (name, rest) = rest.rsplit_once(')')?;
    Some((name, rest.trim_start().chars().next()?))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn files_of_the_kernel_are_understood() {
        assert_eq!(run_queue_wait("4066 52113 7\n"), Some(52113));
        assert_eq!(run_queue_wait(""), None);
        assert_eq!(name_and_state("42 (a) R (b) S 7 42\n"), Some(("a) R (b", 'S')));
        assert_eq!(name_and_state(""), None);
    }

    #[test]
    fn a_stopped_process_is_found() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
        let mut observer = Observer::default();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        let expected = Some(format!("{} (sleep)", child.id()));
        while observer.look().stopped != expected && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        // Other tests have children too; the one of this test is among them.
        let found = observer.waits.contains_key(&child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found);
    }
}
