//! Memory of a pod as the host sees it: memory that a guest frees is returned.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::thread;
use std::time::{Duration, Instant};

use capsid_tests::Capsid;
use capsid_tests::environment::count;
use capsid_tests::resident::{data_kib, descendants};

/// Time limit from the guest's `free` to the host's: the guest reports two seconds after it has found free blocks.
const BACK_WITHIN: Duration = Duration::from_secs(10);

/// Returns the memory that the pod of a container takes from the host, MiB: of its supervisor and everything below.
fn pod_mib(capsid: &Capsid, container: &str) -> u64 {
    let inspected = capsid.call(["inspect", "-f", "{{.State.Pid}}", container]).wait();
    let supervisor: u32 = inspected.succeeds().text().trim().parse().unwrap();
    let below = descendants(supervisor).into_iter().map(|process| process.pid);
    let kib: u64 = below.chain([supervisor]).map(data_kib).sum();
    kib >> 10
}

#[test]
fn what_a_guest_frees_goes_back_to_the_host() {
    let capsid = Capsid::with_busybox();
    let freed_mib = count("CAPSID_FREED_MIB", 256) as u64;
    let (memory, folder) = (
        format!("{}m", freed_mib + 400),
        format!("/fill:size={}m", freed_mib + 8),
    );
    let flags = ["run", "-d", "--name", "filler", "-m", &memory, "--tmpfs", &folder];
    let words = flags.iter().chain(&["busybox", "sleep", "1000"]);
    capsid.call(words).wait().succeeds();

    let fill = format!("dd if=/dev/zero of=/fill/x bs=1M count={freed_mib}");
    capsid
        .call(["exec", "filler", "sh", "-c", &fill])
        .within(300)
        .wait()
        .succeeds();
    let full_mib = pod_mib(&capsid, "filler");
    assert!(full_mib >= freed_mib, "{full_mib} MiB hold {freed_mib}");

    capsid.call(["exec", "filler", "rm", "/fill/x"]).wait().succeeds();
    let deadline = Instant::now() + BACK_WITHIN;
    let enough_mib = full_mib - freed_mib * 9 / 10;
    while pod_mib(&capsid, "filler") > enough_mib {
        let left = pod_mib(&capsid, "filler");
        assert!(
            Instant::now() < deadline,
            "of {full_mib} MiB {left} are left, not {enough_mib}"
        );
        thread::sleep(Duration::from_millis(500));
    }
    capsid.call(["exec", "filler", "true"]).wait().succeeds();
}
