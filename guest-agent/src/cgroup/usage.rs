//! Usage of a cgroup or the whole guest: the kernel's counters, each file read alone, so that a counter missing in the
//! kernel is 0.

use std::fs;
use std::path::Path;

use capsid_protocol::Measured;

use super::MOUNT_POINT;

/// Measures the usage of the cgroup at `path`.
pub(super) fn of_cgroup(path: &Path) -> Measured {
    let read = |file: &str| fs::read_to_string(path.join(file)).unwrap_or_default();
    let number = |file: &str| read(file).trim().parse::<u64>();
    let (io_read_bytes, io_write_bytes) = transferred(&read("io.stat"));
    Measured {
        memory_current_bytes: number("memory.current").unwrap_or(0),
        // "max" is not a number.
        memory_max_bytes: number("memory.max").ok(),
        memory_peak_bytes: number("memory.peak").unwrap_or(0),
        memory_inactive_file_bytes: keyed(&read("memory.stat"), "inactive_file"),
        cpu_usage_us: keyed(&read("cpu.stat"), "usage_usec"),
        pids_current: number("pids.current").unwrap_or(0),
        pids_max: number("pids.max").ok(),
        oom_kills: keyed(&read("memory.events"), "oom_kill"),
        io_read_bytes,
        io_write_bytes,
        ..of_guest_memory()
    }
}

/// Measures the usage of the whole guest.
pub(super) fn of_guest() -> Measured {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let in_root = |file: &str| fs::read_to_string(Path::new(MOUNT_POINT).join(file)).unwrap_or_default();
    let (io_read_bytes, io_write_bytes) = transferred(&in_root("io.stat"));
    let memory = of_guest_memory();
    Measured {
        memory_current_bytes: memory
            .guest_memory_total_bytes
            .saturating_sub(memory.guest_memory_available_bytes),
        memory_max_bytes: Some(memory.guest_memory_total_bytes),
        cpu_usage_us: keyed(&in_root("cpu.stat"), "usage_usec"),
        pids_current: threads(&read("/proc/loadavg")),
        oom_kills: keyed(&read("/proc/vmstat"), "oom_kill"),
        io_read_bytes,
        io_write_bytes,
        ..memory
    }
}

/// Measures only the guest's memory.
fn of_guest_memory() -> Measured {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let bytes = |key| keyed(&text, key).saturating_mul(1024);
    Measured {
        guest_memory_total_bytes: bytes("MemTotal:"),
        guest_memory_available_bytes: bytes("MemAvailable:"),
        ..Measured::default()
    }
}

/// Returns the number after `key` in lines of `key number`.
fn keyed(text: &str, key: &str) -> u64 {
    let mut lines = text.lines().map(str::split_whitespace);
    let found = lines.find_map(|mut words| (words.next() == Some(key)).then(|| words.next()));
    found.flatten().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Sums the bytes read and written of all disks in `io.stat`: lines of `major:minor rbytes=n wbytes=n ...`.
fn transferred(text: &str) -> (u64, u64) {
    let sum = |key: &str| {
        let words = text.split_whitespace().filter_map(|word| word.strip_prefix(key));
        words.filter_map(|n| n.parse::<u64>().ok()).fold(0, u64::saturating_add)
    };
    (sum("rbytes="), sum("wbytes="))
}

/// Returns the number of all threads, from `/proc/loadavg` (`0.1 0.2 0.3 running/all last`).
fn threads(text: &str) -> u64 {
    let field = text.split_whitespace().nth(3);
    let all = field.and_then(|f| f.split_once('/')).map(|(_, all)| all);
    all.and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_name() {
        let text = "anon 5\ninactive_file 4096\ninactive_file_x 7\n";
        assert_eq!(keyed(text, "inactive_file"), 4096);
        assert_eq!(keyed("MemTotal:       24684096 kB\n", "MemTotal:"), 24_684_096);
        assert_eq!(keyed("oom_kill\n", "oom_kill"), 0);
        assert_eq!(keyed("", "x"), 0);
    }

    #[test]
    fn disks_are_summed() {
        let text = "254:0 rbytes=10 wbytes=1 rios=2 wios=1 dbytes=0 dios=0\n254:16 rbytes=5 wbytes=2 rios=1\n";
        assert_eq!(transferred(text), (15, 3));
        assert_eq!(transferred(""), (0, 0));
    }

    #[test]
    fn all_threads_are_counted() {
        assert_eq!(threads("0.00 0.01 0.05 1/123 4567\n"), 123);
        assert_eq!(threads("garbage"), 0);
    }

    #[test]
    fn a_cgroup_is_measured_by_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file, text| fs::write(folder.path().join(file), text).unwrap();
        write("memory.current", "1000\n");
        write("memory.max", "max\n");
        write("pids.max", "50\n");
        let measured = of_cgroup(folder.path());
        assert_eq!((measured.memory_current_bytes, measured.memory_max_bytes), (1000, None));
        assert_eq!((measured.pids_max, measured.pids_current), (Some(50), 0));
    }
}
