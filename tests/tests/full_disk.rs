//! A disk that is full at any moment: each command reports it, nothing acknowledged is lost, and the next one works
//! when there is room again.
//!
//! `CAPSID_DISK_LEVELS`: number of levels of free room, of seven, that each command is tried with; one here, all in
//! `make test-full`.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::thread;
use std::time::Duration;

use capsid_tests::environment::{count, patience};
use capsid_tests::invocation::eventually;
use capsid_tests::running::{alone, call, detached, remove_all, send, spawn};
use capsid_tests::small_disk::SmallDisk;
use capsid_tests::{Capsid, Census, Outcome, TestImage};
use nix::sys::signal::Signal;

/// Levels of free room in KiB: from nothing to the size of a scratch disk's template.
const LEVELS_KIB: [u64; 7] = [0, 200, 4, 64, 16, 600, 2000];

const CREATE: &[&str] = &["create", "--name", "it", "busybox", "true"];
const RUN: &[&str] = &["run", "-d", "--name", "it", "busybox", "sleep", "1000"];
const VOLUME: &[&str] = &["volume", "create", "box"];

/// Preparation before the disk is full, and the command that is tried then.
const TRIALS: [(&[&str], &[&str]); 17] = [
    (&[], CREATE),
    (&[], RUN),
    (&[], &["run", "--rm", "--name", "it", "busybox", "true"]),
    (&[], &["run", "-d", "--name", "it", "-v", "box:/box", "busybox", "true"]),
    (&[], VOLUME),
    (VOLUME, &["volume", "rm", "box"]),
    (CREATE, &["start", "it"]),
    (CREATE, &["rename", "it", "that"]),
    (CREATE, &["rm", "it"]),
    (RUN, &["exec", "it", "true"]),
    (RUN, &["logs", "it"]),
    (RUN, &["pause", "it"]),
    (RUN, &["stop", "-t", "0", "it"]),
    (RUN, &["kill", "it"]),
    (RUN, &["restart", "-t", "0", "it"]),
    (RUN, &["ps", "-a"]),
    (RUN, &["rm", "-f", "it"]),
];

/// Creates a store on a disk of `mib` MiB; `None`, with a message, if none can be mounted.
fn on_small_disk(test: &str, mib: u64) -> Option<(Capsid, SmallDisk)> {
    let capsid = Capsid::empty();
    let Some(disk) = SmallDisk::mount(&capsid, mib << 20) else {
        capsid_tests::requirement::skip(test, "no permission to mount a small filesystem");
        return None;
    };
    capsid.load(&TestImage::Busybox.docker_archive()).succeeds();
    capsid.run(["busybox", "true"]).succeeds();
    // The template of disks that stay.
    call(&capsid, CREATE).succeeds();
    call(&capsid, &["rm", "it"]).succeeds();
    Some((capsid, disk))
}

#[test]
fn every_verb_says_that_the_disk_is_full_and_loses_nothing() {
    let _alone = alone();
    let Some((capsid, disk)) = on_small_disk("every_verb", 64) else {
        return;
    };
    // The first volume makes the lock of all.
    call(&capsid, VOLUME).succeeds();
    call(&capsid, &["volume", "rm", "box"]).succeeds();
    call(&capsid, &["create", "--name", "kept", "busybox", "echo", "kept"]).succeeds();
    let before = Census::take(&capsid);
    let levels = count("CAPSID_DISK_LEVELS", 1);
    let mut refused = 0;
    for (number, (first, words)) in TRIALS.iter().enumerate() {
        for level in 0..levels {
            let left_kib = LEVELS_KIB[(number + level) % LEVELS_KIB.len()];
            if !first.is_empty() {
                call(&capsid, first).succeeds();
            }
            disk.exhaust(left_kib << 10);
            let outcome = call(&capsid, words);
            disk.empty();
            refused += usize::from(outcome.code() != 0);
            assert_kept(&capsid, first, words, &outcome);
            call(&capsid, &["rm", "-f", "it", "that"]).succeeds();
            call(&capsid, &["volume", "rm", "-f", "box"]).succeeds();
            before.assert_nothing_new(&capsid);
        }
    }
    println!("{refused} of {} commands refused", TRIALS.len() * levels);
    assert!(refused >= 3, "the disk was never full");
    call(&capsid, &["start", "-a", "kept"]).succeeds().prints("kept\n");
}

/// Requires that a failed command reports the reason in a line, and that everything acknowledged so far is there.
#[track_caller]
fn assert_kept(capsid: &Capsid, first: &[&str], words: &[&str], outcome: &Outcome) {
    if outcome.code() != 0 {
        let complaint = outcome.stderr.to_lowercase();
        assert!(complaint.contains("space") || complaint.contains("full"), "{outcome}");
        assert_eq!(outcome.complaints().len(), 1, "{outcome}");
    }
    let there = call(capsid, &["ps", "-a", "--format", "{{.Names}}"]).succeeds().text();
    let is_there = |name: &str| there.lines().any(|line| line == name);
    assert!(is_there("kept"), "{outcome}");
    let acknowledged = outcome.code() == 0;
    let expected = match words[0] {
        "rm" => !acknowledged,
        "create" => acknowledged,
        "run" => acknowledged && words[1] == "-d",
        _ => !first.is_empty() && first[0] != "volume",
    };
    if expected {
        assert!(is_there("it") || is_there("that"), "lost: {outcome}");
    }
    assert!(
        !(words[0] == "rm" && acknowledged && is_there("it")),
        "still there: {outcome}"
    );
    let volumes = call(capsid, &["volume", "ls", "-q"]).succeeds().text();
    let has_box = volumes.lines().any(|line| line == "box");
    match words {
        ["volume", "rm", ..] => assert_eq!(has_box, !acknowledged, "{outcome}"),
        ["volume", "create", ..] => assert!(has_box || !acknowledged, "{outcome}"),
        _ => {}
    }
}

#[test]
fn a_disk_without_a_byte_free_is_emptied_by_the_usual_verbs() {
    let _alone = alone();
    let Some((capsid, disk)) = on_small_disk("a_disk_without_a_byte_free", 64) else {
        return;
    };
    for name in ["stopped", "running"] {
        call(&capsid, &["run", "-d", "--name", name, "busybox", "sleep", "1000"]).succeeds();
    }
    call(&capsid, &["stop", "-t", "0", "stopped"]).succeeds();
    call(&capsid, VOLUME).succeeds();
    disk.fill(0);
    call(&capsid, &["ps", "-a", "-q"]).succeeds();
    call(&capsid, &["stop", "-t", "0", "running"]).succeeds();
    call(&capsid, &["ps", "-a", "-q"]).succeeds();
    call(&capsid, &["rm", "stopped", "running"]).succeeds();
    call(&capsid, &["volume", "rm", "box"]).succeeds();
    call(&capsid, &["rmi", "busybox"]).succeeds();
    disk.empty();
    call(&capsid, &["ps", "-aq"]).succeeds().prints("");
}

#[test]
fn the_log_ends_early_and_its_container_does_not() {
    let _alone = alone();
    let Some((capsid, disk)) = on_small_disk("the_log_ends_early", 64) else {
        return;
    };
    let before = Census::take(&capsid);
    detached(
        &capsid,
        "loud",
        "sleep 1; head -c 20000000 /dev/zero | tr '\\0' x; echo; echo survived; exit 5",
    );
    disk.fill(1 << 20);
    let client = spawn(&capsid, &["attach", "loud"]);
    let output = thread::spawn(move || client.wait_with_output().unwrap());
    capsid.call(["wait", "loud"]).within(60).wait().prints("5\n");
    let output = output.join().unwrap();
    assert!(output.stdout.ends_with(b"survived\n"), "{} bytes", output.stdout.len());
    disk.empty();
    eventually("the word of its end", 20, || {
        capsid.field("loud", ".State.Status") == "exited"
    });
    assert_eq!(capsid.field("loud", ".State.ExitCode"), "5");
    let error = capsid.field("loud", ".State.Error");
    assert!(error.contains("the log ends early"), "{error:?}");
    assert!(!call(&capsid, &["logs", "loud"]).stdout.is_empty());
    remove_all(&capsid);
    before.assert_nothing_new(&capsid);
}

/// Returns `df`'s available MiB at a path of the container.
fn available_mib(capsid: &Capsid, path: &str) -> u64 {
    let reported = call(capsid, &["exec", "it", "df", "-m", path]).succeeds().text();
    let line = reported.lines().last().unwrap_or_default();
    line.split_whitespace()
        .rev()
        .nth(2)
        .and_then(|word| word.parse().ok())
        .expect("a number")
}

/// Writes files of random bytes without syncing them, and leaves no room for them at once. Returns their digests.
fn write_and_fill(capsid: &Capsid, disk: &SmallDisk, name: &str) -> String {
    let script = format!(
        "for d in / /box/; do head -c 6000000 /dev/urandom >${{d}}{name} || exit; done; md5sum /{name} /box/{name}"
    );
    let digests = call(capsid, &["exec", "it", "sh", "-c", &script]).succeeds().text();
    disk.fill(0);
    digests
}

/// Writes and syncs files that have no room: the sync waits until there is some, while `other` of the same machine goes on.
/// Returns their digests.
#[track_caller]
fn write_kept_until_there_is_room(capsid: &Capsid, disk: &SmallDisk, other: &str) -> String {
    let digests = write_and_fill(capsid, disk, "kept");
    let mut sync = spawn(capsid, &["exec", "it", "sync"]);
    thread::sleep(Duration::from_secs(2));
    assert_eq!(sync.try_wait().unwrap(), None, "written without room");
    call(capsid, &["exec", other, "true"]).succeeds();
    disk.empty();
    assert!(sync.wait().unwrap().success());
    digests
}

/// Test of a guest's sparse disks: it sees as much room as the host has, gets `ENOSPC` from `write(2)` and not later,
/// and data that it was told is written is kept until there is room.
#[test]
fn a_guest_is_told_in_time_and_loses_nothing() {
    let _alone = alone();
    let Some((capsid, disk)) = on_small_disk("a_guest_is_told", 160) else {
        return;
    };
    call(
        &capsid,
        &[
            "run", "-d", "--name", "it", "-v", "box:/box", "busybox", "sleep", "1000",
        ],
    )
    .succeeds();
    disk.fill(40 << 20);
    for path in ["/", "/box"] {
        eventually("the guest sees the host's room", 20, || {
            available_mib(&capsid, path) <= 40
        });
        let script = format!("cd {path} && dd if=/dev/zero of=much bs=1M count=60; code=$?; rm much; exit $code");
        let outcome = call(&capsid, &["exec", "it", "sh", "-c", &script]).exits(1);
        assert!(outcome.stderr.contains("No space left on device"), "{outcome}");
    }
    disk.empty();
    eventually("the guest sees room again", 20, || available_mib(&capsid, "/") > 60);

    let digests = write_kept_until_there_is_room(&capsid, &disk, "it");

    // A machine that ends while writes wait: the disks are as at the last sync.
    write_and_fill(&capsid, &disk, "lost");
    let mut sync = spawn(&capsid, &["exec", "it", "sync"]);
    thread::sleep(Duration::from_secs(2));
    send(capsid.machine("it"), Signal::SIGKILL);
    sync.wait().unwrap();
    disk.empty();
    eventually("the container has ended", 20, || {
        capsid.field("it", ".State.Status") == "exited"
    });
    call(&capsid, &["start", "it"]).succeeds();
    let kept = call(&capsid, &["exec", "it", "md5sum", "/kept", "/box/kept"]);
    assert_eq!(kept.succeeds().text(), digests);

    // A container that ends on a full disk does so soon, and says what that cost.
    write_and_fill(&capsid, &disk, "unsynced");
    let stopped = call(&capsid, &["stop", "-t", "0", "it"]).succeeds();
    assert!(stopped.took < patience(45), "{stopped}");
    disk.empty();
    eventually("the container has ended", 20, || {
        capsid.field("it", ".State.Status") == "exited"
    });
    let error = capsid.field("it", ".State.Error");
    assert!(
        error.contains("the host's disk was full when the container ended"),
        "{error}"
    );
    remove_all(&capsid);
}

/// Test of the disks of a pod of several containers, which are plugged into its running machine.
#[test]
fn each_container_of_a_pod_is_told_in_time() {
    let _alone = alone();
    let Some((capsid, disk)) = on_small_disk("each_container_of_a_pod", 160) else {
        return;
    };
    call(&capsid, &["pod", "create", "web"]).succeeds();
    for (name, volume) in [("it", "box:/box"), ("other", "other-box:/box")] {
        let words = [
            "run", "-d", "--pod", "web", "--name", name, "-v", volume, "busybox", "sleep", "1000",
        ];
        call(&capsid, &words).succeeds();
    }
    disk.fill(40 << 20);
    for name in ["it", "other"] {
        for path in ["/", "/box"] {
            let script = format!(
                "cd {path} && while [ $(df -m . | tail -1 | awk '{{ print $4 }}') -gt 40 ]; do sleep 0.2; done
                dd if=/dev/zero of=much bs=1M count=60; code=$?; rm much; exit $code"
            );
            let outcome = call(&capsid, &["exec", name, "sh", "-c", &script]).exits(1);
            assert!(outcome.stderr.contains("No space left on device"), "{outcome}");
        }
    }
    disk.empty();
    eventually("the guest sees room again", 20, || available_mib(&capsid, "/") > 60);
    let digests = write_kept_until_there_is_room(&capsid, &disk, "other");
    send(capsid.machine("it"), Signal::SIGKILL);
    eventually("the pod has ended", 20, || {
        ["it", "other"]
            .iter()
            .all(|name| capsid.field(name, ".State.Status") == "exited")
    });
    call(&capsid, &["start", "it"]).succeeds();
    let kept = call(&capsid, &["exec", "it", "md5sum", "/kept", "/box/kept"]);
    assert_eq!(kept.succeeds().text(), digests);
    call(&capsid, &["pod", "rm", "-f", "web"]).succeeds();
}
