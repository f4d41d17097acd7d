//! `capsid run -it` in a real pseudo terminal, and text that would control one.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::thread;
use std::time::Duration;

use capsid_tests::invocation::eventually;
use capsid_tests::resident::descendants;
use capsid_tests::{Capsid, Outcome, Terminal, TestImage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn the_container_has_a_terminal_of_the_callers_size() {
    let capsid = Capsid::with_probe();
    let mut terminal = Terminal::start(capsid.run_call(["-it", "probe", "sh", "-c", "tty; /probe winsize"]));
    terminal.expect("/dev/pts/");
    terminal.expect("24 80");
    assert!(terminal.wait().success());
}

#[test]
fn a_resize_arrives() {
    let capsid = Capsid::with_probe();
    let script = "trap '/probe winsize' WINCH; echo ready; while :; do sleep 0.1; done";
    let mut terminal = Terminal::start(capsid.run_call(["-it", "probe", "sh", "-c", script]));
    terminal.expect("ready");
    terminal.resize(40, 132);
    terminal.expect("40 132");
}

#[test]
fn control_c_interrupts_the_command_not_capsid() {
    let capsid = Capsid::with_busybox();
    let script = "trap 'echo interrupted; exit 9' INT; echo ready; while :; do sleep 0.1; done";
    let mut terminal = Terminal::start(capsid.run_call(["-it", "busybox", "sh", "-c", script]));
    terminal.expect("ready");
    terminal.send([3]);
    terminal.expect("interrupted");
    assert_eq!(terminal.wait().code(), Some(9));
}

#[test]
fn control_d_ends_a_shell() {
    let capsid = Capsid::with_busybox();
    let mut terminal = Terminal::start(capsid.run_call(["-it", "busybox", "sh"]));
    terminal.expect("#");
    terminal.send("echo $((40+2))\n");
    terminal.expect("42");
    // Before its prompt the shell has the terminal in its usual mode, where the kernel turns the key into an end of
    // file; when the shell then takes keys one by one, it reads a zero byte in its place (n_tty.c).
    terminal.expect("#");
    terminal.send([4]);
    assert!(terminal.wait().success());
}

#[test]
fn python_edits_its_line() {
    let capsid = Capsid::with(&[TestImage::DebianPython]);
    let mut terminal = Terminal::start(capsid.run_call(["-it", "debian-python", "python3"]));
    terminal.expect(">>> ");
    // Left twice, then a digit between: 1+23 becomes 1+423.
    terminal.send("1+23");
    thread::sleep(Duration::from_millis(200));
    terminal.send("\x1b[D\x1b[D4\n");
    terminal.expect("424");
    terminal.expect(">>> ");
    // Up: the line before, again.
    terminal.send("\x1b[A");
    thread::sleep(Duration::from_millis(200));
    terminal.send("*2\n");
    terminal.expect("847");
    terminal.expect(">>> ");
    terminal.send("while True: pass\n\n");
    thread::sleep(Duration::from_millis(500));
    terminal.send([3]);
    terminal.expect("KeyboardInterrupt");
    terminal.send("exit(6)\n");
    assert_eq!(terminal.wait().code(), Some(6));
}

#[test]
fn the_terminals_mode_is_restored_at_the_end() {
    let capsid = Capsid::with_busybox();
    let mut terminal = Terminal::start(capsid.run_call(["-it", "busybox", "sh"]));
    terminal.expect("#");
    assert!(!terminal.is_cooked(), "raw while the container runs");
    terminal.send("exit\n");
    terminal.wait();
    assert!(terminal.is_cooked());
}

#[test]
fn control_z_suspends_a_job_of_the_containers_shell() {
    let capsid = Capsid::with_busybox();
    let mut terminal = Terminal::start(capsid.run_call(["-it", "busybox", "sh"]));
    terminal.expect("#");
    terminal.send("sleep 600\n");
    thread::sleep(Duration::from_millis(500));
    terminal.send([26]);
    terminal.expect("Stopped");
    terminal.send("fg\n");
    thread::sleep(Duration::from_millis(500));
    terminal.send([3]);
    thread::sleep(Duration::from_millis(200));
    terminal.send("exit 4\n");
    assert_eq!(terminal.wait().code(), Some(4));
}

/// Starts a container that is its pod's only program and sleeps, once it has the terminal.
fn sleeper(capsid: &Capsid, flags: &[&str]) -> Terminal {
    let command = ["-it", "busybox", "sh", "-c", "echo ready; exec sleep 600"];
    let mut terminal = Terminal::start(capsid.run_call(flags.iter().chain(&command)));
    terminal.expect("ready");
    terminal
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

#[test]
fn the_terminals_mode_is_restored_when_the_container_is_terminated() {
    let capsid = Capsid::with_busybox();
    let mut terminal = sleeper(&capsid, &["--init"]);
    signal(terminal.pid(), Signal::SIGTERM);
    assert_eq!(terminal.wait().code(), Some(143));
    assert!(terminal.is_cooked());
}

/// Test of a first process, which ignores signals that it has no handler for; docker's client counts to three.
#[test]
fn a_third_termination_is_not_ignored() {
    let capsid = Capsid::with_busybox();
    let mut terminal = sleeper(&capsid, &[]);
    for _ in 0..3 {
        signal(terminal.pid(), Signal::SIGTERM);
        thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(terminal.wait().code(), Some(143));
    assert!(terminal.is_cooked());
}

#[test]
fn a_hang_up_ends_a_container_that_does_not_care() {
    let capsid = Capsid::with_busybox();
    let mut terminal = sleeper(&capsid, &[]);
    signal(terminal.pid(), Signal::SIGHUP);
    assert_eq!(terminal.wait().code(), Some(129));
}

#[test]
fn the_terminals_mode_is_restored_when_the_machine_is_killed() {
    let capsid = Capsid::with_busybox();
    let mut terminal = sleeper(&capsid, &[]);
    let helpers = descendants(terminal.pid());
    signal(helpers[0].pid, Signal::SIGKILL);
    assert!(!terminal.wait().success());
    assert!(terminal.is_cooked());
}

#[test]
fn a_terminal_is_refused_where_there_is_none() {
    let capsid = Capsid::with_busybox();
    capsid
        .run(["-it", "busybox", "true"])
        .exits(125)
        .complains("terminal")
        .complains_in_one_line();
}

/// Characters that terminals obey, or that hide or reorder text for its reader; a line end would forge a line.
const HOSTILE: &str = "a\u{1b}[2J\u{9b}31m\u{202e}b\u{2028}\u{200b}\u{e0041}\r";

#[track_caller]
fn assert_harmless(outcome: &Outcome) {
    for text in [
        String::from_utf8_lossy(&outcome.stdout).into_owned(),
        outcome.stderr.clone(),
    ] {
        let steers = |c: char| (c.is_control() && !"\n\t".contains(c)) || HOSTILE[1..].contains(c) && !c.is_ascii();
        assert!(!text.chars().any(steers), "{}: {text:?}", outcome.line);
    }
}

/// Test of labels, commands, environment, names of files, health reports and errors, in every view of them.
#[test]
fn nothing_that_a_container_says_of_itself_steers_the_terminal() {
    let capsid = Capsid::with_busybox();
    let label = format!("note={HOSTILE}\nforged");
    let health = format!("--health-cmd=printf '%s' '{HOSTILE}'");
    let script = format!("touch '/{HOSTILE}'; sleep 1000; :");
    let flags = ["--label", &label, "-e", &label, &health, "--health-interval=1s"];
    let words = [&flags[..], &["busybox", "sh", "-c", &script, HOSTILE]].concat();
    capsid.detached("bad", &words);
    let call = |words: &[&str]| capsid.call(words).wait();
    eventually("a health report", 60, || {
        capsid.field("bad", "json .State.Health.Log").contains("u009b")
    });
    let views: [&[&str]; 10] = [
        &["ps", "--no-trunc"],
        &["ps", "--format", "{{.Command}} {{.Labels}}"],
        &["ps", "--format", "table {{.Names}}\\t{{.Labels}}"],
        &["inspect", "bad"],
        &["inspect", "-f", "{{.Config.Labels}} {{.Config.Env}} {{.Args}}", "bad"],
        &["inspect", "-f", "{{json .Config}} {{.State.Health}}", "bad"],
        &["top", "bad"],
        &["diff", "bad"],
        &["events", "--since", "1h", "--until", "0s"],
        &["events", "--since", "1h", "--until", "0s", "--json"],
    ];
    for view in views {
        let outcome = call(view).succeeds();
        assert_harmless(&outcome);
        assert!(
            outcome.text().contains("202e"),
            "{}: {:?}",
            outcome.line,
            outcome.text()
        );
    }
    assert_eq!(call(&["ps", "--format", "{{.Labels}}"]).text().lines().count(), 1);
    // JSON gives its readers the exact value.
    let exact: serde_json::Value = serde_json::from_str(&capsid.field("bad", "json .Config.Labels.note")).unwrap();
    assert_eq!(exact, label.strip_prefix("note=").unwrap());
    let wrong: [&[&str]; 4] = [
        &["exec", "bad", HOSTILE],
        &["cp", &format!("bad:/{HOSTILE}none"), "."],
        &["inspect", HOSTILE],
        &["ps", &format!("--{HOSTILE}")],
    ];
    for words in wrong {
        let outcome = call(words);
        assert_ne!(outcome.code(), 0, "{}", outcome.line);
        assert_harmless(&outcome);
    }
    // The container's own output is left unchanged, as with docker.
    let raw = call(&["exec", "bad", "printf", "%s", HOSTILE]).succeeds();
    assert_eq!(raw.stdout, HOSTILE.as_bytes());
}
