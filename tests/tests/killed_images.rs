//! A `load` or `pull` killed at any moment: the next command works, the image is whole or absent, nothing stays.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use capsid_tests::environment::{count, part, patience};
use capsid_tests::{Capsid, ImageBuilder, Invocation, Layer, Registry};

const NAME: &str = "killed:1";

/// Returns the number of moments that are tried of each kind; more in `make test-full`.
fn moments() -> usize {
    count("CAPSID_KILL_MOMENTS", 4)
}

/// Builds an image of three layers, so that a kill finds some done and some not.
fn image() -> ImageBuilder {
    (0..3).fold(ImageBuilder::new(), |image, index| {
        let content = vec![b'a' + index; 300_000];
        image.layer(Layer::new().file(&format!("file{index}"), content).finish())
    })
}

/// Creates a store that has been opened once.
fn opened() -> Capsid {
    let capsid = Capsid::empty();
    capsid.call(["images"]).wait().succeeds();
    capsid
}

/// Requires that the next command works; afterwards the image is absent with all that belongs to it, or whole.
#[track_caller]
fn assert_recovered(capsid: &Capsid, name: &str, before: &[String], moment: &str) {
    let listed = capsid.call(["images"]).wait().succeeds().text();
    if listed.contains("killed") {
        capsid.call(["image", "inspect", name]).wait().succeeds();
        capsid.call(["rmi", name]).wait().succeeds();
    }
    assert_eq!(capsid.files(), before, "left behind: {moment}");
}

/// Runs `capsid load` under strace, which kills the process that makes its `number`th call of this kind: the command
/// itself or one of its converters.
fn load_killed_at(capsid: &Capsid, layout: &Path, call: &str, number: usize) -> capsid_tests::Outcome {
    let program = part("capsid").display().to_string();
    let inject = format!("inject={call}:signal=KILL:when={number}");
    let trace = format!("trace={call}");
    let words = ["-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
    let load = [&program, "load", "-q", "-i", layout.to_str().unwrap()];
    let mut invocation = Invocation::new("strace", words.into_iter().chain(load));
    for (name, value) in capsid.environment() {
        invocation = invocation.env(name, value);
    }
    invocation.wait()
}

#[test]
fn a_load_killed_at_a_system_call_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let layout = folder.path().join("layout");
    image().write_oci_layout(&layout, NAME);
    let capsid = opened();
    let before = capsid.files();
    let mut killed = 0;
    for call in [
        "openat",
        "mkdir",
        "flock",
        "rename",
        "unlink",
        "rmdir",
        "unlinkat",
        "fsync",
        "pwrite64",
        "ftruncate",
        "sendmsg",
    ] {
        // The first ones and then further apart: 1, 2, 4, 8...
        for number in (0..moments()).map(|moment| 1 << moment.min(12)) {
            let moment = format!("{call} number {number}");
            let outcome = load_killed_at(&capsid, &layout, call, number);
            match outcome.code() {
                0 => {}
                // strace lost its hold on a process, which some kernels cause: the calls end by themselves.
                _ if outcome.stderr.starts_with("strace: ") => thread::sleep(patience(2)),
                // A converter was killed: the command itself cleans up and reports it.
                1 => {
                    killed += 1;
                    assert_eq!(capsid.files(), before, "left behind at once: {moment}\n{outcome}");
                    outcome.complains_in_one_line();
                }
                _ => killed += 1,
            }
            assert_recovered(&capsid, NAME, &before, &moment);
        }
    }
    assert!(
        killed > 10,
        "only {killed} calls were killed: the names of the calls must be wrong"
    );
    capsid.load(&layout).succeeds();
    assert_recovered(&capsid, NAME, &before, "after all");
}

#[test]
fn a_pull_killed_at_any_time_leaves_nothing() {
    let registry = Registry::start();
    let folder = tempfile::tempdir().unwrap();
    image().write_oci_layout(folder.path(), NAME);
    registry.push(&format!("oci:{}:{NAME}", folder.path().display()), NAME);
    let capsid = opened();
    registry.introduce(&capsid);
    let name = registry.reference(NAME);
    let pull = || capsid.call(["pull", "-q", &name]);
    let before = capsid.files();
    // As long as a whole pull takes, and a bit.
    let whole = pull().wait().succeeds().took;
    assert_recovered(&capsid, &name, &before, "a whole pull");
    for moment in 0..moments() * 3 {
        let after = whole.mul_f64(moment as f64 / (moments() * 3) as f64) + Duration::from_millis(1);
        let mut child = pull().spawn_with(|command| {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        });
        thread::sleep(after);
        child.kill().unwrap();
        child.wait().unwrap();
        // A child that has not executed its program yet holds the locks of its killed parent until it does.
        thread::sleep(patience(1) / 5);
        assert_recovered(&capsid, &name, &before, &format!("after {after:?}"));
    }
    pull().wait().succeeds();
    assert_recovered(&capsid, &name, &before, "after all");
}
