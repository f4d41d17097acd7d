//! What a pod costs the host's memory, from `/proc/PID/smaps` of its processes.

use std::fs;

/// Memory of a pod's processes, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Resident {
    /// Guest RAM that the host holds pages for.
    pub guest_bytes: u64,
    /// Everything else that only these processes hold.
    pub own_bytes: u64,
    /// Pages of programs and libraries, which are there once for all pods.
    pub shared_bytes: u64,
}

/// A mapping this large is the guest's RAM: no pod has less, and no program of ours maps as much of anything else.
const GUEST_MAPPING_MIN_KIB: u64 = 32 << 10;

/// Adds up a supervisor and its children.
pub(crate) fn of_pod(supervisor_pid: u32) -> Option<Resident> {
    if supervisor_pid == 0 {
        return None;
    }
    let mut total = Resident::default();
    let mut pids = vec![supervisor_pid];
    while let Some(pid) = pids.pop() {
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/smaps")) else {
            continue;
        };
        add(&text, &mut total);
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    Some(total)
}

/// Adds the mappings of one process. Guest RAM that two processes share is counted for each by its share.
fn add(smaps: &str, total: &mut Resident) {
    let mut size_kib = 0;
    for line in smaps.lines() {
        let Some((name, rest)) = line.split_once(':') else {
            continue;
        };
        let Some(kib) = rest
            .trim()
            .strip_suffix(" kB")
            .and_then(|number| number.trim().parse::<u64>().ok())
        else {
            continue;
        };
        let is_guest = size_kib >= GUEST_MAPPING_MIN_KIB;
        match name {
            "Size" => size_kib = kib,
            "Pss" if is_guest => total.guest_bytes += kib << 10,
            "Private_Clean" | "Private_Dirty" if !is_guest => total.own_bytes += kib << 10,
            "Shared_Clean" | "Shared_Dirty" if !is_guest => total.shared_bytes += kib << 10,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_told_apart() {
        let smaps = "7f00-7f01 rw-s 0 0:1 5 /memfd:memory\nSize:  1048576 kB\nPss:  2048 kB\nPrivate_Dirty:  4096 kB\n\
                     55d0-55d1 r-xp 0 0:1 6 /usr/bin/x\nSize:  100 kB\nPss:  10 kB\nShared_Clean:  80 kB\nPrivate_Dirty:  20 kB\n";
        let mut total = Resident::default();
        add(smaps, &mut total);
        let expected = Resident {
            guest_bytes: 2048 << 10,
            own_bytes: 20 << 10,
            shared_bytes: 80 << 10,
        };
        assert_eq!(total, expected);
    }
}
