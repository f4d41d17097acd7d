//! A command or its supervisor killed at a system call: the next command works, everything acknowledged is there, and
//! nothing else stays.
//!
//! `CAPSID_FAULT_POINTS`: number of calls that are tried of each verb; a few here, many in `make test-full`.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use capsid_tests::dice::Dice;
use capsid_tests::environment::{count, part, patience};
use capsid_tests::invocation::wait_until;
use capsid_tests::running::{alone, call, warmed_up};
use capsid_tests::{Capsid, Census, Invocation, Outcome};

/// System calls that make, change and remove files, send messages, and start processes.
const CALLS: [&str; 16] = [
    "openat",
    "statx",
    "mkdir",
    "flock",
    "unlink",
    "unlinkat",
    "fsync",
    "pwrite64",
    "pwrite64",
    "write",
    "ftruncate",
    "sendto",
    "sendmsg",
    "clone3",
    "recvfrom",
    "epoll_wait",
];

const CREATE: &[&str] = &["create", "--name", "it", "busybox", "sleep", "0.1"];
const RUN: &[&str] = &["run", "-d", "--name", "it", "busybox", "sleep", "1000"];
const VOLUME: &[&str] = &["volume", "create", "box"];

/// Preparation, and the command that is killed.
const TRIALS: [(&[&str], &[&str]); 11] = [
    (&[], CREATE),
    (
        &[],
        &["run", "-d", "--name", "it", "-v", "box:/box", "busybox", "sleep", "0.1"],
    ),
    (&[], VOLUME),
    (VOLUME, &["volume", "rm", "box"]),
    (CREATE, &["start", "it"]),
    (CREATE, &["rm", "it"]),
    (RUN, &["exec", "it", "true"]),
    (RUN, &["cp", "/etc/passwd", "it:/tmp"]),
    (CREATE, &["cp", "it:/etc", "-"]),
    (RUN, &["stop", "-t", "0", "it"]),
    (RUN, &["rm", "-f", "it"]),
];

/// Chooses a call and its number among those of its kind: often the first ones, seldom the later.
fn any_point(dice: &mut Dice) -> (&'static str, usize) {
    let call = CALLS[dice.roll(CALLS.len())];
    let most = 1 << dice.roll(6);
    (call, 1 + dice.roll(most))
}

/// Prepares `strace` that kills the process that makes its `number`th call of a kind.
fn strace(capsid: &Capsid, (call, number): (&str, usize), words: &[&str]) -> Invocation {
    let trace = format!("trace={call}");
    let inject = format!("inject={call}:signal=KILL:when={number}");
    let own = ["-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
    let mut invocation = Invocation::new("strace", own.iter().chain(words));
    for (name, value) in capsid.environment() {
        invocation = invocation.env(name, value);
    }
    invocation
}

/// Requires consistent state: the work of a verb that did not succeed may have been done or not; acknowledged work is
/// done.
#[track_caller]
fn assert_recovered(capsid: &Capsid, first: &[&str], words: &[&str], succeeded: bool, what: &str) {
    let there = call(capsid, &["ps", "-aq", "--no-trunc"]).succeeds().text();
    let volumes = call(capsid, &["volume", "ls", "-q"]).succeeds().text();
    match words {
        ["create" | "run", ..] => assert!(!succeeded || !there.is_empty(), "lost: {what}"),
        ["rm", ..] => assert!(!succeeded || there.is_empty(), "still there: {what}"),
        ["volume", "create", ..] => assert!(!succeeded || volumes == "box", "lost: {what}"),
        ["volume", ..] => assert!(!succeeded || volumes.is_empty(), "still there: {what}"),
        _ => assert!(first.is_empty() || !there.is_empty(), "lost: {what}"),
    }
    if !there.is_empty() {
        let state = capsid.field("it", ".State.Status");
        assert!(["created", "exited", "running"].contains(&&*state), "{state}: {what}");
    }
    call(capsid, &["rm", "-f", "it"]).succeeds();
    call(capsid, &["volume", "rm", "-f", "box"]).succeeds();
    call(capsid, &["ps", "-aq"]).succeeds().prints("");
}

#[test]
fn a_command_killed_at_a_system_call_loses_nothing() {
    let _alone = alone();
    let capsid = warmed_up();
    // The first volume makes the lock of all.
    call(&capsid, VOLUME).succeeds();
    call(&capsid, &["volume", "rm", "box"]).succeeds();
    let before = Census::take(&capsid);
    let (mut dice, mut tried, mut killed) = (Dice(0x5bd1_e995), 0, 0);
    for (first, words) in TRIALS {
        for _ in 0..count("CAPSID_FAULT_POINTS", 1) {
            let point = any_point(&mut dice);
            if !first.is_empty() {
                call(&capsid, first).succeeds();
            }
            let program = part("capsid").display().to_string();
            let line = [&[&*program], words].concat();
            let outcome = strace(&capsid, point, &line).wait();
            let what = format!("{words:?} killed at {point:?}\n{outcome}");
            tried += 1;
            killed += u32::from(outcome.code() != 0);
            assert!(!outcome.stderr.contains("panicked"), "{what}");
            if is_strace_lost(&outcome) {
                thread::sleep(patience(2));
            }
            assert_recovered(&capsid, first, words, outcome.code() == 0, &what);
            before.assert_nothing_new(&capsid);
        }
    }
    println!("{killed} of {tried} ended by it");
    assert!(killed * 4 > tried, "the names of the calls must be wrong");
    capsid.run(["busybox", "echo", "next"]).succeeds().prints("next\n");
}

/// Whether `strace` lost its hold on a process, which some kernels cause: the calls end by themselves.
fn is_strace_lost(outcome: &Outcome) -> bool {
    outcome.stderr.contains("strace: ")
}

/// Attaches `strace` to a running process, and waits until it has hold of it.
fn attach(capsid: &Capsid, point: (&str, usize), pid: u32) -> Child {
    let child = strace(capsid, point, &["-p", &pid.to_string()]).spawn_with(|command| {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    });
    let deadline = Instant::now() + patience(10);
    let is_traced = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        !status.contains("TracerPid:\t0\n")
    };
    while !is_traced() {
        assert!(Instant::now() < deadline, "strace does not take hold of {pid}");
        thread::sleep(Duration::from_millis(10));
    }
    child
}

#[test]
fn a_supervisor_killed_at_a_system_call_loses_nothing() {
    let _alone = alone();
    let capsid = warmed_up();
    // The first volume makes the lock of all.
    call(&capsid, VOLUME).succeeds();
    call(&capsid, &["volume", "rm", "box"]).succeeds();
    let before = Census::take(&capsid);
    let mut dice = Dice(0x1b87_3593);
    let mut killed = 0;
    let trials = TRIALS.iter().filter(|(first, _)| *first == RUN);
    for (first, words) in trials {
        for _ in 0..count("CAPSID_FAULT_POINTS", 1) {
            let point = any_point(&mut dice);
            call(&capsid, first).succeeds();
            let mut strace = attach(&capsid, point, capsid.supervisor("it"));
            let outcome = call(&capsid, words);
            killed += u32::from(outcome.stderr.contains("supervisor"));
            let what = format!("{words:?}, the supervisor killed at {point:?}\n{outcome}");
            assert_recovered(&capsid, first, words, outcome.code() == 0, &what);
            wait_until(&mut strace, Instant::now() + patience(10));
            before.assert_nothing_new(&capsid);
        }
    }
    println!("{killed} commands heard of it");
    capsid.run(["busybox", "echo", "next"]).succeeds().prints("next\n");
}
