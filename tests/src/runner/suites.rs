//! The end-to-end suites: the duration of each, and its tests on KVM.
//!
//! A suite runs emulated, whole, in `make test`. On KVM `make test` runs the tests that depend on the machine: each
//! device, start, stop and crash. All others that are not [`Kvm::Never`] run there in `make test-full`, with counts at
//! their full size.

use crate::executables::Executables;

/// Tests of a suite that run on KVM.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kvm {
    /// These tests in `make test`, all in `make test-full`.
    Machine(&'static [&'static str]),
    /// All tests in `make test-full`, none in `make test`.
    Full,
    /// No tests; contains the reason.
    Never(#[expect(dead_code, reason = "for whoever reads the table")] &'static str),
}

/// File of `tests/tests`.
#[derive(Debug)]
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    /// Seconds that the suite takes emulated, on two idle processors: the longest suites start first.
    pub(crate) seconds: u64,
    pub(crate) kvm: Kvm,
}

const fn suite(name: &'static str, seconds: u64, kvm: Kvm) -> Suite {
    Suite { name, seconds, kvm }
}

const NO_MACHINE: Kvm = Kvm::Never("starts no machine");
const SAME_PROCESSES: Kvm = Kvm::Never("is about processes and files of the host, which are the same with KVM");
const INSIDE_ONLY: Kvm = Kvm::Never("is about what runs inside of the guest or about the command line");

/// All suites.
pub(crate) const SUITES: &[Suite] = &[
    suite("authorisation", 25, NO_MACHINE),
    suite("bad_input", 20, NO_MACHINE),
    suite("broken_connections", 25, NO_MACHINE),
    suite(
        "clock",
        80,
        Kvm::Machine(&["the_guests_clock_is_the_hosts_for_a_minute"]),
    ),
    suite("connecting", 60, Kvm::Full),
    suite(
        "containers",
        90,
        Kvm::Machine(&[
            "pause_stops_everything_and_unpause_goes_on",
            "a_killed_supervisor_is_told_and_the_container_starts_again",
        ]),
    ),
    suite("copying", 35, INSIDE_ONLY),
    suite("crash", 140, SAME_PROCESSES),
    suite("dependencies", 5, NO_MACHINE),
    suite("doctor", 10, NO_MACHINE),
    suite("egress", 90, Kvm::Full),
    suite("endurance", 90, SAME_PROCESSES),
    suite("examples", 25, INSIDE_ONLY),
    suite("fixtures", 5, NO_MACHINE),
    suite("flags", 20, INSIDE_ONLY),
    suite("foreign_folders", 5, NO_MACHINE),
    suite("full_disk", 80, SAME_PROCESSES),
    suite("guest", 25, INSIDE_ONLY),
    suite("hostile_images", 5, NO_MACHINE),
    suite("images", 300, NO_MACHINE),
    suite("interrupted_images", 40, NO_MACHINE),
    suite(
        "isolation",
        100,
        Kvm::Machine(&[
            "a_guest_panic_has_a_name_and_an_end",
            "privileged_does_not_write_the_images_disk",
        ]),
    ),
    suite("killed_images", 20, NO_MACHINE),
    suite("killed_pods", 45, SAME_PROCESSES),
    suite("lab", 60, Kvm::Never("starts labs itself")),
    suite("leaks", 170, Kvm::Full),
    suite("limits", 40, Kvm::Full),
    suite("listing", 15, INSIDE_ONLY),
    suite("lost_files", 10, NO_MACHINE),
    suite(
        "memory",
        10,
        Kvm::Machine(&["what_a_guest_frees_goes_back_to_the_host"]),
    ),
    suite(
        "network",
        90,
        Kvm::Machine(&["published_ports_are_reached_from_where_they_are_published"]),
    ),
    suite("out_of_reach", 25, SAME_PROCESSES),
    suite(
        "pods",
        110,
        Kvm::Machine(&["a_killed_supervisor_or_machine_is_seen_by_all_containers"]),
    ),
    suite("programs", 140, INSIDE_ONLY),
    suite("rootless", 15, SAME_PROCESSES),
    suite(
        "run",
        100,
        Kvm::Machine(&[
            "stdin_reaches_the_container_and_ends",
            "virtual_processors_are_as_many_as_asked_for",
        ]),
    ),
    suite("shares", 60, Kvm::Machine(&["files_go_both_ways"])),
    suite("storm", 20, SAME_PROCESSES),
    suite(
        "streams",
        50,
        Kvm::Machine(&["a_long_stream_comes_back_unchanged_and_is_kept_nowhere"]),
    ),
    suite("terminal", 55, Kvm::Full),
    suite("unresponsive", 30, Kvm::Full),
    suite("user_networks", 180, INSIDE_ONLY),
    suite("verbs", 35, INSIDE_ONLY),
    suite(
        "volumes",
        80,
        Kvm::Machine(&[
            "what_is_written_is_there_for_the_next_container",
            "what_was_synced_survives_a_killed_supervisor",
        ]),
    ),
];

/// Test executables of crates that run on KVM as well, whole: tests of machines without a guest kernel, which are skipped
/// where KVM is not real.
pub(crate) const ON_KVM: &[&str] = &["vmm/machine"];

/// Counts at their full size, for `make test-full`, where the environment has no others; the suites read them from
/// there. All of it ends within three hours on two processors; ten times as many once in a while finds slower leaks.
pub(crate) const FULL_COUNTS: &[(&str, &str)] = &[
    ("CAPSID_SOAK_RUNS", "200"),
    ("CAPSID_STREAM_MIB", "1024"),
    ("CAPSID_CONCURRENT_RUNS", "20"),
    ("CAPSID_KILL_MOMENTS", "40"),
    ("CAPSID_STORM_SECONDS", "60"),
    ("CAPSID_CRASH_ROUNDS", "10"),
    ("CAPSID_EXECS", "2000"),
    ("CAPSID_CYCLES", "150"),
    ("CAPSID_LISTINGS", "100000"),
    ("CAPSID_EDIT_SECONDS", "900"),
    ("CAPSID_LOG_MIB", "2048"),
    ("CAPSID_DISK_LEVELS", "7"),
    ("CAPSID_FAULT_POINTS", "40"),
    ("CAPSID_NETWORK_CYCLES", "200"),
    ("CAPSID_POD_CYCLES", "100"),
    ("CAPSID_RACE_ROUNDS", "50"),
];

/// Finds the row of a suite.
pub(crate) fn find(name: &str) -> Option<&'static Suite> {
    SUITES.iter().find(|suite| suite.name == name)
}

/// Checks the table against the executables: a suite without a row would never run, and a renamed test would silently
/// be left out on KVM.
pub(crate) fn check(executables: &Executables) -> Result<(), String> {
    for executable in executables.iter().filter(|executable| executable.is_suite) {
        let row = find(&executable.name)
            .ok_or_else(|| format!("tests/tests/{}.rs has no row in runner/suites.rs", executable.name))?;
        if let Kvm::Machine(wanted) = row.kvm {
            let there = &executable.tests;
            if let Some(missing) = wanted.iter().find(|name| !there.iter().any(|test| test == *name)) {
                return Err(format!("there is no test {missing} in tests/tests/{}.rs", row.name));
            }
        }
    }
    if let Some(missing) = ON_KVM
        .iter()
        .find(|name| !executables.iter().any(|one| one.name == **name))
    {
        return Err(format!("runner/suites.rs names {missing}, which cargo did not build"));
    }
    match SUITES.iter().find(|row| executables.suite(row.name).is_none()) {
        Some(row) => Err(format!(
            "runner/suites.rs names {}, which cargo did not build",
            row.name
        )),
        None => Ok(()),
    }
}
