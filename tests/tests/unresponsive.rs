//! A machine or a supervisor that hangs is ended, and keeps nobody else waiting; one that is merely busy is neither.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use capsid_tests::environment::patience;
use capsid_tests::invocation::{eventually, wait_until};
use capsid_tests::{Capsid, Outcome};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Time limit for the end of a pod whose agent does not answer, with an allowance for a busy host, in seconds.
const ENDED_WITHIN_S: u64 = 10 + 5;

fn stop_process(pid: u32) {
    kill(Pid::from_raw(pid as i32), Signal::SIGSTOP).unwrap();
}

/// Runs a call that does not wait for a hanging pod.
#[track_caller]
fn quick(capsid: &Capsid, words: &[&str]) -> Outcome {
    let began = Instant::now();
    let outcome = capsid.call(words).within(60).wait();
    // `stats` measures for a second; the rest is for this host.
    assert!(began.elapsed() < patience(10), "{words:?} took {:?}", began.elapsed());
    outcome
}

/// Requires that every verb about containers in general, and about one that does not hang, is served.
#[track_caller]
fn others_are_served(capsid: &Capsid, other: &str) {
    let listed = quick(capsid, &["ps", "--format", "{{.Names}}"]).succeeds().text();
    assert!(listed.contains(other), "{listed}");
    let format = "{{.Name}} {{.PIDs}}";
    let stats = quick(capsid, &["stats", "--no-stream", "--format", format]).succeeds();
    assert!(stats.text().contains(&format!("{other} 1")), "{stats}");
    quick(capsid, &["exec", other, "echo", "here"])
        .succeeds()
        .prints("here\n");
    quick(capsid, &["top", other]).succeeds();
    quick(capsid, &["inspect", other]).succeeds();
}

/// Script that keeps a processor and its memory busy, and asks a name server that never answers.
const BUSY: &str = "for n in 1 2 3 4 5 6 7 8; do while :; do :; done & done
    while :; do nslookup example.com; done & while :; do tail /dev/zero; done";

#[test]
fn what_hangs_is_ended_and_keeps_nobody_waiting() {
    let capsid = Capsid::with_busybox();
    for name in ["other", "hung", "paused"] {
        capsid.detached(name, &["busybox", "sleep", "1000"]);
    }
    let busy = ["--dns", "192.0.2.1", "-m", "48m", "busybox", "sh", "-c", BUSY];
    capsid.detached("busy", &busy);
    capsid.call(["pause", "paused"]).wait().succeeds();
    let began = Instant::now();
    stop_process(capsid.machine("hung"));
    others_are_served(&capsid, "other");
    eventually("its end", ENDED_WITHIN_S, || {
        capsid.field("hung", ".State.Status") == "exited"
    });
    let state = capsid.field("hung", "json .State");
    assert!(
        state.contains("the agent stopped responding") && state.contains("stopped by a signal"),
        "{state}"
    );
    assert_eq!(capsid.field("hung", ".State.ExitCode"), "137");
    // Agents of pods that only could not run, or had too much to do, were pinged as often.
    std::thread::sleep(patience(12).saturating_sub(began.elapsed()));
    assert_eq!(capsid.field("busy", ".State.Status"), "running");
    assert_eq!(capsid.field("paused", ".State.Status"), "paused");
    capsid.call(["unpause", "paused"]).wait().succeeds();

    stop_process(capsid.supervisor("busy"));
    others_are_served(&capsid, "other");
    quick(&capsid, &["exec", "busy", "true"]).complains("is stopped by a signal");
    capsid.call(["stop", "-t", "0", "busy"]).within(60).wait().succeeds();
    assert_eq!(capsid.field("busy", ".State.ExitCode"), "137");
    stop_process(capsid.machine("paused"));
    stop_process(capsid.supervisor("paused"));
    let ended = capsid.call(["rm", "-f", "paused"]).within(60).wait().succeeds();
    assert_eq!(ended.text(), "paused");
    others_are_served(&capsid, "other");
    capsid.detached("last", &["busybox", "sleep", "1000"]);
    stop_process(capsid.machine("last"));
    quick(&capsid, &["stop", "-t", "0", "other"]).succeeds();
    quick(&capsid, &["rm", "other"]).succeeds();
}

/// Test that nobody waits for a supervisor that is killed while it is stopped, either.
#[test]
fn a_killed_container_is_gone_whatever_hangs() {
    let capsid = Capsid::with_busybox();
    capsid.detached("it", &["busybox", "sleep", "1000"]);
    let zeros = ["exec", "it", "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=8"];
    capsid.call(zeros).wait().succeeds();
    let mut copy = capsid.call(["cp", "it:/big", "-"]).spawn_with(|command| {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
    });
    let mut archive = copy.stdout.take().unwrap();
    archive.read_exact(&mut [0; 512]).unwrap();
    let supervisor = capsid.supervisor("it");
    stop_process(supervisor);
    // The machine sends the archive, but nobody tells its end.
    std::io::copy(&mut archive, &mut std::io::sink()).unwrap();
    let status = wait_until(&mut copy, Instant::now() + patience(20)).expect("the end of the copy");
    let mut complaint = String::new();
    copy.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
    assert!(
        status.code() == Some(1) && complaint.contains("is stopped by a signal"),
        "{status}: {complaint}"
    );
    stop_process(capsid.machine("it"));
    let began = Instant::now();
    capsid.call(["kill", "it"]).within(60).wait().succeeds();
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    eventually("its end", 10, || capsid.field("it", ".State.Status") == "exited");
    assert_eq!(capsid.field("it", ".State.ExitCode"), "137");
}
