//! Nothing outlives its use: no process, descriptor, socket, mount, cgroup or temporary file, however a run ends.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use capsid_tests::environment::{count, patience};
use capsid_tests::invocation::eventually;
use capsid_tests::resident::{Process, descendants, processes};
use capsid_tests::running::{alone, remove_all, send, warmed_up};
use capsid_tests::{Capsid, Census};
use nix::sys::signal::Signal;

/// Returns the number of repetitions: `here`, or `in_lab`, where each start of a machine takes many seconds.
fn usual(here: usize, in_lab: usize) -> usize {
    if capsid_tests::environment::in_lab() {
        in_lab
    } else {
        here
    }
}

#[test]
fn sequential_runs_leak_nothing() {
    let _alone = alone();
    let capsid = warmed_up();
    let before = Census::take(&capsid);
    for _ in 0..count("CAPSID_SOAK_RUNS", usual(10, 4)) {
        capsid.run(["busybox", "true"]).succeeds();
    }
    before.assert_nothing_new(&capsid);
}

#[test]
fn concurrent_runs_leak_nothing_and_all_succeed() {
    let _alone = alone();
    let capsid = warmed_up();
    let before = Census::take(&capsid);
    thread::scope(|scope| {
        for number in 0..count("CAPSID_CONCURRENT_RUNS", usual(8, 4)) {
            let capsid = &capsid;
            scope.spawn(move || {
                let word = format!("{number}\n");
                capsid
                    .run_call(["busybox", "echo", word.trim()])
                    .within(180)
                    .wait()
                    .succeeds()
                    .prints(&word);
            });
        }
    });
    before.assert_nothing_new(&capsid);
}

#[test]
fn failed_runs_leak_nothing() {
    let _alone = alone();
    let capsid = warmed_up();
    let before = Census::take(&capsid);
    capsid.run(["busybox", "no-such-command"]).exits(127);
    capsid.run(["busybox", "/etc/passwd"]).exits(126);
    capsid.run(["localhost:1/x"]).exits(125);
    capsid.run(["--kernel", "/etc/passwd", "busybox", "true"]).exits(125);
    before.assert_nothing_new(&capsid);
}

fn start_sleeper(capsid: &Capsid) -> Child {
    capsid
        .run_call(["busybox", "sh", "-c", "echo ready; sleep 600"])
        .spawn_with(|command| {
            command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null());
        })
}

fn await_ready(child: &mut Child) {
    let mut output = std::io::BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut output, &mut line).expect("a pipe");
    assert_eq!(line, "ready\n");
}

fn kill(pid: u32) {
    send(pid, Signal::SIGKILL);
}

/// Requires that the next commands clean up after a killed one.
#[track_caller]
fn assert_next_command_cleans_up(capsid: &Capsid, before: &Census) {
    remove_all(capsid);
    capsid
        .run_call(["busybox", "echo", "next"])
        .within(120)
        .wait()
        .succeeds()
        .prints("next\n");
    before.assert_nothing_new(capsid);
}

#[test]
fn a_killed_capsid_leaves_nothing_that_the_next_command_does_not_clean_up() {
    let _alone = alone();
    let capsid = warmed_up();
    let before = Census::take(&capsid);
    let mut child = start_sleeper(&capsid);
    await_ready(&mut child);
    kill(child.id());
    child.wait().unwrap();
    assert_next_command_cleans_up(&capsid, &before);
}

/// Test of kills at moments spread over a whole start: before the machine, while the kernel boots, while the command
/// runs.
#[test]
fn a_capsid_killed_at_any_moment_leaves_nothing() {
    let _alone = alone();
    let capsid = warmed_up();
    let started = Instant::now();
    capsid.run(["busybox", "true"]).succeeds();
    let whole = started.elapsed();
    let before = Census::take(&capsid);
    let moments = u32::try_from(count("CAPSID_KILL_MOMENTS", usual(8, 4))).unwrap();
    for moment in 0..moments {
        let mut child = start_sleeper(&capsid);
        thread::sleep(whole * moment / moments);
        kill(child.id());
        child.wait().unwrap();
    }
    assert_next_command_cleans_up(&capsid, &before);
}

/// Test of each helper in its turn: the user sees an end within seconds, an exit code that is no success, one line.
#[test]
fn a_killed_helper_ends_the_run_with_a_word() {
    let _alone = alone();
    let capsid = warmed_up();
    let before = Census::take(&capsid);
    for helper in helpers_of_a_run(&capsid) {
        let mut child = capsid
            .run_call(["busybox", "sh", "-c", "echo ready; sleep 600"])
            .spawn_with(|command| {
                command
                    .stdin(Stdio::null())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped());
            });
        await_ready(&mut child);
        let Some(victim) = descendants(child.id())
            .into_iter()
            .find(|process| process.name == helper)
        else {
            kill(child.id());
            panic!("no {helper} in the second run");
        };
        kill(victim.pid);
        let status = capsid_tests::invocation::wait_until(&mut child, Instant::now() + patience(15));
        let status = status.unwrap_or_else(|| panic!("{helper} was killed and the run goes on"));
        assert!(!status.success(), "{helper} was killed and the run succeeded");
        let mut words = String::new();
        std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut words).unwrap();
        assert!(
            !words.trim().is_empty() && !words.contains("panicked"),
            "{helper} was killed: {words:?}"
        );
    }
    assert_next_command_cleans_up(&capsid, &before);
}

fn helpers_of_a_run(capsid: &Capsid) -> Vec<String> {
    let mut child = start_sleeper(capsid);
    await_ready(&mut child);
    let living = |process: &Process| process.state != 'Z';
    let mut names: Vec<String> = descendants(child.id())
        .into_iter()
        .filter(living)
        .map(|process| process.name)
        .collect();
    names.sort();
    names.dedup();
    kill(child.id());
    child.wait().unwrap();
    remove_all(capsid);
    assert!(!names.is_empty(), "a run without helpers: where is the machine?");
    names
}

#[test]
fn a_killed_load_leaves_no_half_image() {
    let _alone = alone();
    let capsid = warmed_up();
    let archive = capsid_tests::TestImage::FortyLayers.docker_archive();
    let path = archive.to_str().unwrap();
    let before = Census::take(&capsid);
    for milliseconds in [0, 5, 20, 50, 100, 200, 400] {
        let mut child = capsid.call(["load", "-q", "-i", path]).spawn_with(|command| {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        });
        thread::sleep(Duration::from_millis(milliseconds));
        kill(child.id());
        child.wait().unwrap();
        // Whatever stage it had reached: the image is there and whole, or it is not there.
        if capsid.call(["image", "inspect", "layers"]).wait().code() == 0 {
            capsid.run(["layers", "cat", "/stack/last"]).succeeds().prints("38\n");
            capsid.call(["rmi", "layers"]).wait().succeeds();
        }
    }
    capsid.load(&archive).succeeds();
    capsid.run(["layers", "cat", "/stack/last"]).succeeds().prints("38\n");
    capsid.call(["rmi", "layers"]).wait().succeeds();
    before.assert_nothing_new(&capsid);
}

/// Test that the pod reports why it ended, nothing waits in vain, and nothing is left.
#[test]
fn a_killed_file_server_ends_its_pod() {
    let _alone = alone();
    let capsid = warmed_up();
    let shared = capsid.folder("shared");
    fs::create_dir(&shared).unwrap();
    let before = Census::take(&capsid);
    let volume = format!("{}:/d", shared.display());
    let script = "while true; do echo x >/d/file; done";
    capsid.detached("one", &["-v", &volume, "busybox", "sh", "-c", script]);
    eventually("a file", 20, || shared.join("file").exists());
    let servers = descendants(capsid.supervisor("one")).into_iter();
    let servers = servers.filter(|process| process.name == "capsid-fs");
    // The one inside of its pid namespace is the last one.
    let server = servers.map(|process| process.pid).max().unwrap();
    let killed_at = Instant::now();
    kill(server);
    capsid.call(["wait", "one"]).wait().succeeds().prints("137\n");
    assert!(killed_at.elapsed() < patience(10), "{:?}", killed_at.elapsed());
    let error = capsid.field("one", ".State.Error");
    assert!(
        error.contains("the file server of") && error.contains("was killed"),
        "{error}"
    );
    capsid.call(["start", "one"]).wait().succeeds();
    capsid.call(["rm", "-f", "one"]).wait().succeeds();
    fs::remove_file(shared.join("file")).unwrap();
    before.assert_nothing_new(&capsid);
}

/// Returns the pids of the running switches of the installation's networks.
fn switches(capsid: &Capsid) -> Vec<u32> {
    let folder = capsid.folder("run/networks").display().to_string();
    let is_its = |pid: u32| {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut targets = fds.filter_map(|fd| fs::read_link(fd.path()).ok());
        targets.any(|target| target.display().to_string().starts_with(&folder))
    };
    let vmms = processes().into_iter().filter(|process| process.name == "capsid-vmm");
    vmms.map(|process| process.pid).filter(|pid| is_its(*pid)).collect()
}

#[test]
fn a_networks_switch_lives_as_long_as_its_pods_and_its_death_is_told() {
    let _alone = alone();
    let capsid = warmed_up();
    let call = |words: &[&str]| capsid.call(words).within(120).wait();
    let start = |name: &str| {
        let words = [
            "run",
            "-d",
            "--name",
            name,
            "--network",
            "net1",
            "busybox",
            "sleep",
            "6000",
        ];
        call(&words).succeeds();
    };
    let find_each_other = || {
        let found = call(&["exec", "second", "ping", "-c", "1", "-w", "60", "first"])
            .succeeds()
            .text();
        assert!(found.contains("1 packets received"), "{found}");
    };
    call(&["network", "create", "net1"]).succeeds();
    capsid.run(["--network", "net1", "busybox", "true"]).succeeds();
    eventually("the switch ends", 10, || switches(&capsid).is_empty());
    let before = Census::take(&capsid);
    start("first");
    start("second");
    assert_eq!(switches(&capsid).len(), 1);
    // A switch does not end with the process that started it, also when that is killed.
    send(capsid.supervisor("first"), Signal::SIGKILL);
    eventually("first is gone", 60, || {
        capsid.field("first", ".State.Status") == "exited"
    });
    call(&["start", "first"]).succeeds();
    find_each_other();
    let switch = switches(&capsid);
    assert_eq!(switch.len(), 1);
    send(switch[0], Signal::SIGKILL);
    let killed = Instant::now();
    call(&["wait", "first", "second"]).succeeds();
    assert!(killed.elapsed() < patience(2), "told after {:?}", killed.elapsed());
    for name in ["first", "second"] {
        let reason = capsid.field(name, ".State.Error");
        assert!(reason.contains("the switch of network net1"), "{reason}");
    }
    call(&["start", "first", "second"]).succeeds();
    find_each_other();
    call(&["rm", "-f", "first", "second"]).succeeds();
    before.assert_nothing_new(&capsid);
    call(&["network", "rm", "net1"]).succeeds();
    let left: Vec<String> = capsid.files();
    assert!(!left.iter().any(|file| file.contains("run/networks/")), "{left:?}");
}

#[test]
fn pods_of_a_network_leave_nothing() {
    let _alone = alone();
    let capsid = warmed_up();
    let cycle = || {
        capsid.call(["network", "create", "net1"]).wait().succeeds();
        for name in ["first", "second"] {
            let words = [
                "run",
                "-d",
                "--rm",
                "--name",
                name,
                "--network",
                "net1",
                "busybox",
                "sleep",
                "600",
            ];
            capsid.call(words).within(60).wait().succeeds();
        }
        capsid
            .call(["rm", "-f", "first", "second"])
            .within(60)
            .wait()
            .succeeds();
        capsid.call(["network", "rm", "net1"]).wait().succeeds();
    };
    cycle();
    let before = Census::take(&capsid);
    for _ in 0..count("CAPSID_NETWORK_CYCLES", usual(3, 1)) {
        cycle();
    }
    before.assert_nothing_new(&capsid);
}
