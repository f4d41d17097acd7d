//! What a machine costs the host beside the guest's own memory.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use capsid_tests::Capsid;
use capsid_tests::resident::descendants;

use crate::figure::Figure;

/// Goal in KiB: Firecracker's promise.
const GOAL_KIB: f64 = 5.0 * 1024.0;
/// No mapping of the VMM's own is as large; the guest's memory has no smaller ones.
const GUEST_MAPPING_KIB: u64 = 32 * 1024;

/// Resident memory of `capsid-vmm` in all mappings but the guest's, while a container sleeps.
pub(crate) fn beside_the_guest() -> Figure {
    let capsid = Capsid::with_busybox();
    let script = ["--accel", "kvm", "busybox", "sh", "-c", "echo ready; sleep 600"];
    let mut child = capsid.run_call(script).spawn_with(|command| {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
    });
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut output, &mut String::new()).unwrap();
    thread::sleep(Duration::from_secs(1));
    let machine = descendants(child.id())
        .into_iter()
        .find(|process| process.name == "capsid-vmm")
        .expect("a machine");
    let own = own_kib(machine.pid);
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

/// `/proc/PID/smaps`: for each mapping a line of addresses, then fields.
pub(crate) fn own_kib(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let (mut total, mut size) = (0, 0);
    for line in text.lines() {
        let value = || {
            line.split_whitespace()
                .nth(1)
                .and_then(|word| word.parse().ok())
                .unwrap_or(0)
        };
        if line.starts_with("Size:") {
            size = value();
        } else if line.starts_with("Rss:") && size < GUEST_MAPPING_KIB {
            total += value();
        }
    }
    total
}
