//! Processes of a container, as the agent's `/proc` shows them (`proc(5)`). What a process reports of itself (name and
//! arguments) is hostile bytes and passed on as such, bounded.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;

use capsid_protocol::message::PROCESSES_MAX;
use capsid_protocol::{Listed, Process};
use rustix::time::ClockId;

use crate::arguments::{ArgumentReaders, read_cmdline};
use crate::limits::LISTED_BYTES_MAX;

/// Milliseconds of a tick in `/proc` (`USER_HZ`): 100 per second on every architecture Linux has today but alpha and
/// ia64.
const TICK_MS: u64 = 10;

/// Bytes of a page of the guest's memory, x86-64.
const PAGE_BYTES: u64 = 4096;

/// Lists the processes `pids`. Those that ended meanwhile are left out; arguments that are slow to read are empty, like
/// a zombie's.
pub(crate) fn list(mut pids: Vec<u32>, readers: &Arc<ArgumentReaders>) -> Listed {
    pids.sort_unstable();
    let truncated = pids.len() > PROCESSES_MAX;
    pids.truncate(PROCESSES_MAX);
    let boot_ms = boot_time_ms();
    let mut processes: Vec<Process> = pids.into_iter().filter_map(|pid| read(pid, boot_ms)).collect();
    let read: Vec<u32> = processes.iter().map(|process| process.pid).collect();
    let mut arguments = readers.read_all(&read, read_cmdline);
    for process in &mut processes {
        process.args = arguments.remove(&process.pid).unwrap_or_default();
    }
    bound_arguments(&mut processes);
    name_parents(&mut processes);
    Listed {
        packed: Listed::pack(&processes),
        truncated,
    }
}

/// Returns the wall clock at the start of the guest's kernel, milliseconds since 1970.
fn boot_time_ms() -> u64 {
    let ms = |clock| {
        let now = rustix::time::clock_gettime(clock);
        now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
    };
    ms(ClockId::Realtime).saturating_sub(ms(ClockId::Boottime))
}

fn read(pid: u32, boot_ms: u64) -> Option<Process> {
    let file = |name: &str| fs::read(format!("/proc/{pid}/{name}"));
    let mut process = parse_stat(&file("stat").ok()?)?;
    process.start_time_ms = process.start_time_ms.saturating_add(boot_ms);
    let status = file("status").ok()?;
    let status = String::from_utf8_lossy(&status);
    process.uid = status_field(&status, "Uid:", 1)?;
    process.inner_pid = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))
        .and_then(|line| line.split_whitespace().next_back()?.parse().ok())?;
    Some(process)
}

/// Returns number `index` after `key` in a `status` file.
fn status_field(status: &str, key: &str, index: usize) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().nth(index)?.parse().ok()
}

/// Parses a `stat` file: `pid (name) state ppid ...`. The name may hold anything, also `)` and line ends.
fn parse_stat(stat: &[u8]) -> Option<Process> {
    let open = stat.iter().position(|b| *b == b'(')?;
    let close = stat.iter().rposition(|b| *b == b')')?;
    let name = stat.get(open + 1..close)?.to_vec();
    let pid = str::from_utf8(&stat[..open]).ok()?.trim().parse().ok()?;
    let rest = str::from_utf8(&stat[close + 1..]).ok()?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // proc(5) counts from 1 and the state is its third field.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Process {
        pid,
        name,
        state: u32::from(*fields.first()?.as_bytes().first()?),
        ppid: number(4)? as u32,
        terminal: terminal(number(7)?),
        cpu_time_ms: number(14)?.saturating_add(number(15)?).saturating_mul(TICK_MS),
        start_time_ms: number(22)?.saturating_mul(TICK_MS),
        resident_bytes: number(24)?.saturating_mul(PAGE_BYTES),
        ..Process::default()
    })
}

/// Returns the number below `/dev/pts` for a terminal's device number (major 136, `devpts`), which has its minor in two
/// parts.
fn terminal(device: u64) -> Option<u32> {
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00);
    (major == 136).then_some(minor as u32)
}

/// Cuts the arguments of the last processes, so that all fit into one frame.
fn bound_arguments(processes: &mut [Process]) {
    let mut left = LISTED_BYTES_MAX;
    for process in processes {
        process.args.truncate(left);
        left -= process.args.len();
    }
}

/// Sets the parents' pids in the container's own numbering, if they are in it.
fn name_parents(processes: &mut [Process]) {
    let inner: HashMap<u32, u32> = processes.iter().map(|p| (p.pid, p.inner_pid)).collect();
    for process in processes {
        process.inner_ppid = inner.get(&process.ppid).copied().unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_with_brackets_is_a_name() {
        let stat = b"42 (a) R (b\n) S 7 42 42 34817 42 4194304 1 0 0 0 150 50 0 0 20 0 1 0 1000 3133440 3 0 0\n";
        let process = parse_stat(stat).unwrap();
        assert_eq!(process.name, b"a) R (b\n");
        assert_eq!((process.pid, process.ppid, process.state), (42, 7, u32::from(b'S')));
        assert_eq!((process.cpu_time_ms, process.start_time_ms), (2000, 10_000));
        assert_eq!(process.terminal, Some(1));
        assert_eq!(process.resident_bytes, 3 * PAGE_BYTES);
    }

    #[test]
    fn terminals_beyond_a_byte_and_consoles() {
        assert_eq!(terminal(136 << 8 | 5 | 1 << 20), Some(261));
        assert_eq!(terminal(5 << 8 | 1), None);
        assert_eq!(terminal(0), None);
    }

    #[test]
    fn this_process_is_told() {
        let own = std::process::id();
        let listed = list(vec![own, u32::MAX], &Arc::default());
        let listed = listed.processes().unwrap();
        assert_eq!(listed.len(), 1);
        let process = &listed[0];
        assert_eq!((process.pid, process.uid), (own, rustix::process::geteuid().as_raw()));
        assert!(!process.args.is_empty() && process.start_time_ms > 1_000_000_000_000);
        assert_eq!(process.inner_ppid, 0);
    }

    #[test]
    fn parents_are_named_inside_and_arguments_bounded() {
        let of = |pid, ppid, inner_pid, bytes| Process {
            pid,
            ppid,
            inner_pid,
            args: vec![0; bytes],
            ..Process::default()
        };
        let mut processes = [of(10, 1, 1, LISTED_BYTES_MAX - 1), of(11, 10, 2, 5), of(12, 11, 3, 5)];
        name_parents(&mut processes);
        bound_arguments(&mut processes);
        assert_eq!(processes.each_ref().map(|p| p.inner_ppid), [0, 1, 2]);
        assert_eq!(processes.each_ref().map(|p| p.args.len()), [LISTED_BYTES_MAX - 1, 1, 0]);
    }

    proptest! {
        #[test]
        fn hostile_names_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_stat(&bytes);
        }
    }
}
