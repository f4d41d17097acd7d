//! Memory that a machine costs the host beside the guest's own memory.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use capsid_tests::Capsid;
use capsid_tests::resident::descendants;

use crate::figure::Figure;

/// Goal in KiB: Firecracker's promise.
const GOAL_KIB: f64 = 5.0 * 1024.0;
/// Minimum size of a guest memory mapping: no mapping of the VMM's own is as large, and the guest's are not smaller.
const GUEST_MAPPING_KIB: u64 = 32 * 1024;

/// Measures the resident memory of `capsid-vmm` in all mappings but the guest's, while a container sleeps.
pub(crate) fn beside_the_guest() -> Figure {
    let capsid = Capsid::with_busybox();
    let script = ["--accel", "kvm", "busybox", "sh", "-c", "echo ready; sleep 600"];
    let mut child = capsid.run_call(script).spawn_with(|command| {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
    });
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut output, &mut String::new()).unwrap();
    thread::sleep(Duration::from_secs(1));
    // Two: the machine, and the one outside of its pid namespace that waits for it.
    let machines = descendants(child.id()).into_iter();
    let machines = machines.filter(|process| process.name == "capsid-vmm");
    let own: u64 = machines.map(|process| own_kib(process.pid)).sum();
    assert!(own > 0, "no machine");
    child.kill().unwrap();
    child.wait().unwrap();
    Figure::new(
        "VMM memory outside guest memory / 5 MiB",
        "KiB",
        own as f64,
        GOAL_KIB,
        Some(1.0),
        1,
    )
}

/// Sums the VMM's own memory in `/proc/PID/smaps`: for each mapping a line of addresses, then fields. Advice splits the
/// guest's mapping: a mapping that follows directly, also without a name, belongs to it.
pub(crate) fn own_kib(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    // Size and resident memory of each area, and where the last one ends.
    let mut areas: Vec<(u64, u64)> = Vec::new();
    let mut last: (u64, Option<&str>) = (0, None);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some((start, end)) = first.split_once('-') {
            let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).unwrap());
            let name = words.nth(4);
            if areas.is_empty() || last != (start, name) {
                areas.push((0, 0));
            }
            last = (end, name);
        } else if let Some((size, resident)) = areas.last_mut() {
            let kib: u64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
            match first {
                "Size:" => *size += kib,
                "Rss:" => *resident += kib,
                _ => {}
            }
        }
    }
    let own = areas.into_iter().filter(|(size, _)| *size < GUEST_MAPPING_KIB);
    own.map(|(_, resident)| resident).sum()
}
