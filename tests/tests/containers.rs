//! Containers with a life of their own: made, started, stopped, inspected and removed by separate commands.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use capsid_tests::environment::{part, patience, workload};
use capsid_tests::resident::descendants;
use capsid_tests::{Capsid, Invocation, Outcome};

/// Runs `capsid WORDS...` to its end.
fn call(capsid: &Capsid, words: &[&str]) -> Outcome {
    capsid.call(words).wait()
}

/// Starts a container in the background. Returns its id.
#[track_caller]
fn detached(capsid: &Capsid, flags: &[&str], command: &[&str]) -> String {
    let words: Vec<&str> = ["run", "-d"]
        .iter()
        .chain(flags)
        .chain(&["busybox"])
        .chain(command)
        .copied()
        .collect();
    let id = call(capsid, &words).succeeds().text().trim().to_owned();
    assert_eq!(id.len(), 64, "no id: {id:?}");
    id
}

/// Returns one field of `capsid inspect`.
#[track_caller]
fn field(capsid: &Capsid, name: &str, path: &str) -> String {
    let format = format!("{{{{{path}}}}}");
    call(capsid, &["inspect", "-f", &format, name])
        .succeeds()
        .text()
        .trim()
        .to_owned()
}

/// Waits until `holds` returns true.
#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience(20);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_detached_container_outlives_its_command_and_stops() {
    let capsid = Capsid::with_busybox();
    let id = detached(
        &capsid,
        &["--name", "web"],
        &["sh", "-c", "echo hello; exec sleep 1000"],
    );
    assert_eq!(field(&capsid, "web", ".State.Status"), "running");
    assert_eq!(call(&capsid, &["ps", "-q", "--no-trunc"]).succeeds().text().trim(), id);
    let row = call(&capsid, &["ps"]).succeeds().text();
    assert!(
        row.contains(&id[..12]) && row.contains("Up ") && row.contains("web"),
        "{row}"
    );
    call(&capsid, &["stop", "-t", "1", "web"]).succeeds().prints("web\n");
    assert_eq!(field(&capsid, "web", ".State.Status"), "exited");
    assert_eq!(field(&capsid, &id[..12], ".State.ExitCode"), "137");
    assert_eq!(call(&capsid, &["ps", "-q"]).succeeds().text(), "");
    call(&capsid, &["logs", "web"]).succeeds().prints("hello\n");
    call(&capsid, &["rm", "web"]).succeeds().prints("web\n");
    call(&capsid, &["inspect", "web"]).exits(1);
}

/// Test of `(flock -n 9; capsid run -d ...) 9>lock` in a script, and of `$(capsid run -d ...)`.
#[test]
fn a_detached_container_holds_nothing_that_its_caller_has_open() {
    let capsid = Capsid::with_busybox();
    let lock = capsid.folder("tmp").join("lock");
    let script = format!("exec 7>'{}' 9>&1; exec \"$@\"", lock.display());
    let with_open_files = |words: &[&str]| {
        let program = part("capsid");
        let words = [&["-c", &script, "sh", program.to_str().unwrap()], words].concat();
        let mut call = Invocation::new("sh", words.into_iter().map(str::to_owned));
        for (name, value) in capsid.environment() {
            call.command().env(name, value);
        }
        // Ends only when nobody has its output's pipe any more.
        call.within(60).wait().succeeds().text()
    };
    let id = with_open_files(&["run", "-d", "--name", "holder", "busybox", "sleep", "600"]);
    assert_eq!(id.len(), 64, "no id: {id:?}");
    assert_has_not(capsid.supervisor("holder"), &lock);
    call(&capsid, &["stop", "-t", "0", "holder"]).succeeds();
    assert_eq!(with_open_files(&["start", "holder"]), "holder");
    assert_has_not(capsid.supervisor("holder"), &lock);
    call(&capsid, &["pod", "create", "--name", "both"]).succeeds();
    assert_eq!(with_open_files(&["pod", "start", "both"]), "both");
    let pod = call(&capsid, &["pod", "inspect", "-f", "{{.Capsid.SupervisorPid}}", "both"]).succeeds();
    assert_has_not(pod.text().parse().unwrap(), &lock);
}

/// Asserts that neither a supervisor nor any of its descendants has a file open.
#[track_caller]
fn assert_has_not(supervisor: u32, lock: &std::path::PathBuf) {
    let processes = descendants(supervisor).into_iter().map(|process| process.pid);
    for pid in processes.chain([supervisor]) {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let names: Vec<_> = files
            .flatten()
            .filter_map(|file| std::fs::read_link(file.path()).ok())
            .collect();
        assert!(!names.contains(lock), "process {pid} has {names:?}");
    }
}

#[test]
fn a_stopped_container_keeps_what_it_wrote() {
    let capsid = Capsid::with_busybox();
    call(
        &capsid,
        &[
            "run",
            "--name",
            "counter",
            "busybox",
            "sh",
            "-c",
            "echo x >>/count; cat /count",
        ],
    )
    .succeeds()
    .prints("x\n");
    call(&capsid, &["start", "-a", "counter"]).succeeds().prints("x\nx\n");
    call(&capsid, &["start", "counter"]).succeeds().prints("counter\n");
    call(&capsid, &["wait", "counter"]).succeeds().prints("0\n");
    call(&capsid, &["logs", "counter"])
        .succeeds()
        .prints("x\nx\nx\nx\nx\nx\n");
}

#[test]
fn exec_runs_beside_the_container() {
    let capsid = Capsid::with_busybox();
    detached(
        &capsid,
        &["--name", "host", "-e", "GREETING=hi", "-w", "/tmp"],
        &["sleep", "1000"],
    );
    call(
        &capsid,
        &["exec", "host", "sh", "-c", "echo $GREETING; pwd; hostname; echo $$ >&2"],
    )
    .succeeds();
    call(
        &capsid,
        &[
            "exec",
            "-e",
            "GREETING=you",
            "-w",
            "/etc",
            "host",
            "sh",
            "-c",
            "echo $GREETING; pwd",
        ],
    )
    .succeeds()
    .prints("you\n/etc\n");
    call(&capsid, &["exec", "host", "sh", "-c", "exit 7"]).exits(7);
    call(&capsid, &["exec", "host", "no-such-program"]).exits(127);
    call(&capsid, &["exec", "host", "/etc/passwd"]).exits(126);
    // What the agent refuses has no streams to wait for.
    let refused = call(&capsid, &["exec", "-w", "relative", "host", "true"]).exits(125);
    assert!(refused.took < std::time::Duration::from_secs(5), "{refused}");
    refused.complains("not an absolute path").complains_in_one_line();
    call(&capsid, &["exec", "host", "sh", "-c", "kill -9 $$"]).exits(137);
    call(&capsid, &["exec", "-u", "nobody-here", "host", "true"]).exits(125);
    capsid
        .call(["exec", "-i", "host", "cat"])
        .input("through\n")
        .wait()
        .succeeds()
        .prints("through\n");
    // The first process of the container is the program, also as exec sees it.
    let first = call(&capsid, &["exec", "host", "cat", "/proc/1/cmdline"])
        .succeeds()
        .text();
    assert_eq!(first.trim_end_matches('\0'), "sleep\u{0}1000");
    call(&capsid, &["exec", "-d", "host", "sh", "-c", "echo done >/tmp/flag"]).succeeds();
    eventually("the detached exec", || {
        call(&capsid, &["exec", "host", "cat", "/tmp/flag"]).code() == 0
    });
    let top = call(&capsid, &["top", "host"]).succeeds().text();
    assert!(top.contains("sleep 1000"), "{top}");
    call(&capsid, &["exec", "nobody", "true"]).exits(125);
    call(&capsid, &["kill", "host"]).succeeds();
    eventually("the end", || field(&capsid, "host", ".State.Status") == "exited");
    call(&capsid, &["exec", "host", "true"]).exits(125);
}

#[test]
fn names_are_unique_and_removal_is_asked_for() {
    let capsid = Capsid::with_busybox();
    detached(&capsid, &["--name", "one"], &["sleep", "1000"]);
    let taken = call(&capsid, &["run", "-d", "--name", "one", "busybox", "true"]).exits(125);
    assert!(taken.stderr.contains("already in use"), "{}", taken.stderr);
    let running = call(&capsid, &["rm", "one"]).exits(1);
    assert!(running.stderr.contains("rm -f"), "{}", running.stderr);
    let used = call(&capsid, &["rmi", "busybox"]).exits(1);
    assert!(used.stderr.contains("used by container one"), "{}", used.stderr);
    let running = call(&capsid, &["rmi", "-f", "busybox"]).exits(1);
    running.complains("used by the running container one");
    call(&capsid, &["rename", "one", "two"]).succeeds();
    call(&capsid, &["rm", "-f", "two"]).succeeds().prints("two\n");
    call(&capsid, &["rm", "two"]).exits(1);
    call(&capsid, &["rm", "-f", "two"]).succeeds();
    assert_eq!(call(&capsid, &["ps", "-aq"]).succeeds().text(), "");
}

#[test]
fn create_then_start_runs_what_was_asked_for() {
    let capsid = Capsid::with_busybox();
    let id = call(
        &capsid,
        &["create", "--name", "later", "-i", "busybox", "sh", "-c", "cat; exit 3"],
    )
    .succeeds()
    .text();
    assert_eq!(field(&capsid, "later", ".State.Status"), "created");
    assert_eq!(id.trim().len(), 64);
    // The container keeps its image, without a name.
    call(&capsid, &["rmi", "busybox"]).exits(1);
    let untagged = call(&capsid, &["rmi", "-f", "busybox"]).succeeds();
    untagged.prints("Untagged: busybox:latest\n");
    call(&capsid, &["image", "inspect", "busybox"]).exits(1);
    capsid
        .call(["start", "-ai", "later"])
        .input("words\n")
        .wait()
        .exits(3)
        .prints("words\n");
    assert_eq!(field(&capsid, "later", ".State.ExitCode"), "3");
}

#[test]
fn a_stop_signal_is_heard() {
    let capsid = Capsid::with_busybox();
    let script = "trap 'echo bye; exit 5' USR1; echo ready; while :; do sleep 0.1; done";
    detached(
        &capsid,
        &["--name", "polite", "--stop-signal", "USR1"],
        &["sh", "-c", script],
    );
    eventually("ready", || call(&capsid, &["logs", "polite"]).text() == "ready");
    call(&capsid, &["stop", "polite"]).succeeds();
    assert_eq!(field(&capsid, "polite", ".State.ExitCode"), "5");
    call(&capsid, &["logs", "polite"]).prints("ready\nbye\n");
}

#[test]
fn pause_stops_everything_and_unpause_goes_on() {
    let capsid = Capsid::with_busybox();
    let script = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done";
    detached(&capsid, &["--name", "ticker"], &["sh", "-c", script]);
    eventually("ticks", || !call(&capsid, &["logs", "ticker"]).text().is_empty());
    call(&capsid, &["pause", "ticker"]).succeeds();
    assert_eq!(field(&capsid, "ticker", ".State.Status"), "paused");
    let before = call(&capsid, &["logs", "ticker"]).text();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(call(&capsid, &["logs", "ticker"]).text(), before);
    call(&capsid, &["pause", "ticker"]).exits(1);
    call(&capsid, &["exec", "ticker", "true"]).exits(125);
    call(&capsid, &["unpause", "ticker"]).succeeds();
    eventually("more ticks", || call(&capsid, &["logs", "ticker"]).text() != before);
    call(&capsid, &["pause", "ticker"]).succeeds();
    call(&capsid, &["rm", "-f", "ticker"]).succeeds();
}

#[test]
fn logs_are_exact_and_can_be_chosen_from() {
    let capsid = Capsid::with_busybox();
    let script = "printf 'a\\nb\\n\\377\\000c'; echo err >&2";
    call(&capsid, &["run", "--name", "talker", "busybox", "sh", "-c", script]).succeeds();
    let logs = call(&capsid, &["logs", "talker"]).succeeds();
    assert_eq!(logs.stdout, b"a\nb\n\xff\x00c");
    assert_eq!(logs.stderr, "err\n");
    let tail = call(&capsid, &["logs", "--tail", "1", "talker"]).succeeds();
    assert!(tail.stdout == b"\xff\x00c" || tail.stderr == "err\n");
    call(&capsid, &["logs", "--since", "1h", "--until", "1m", "talker"])
        .succeeds()
        .prints("");
    let stamped = call(&capsid, &["logs", "-t", "talker"]).succeeds();
    assert!(stamped.stdout.starts_with(b"20") && stamped.stdout[..40].contains(&b'Z'));
    call(
        &capsid,
        &["run", "--name", "quiet", "--log-driver", "none", "busybox", "echo", "x"],
    )
    .prints("x\n");
    call(&capsid, &["logs", "quiet"]).exits(1);
}

#[test]
fn a_followed_log_ends_with_the_container() {
    let capsid = Capsid::with_busybox();
    detached(
        &capsid,
        &["--name", "slow"],
        &["sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.5; done"],
    );
    call(&capsid, &["logs", "-f", "slow"]).succeeds().prints("1\n2\n3\n");
}

#[test]
fn a_log_does_not_grow_over_its_limit() {
    let capsid = Capsid::with_busybox();
    let bytes = (workload(64) << 20).to_string();
    let script = format!("yes 0123456789abcdef0123456789abcdef | head -c {bytes}");
    let flags = ["--name", "loud", "--log-opt", "max-size=1m", "--log-opt", "max-file=3"];
    detached(&capsid, &flags, &["sh", "-c", &script]);
    capsid.call(["wait", "loud"]).within(300).wait().prints("0\n");
    let log = field(&capsid, "loud", ".LogPath");
    let folder = std::path::Path::new(&log).parent().unwrap().to_owned();
    let sizes: Vec<u64> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("log.json"))
        .map(|entry| entry.metadata().unwrap().len())
        .collect();
    assert_eq!(sizes.len(), 3);
    assert!(sizes.iter().all(|size| *size <= 1 << 20), "{sizes:?}");
    let kept = call(&capsid, &["logs", "loud"]).succeeds().stdout;
    assert!(kept.len() > 256 << 10, "{}", kept.len());
    // The last one was cut off by `head`.
    let line = b"0123456789abcdef0123456789abcdef\n";
    assert!(kept.chunks(line.len()).all(|chunk| line.starts_with(chunk)));
}

fn spawn(capsid: &Capsid, words: &[&str]) -> Child {
    capsid.call(words).spawn_with(|command| {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
    })
}

#[test]
fn attach_sees_what_comes_and_gets_the_exit_code() {
    let capsid = Capsid::with_busybox();
    detached(
        &capsid,
        &["--name", "echo", "-i"],
        &["sh", "-c", "read line; echo got $line; exit 9"],
    );
    let mut child = spawn(&capsid, &["attach", "echo"]);
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"word\n").unwrap();
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert_eq!(output, "got word\n");
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

#[test]
fn a_container_goes_on_without_the_command_that_ran_it() {
    let capsid = Capsid::with_busybox();
    let mut child = spawn(
        &capsid,
        &["run", "--name", "orphan", "busybox", "sh", "-c", "echo up; sleep 1000"],
    );
    let mut first = [0u8; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(field(&capsid, "orphan", ".State.Status"), "running");
    call(&capsid, &["exec", "orphan", "true"]).succeeds();
    call(&capsid, &["rm", "-f", "orphan"]).succeeds();
}

#[test]
fn a_killed_supervisor_is_told_and_the_container_starts_again() {
    let capsid = Capsid::with_busybox();
    detached(
        &capsid,
        &["--name", "victim"],
        &["sh", "-c", "echo x >>/kept; sync; cat /kept; sleep 1000"],
    );
    eventually("the file", || !call(&capsid, &["logs", "victim"]).text().is_empty());
    let pid: i32 = field(&capsid, "victim", ".State.Pid").parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    eventually("the word", || field(&capsid, "victim", ".State.Status") == "exited");
    assert_eq!(field(&capsid, "victim", ".State.ExitCode"), "137");
    assert!(field(&capsid, "victim", ".State.Error").contains("supervisor was killed"));
    call(&capsid, &["start", "victim"]).succeeds();
    eventually("the second life", || {
        call(&capsid, &["logs", "victim"]).text() == "x\nx\nx"
    });
}

#[test]
fn a_restart_policy_starts_it_again() {
    let capsid = Capsid::with_busybox();
    detached(
        &capsid,
        &["--name", "stubborn", "--restart", "on-failure:2"],
        &["sh", "-c", "echo try; exit 3"],
    );
    call(&capsid, &["wait", "stubborn"]).succeeds().prints("3\n");
    call(&capsid, &["logs", "stubborn"]).prints("try\ntry\ntry\n");
    assert_eq!(field(&capsid, "stubborn", ".RestartCount"), "2");
    detached(
        &capsid,
        &["--name", "always", "--restart", "always"],
        &["sh", "-c", "echo try; sleep 1"],
    );
    eventually("a restart", || field(&capsid, "always", ".RestartCount") != "0");
    call(&capsid, &["stop", "-t", "0", "always"]).succeeds();
    assert_eq!(field(&capsid, "always", ".State.Status"), "exited");
    call(&capsid, &["run", "--rm", "--restart", "always", "busybox", "true"]).exits(125);
}

#[test]
fn rm_at_the_end_leaves_nothing() {
    let capsid = Capsid::with_busybox();
    detached(&capsid, &["--rm", "--name", "brief"], &["sleep", "0.5"]);
    eventually("its removal", || call(&capsid, &["ps", "-aq"]).text().is_empty());
    let left: Vec<String> = capsid
        .files()
        .into_iter()
        .filter(|path| path.contains("containers/"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn stats_and_formats() {
    let capsid = Capsid::with_busybox();
    detached(
        &capsid,
        &["--name", "used", "-l", "tier=front", "-m", "64m"],
        &["sleep", "1000"],
    );
    let stats = call(
        &capsid,
        &["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}} {{.MemUsage}}"],
    )
    .succeeds()
    .text();
    assert!(stats.starts_with("used 1 ") && stats.contains("/ 64.00MiB"), "{stats}");
    let row = call(
        &capsid,
        &[
            "ps",
            "--format",
            "{{.Names}}|{{.Labels}}|{{.State}}",
            "-f",
            "label=tier",
        ],
    )
    .succeeds();
    row.prints("used|tier=front|running\n");
    call(&capsid, &["ps", "-q", "-f", "name=other"]).succeeds().prints("");
    call(&capsid, &["ps", "--format", "{{range .X}}"]).exits(1);
    call(&capsid, &["container", "prune", "-f"]).succeeds().prints("");
    call(&capsid, &["kill", "-s", "TERM", "used"]).succeeds();
}
