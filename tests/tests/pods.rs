//! Pods of several containers: shared and separate parts in one machine, and containers that start and end in it,
//! `CAPSID_POD_CYCLES` times.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use capsid_tests::environment::{count, in_lab, patience};
use capsid_tests::invocation::eventually;
use capsid_tests::resident::descendants;
use capsid_tests::{Capsid, Outcome, TestImage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Runs `capsid WORDS...` to its end.
fn call(capsid: &Capsid, words: &[&str]) -> Outcome {
    capsid.call(words).within(120).wait()
}

/// Starts a container that sleeps in a pod.
#[track_caller]
fn sleeper(capsid: &Capsid, pod: &str, name: &str, flags: &[&str], image: &str) {
    let words = [
        &["run", "-d", "--pod", pod, "--name", name],
        flags,
        &[image, "sleep", "1000"],
    ]
    .concat();
    call(capsid, &words).succeeds();
}

/// Returns the report of the probe in a running container.
#[track_caller]
fn report(capsid: &Capsid, name: &str) -> Value {
    call(capsid, &["exec", name, "/probe", "report"]).succeeds().json()
}

#[track_caller]
fn pod_field(capsid: &Capsid, name: &str, path: &str) -> String {
    let format = format!("{{{{{path}}}}}");
    call(capsid, &["pod", "inspect", "-f", &format, name]).succeeds().text()
}

/// Returns the pid of the pod's supervisor.
#[track_caller]
fn supervisor(capsid: &Capsid, pod: &str) -> u32 {
    pod_field(capsid, pod, ".Capsid.SupervisorPid").parse().unwrap()
}

fn same(one: &Value, other: &Value, namespace: &str) -> bool {
    let of = |report: &Value| report["namespaces"][namespace].as_str().unwrap().to_owned();
    of(one) == of(other)
}

#[test]
fn containers_of_a_pod_share_what_they_should_and_nothing_else() {
    let capsid = Capsid::with(&[TestImage::Busybox, TestImage::Probe]);
    call(&capsid, &["pod", "create", "--name", "web"]).succeeds();
    sleeper(&capsid, "web", "one", &[], "probe");
    sleeper(&capsid, "web", "two", &["-m", "64m", "--read-only"], "probe");
    let (one, two) = (report(&capsid, "one"), report(&capsid, "two"));
    for (namespace, shared) in [
        ("net", true),
        ("ipc", true),
        ("uts", true),
        ("pid", false),
        ("mnt", false),
        ("cgroup", false),
    ] {
        assert_eq!(same(&one, &two, namespace), shared, "{namespace}");
    }
    assert_eq!(one["boot_id"], two["boot_id"], "one machine");
    assert_eq!((&one["hostname"], &two["hostname"]), (&"web".into(), &"web".into()));
    assert_eq!(one["cgroup"]["memory.max"], "max");
    assert_eq!(two["cgroup"]["memory.max"], (64 << 20).to_string());

    // The network and the shared memory are one; the root and the processes are not.
    let shell = |name: &str, line: &str| call(&capsid, &["exec", name, "sh", "-c", line]);
    call(
        &capsid,
        &[
            "exec",
            "-d",
            "one",
            "nc",
            "-l",
            "-p",
            "7",
            "-e",
            "echo",
            "over loopback",
        ],
    )
    .succeeds();
    eventually("a listener is seen by the other container", 20, || {
        shell("two", "nc 127.0.0.1 7 </dev/null").text() == "over loopback"
    });
    shell("one", "echo kept >/dev/shm/word; echo own >/word").succeeds();
    shell("two", "cat /dev/shm/word").succeeds().prints("kept\n");
    shell("two", "cat /word").exits(1);
    shell("two", "touch /word").exits(1);
    assert!(!shell("two", "ps").succeeds().text().contains("nc -l"));
    call(&capsid, &["top", "two"]).succeeds();
    call(&capsid, &["pod", "rm", "-f", "web"]).succeeds().prints("web\n");
    assert_eq!(call(&capsid, &["ps", "-aq"]).succeeds().text(), "");
}

#[test]
fn pids_are_shared_when_asked_for() {
    let capsid = Capsid::with(&[TestImage::Probe]);
    call(&capsid, &["pod", "create", "--share", "pid", "web"]).succeeds();
    sleeper(&capsid, "web", "one", &[], "probe");
    sleeper(&capsid, "web", "two", &[], "probe");
    assert!(same(&report(&capsid, "one"), &report(&capsid, "two"), "pid"));
    let seen = call(&capsid, &["exec", "one", "ps"]).succeeds().text();
    assert_eq!(seen.matches("sleep 1000").count(), 2, "{seen}");
    // The pod's first process is out of reach, and a container's end ends only its own processes.
    call(&capsid, &["exec", "one", "ls", "/proc/1/root/"]).exits(1);
    call(&capsid, &["exec", "one", "kill", "-9", "1"]);
    call(&capsid, &["exec", "-d", "two", "sleep", "2000"]).succeeds();
    call(&capsid, &["stop", "-t", "0", "two"]).succeeds();
    let seen = call(&capsid, &["exec", "one", "ps"]).succeeds().text();
    assert_eq!(
        (seen.matches("sleep 1000").count(), seen.matches("sleep 2000").count()),
        (1, 0),
        "{seen}"
    );
    assert_eq!(pod_field(&capsid, "web", ".State"), "Degraded");
}

#[test]
fn a_pod_is_stopped_and_started_with_its_containers() {
    let capsid = Capsid::with_busybox();
    let id = call(&capsid, &["pod", "create", "web"]).succeeds().text();
    assert_eq!(pod_field(&capsid, "web", ".State"), "Created");
    call(
        &capsid,
        &[
            "run",
            "--pod",
            "web",
            "--name",
            "job",
            "busybox",
            "sh",
            "-c",
            "echo x >>/n; cat /n; exit 3",
        ],
    )
    .exits(3)
    .prints("x\n");
    // The end of a container is not the pod's.
    let rows = call(&capsid, &["pod", "ps"]).succeeds().text();
    assert!(
        rows.contains("Degraded") && rows.contains(&id[..12]) && rows.contains("# OF CONTAINERS"),
        "{rows}"
    );
    call(
        &capsid,
        &[
            "create",
            "--pod",
            &id[..8],
            "--name",
            "server",
            "busybox",
            "sleep",
            "1000",
        ],
    )
    .succeeds();
    let owner = supervisor(&capsid, "web");
    call(&capsid, &["start", "server"]).succeeds();
    assert_eq!(supervisor(&capsid, "web"), owner);
    let row = call(&capsid, &["ps", "--pod", "-f", "pod=web"]).succeeds().text();
    assert!(
        row.contains("PODNAME") && row.contains("server") && row.contains("web"),
        "{row}"
    );
    call(&capsid, &["pod", "rm", "web"]).exits(1).complains("is running");
    call(&capsid, &["pod", "stop", "-t", "0", "web"])
        .succeeds()
        .prints("web\n");
    assert_eq!(pod_field(&capsid, "web", ".State"), "Exited");
    assert_eq!(capsid.field("server", ".State.Status"), "exited");
    call(&capsid, &["exec", "server", "true"])
        .exits(125)
        .complains("is not running");
    call(&capsid, &["pod", "start", "web"]).succeeds().prints("web\n");
    assert_eq!(capsid.field("server", ".State.Status"), "running");
    call(&capsid, &["wait", "job"]).succeeds().prints("3\n");
    call(&capsid, &["logs", "job"]).succeeds().prints("x\nx\nx\n");
    let usage = call(
        &capsid,
        &["pod", "stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "web"],
    );
    assert!(usage.succeeds().text().contains("server 1"));
    call(&capsid, &["rm", "-f", "job", "server"]).succeeds();
    call(&capsid, &["pod", "stop", "web"]).succeeds();
    call(&capsid, &["pod", "rm", "web"]).succeeds();
    call(&capsid, &["pod", "inspect", "web"])
        .exits(1)
        .complains("no such pod");
}

#[test]
fn several_pods_are_handled_at_once_and_told_in_order() {
    let capsid = Capsid::with_busybox();
    for pod in ["front", "back"] {
        call(&capsid, &["pod", "create", pod]).succeeds();
        // As process 1 it ignores SIGTERM.
        sleeper(&capsid, pod, &format!("{pod}-1"), &[], "busybox");
    }
    let stopped = call(&capsid, &["pod", "stop", "-t", "8", "front", "nobody", "back"]).exits(1);
    // One after another they would take 16 s.
    assert!(stopped.took < patience(15), "{stopped}");
    stopped.complains("no such pod").prints("front\nback\n");
    call(&capsid, &["pod", "start", "back", "front"])
        .succeeds()
        .prints("back\nfront\n");
    let supervisors = ["front", "back"].map(|pod| supervisor(&capsid, pod));
    call(&capsid, &["pod", "rm", "front", "back"])
        .exits(1)
        .complains("is running");
    call(&capsid, &["pod", "rm", "-f", "front", "back"])
        .succeeds()
        .prints("front\nback\n");
    call(&capsid, &["ps", "-aq"]).succeeds().prints("");
    eventually("their end", 10, || {
        supervisors
            .iter()
            .all(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    });
}

#[test]
fn a_stopped_container_gets_its_own_disk_back() {
    let capsid = Capsid::with_busybox();
    call(&capsid, &["pod", "create", "--name", "web"]).succeeds();
    for name in ["one", "two"] {
        sleeper(&capsid, "web", name, &[], "busybox");
        call(&capsid, &["exec", name, "sh", "-c", &format!("echo {name} >/{name}")]).succeeds();
    }
    call(&capsid, &["stop", "-t", "0", "one", "two"]).succeeds();
    call(&capsid, &["diff", "one"]).succeeds().prints("A /one\n");
    // In the other order, so that each gets the other's slots.
    call(&capsid, &["start", "two", "one"]).succeeds();
    for name in ["one", "two"] {
        call(&capsid, &["exec", name, "cat", &format!("/{name}")])
            .succeeds()
            .prints(format!("{name}\n"));
        call(&capsid, &["diff", name]).succeeds().prints(format!("A /{name}\n"));
    }
}

#[test]
fn containers_come_and_go_in_a_running_pod_and_nothing_grows() {
    let capsid = Capsid::with_busybox();
    call(&capsid, &["pod", "create", "web"]).succeeds();
    sleeper(&capsid, "web", "stays", &["-v", "data:/data"], "busybox");
    let once = |n: usize| {
        let line = format!("echo {n} >/data/last; cat /proc/partitions | wc -l; ls /sys/fs/cgroup | wc -l");
        let words = [
            "run",
            "--rm",
            "--pod",
            "web",
            "-v",
            "data:/data",
            "busybox",
            "sh",
            "-c",
            &line,
        ];
        call(&capsid, &words).succeeds().text()
    };
    let first = once(0);
    let owner = supervisor(&capsid, "web");
    let before = held(owner);
    let rounds = count("CAPSID_POD_CYCLES", if in_lab() { 10 } else { 30 });
    for n in 1..=rounds {
        assert_eq!(once(n), first, "round {n}");
    }
    let after = held(owner);
    assert_eq!(before, after, "descriptors of supervisor and machine");
    // The last writes are in the volume, which the other container has as well.
    call(&capsid, &["exec", "stays", "cat", "/data/last"])
        .succeeds()
        .prints(format!("{rounds}\n"));
    call(&capsid, &["pod", "rm", "-f", "web"]).succeeds();
    eventually("the machine's processes are gone", 20, || descendants(owner).is_empty());
}

/// Counts the descriptors of a supervisor and of its machine's processes.
fn held(supervisor: u32) -> Vec<usize> {
    let count = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    let mut held = vec![count(supervisor)];
    held.extend(descendants(supervisor).into_iter().map(|process| count(process.pid)));
    held
}

#[test]
fn a_killed_supervisor_or_machine_is_seen_by_all_containers() {
    let capsid = Capsid::with_busybox();
    call(&capsid, &["pod", "create", "web"]).succeeds();
    sleeper(&capsid, "web", "one", &["--restart", "always"], "busybox");
    sleeper(&capsid, "web", "two", &[], "busybox");
    let states = || {
        call(&capsid, &["ps", "-a", "--format", "{{.Names}} {{.State}}"])
            .succeeds()
            .text()
    };
    let send = |pid: u32| kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    send(supervisor(&capsid, "web"));
    eventually("all have exited", 20, || states() == "two exited\none exited");
    assert!(pod_field(&capsid, "web", ".Capsid.Error").contains("killed"));
    call(&capsid, &["pod", "start", "web"]).succeeds();
    call(&capsid, &["exec", "two", "true"]).succeeds();
    send(capsid.machine("two"));
    eventually("all have exited again", 20, || states() == "two exited\none exited");
    eventually("the pod as well", 20, || {
        pod_field(&capsid, "web", ".State") == "Exited"
    });
    call(&capsid, &["start", "two"]).succeeds();
    assert_eq!(capsid.field("two", ".State.Status"), "running");
    call(&capsid, &["pod", "rm", "-f", "web"]).succeeds();
}

#[test]
fn the_limits_of_a_pod_hold_for_all_its_containers() {
    let capsid = Capsid::with_busybox();
    let flags = ["--memory", "48m", "--pids-limit", "20", "--cpus", "0.5"];
    call(&capsid, &[&["pod", "create", "web"], &flags[..]].concat()).succeeds();
    assert_eq!(
        pod_field(&capsid, "web", ".Capsid.Machine.MemoryMiB"),
        (48 + 128).to_string()
    );
    sleeper(&capsid, "web", "one", &[], "busybox");
    let eat = "head -c 80m /dev/zero | tail | wc -c";
    let greedy = call(&capsid, &["run", "--rm", "--pod", "web", "busybox", "sh", "-c", eat]);
    assert_ne!(greedy.text(), (80 << 20).to_string(), "{greedy}");
    let many = "for i in $(seq 40); do sleep 3 & done; wait";
    let many = call(&capsid, &["run", "--rm", "--pod", "web", "busybox", "sh", "-c", many]);
    assert!(many.stderr.contains("fork"), "{many}");
    // Neither has taken the other container with it.
    call(&capsid, &["exec", "one", "true"]).succeeds();
    let over = ["run", "--pod", "web", "-m", "64m", "busybox", "true"];
    call(&capsid, &over).exits(125).complains("more than the");
    call(&capsid, &["pod", "rm", "-f", "web"]).succeeds();
}

#[test]
fn every_container_has_the_pods_mounts() {
    let capsid = Capsid::with_busybox();
    let (shared, fixed) = (capsid.folder("shared"), capsid.folder("fixed"));
    fs::create_dir(&shared).unwrap();
    fs::write(&fixed, "of the host\n").unwrap();
    let bind = format!("{}:/d", shared.display());
    let file = format!("type=bind,source={},target=/etc/fixed,readonly", fixed.display());
    let flags = ["-v", &bind, "-v", "words:/w", "--mount", &file];
    call(&capsid, &[&["pod", "create", "web"], &flags[..]].concat()).succeeds();
    let inspected = call(&capsid, &["pod", "inspect", "web"]).succeeds().json();
    assert_eq!(inspected[0]["Mounts"].as_array().map(Vec::len), Some(3), "{inspected}");
    sleeper(&capsid, "web", "one", &[], "busybox");
    // Its own flag has priority at this path.
    sleeper(&capsid, "web", "two", &["--tmpfs", "/w"], "busybox");
    let shell = |name: &str, line: &str| call(&capsid, &["exec", name, "sh", "-c", line]);
    shell("one", "echo from one >/d/one; echo kept >/w/word; cat /etc/fixed")
        .succeeds()
        .prints("of the host\n");
    shell("two", "cat /d/one; ls /w; echo from two >>/d/one")
        .succeeds()
        .prints("from one\n");
    assert_eq!(fs::read_to_string(shared.join("one")).unwrap(), "from one\nfrom two\n");
    // Read-only by the host, whatever root in the machine does.
    let privileged = ["run", "--rm", "--privileged", "--pod", "web", "busybox", "sh", "-c"];
    let script = "mount -o remount,rw /etc/fixed; echo changed >/etc/fixed";
    call(&capsid, &[&privileged[..], &[script]].concat()).exits(1);
    assert_eq!(fs::read_to_string(&fixed).unwrap(), "of the host\n");
    // They are there after a stop, and for later containers.
    call(&capsid, &["pod", "stop", "-t", "0", "web"]).succeeds();
    call(&capsid, &["pod", "start", "web"]).succeeds();
    call(
        &capsid,
        &["run", "--rm", "--pod", "web", "busybox", "cat", "/d/one", "/w/word"],
    )
    .succeeds()
    .prints("from one\nfrom two\nkept\n");
    // The end of a file server ends the machine, with its reason.
    let server = descendants(supervisor(&capsid, "web"))
        .into_iter()
        .find(|process| process.name == "capsid-fs")
        .unwrap();
    kill(Pid::from_raw(server.pid as i32), Signal::SIGKILL).unwrap();
    eventually("the machine's end", 20, || {
        pod_field(&capsid, "web", ".State") == "Exited"
    });
    assert!(pod_field(&capsid, "web", ".Capsid.Error").contains("file server"));
    call(&capsid, &["pod", "rm", "-f", "web"]).succeeds();
}

#[test]
fn what_cannot_be_is_said_clearly() {
    let capsid = Capsid::with_busybox();
    call(&capsid, &["pod", "create", "web"]).succeeds();
    let one_line = |words: &[&str], code: i32, complaint: &str| {
        call(&capsid, words)
            .exits(code)
            .complains(complaint)
            .complains_in_one_line();
    };
    one_line(&["pod", "create", "web"], 1, "already in use by another pod");
    one_line(&["pod", "create", "--share", "net", "other"], 1, "without shared");
    one_line(&["pod", "create", "w"], 1, "invalid name");
    one_line(&["run", "--pod", "nowhere", "busybox"], 125, "no such pod: nowhere");
    one_line(
        &["run", "--pod", "web", "--hostname", "me", "busybox"],
        125,
        "--hostname is the pod's to say",
    );
    one_line(
        &["run", "--pod", "web", "--vcpus", "2", "busybox"],
        125,
        "--vcpus is the pod's to say",
    );
    one_line(
        &["run", "--pod", "web", "-v", "/srv:/d", "busybox"],
        125,
        "give it to `capsid pod create -v`",
    );
    one_line(&["pod", "create", "-v", "/d", "other"], 1, "without a name at /d");
    one_line(
        &["pod", "create", "--mount", "type=tmpfs,target=/d", "other"],
        1,
        "a pod cannot have the tmpfs at /d",
    );
    one_line(
        &["pod", "create", "-v", "/proc:/d", "other"],
        1,
        "which no container may have",
    );
    one_line(&["pod", "start", "nowhere"], 1, "no such pod");
    call(&capsid, &["pod", "rm", "-f", "nowhere"]).succeeds();
    call(&capsid, &["run", "--rm", "--pod", "web", "busybox", "/nothing"]).exits(127);
    call(&capsid, &["create", "--name", "kept", "--pod", "web", "busybox"]).succeeds();
    call(&capsid, &["pod", "stop", "web"]).succeeds();
    call(&capsid, &["pod", "rm", "web"]).succeeds();
    call(&capsid, &["inspect", "kept"]).exits(1);
}
