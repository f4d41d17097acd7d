//! Running containers: started in the background, called, killed and counted.

use std::io::Read;
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::capsid::Capsid;
use crate::census::Census;
use crate::environment::patience;
use crate::invocation::{Outcome, wait_until};

/// Time limit of any call, in seconds.
pub const WATCHDOG_S: u64 = 30;

/// Locks out other tests: the census counts all processes below this executable.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    Census::adopt_orphans();
    guard
}

/// Creates an installation after a first run, with everything that is kept on purpose: caches, the template of scratch
/// disks, the probe's verdict.
pub fn warmed_up() -> Capsid {
    let capsid = Capsid::with_busybox();
    capsid.run(["busybox", "true"]).succeeds();
    capsid
}

/// Runs a call that must neither hang nor panic.
#[track_caller]
pub fn call(capsid: &Capsid, words: &[&str]) -> Outcome {
    let outcome = capsid.call(words).within(WATCHDOG_S).wait();
    assert!(!outcome.stderr.contains("panicked"), "{outcome}");
    outcome
}

/// Starts a call whose streams the caller drives.
pub fn spawn(capsid: &Capsid, words: &[&str]) -> Child {
    capsid.call(words).spawn_with(|command| {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
    })
}

/// Waits for the child. Returns its exit code and output.
#[track_caller]
pub fn end_of(mut child: Child, what: &str) -> (Option<i32>, String) {
    let status = wait_until(&mut child, Instant::now() + patience(WATCHDOG_S));
    let status = status.unwrap_or_else(|| panic!("{what} hangs"));
    let mut output = String::new();
    let mut stdout = child.stdout.take().expect("piped");
    stdout.read_to_string(&mut output).expect("text");
    (status.code(), output)
}

/// Starts a script in the background. Returns its container's id.
#[track_caller]
pub fn detached(capsid: &Capsid, name: &str, script: &str) -> String {
    capsid.detached(name, &["busybox", "sh", "-c", script])
}

/// Removes all containers.
#[track_caller]
pub fn remove_all(capsid: &Capsid) {
    let ids = call(capsid, &["ps", "-aq"]).succeeds().text();
    let words = ["rm", "-f"].into_iter().chain(ids.split_whitespace());
    if !ids.is_empty() {
        capsid.call(words).within(120).wait().succeeds();
    }
    call(capsid, &["ps", "-aq"]).succeeds().prints("");
}

/// Sends a signal to a process that may have ended by itself a moment ago.
pub fn send(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), signal);
}
