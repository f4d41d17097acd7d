//! A `load` or `pull` that its user interrupts ends at once, like docker's, and removes everything it made.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use capsid_tests::environment::{count, patience};
use capsid_tests::flaky_proxy::{Fault, Then};
use capsid_tests::invocation::wait_until;
use capsid_tests::layer::noise;
use capsid_tests::resident::descendants;
use capsid_tests::{Capsid, FlakyProxy, ImageBuilder, Invocation, Layer, Registry, Terminal};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const NAME: &str = "interrupted:1";

/// Builds an image of three layers, larger than any buffer on the way.
fn image() -> ImageBuilder {
    (0..3).fold(ImageBuilder::new(), |image, index| {
        image.layer(
            Layer::new()
                .file(&format!("file{index}"), noise(index, 3 << 20))
                .finish(),
        )
    })
}

/// Creates a store that has been opened once.
fn opened() -> Capsid {
    let capsid = Capsid::empty();
    capsid.call(["images"]).wait().succeeds();
    capsid
}

fn start(invocation: Invocation) -> Child {
    invocation.spawn_with(|command| {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
    })
}

fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience(30);
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a converter is making something in the store.
fn is_making(capsid: &Capsid, command: u32) -> bool {
    let making = capsid.files().iter().any(|path| path.contains("/data/tmp/"));
    making && !descendants(command).is_empty()
}

/// Sends the signal: the call ends with its exit code, silently, and neither file nor process stays.
#[track_caller]
fn assert_ends_clean(capsid: &Capsid, child: &mut Child, signal: Signal, before: &[String]) {
    let helpers = descendants(child.id());
    assert!(
        !helpers.is_empty(),
        "no converter is at work: the test interrupts nothing"
    );
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
    let status = wait_until(child, Instant::now() + patience(5)).expect("ends soon");
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(
        (status.code(), said.as_str()),
        (Some(128 + signal as i32), ""),
        "{signal}"
    );
    assert_eq!(capsid.files(), before, "left behind after {signal}");
    for helper in helpers {
        let path = format!("/proc/{}/stat", helper.pid);
        let alive = || fs::read_to_string(&path).is_ok_and(|stat| stat.contains("(capsid)") && !stat.contains(") Z "));
        await_that("the converter ends", || !alive());
    }
}

#[test]
fn a_load_from_a_pipe_that_is_interrupted_leaves_nothing() {
    let capsid = opened();
    let archive = capsid.folder("home").join("image.tar");
    image().write_docker_archive(&archive, NAME);
    let bytes = fs::read(&archive).unwrap();
    let before = capsid.files();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut child = start(capsid.call(["load"]));
        let mut stdin = child.stdin.take().unwrap();
        // The rest is never sent, and the pipe stays open.
        stdin.write_all(&bytes[..bytes.len() / 2]).unwrap();
        await_that("the archive arrives in the store", || is_making(&capsid, child.id()));
        assert_ends_clean(&capsid, &mut child, signal, &before);
    }
}

/// Time limit for a command to end after a signal.
const END_WITHIN: Duration = Duration::from_secs(1);

/// Sends SIGTERM to a call that has handled it for a moment: it ends within a second, and nothing stays.
#[track_caller]
fn assert_ends_within_a_second(capsid: &Capsid, child: &mut Child, before: &[String]) {
    thread::sleep(Duration::from_millis(500));
    let signalled = Instant::now();
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    let status = wait_until(child, signalled + patience(5)).expect("ends soon");
    let took = signalled.elapsed();
    assert_eq!(status.code(), Some(128 + Signal::SIGTERM as i32));
    assert!(took <= patience(1).max(END_WITHIN), "took {took:?}");
    assert_eq!(capsid.files(), before, "left behind");
}

#[test]
fn a_load_ends_within_a_second_of_a_signal() {
    let capsid = opened();
    let before = capsid.files();
    // A named pipe that nobody opens for writing: opening it must not wait.
    let pipe = tempfile::tempdir().unwrap();
    let pipe = pipe.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut child = start(capsid.call(["load", "-i", pipe.to_str().unwrap()]));
    assert_ends_within_a_second(&capsid, &mut child, &before);
    // A stream in which nothing ever arrives.
    let mut child = start(capsid.call(["load"]));
    assert_ends_within_a_second(&capsid, &mut child, &before);
    // One that never ends.
    let mut child = capsid.call(["load"]).spawn_with(|command| {
        let endless = fs::File::open("/dev/zero").unwrap();
        command.stdin(endless).stdout(Stdio::null()).stderr(Stdio::null());
    });
    assert_ends_within_a_second(&capsid, &mut child, &before);
}

#[test]
fn a_pull_ends_within_a_second_of_a_signal() {
    let capsid = opened();
    let (_registry, proxy) = stalling(&capsid);
    let before = capsid.files();
    for call in [
        capsid.call(["pull", &proxy.reference(NAME)]),
        capsid.run_call([&proxy.reference(NAME), "true"]),
        capsid.call(["create", &proxy.reference(NAME), "true"]),
    ] {
        let mut child = start(call);
        await_that("a layer arrives in the store", || is_making(&capsid, child.id()));
        assert_ends_within_a_second(&capsid, &mut child, &before);
    }
}

#[test]
fn a_load_interrupted_at_any_time_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let layout = folder.path().join("layout");
    image().write_oci_layout(&layout, NAME);
    let capsid = opened();
    let before = capsid.files();
    let load = || capsid.call(["load", "-i", layout.to_str().unwrap()]);
    let whole = load().wait().succeeds().took;
    capsid.call(["rmi", NAME]).wait().succeeds();
    let moments = count("CAPSID_KILL_MOMENTS", 4) * 3;
    let mut interrupted = 0;
    for moment in 0..moments {
        let after = whole.mul_f64(moment as f64 / moments as f64);
        let mut child = start(load());
        thread::sleep(after);
        kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
        let status = wait_until(&mut child, Instant::now() + patience(5)).expect("ends soon");
        // Without a code it was too early to be caught, and so to have anything to remove.
        interrupted += usize::from(status.code() == Some(130));
        if capsid.call(["images", "-q"]).wait().succeeds().text().is_empty() {
            assert_eq!(capsid.files(), before, "left behind: after {after:?}");
        } else {
            capsid.call(["rmi", NAME]).wait().succeeds();
        }
    }
    assert!(interrupted > 0, "never interrupted");
}

/// Starts a registry that stalls in the middle of each layer.
fn stalling(capsid: &Capsid) -> (Registry, FlakyProxy) {
    let registry = Registry::start_plain();
    let layout = capsid.folder("home/layout");
    image().write_oci_layout(&layout, NAME);
    registry.push(&format!("oci:{}:{NAME}", layout.display()), NAME);
    let fault = Fault {
        after: 1 << 20,
        then: Then::Stall,
        ranges: true,
        times: usize::MAX,
    };
    let proxy = FlakyProxy::start(&registry, fault);
    (registry, proxy)
}

#[test]
fn a_pull_that_is_interrupted_leaves_nothing() {
    let capsid = opened();
    let (_registry, proxy) = stalling(&capsid);
    let before = capsid.files();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut child = start(capsid.call(["pull", &proxy.reference(NAME)]));
        await_that("a layer arrives in the store", || is_making(&capsid, child.id()));
        assert_ends_clean(&capsid, &mut child, signal, &before);
    }
}

#[test]
fn a_run_that_is_interrupted_while_it_pulls_leaves_nothing() {
    let capsid = opened();
    let (_registry, proxy) = stalling(&capsid);
    let before = capsid.files();
    let mut child = start(capsid.run_call([&proxy.reference(NAME), "true"]));
    await_that("a layer arrives in the store", || is_making(&capsid, child.id()));
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    let status = wait_until(&mut child, Instant::now() + patience(5)).expect("ends soon");
    assert_eq!(status.code(), Some(130));
    assert_eq!(capsid.files(), before, "left behind");
}

#[test]
fn control_c_ends_a_pull_and_its_bars() {
    let capsid = opened();
    let (_registry, proxy) = stalling(&capsid);
    let before = capsid.files();
    let mut terminal = Terminal::start(capsid.call(["pull", &proxy.reference(NAME)]));
    terminal.expect("Downloading");
    await_that("a layer arrives in the store", || is_making(&capsid, terminal.pid()));
    terminal.send([3]);
    assert_eq!(terminal.wait().code(), Some(130));
    assert!(terminal.is_cooked());
    let screen = terminal.screen();
    assert!(
        !screen.contains("capsid: "),
        "no error of something that was meant: {screen:?}"
    );
    assert_eq!(capsid.files(), before, "left behind");
}
