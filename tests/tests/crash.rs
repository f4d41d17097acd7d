//! What many commands at once, killed processes, readers that do not read and full disks leave behind: nothing, and a
//! next command that works.
//!
//! Counts are small here and large in a soak: `CAPSID_STORM_SECONDS`, `CAPSID_CRASH_ROUNDS`, `CAPSID_EXECS`,
//! `CAPSID_CYCLES`.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use capsid_tests::dice::Dice;
use capsid_tests::invocation::wait_until;
use capsid_tests::parts::{bin_dir, count, patience};
use capsid_tests::resident::descendants;
use capsid_tests::small_disk::SmallDisk;
use capsid_tests::{Capsid, Census, Outcome, Terminal};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Seconds that any call may take.
const WATCHDOG_S: u64 = 30;

/// The census counts all processes below this test's: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    Census::adopt_orphans();
    guard
}

/// A first run makes what is kept on purpose: caches, the template of scratch disks, the probe's verdict.
fn warmed_up() -> Capsid {
    let capsid = Capsid::with_busybox();
    capsid.run(["busybox", "true"]).succeeds();
    capsid
}

fn call(capsid: &Capsid, words: &[&str]) -> Outcome {
    let outcome = capsid.call(words).within(WATCHDOG_S).wait();
    assert!(!outcome.stderr.contains("panicked"), "{outcome}");
    outcome
}

/// A call whose streams the caller drives.
fn spawn(capsid: &Capsid, words: &[&str]) -> Child {
    capsid.call(words).spawn_with(|command| {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
    })
}

/// A container in the background: its id.
#[track_caller]
fn detached(capsid: &Capsid, name: &str, script: &str) -> String {
    let words = ["run", "-d", "--name", name, "busybox", "sh", "-c", script];
    call(capsid, &words).succeeds().text()
}

/// One field of `capsid inspect`.
#[track_caller]
fn field(capsid: &Capsid, name: &str, path: &str) -> String {
    call(capsid, &["inspect", "-f", &format!("{{{{{path}}}}}"), name])
        .succeeds()
        .text()
}

#[track_caller]
fn supervisor(capsid: &Capsid, name: &str) -> u32 {
    field(capsid, name, ".State.Pid").parse().unwrap()
}

/// Waits until `holds`.
#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience(20);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[track_caller]
fn end_of(mut child: Child, what: &str) -> (Option<i32>, String) {
    let status = wait_until(&mut child, Instant::now() + patience(WATCHDOG_S));
    let status = status.unwrap_or_else(|| panic!("{what} hangs"));
    let mut output = String::new();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_to_string(&mut output).unwrap();
    (status.code(), output)
}

fn remove_all(capsid: &Capsid) {
    let ids = call(capsid, &["ps", "-aq"]).succeeds().text();
    let words = ["rm", "-f"].into_iter().chain(ids.split_whitespace());
    if !ids.is_empty() {
        capsid.call(words).within(120).wait().succeeds();
    }
    call(capsid, &["ps", "-aq"]).succeeds().prints("");
}

fn send(pid: u32, signal: Signal) {
    // It may have ended by itself a moment ago.
    let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal);
}

/// An orphan that has ended and waits for its parent, this test, has no command line any more.
fn is_gone(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).map_or(true, |line| line.is_empty())
}

/// What a command may say when others are faster.
const EXPECTED: [&str; 15] = [
    "no such container",
    "no such object",
    "is not running",
    "is running: stop it first",
    "is running already",
    "already in use",
    "is paused",
    "is already paused",
    "is not paused",
    "another command is working on",
    "the container was killed",
    "supervisor is gone",
    "supervisor was killed",
    "the agent closed the session",
    "no process of the container",
];

fn any_verb(capsid: &Capsid, dice: &mut Dice) -> Outcome {
    let names = ["ant", "bee", "cat", "dog"];
    let (name, other) = (names[dice.roll(names.len())], names[dice.roll(names.len())]);
    let lives = ["sleep 1000", "sleep 1; exit 3", "while :; do echo x; sleep 0.1; done"];
    let life = lives[dice.roll(lives.len())];
    let words: &[&str] = match dice.roll(16) {
        0 | 1 => &["run", "-d", "--name", name, "busybox", "sh", "-c", life],
        2 => &["run", "-d", "--rm", "--name", name, "busybox", "sh", "-c", life],
        3 => &["exec", name, "echo", "x"],
        4 => &["logs", name],
        5 => &["stop", "-t", "1", name],
        6 => &["start", name],
        7 => &["kill", name],
        8 => &["rm", "-f", name],
        9 => &["ps", "-a"],
        10 => &["inspect", name],
        11 => &["pause", name],
        12 => &["unpause", name],
        13 => &["rename", name, other],
        14 => &["restart", "-t", "0", name],
        _ => return wait_for_a_while(capsid, name),
    };
    call(capsid, words)
}

/// `capsid wait` of something that may never end: the command is interrupted as a user does it.
fn wait_for_a_while(capsid: &Capsid, name: &str) -> Outcome {
    let mut invocation = capsid.call(["-s", "INT", "1", "x"]);
    let program = invocation.command().get_program().to_owned();
    let words = ["-s", "INT", "1"].map(Into::into);
    let line = words.into_iter().chain([program, "wait".into(), name.into()]);
    let mut timed = capsid_tests::Invocation::new("timeout", line).within(WATCHDOG_S);
    for (variable, value) in capsid.environment() {
        timed = timed.env(variable, value);
    }
    timed.wait()
}

#[test]
fn many_commands_at_once_neither_hang_nor_leak() {
    let _alone = alone();
    let capsid = warmed_up();
    let before = Census::take(&capsid);
    let end = Instant::now() + Duration::from_secs(count("CAPSID_STORM_SECONDS", 5) as u64);
    let surprises = Mutex::new(BTreeSet::new());
    let calls = Mutex::new((0, Duration::ZERO));
    thread::scope(|scope| {
        for number in 0..32 {
            let (capsid, surprises, calls) = (&capsid, &surprises, &calls);
            scope.spawn(move || {
                let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ (number + 1));
                while Instant::now() < end {
                    let outcome = any_verb(capsid, &mut dice);
                    {
                        let mut calls = calls.lock().unwrap();
                        calls.0 += 1;
                        calls.1 = calls.1.max(outcome.took);
                    }
                    for line in outcome.complaints() {
                        if !EXPECTED.iter().any(|words| line.to_lowercase().contains(words)) {
                            surprises
                                .lock()
                                .unwrap()
                                .insert(format!("{}: {line}", outcome.line.rsplit('/').next().unwrap()));
                        }
                    }
                }
            });
        }
    });
    let (calls, slowest) = calls.into_inner().unwrap();
    println!("{calls} calls, the slowest took {slowest:?}");
    let surprises = surprises.into_inner().unwrap();
    assert!(surprises.is_empty(), "unexpected words: {surprises:#?}");
    remove_all(&capsid);
    before.assert_nothing_new(&capsid);
}

/// Who is killed, by what its command line or name says.
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
    let before = Census::take(&capsid);
    let verbs = ["run", "start", "stop", "rm", "exec"];
    let victims = ["cli", "supervisor", "capsid-vmm", "qemu"];
    for round in 0..count("CAPSID_CRASH_ROUNDS", 1) {
        for (number, (verb, victim)) in verbs.iter().flat_map(|v| victims.map(|w| (*v, w))).enumerate() {
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

fn kill_one(capsid: &Capsid, verb: &str, victim: &str, moment: Duration) {
    let what = format!("{verb}, {victim} killed after {moment:?}");
    match verb {
        "run" => {}
        "start" => drop(call(capsid, &["create", "--name", "it", "busybox", "sleep", "1000"]).succeeds()),
        _ => drop(detached(capsid, "it", "sleep 1000")),
    }
    let words: &[&str] = match verb {
        "run" => &["run", "-d", "--name", "it", "busybox", "sleep", "1000"],
        "start" => &["start", "it"],
        "stop" => &["stop", "-t", "0", "it"],
        "rm" => &["rm", "-f", "it"],
        _ => &["exec", "it", "sleep", "0.2"],
    };
    let cli = spawn(capsid, words);
    thread::sleep(moment);
    if let Some(pid) = find_victim(&cli, victim) {
        send(pid, Signal::SIGKILL);
    }
    let (_, output) = end_of(cli, &what);
    let known = call(capsid, &["ps", "-aq", "--no-trunc"]).succeeds().text();
    if verb == "run" && output.trim().len() == 64 {
        assert!(known.contains(output.trim()), "{what}: acknowledged and lost");
    }
    // `start` and `exec` lose no container, whoever is killed.
    assert!(
        !matches!(verb, "start" | "stop" | "exec") || !known.is_empty(),
        "{what}: lost"
    );
    call(capsid, &["rm", "-f", "it"]).succeeds();
    assert_eq!(call(capsid, &["ps", "-aq"]).succeeds().text(), "", "{what}");
}

/// What a process holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    fds: usize,
    threads: usize,
    resident_kib: u64,
}

fn held(pid: u32) -> Held {
    let entries = |folder: &str| fs::read_dir(format!("/proc/{pid}/{folder}")).unwrap().count();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    Held {
        fds: entries("fd"),
        threads: entries("task"),
        resident_kib: resident.trim().trim_end_matches(" kB").parse().unwrap(),
    }
}

#[test]
fn many_execs_leave_no_trace_in_the_supervisor() {
    let _alone = alone();
    let capsid = warmed_up();
    detached(&capsid, "host", "sleep 100000");
    let pid = supervisor(&capsid, "host");
    let exec = || {
        let started = Instant::now();
        call(&capsid, &["exec", "host", "true"]).succeeds();
        started.elapsed()
    };
    for _ in 0..5 {
        exec();
    }
    let before = held(pid);
    let times: Vec<Duration> = (0..count("CAPSID_EXECS", 30)).map(|_| exec()).collect();
    eventually("the last exec's descriptors", || held(pid).fds <= before.fds);
    let after = held(pid);
    let tenth = times.len().div_ceil(10).min(100);
    let sum = |times: &[Duration]| times.iter().sum::<Duration>().as_secs_f64();
    let ratio = sum(&times[times.len() - tenth..]) / sum(&times[..tenth]);
    println!(
        "{} execs: {before:?} -> {after:?}; last {tenth} / first {tenth}: {ratio:.2}",
        times.len()
    );
    assert!(after.fds <= before.fds && after.threads <= before.threads);
    assert!(
        after.resident_kib <= before.resident_kib + 512,
        "{before:?} -> {after:?}"
    );
    // An unoptimised binary with all its debug information is another one.
    if bin_dir().ends_with("release") {
        assert!(after.resident_kib <= 8 << 10, "{after:?}");
    }
}

#[test]
fn many_starts_leave_files_and_disk_as_they_are() {
    let _alone = alone();
    let capsid = warmed_up();
    let script = "echo x >>/count; wc -l </count; exec sleep 100000";
    call(&capsid, &["create", "--name", "phoenix", "busybox", "sh", "-c", script]).succeeds();
    let cycle = |number: usize| {
        call(&capsid, &["start", "phoenix"]).succeeds();
        eventually("its count", || {
            call(&capsid, &["logs", "--tail", "1", "phoenix"]).text() == number.to_string()
        });
        call(&capsid, &["stop", "-t", "0", "phoenix"]).succeeds();
    };
    cycle(1);
    let before = Census::take(&capsid);
    let cycles = count("CAPSID_CYCLES", 5);
    (2..=cycles).for_each(cycle);
    before.assert_nothing_new(&capsid);
    println!("{cycles} cycles");
}

#[test]
fn readers_of_a_log_may_be_slow_or_die() {
    let _alone = alone();
    let capsid = warmed_up();
    detached(&capsid, "talker", "sleep 1; seq 1 200000; exec sleep 1000");
    let mut dead = spawn(&capsid, &["logs", "-f", "talker"]);
    let mut slow = spawn(&capsid, &["logs", "-f", "talker"]);
    thread::sleep(Duration::from_millis(300));
    send(dead.id(), Signal::SIGKILL);
    dead.wait().unwrap();
    // Its pipe is long full by then.
    thread::sleep(Duration::from_secs(3));
    call(&capsid, &["stop", "-t", "0", "talker"]).succeeds();
    let mut output = String::new();
    slow.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    let expected: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    assert!(
        output == expected,
        "{} bytes, expected {}",
        output.len(),
        expected.len()
    );
    assert!(wait_until(&mut slow, Instant::now() + patience(5)).unwrap().success());
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
    // One that never reads: the container's own end is not held back, nor is what others ask for.
    detached(&capsid, "loud", "sleep 1; yes & sleep 1; exit 3");
    let mut stuck = spawn(&capsid, &["attach", "loud"]);
    let waited = Instant::now();
    capsid.call(["wait", "loud"]).within(25).wait().prints("3\n");
    println!("ended after {:?} with a client that does not read", waited.elapsed());
    stuck.kill().unwrap();
    stuck.wait().unwrap();
    // One whose own reader has gone closes its own end alone.
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
    eventually("ticks go on", || call(&capsid, &["logs", "host"]).stdout.len() > ticks);
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
    assert_eq!(field(&capsid, "shell", ".State.Status"), "running");
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
    assert_eq!(field(&capsid, "shell", ".State.Status"), "running");
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let _alone = alone();
    let capsid = Capsid::empty();
    let Some(disk) = SmallDisk::mount(&capsid, 64 << 20) else {
        capsid_tests::requirement::skip("a_full_disk", "no permission to mount a small filesystem");
        return;
    };
    capsid
        .load(&capsid_tests::TestImage::Busybox.docker_archive())
        .succeeds();
    capsid.run(["busybox", "true"]).succeeds();
    let before = Census::take(&capsid);
    for left_kib in [0, 64, 600] {
        for verb in [&["create"][..], &["run", "-d"], &["run", "--rm"]] {
            disk.fill(left_kib << 10);
            let words = [verb, &["--name", "it", "busybox", "true"]].concat();
            let outcome = call(&capsid, &words);
            if outcome.code() != 0 {
                assert_eq!(outcome.code(), 125, "{outcome}");
                outcome.complains_in_one_line();
            }
            disk.empty();
            call(&capsid, &["rm", "-f", "it"]).succeeds();
            call(&capsid, &["ps", "-aq"]).succeeds().prints("");
            before.assert_nothing_new(&capsid);
        }
    }
    // The log ends, its container does not.
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
    eventually("the word of its end", || {
        field(&capsid, "loud", ".State.Status") == "exited"
    });
    assert_eq!(field(&capsid, "loud", ".State.ExitCode"), "5");
    let error = field(&capsid, "loud", ".State.Error");
    assert!(error.contains("the log ends early"), "{error:?}");
    assert!(!call(&capsid, &["logs", "loud"]).stdout.is_empty());
    remove_all(&capsid);
    before.assert_nothing_new(&capsid);
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
    let pid = supervisor(&capsid, "host");
    // The whole path may be too long for a socket's address.
    let folder = fs::File::open(capsid.folder("run/pods").join(id)).unwrap();
    let path = format!("/proc/self/fd/{}/socket", folder.as_raw_fd());
    let connect = || UnixStream::connect(&path).unwrap();
    let fds = held(pid).fds;
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
    eventually("the descriptors of clients that left", || held(pid).fds <= fds);
    let idle = [connect(), connect()];
    call(&capsid, &["exec", "host", "true"]).succeeds();
    let exec = spawn(&capsid, &["exec", "host", "sleep", "1000"]);
    eventually("exec runs", || {
        call(&capsid, &["top", "host"]).text().contains("sleep 1000")
    });
    let asked = Instant::now();
    send(pid, Signal::SIGTERM);
    call(&capsid, &["wait", "host"]).succeeds().prints("6\n");
    eventually("the supervisor's end", || is_gone(pid));
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
