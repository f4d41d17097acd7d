//! `capsid run -it` in a real pseudo terminal.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::os::unix::process::ExitStatusExt;
use std::thread;
use std::time::Duration;

use capsid_tests::{Capsid, Terminal, TestImage};

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
    let before = terminal.mode();
    terminal.expect("#");
    assert_ne!(
        terminal.mode().local_flags,
        before.local_flags,
        "raw while the container runs"
    );
    terminal.send("exit\n");
    terminal.wait();
    assert_eq!(terminal.mode(), before);
}

#[test]
fn the_terminals_mode_is_restored_when_capsid_is_terminated() {
    let capsid = Capsid::with_busybox();
    let mut terminal = Terminal::start(capsid.run_call(["-it", "busybox", "sleep", "600"]));
    let before = terminal.mode();
    while terminal.mode().local_flags == before.local_flags {
        thread::sleep(Duration::from_millis(20));
    }
    thread::sleep(Duration::from_secs(2));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(terminal.pid()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let status = terminal.wait();
    assert!(status.code() == Some(143) || status.signal() == Some(15), "{status}");
    assert_eq!(terminal.mode(), before);
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
