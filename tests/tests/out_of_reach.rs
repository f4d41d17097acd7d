//! Pods whose files are removed under them: lock, socket, run directory, data directory. No unreachable process keeps
//! running, and nothing else is ended.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use capsid_tests::Capsid;
use capsid_tests::invocation::eventually;
use capsid_tests::resident::descendants;
use capsid_tests::running::call;

/// Starts a container `it`. Returns its processes.
fn start(capsid: &Capsid) -> Vec<u32> {
    call(capsid, &["run", "-d", "--name", "it", "busybox", "sleep", "1000"]).succeeds();
    processes(capsid.supervisor("it"))
}

fn processes(supervisor: u32) -> Vec<u32> {
    let below = descendants(supervisor).into_iter().map(|process| process.pid);
    let all: Vec<u32> = below.chain([supervisor]).collect();
    assert!(all.len() >= 3, "too few processes of a pod: {all:?}");
    all
}

fn are_gone(processes: &[u32]) -> bool {
    let runs = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status
            .lines()
            .any(|line| line.starts_with("State:") && !line.contains('Z'))
    };
    !processes.iter().any(runs)
}

#[track_caller]
fn assert_ends(processes: &[u32], what: &str) {
    eventually(what, 40, || are_gone(processes));
}

fn remove(folder: &Path) {
    fs::remove_dir_all(folder).unwrap();
    fs::create_dir(folder).unwrap();
}

#[test]
fn rm_ends_a_container_whose_run_directory_is_gone() {
    let capsid = Capsid::with_busybox();
    call(&capsid, &["run", "-d", "--name", "other", "busybox", "sleep", "1000"]).succeeds();
    let others = processes(capsid.supervisor("other"));
    let processes = start(&capsid);
    let id = capsid.field("it", ".Id");
    fs::remove_dir_all(capsid.folder("run/pods").join(id)).unwrap();
    // It is out of reach, and has not exited.
    call(
        &capsid,
        &["ps", "--filter", "name=it", "--format", "{{.Names}} {{.State}}"],
    )
    .succeeds()
    .prints("it running\n");
    call(&capsid, &["rm", "-f", "it"]).succeeds();
    assert!(are_gone(&processes), "removed, and still running");
    assert!(!are_gone(&others), "another was ended");
    call(&capsid, &["exec", "other", "true"]).succeeds();
}

#[test]
fn a_supervisor_whose_directory_is_gone_ends_its_pod() {
    let capsid = Capsid::with_busybox();
    let first = start(&capsid);
    remove(&capsid.folder("run"));
    assert_ends(&first, "the end of a pod without run directory");
    eventually("its row", 20, || capsid.field("it", ".State.Status") == "exited");
    call(&capsid, &["start", "it"]).succeeds();
    let second = processes(capsid.supervisor("it"));
    remove(&capsid.folder("data"));
    assert_ends(&second, "the end of a pod without data directory");
}

#[test]
fn a_socket_that_is_gone_is_made_again() {
    let capsid = Capsid::with_busybox();
    start(&capsid);
    let id = capsid.field("it", ".Id");
    fs::remove_file(capsid.folder("run/pods").join(id).join("socket")).unwrap();
    eventually("a new socket", 10, || {
        call(&capsid, &["exec", "it", "true"]).code() == 0
    });
    call(&capsid, &["rm", "-f", "it"]).succeeds();
    // A command that does not wait for the new one ends the container as well.
    let processes = start(&capsid);
    let id = capsid.field("it", ".Id");
    fs::remove_file(capsid.folder("run/pods").join(id).join("socket")).unwrap();
    call(&capsid, &["rm", "-f", "it"]).succeeds();
    assert_ends(&processes, "the end of the container");
}

#[test]
fn a_pod_of_several_containers_ends_as_well() {
    let capsid = Capsid::with_busybox();
    call(&capsid, &["pod", "create", "--name", "both"]).succeeds();
    for name in ["one", "two"] {
        call(
            &capsid,
            &["run", "-d", "--pod", "both", "--name", name, "busybox", "sleep", "1000"],
        )
        .succeeds();
    }
    let processes = processes(capsid.supervisor("one"));
    fs::remove_dir_all(capsid.folder("run/pods")).unwrap();
    call(&capsid, &["pod", "rm", "-f", "both"]).succeeds();
    assert_ends(&processes, "the end of the pod");
    call(&capsid, &["ps", "-aq"]).succeeds().prints("");
}
