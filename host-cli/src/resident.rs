//! Memory that a pod occupies on the host, from `/proc/PID/smaps` of its processes.

use std::fs;

/// Memory of a pod's processes, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Resident {
    /// Guest RAM that the host holds pages for.
    pub guest_bytes: u64,
    /// Other memory that only these processes hold.
    pub own_bytes: u64,
    /// Pages of programs and libraries, which exist once for all pods.
    pub shared_bytes: u64,
}

/// Smallest mapping that counts as the guest's RAM: no pod has less, and no program of Capsid's maps as much of
/// anything else.
const GUEST_MAPPING_MIN_KIB: u64 = 32 << 10;

/// Most processes of one pod that are examined: a pod has one for each share, and a few more.
const DESCENDANTS_MAX: usize = 1024;

/// Adds up the memory of a supervisor and its children.
pub(crate) fn of_pod(supervisor_pid: u32) -> Option<Resident> {
    if supervisor_pid == 0 {
        return None;
    }
    let mut total = Resident::default();
    for pid in std::iter::once(supervisor_pid).chain(descendants(supervisor_pid)) {
        if let Ok(text) = fs::read_to_string(format!("/proc/{pid}/smaps")) {
            add(&text, &mut total);
        }
    }
    Some(total)
}

/// Returns all descendants of a process.
pub(crate) fn descendants(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut parents = vec![pid];
    while let Some(pid) = parents.pop() {
        let threads = fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten();
        let texts = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
        let children: Vec<u32> = texts.flat_map(|text| pids(&text)).collect();
        let room = DESCENDANTS_MAX.saturating_sub(found.len());
        let known = children.iter().take(room);
        found.extend(known.clone());
        parents.extend(known);
    }
    found
}

fn pids(text: &str) -> Vec<u32> {
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Adds the mappings of one process. Guest RAM that two processes share is counted for each in proportion.
fn add(smaps: &str, total: &mut Resident) {
    for area in areas(smaps) {
        if area.kib() >= GUEST_MAPPING_MIN_KIB {
            total.guest_bytes += area.pss_kib << 10;
        } else {
            total.own_bytes += area.private_kib << 10;
            total.shared_bytes += area.shared_kib << 10;
        }
    }
}

/// Adjacent mappings of the same object: advice about a part of a mapping has split it.
#[derive(Debug, Default)]
struct Area<'a> {
    name: &'a str,
    start: u64,
    end: u64,
    pss_kib: u64,
    private_kib: u64,
    shared_kib: u64,
}

impl Area<'_> {
    fn kib(&self) -> u64 {
        self.end.saturating_sub(self.start) >> 10
    }
}

fn areas(smaps: &str) -> Vec<Area<'_>> {
    let mut areas: Vec<Area<'_>> = Vec::new();
    for line in smaps.lines() {
        if let Some((start, end, name)) = mapping(line) {
            match areas.last_mut() {
                Some(before) if before.end == start && before.name == name => before.end = end,
                _ => areas.push(Area {
                    name,
                    start,
                    end,
                    ..Area::default()
                }),
            }
            continue;
        }
        let Some((field, rest)) = line.split_once(':') else {
            continue;
        };
        let number = rest.trim().strip_suffix(" kB").map(str::trim);
        let kib: u64 = number.and_then(|number| number.parse().ok()).unwrap_or(0);
        let Some(area) = areas.last_mut() else {
            continue;
        };
        match field {
            "Pss" => area.pss_kib += kib,
            "Private_Clean" | "Private_Dirty" => area.private_kib += kib,
            "Shared_Clean" | "Shared_Dirty" => area.shared_kib += kib,
            _ => {}
        }
    }
    areas
}

/// Parses the first line of a mapping: addresses, rights, offset, device, inode, and a name where it has one (proc(5)).
fn mapping(line: &str) -> Option<(u64, u64, &str)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    Some((address(start)?, address(end)?, words.nth(4).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_told_apart() {
        let smaps = "7f0000000000-7f0001000000 rw-p 00000000 00:00 0\nSize:  16384 kB\nPss:  1024 kB\nPrivate_Dirty:  1024 kB\n\
                     7f0001000000-7f0040000000 rw-p 00000000 00:00 0\nSize:  1032192 kB\nPss:  1024 kB\nPrivate_Dirty:  3072 kB\n\
                     7f0040000000-7f0040064000 r-xp 00000000 00:01 6 /usr/bin/x\nSize:  400 kB\nPss:  10 kB\nShared_Clean:  80 kB\n\
                     Private_Dirty:  20 kB\n";
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
