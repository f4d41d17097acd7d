//! Killed processes, crossing commands and strange clients: they leave nothing behind, and the next command works.
//!
//! Counts are small here and large in `make test-full`: `CAPSID_CRASH_ROUNDS`.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use capsid_tests::environment::{count, part, patience};
use capsid_tests::invocation::{eventually, wait_until};
use capsid_tests::resident::{Held, descendants};
use capsid_tests::running::{alone, call, detached, end_of, remove_all, send, spawn, warmed_up};
use capsid_tests::{Capsid, Census, Terminal};
use nix::sys::signal::Signal;

/// Whether a process is gone. An orphan that has ended and waits for its parent, this test, has no command line any
/// more.
fn is_gone(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).map_or(true, |line| line.is_empty())
}

/// Finds the process to kill, by its command line or name.
fn find_victim(cli: &Child, victim: &str) -> Option<u32> {
    if victim == "cli" {
        return Some(cli.id());
    }
    let is_supervisor = |pid: u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == b"supervise")
    };
    descendants(std::process::id())
        .into_iter()
        .filter(|process| process.state != 'Z')
        .find(|process| match victim {
            "supervisor" => is_supervisor(process.pid),
            name => process.name.starts_with(name),
        })
        .map(|process| process.pid)
}

#[test]
fn a_process_killed_at_any_moment_leaves_nothing_and_loses_nothing() {
    let _alone = alone();
    let capsid = warmed_up();
    let started = Instant::now();
    detached(&capsid, "first", "sleep 1000");
    let whole = started.elapsed();
    call(&capsid, &["rm", "-f", "first"]).succeeds();
    // The first volume makes the lock of all.
    call(&capsid, &["volume", "create", "box"]).succeeds();
    call(&capsid, &["volume", "rm", "box"]).succeeds();
    fs::create_dir(capsid.folder("shared")).unwrap();
    let before = Census::take(&capsid);
    let verbs = ["run", "start", "stop", "rm", "exec", "cp", "volume"];
    let victims = ["cli", "supervisor", "capsid-vmm", "qemu", "capsid-fs", "agent"];
    let all = verbs.iter().flat_map(|verb| victims.map(|victim| (*verb, victim)));
    let pairs: Vec<_> = all.filter(|(verb, victim)| is_there(victim, verb)).collect();
    for round in 0..count("CAPSID_CRASH_ROUNDS", 1) {
        for (number, (verb, victim)) in pairs.iter().copied().enumerate() {
            // Spread over the whole of it, at other places in each round.
            let tenth = u32::try_from((number * 7 + round * 3) % 10).unwrap();
            let moment = match verb {
                "run" | "start" => whole * tenth / 10,
                _ => Duration::from_millis(30) * tenth,
            };
            kill_one(&capsid, verb, victim, moment);
            before.assert_nothing_new(&capsid);
        }
    }
    capsid.run(["busybox", "echo", "next"]).succeeds().prints("next\n");
    before.assert_nothing_new(&capsid);
}

/// Whether there is such a process while the verb works. The agent is there once its container runs.
fn is_there(victim: &str, verb: &str) -> bool {
    match verb {
        "volume" => victim == "cli",
        "run" | "start" => victim != "agent",
        _ => true,
    }
}

/// Command that ends the agent. No process in a guest can kill its first one, but the kernel can be told to panic.
const PANIC: [&str; 5] = [
    "exec",
    "it",
    "sh",
    "-c",
    "echo 2 >/proc/sys/vm/panic_on_oom; exec tail /dev/zero",
];

fn kill_one(capsid: &Capsid, verb: &str, victim: &str, moment: Duration) {
    let what = format!("{verb}, {victim} killed after {moment:?}");
    let bind = format!("{}:/d", capsid.folder("shared").display());
    let copied = part("capsid-probe").display().to_string();
    let mut flags = vec!["--name", "it"];
    match victim {
        "capsid-fs" => flags.extend(["-v", &bind]),
        "agent" => flags.extend(["--privileged", "-m", "24m"]),
        _ => {}
    }
    let container = [&flags[..], &["busybox", "sleep", "1000"]].concat();
    match verb {
        "run" | "volume" => {}
        "start" => drop(call(capsid, &[&["create"], &container[..]].concat()).succeeds()),
        _ => drop(call(capsid, &[&["run", "-d"], &container[..]].concat()).succeeds()),
    }
    let words = match verb {
        "run" => [&["run", "-d"], &container[..]].concat(),
        "start" => vec!["start", "it"],
        "stop" => vec!["stop", "-t", "0", "it"],
        "rm" => vec!["rm", "-f", "it"],
        "cp" => vec!["cp", &copied, "it:/copied"],
        "volume" => vec!["volume", "create", "box"],
        _ => vec!["exec", "it", "sleep", "0.2"],
    };
    let panic = (victim == "agent").then(|| spawn(capsid, &PANIC));
    let cli = spawn(capsid, &words);
    thread::sleep(moment);
    if let Some(pid) = find_victim(&cli, victim) {
        send(pid, Signal::SIGKILL);
    }
    let (code, output) = end_of(cli, &what);
    panic.map(|panic| end_of(panic, &what));
    if verb == "volume" {
        let there = call(capsid, &["volume", "ls", "-q"]).succeeds().text();
        assert!(code != Some(0) || there == "box", "{what}: acknowledged and lost");
        return drop(call(capsid, &["volume", "rm", "-f", "box"]).succeeds());
    }
    let known = call(capsid, &["ps", "-aq", "--no-trunc"]).succeeds().text();
    if verb == "run" && output.trim().len() == 64 {
        assert!(known.contains(output.trim()), "{what}: acknowledged and lost");
    }
    // These lose no container, whichever process is killed.
    assert!(
        !matches!(verb, "start" | "stop" | "exec" | "cp") || !known.is_empty(),
        "{what}: lost"
    );
    call(capsid, &["rm", "-f", "it"]).succeeds();
    assert_eq!(call(capsid, &["ps", "-aq"]).succeeds().text(), "", "{what}");
}

#[test]
fn attached_clients_share_and_none_holds_the_end_back() {
    let _alone = alone();
    let capsid = warmed_up();
    let before = Census::take(&capsid);
    detached(&capsid, "both", "sleep 1.5; echo word; exit 7");
    let first = spawn(&capsid, &["attach", "both"]);
    let second = spawn(&capsid, &["attach", "both"]);
    for client in [first, second] {
        assert_eq!(end_of(client, "attach"), (Some(7), "word\n".into()));
    }
    // A client that never reads delays neither the container's end nor the requests of others.
    detached(&capsid, "loud", "sleep 1; yes & sleep 1; exit 3");
    let mut stuck = spawn(&capsid, &["attach", "loud"]);
    let waited = Instant::now();
    capsid.call(["wait", "loud"]).within(25).wait().prints("3\n");
    println!("ended after {:?} with a client that does not read", waited.elapsed());
    stuck.kill().unwrap();
    stuck.wait().unwrap();
    // A client whose own reader is gone closes only its own end.
    detached(&capsid, "host", "while :; do echo tick; sleep 0.1; done");
    let mut leaver = spawn(&capsid, &["attach", "host"]);
    drop(leaver.stdout.take());
    thread::sleep(Duration::from_millis(500));
    send(leaver.id(), Signal::SIGKILL);
    leaver.wait().unwrap();
    let mut exec = spawn(&capsid, &["exec", "host", "yes"]);
    drop(exec.stdout.take());
    wait_until(&mut exec, Instant::now() + patience(10)).expect("exec without a reader ends");
    drop((stuck, leaver, exec));
    let ticks = call(&capsid, &["logs", "host"]).stdout.len();
    eventually("ticks go on", 20, || {
        call(&capsid, &["logs", "host"]).stdout.len() > ticks
    });
    remove_all(&capsid);
    before.assert_nothing_new(&capsid);
}

#[test]
fn a_terminal_can_be_left_and_another_process_resized() {
    let _alone = alone();
    let capsid = warmed_up();
    let mut user = Terminal::start(capsid.call(["run", "-it", "--name", "shell", "busybox", "sh"]));
    user.expect("#");
    user.send([16, 17]);
    assert!(user.wait().success());
    assert!(user.is_cooked());
    assert_eq!(capsid.field("shell", ".State.Status"), "running");
    let mut user = Terminal::start(capsid.call(["attach", "shell"]));
    thread::sleep(Duration::from_millis(300));
    user.send("echo $((40+2))\n");
    user.expect("42");
    user.send([16, 17]);
    assert!(user.wait().success());
    assert!(user.is_cooked());
    let script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.1; done";
    let mut user = Terminal::start(capsid.call(["exec", "-it", "shell", "sh", "-c", script]));
    user.expect("ready");
    user.resize(33, 111);
    user.expect("33 111");
    user.send([3]);
    user.wait();
    assert!(user.is_cooked());
    assert_eq!(capsid.field("shell", ".State.Status"), "running");
}

#[test]
fn commands_that_cross_each_other_agree() {
    let _alone = alone();
    let capsid = warmed_up();
    let before = Census::take(&capsid);
    for milliseconds in [0, 50, 400] {
        call(&capsid, &["create", "--name", "it", "busybox", "sleep", "1000"]).succeeds();
        let start = spawn(&capsid, &["start", "it"]);
        thread::sleep(Duration::from_millis(milliseconds));
        call(&capsid, &["stop", "-t", "0", "it"]).succeeds();
        end_of(start, "start, stopped meanwhile");
        let start = spawn(&capsid, &["start", "it"]);
        thread::sleep(Duration::from_millis(milliseconds));
        call(&capsid, &["rm", "-f", "it"]).succeeds();
        end_of(start, "start, removed meanwhile");
        call(&capsid, &["ps", "-aq"]).succeeds().prints("");
    }
    call(&capsid, &["create", "--name", "it", "busybox", "sleep", "1000"]).succeeds();
    let starts = [spawn(&capsid, &["start", "it"]), spawn(&capsid, &["start", "it"])];
    for start in starts {
        assert_eq!(end_of(start, "two starts"), (Some(0), "it\n".into()));
    }
    let run = ["run", "-d", "--name", "one", "busybox", "sleep", "1000"];
    let runs = [(); 4].map(|()| spawn(&capsid, &run));
    let codes = runs.map(|run| end_of(run, "four runs of one name").0);
    assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 1, "{codes:?}");
    assert!(codes.iter().all(|code| matches!(code, Some(0 | 125))), "{codes:?}");
    let renames = ["it", "one"].map(|name| spawn(&capsid, &["rename", name, "new"]));
    let codes = renames.map(|rename| end_of(rename, "two renames").0);
    assert!(codes.contains(&Some(0)) && codes.contains(&Some(1)), "{codes:?}");
    remove_all(&capsid);
    before.assert_nothing_new(&capsid);
}

#[test]
fn a_supervisor_bears_strange_clients_and_ends_as_if_stopped() {
    let _alone = alone();
    let capsid = warmed_up();
    let before = Census::take(&capsid);
    let id = detached(&capsid, "host", "trap 'exit 6' TERM; while :; do sleep 0.1; done");
    let pid = capsid.supervisor("host");
    // The whole path may be too long for a socket's address.
    let folder = fs::File::open(capsid.folder("run/pods").join(id)).unwrap();
    let path = format!("/proc/self/fd/{}/socket", folder.as_raw_fd());
    let connect = || UnixStream::connect(&path).unwrap();
    let fds = Held::of(pid).fds;
    let garbage: [&[u8]; 6] = [
        b"",
        b"\x01",
        b"\xff\xff\xff\xff",
        b"\x04\0\0\0null",
        b"\x00\x00\x40\x00[[[[",
        b"GET / HTTP/1.1\r\n\r\n",
    ];
    for bytes in garbage {
        // It may have hung up already.
        let _ = connect().write_all(bytes);
    }
    let silent: Vec<UnixStream> = (0..300).map(|_| connect()).collect();
    drop(silent);
    eventually("the descriptors of clients that left", 20, || Held::of(pid).fds <= fds);
    let idle = [connect(), connect()];
    call(&capsid, &["exec", "host", "true"]).succeeds();
    let exec = spawn(&capsid, &["exec", "host", "sleep", "1000"]);
    eventually("exec runs", 20, || {
        call(&capsid, &["top", "host"]).text().contains("sleep 1000")
    });
    let asked = Instant::now();
    send(pid, Signal::SIGTERM);
    call(&capsid, &["wait", "host"]).succeeds().prints("6\n");
    eventually("the supervisor's end", 20, || is_gone(pid));
    println!(
        "ended {:?} after SIGTERM, with idle clients and an exec",
        asked.elapsed()
    );
    assert_eq!(end_of(exec, "exec in a container that ended").0, Some(137));
    drop(idle);
    drop(folder);
    remove_all(&capsid);
    before.assert_nothing_new(&capsid);
}
