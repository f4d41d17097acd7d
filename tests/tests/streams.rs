//! Standard streams: every byte, in order, once, without accumulating on the host.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use capsid_tests::environment::{count, workload};
use capsid_tests::invocation::eventually;
use capsid_tests::resident::{anonymous_kib, descendants};
use capsid_tests::stream::Bytes;
use capsid_tests::{Capsid, TestImage, image::sha256_hex};

const MIB: u64 = 1 << 20;

/// Returns a thousand times the size of all buffers on the way; `CAPSID_STREAM_MIB=1024` for a long test. The lab's is
/// smaller.
fn volume() -> u64 {
    workload(count("CAPSID_STREAM_MIB", 64) as u64 * MIB)
}

#[test]
fn a_long_stream_comes_back_unchanged_and_is_kept_nowhere() {
    let capsid = Capsid::with_busybox();
    let total = volume();
    let mut child = capsid.run_call(["-i", "busybox", "cat"]).spawn_with(|command| {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
    });
    let mut stdin = child.stdin.take().unwrap();
    let writer = thread::spawn(move || Bytes::new(1, total).write_to(&mut stdin).expect("the container reads"));
    let mut held = Vec::new();
    let digest = digest_of(child.stdout.take().unwrap(), || held.push(held_kib(child.id())));
    writer.join().unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(digest, (Bytes::new(1, total).digest(), total));
    let most = held.iter().max().unwrap();
    assert!(*most < held[0] + 8 * 1024, "{held:?} KiB held while bytes passed");
}

#[test]
fn a_slow_reader_holds_the_container_back_not_the_hosts_memory() {
    let capsid = Capsid::with_probe();
    let total = workload(64 * MIB);
    let mut child = capsid
        .run_call(["probe", "/probe", "emit", &total.to_string(), "9"])
        .spawn_with(|command| {
            command.stdin(Stdio::null()).stdout(Stdio::piped());
        });
    let mut stdout = child.stdout.take().unwrap();
    let mut first = [0; 4096];
    stdout.read_exact(&mut first).unwrap();
    let before = held_kib(child.id());
    // Nobody reads: everything between the container and here must fill up and stop.
    thread::sleep(Duration::from_secs(3));
    let after = held_kib(child.id());
    assert!(after < before + 8 * 1024, "{before} KiB held, then {after} KiB");
    let mut all = first.to_vec();
    stdout.read_to_end(&mut all).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(sha256_hex(&all), Bytes::new(9, total).digest());
}

/// Returns the anonymous memory of `capsid` and its helpers. QEMU's is left out: it contains the guest's own memory.
fn held_kib(pid: u32) -> u64 {
    let own = anonymous_kib(pid);
    let helpers = descendants(pid)
        .into_iter()
        .filter(|process| process.name.starts_with("capsid"));
    own + helpers.map(|process| anonymous_kib(process.pid)).sum::<u64>()
}

/// Reads to the end. Returns digest and length. Calls `now_and_then` after each 4 MiB.
fn digest_of(mut stream: impl Read, mut now_and_then: impl FnMut()) -> (String, u64) {
    use sha2::{Digest, Sha256};
    let (mut digest, mut total, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 16]);
    loop {
        let count = stream.read(&mut buffer).unwrap() as u64;
        if count == 0 {
            break (hex::encode(digest.finalize()), total);
        }
        digest.update(&buffer[..usize::try_from(count).unwrap()]);
        if (total + count) / (4 * MIB) > total / (4 * MIB) {
            now_and_then();
        }
        total += count;
    }
}

#[test]
fn the_end_of_input_is_seen_while_output_goes_on() {
    let capsid = Capsid::with_busybox();
    let script = "cat > /dev/null; echo input ended; sleep 0.5; echo still here";
    let outcome = capsid.run_call(["-i", "busybox", "sh", "-c", script]).input("x").wait();
    outcome.succeeds().prints("input ended\nstill here\n");
}

#[test]
fn output_that_is_closed_by_the_container_ends_here() {
    let capsid = Capsid::with_busybox();
    let script = "echo out; exec >&-; sleep 0.3; echo late >&2; exit 3";
    capsid
        .run(["busybox", "sh", "-c", script])
        .exits(3)
        .prints("out\n")
        .complains("late");
}

#[test]
fn every_byte_value_passes() {
    let capsid = Capsid::with_busybox();
    let bytes: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    capsid
        .run_call(["-i", "busybox", "cat"])
        .input(bytes.clone())
        .wait()
        .succeeds()
        .prints(bytes);
}

#[test]
fn the_two_outputs_stay_apart() {
    let capsid = Capsid::with_busybox();
    let outcome = capsid
        .run(["busybox", "sh", "-c", "echo out; echo err >&2"])
        .succeeds()
        .prints("out\n");
    assert_eq!(outcome.complaints(), ["err"]);
}

#[test]
fn a_reader_that_leaves_ends_the_command() {
    let capsid = Capsid::with_busybox();
    let mut child = capsid.run_call(["busybox", "yes"]).spawn_with(|command| {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
    });
    let mut first = [0; 2];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    let status = capsid_tests::invocation::wait_until(&mut child, deadline);
    assert!(status.is_some(), "`yes` still runs though nobody listens");
}

#[test]
fn output_that_cannot_be_written_is_not_lost_in_silence() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let capsid = Capsid::with_busybox();
    let child = capsid.run_call(["busybox", "echo", "hi"]).spawn_with(|command| {
        command.stdin(Stdio::null()).stdout(full).stderr(Stdio::piped());
    });
    let output = child.wait_with_output().unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(complaint.contains("No space left on device"), "{complaint}");
    assert_eq!(output.status.code(), Some(125));
}

#[test]
fn a_container_that_does_not_read_does_not_stop_the_exit() {
    let capsid = Capsid::with_busybox();
    let mut child = capsid
        .run_call(["-i", "busybox", "sh", "-c", "sleep 0.5; exit 5"])
        .spawn_with(|command| {
            command.stdin(Stdio::piped()).stdout(Stdio::null());
        });
    let mut stdin = child.stdin.take().unwrap();
    // More than all buffers on the way hold; the pipe breaks when the container is gone.
    let writer = thread::spawn(move || stdin.write_all(&vec![0; 64 << 20]));
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    let status = capsid_tests::invocation::wait_until(&mut child, deadline).expect("an end");
    assert_eq!(status.code(), Some(5));
    assert!(writer.join().unwrap().is_err());
}

/// Opens a stdout that accepts nothing.
fn full() -> std::fs::File {
    std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap()
}

/// Verbs that print, for a running container `web`; `%` stands for a word of the round's own.
const PRINTING: &str = "--help
    run --help
    images
    image inspect busybox
    ps
    inspect web
    logs web
    port web
    top web
    stats --no-stream web
    diff web
    export web
    cp web:/etc -
    events --since 1h --until 0s
    pause web
    unpause web
    kill -s CONT web
    update --pids-limit 100 web
    create --name made-% busybox
    wait made-%
    rm made-%
    volume create volume-%
    volume ls
    volume inspect volume-%
    volume rm volume-%
    network create network-%
    network ls
    network inspect network-%
    network rm network-%
    pod create --name pod-%
    pod ls
    pod inspect pod-%
    pod rm pod-%
    system df
    info
    version
    completion bash
    man
    stop -t 0 web
    start web";

#[test]
fn a_stdout_that_takes_nothing_ends_no_verb_halfway() {
    let capsid = Capsid::with_busybox();
    let script = "touch /changed; echo said; exec sleep 1000";
    capsid.detached("web", &["-p", "80", "busybox", "sh", "-c", script]);
    eventually("its output", 20, || {
        capsid.call(["logs", "web"]).wait().text() == "said"
    });
    let rounds = ["full", "closed"].map(|round| PRINTING.lines().map(move |verb| (round, verb)));
    for (round, verb) in rounds.into_iter().flatten() {
        let line = verb.replace('%', round);
        let call = capsid.call(line.split_whitespace());
        if round == "full" {
            let outcome = call.stdout(full()).wait().exits(1).complains_in_one_line();
            outcome.complains("cannot write to stdout: No space left on device");
        } else {
            let outcome = call.closed_stdout().wait().succeeds();
            assert_eq!(outcome.complaints(), [""; 0], "{outcome}");
        }
    }
    let archive = TestImage::Busybox.docker_archive();
    let load = || capsid.call(["load".as_ref(), "-i".as_ref(), archive.as_os_str()]);
    load().stdout(full()).wait().exits(1).complains_in_one_line();
    assert_eq!(load().closed_stdout().wait().succeeds().complaints(), [""; 0]);
    let names = ["one", "two", "three"];
    for name in names {
        capsid.call(["create", "--name", name, "busybox"]).wait().succeeds();
    }
    let removed = capsid
        .call(["rm"].iter().chain(&names))
        .closed_stdout()
        .wait()
        .succeeds();
    assert_eq!(removed.complaints(), [""; 0]);
    let left = capsid.call(["ps", "-a", "--format", "{{.Names}}"]).wait().succeeds();
    left.prints("web\n");
}
