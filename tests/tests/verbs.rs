//! `events`, `update`, `port` and `system`: events are reported in docker's words, and limits change while containers
//! run.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use capsid_tests::environment::patience;
use capsid_tests::invocation::{eventually, wait_until};
use capsid_tests::{Capsid, Outcome};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Runs `capsid WORDS...` to its end.
fn call(capsid: &Capsid, words: &[&str]) -> Outcome {
    capsid.call(words).wait()
}

/// Returns the reported actions of a container, in order.
fn actions(capsid: &Capsid, flags: &[&str]) -> Vec<String> {
    let words = [
        &["events", "--since", "1h", "--until", "0s", "--format", "{{.Action}}"],
        flags,
    ]
    .concat();
    let reported = call(capsid, &words).succeeds().text();
    reported.lines().map(str::to_owned).collect()
}

#[test]
fn what_happens_is_told_in_dockers_words() {
    let capsid = Capsid::with_busybox();
    capsid.detached("web", &["-l", "tier=front", "busybox", "sleep", "1000"]);
    call(&capsid, &["exec", "web", "true"]).succeeds();
    call(&capsid, &["pause", "web"]).succeeds();
    call(&capsid, &["unpause", "web"]).succeeds();
    call(&capsid, &["rename", "web", "old"]).succeeds();
    call(&capsid, &["stop", "-t", "0", "old"]).succeeds();
    call(
        &capsid,
        &["run", "--rm", "--name", "job", "busybox", "sh", "-c", "exit 3"],
    )
    .exits(3);
    call(&capsid, &["rm", "old"]).succeeds();
    let all = actions(&capsid, &["--filter", "label=tier=front"]);
    let expected = [
        "create",
        "start",
        "exec_create: true",
        "exec_start: true",
        "exec_die",
        "pause",
        "unpause",
        "rename",
        "kill",
        "die",
        "stop",
        "destroy",
    ];
    assert_eq!(all, expected);
    assert_eq!(
        actions(&capsid, &["--filter", "container=old"]),
        ["rename", "kill", "die", "stop", "destroy"]
    );
    assert_eq!(
        actions(&capsid, &["--filter", "container=job"]),
        ["create", "start", "die", "destroy"]
    );
    let died = call(
        &capsid,
        &[
            "events",
            "--since",
            "1h",
            "--until",
            "0s",
            "--json",
            "-f",
            "container=job",
            "-f",
            "event=die",
        ],
    );
    assert_eq!(died.succeeds().json()["Actor"]["Attributes"]["exitCode"], "3");
    assert!(
        call(&capsid, &["events", "--until", "1h", "-f", "event=none"])
            .succeeds()
            .text()
            .is_empty()
    );
    call(&capsid, &["events", "-f", "color=red"])
        .exits(1)
        .complains("there is no filter");
}

#[test]
fn limits_change_while_the_container_runs() {
    let capsid = Capsid::with_busybox();
    capsid.detached("web", &["-m", "128m", "busybox", "sleep", "1000"]);
    call(
        &capsid,
        &[
            "update",
            "-m",
            "64m",
            "--pids-limit",
            "20",
            "--restart",
            "on-failure:2",
            "web",
        ],
    )
    .succeeds();
    let limits = ["exec", "web", "sh", "-c", "cd /sys/fs/cgroup; cat memory.max pids.max"];
    assert_eq!(call(&capsid, &limits).succeeds().text(), "67108864\n20");
    assert_eq!(capsid.field("web", ".HostConfig.RestartPolicy.Name"), "on-failure");
    call(&capsid, &["update", "-m", "4g", "web"])
        .exits(1)
        .complains("is more than the running machine has");
    call(&capsid, &["update", "web"])
        .exits(1)
        .complains("nothing to change");
    call(&capsid, &["stop", "-t", "0", "web"]).succeeds();
    call(&capsid, &["update", "-m", "200m", "web"]).succeeds();
    assert_eq!(capsid.field("web", ".HostConfig.Memory"), (200 << 20).to_string());
    assert!(call(&capsid, &["port", "web"]).succeeds().text().is_empty());
    call(&capsid, &["port", "web", "80"])
        .exits(1)
        .complains("no public port '80/tcp' published for web");
}

#[test]
fn a_rebooted_host_starts_what_its_policies_ask_for() {
    let capsid = Capsid::with_busybox();
    for (name, policy) in [
        ("always", "always"),
        ("kept", "unless-stopped"),
        ("left", "unless-stopped"),
        ("once", "no"),
    ] {
        capsid.detached(name, &["--restart", policy, "busybox", "sleep", "1000"]);
    }
    call(&capsid, &["stop", "-t", "0", "left"]).succeeds();
    // Like a host that shuts down in order.
    capsid.call(["system", "stop"]).within(120).wait().succeeds();
    assert!(call(&capsid, &["ps", "-q"]).succeeds().text().is_empty());
    let started = capsid.call(["system", "start"]).within(120).wait().succeeds().text();
    assert_eq!(started, "always\nkept");
    let running = call(&capsid, &["ps", "--format", "{{.Names}}"]).succeeds().text();
    assert_eq!(running, "kept\nalways");
    assert_eq!(capsid.call(["system", "start"]).wait().succeeds().text(), "");
    // Objects that are there, and those that are removed.
    let reported = call(
        &capsid,
        &["system", "df", "--format", "{{.Type}}:{{.TotalCount}}:{{.Active}}"],
    )
    .succeeds()
    .text();
    assert_eq!(reported, "Images:1:1\nContainers:4:2\nLocal Volumes:0:0");
    assert!(
        call(&capsid, &["system", "df", "-v"])
            .succeeds()
            .text()
            .contains("Containers space usage:")
    );
    assert_eq!(
        call(&capsid, &["info", "--format", "{{.ContainersRunning}}"])
            .succeeds()
            .text(),
        "2"
    );
    call(&capsid, &["volume", "create", "data"]).succeeds();
    let pruned = call(&capsid, &["system", "prune", "-af", "--volumes"])
        .succeeds()
        .text();
    assert!(
        pruned.contains("Deleted Containers:") && pruned.contains("Total reclaimed space:"),
        "{pruned}"
    );
    assert_eq!(
        call(&capsid, &["ps", "-a", "--format", "{{.Names}}"]).succeeds().text(),
        "kept\nalways"
    );
    assert_eq!(call(&capsid, &["volume", "ls", "-q"]).succeeds().text(), "data");
    assert!(call(&capsid, &["images", "-q"]).succeeds().text().lines().count() == 1);
}

/// Test of one container's row that cannot be read: the others' users are warned, and continue.
#[test]
fn a_damaged_row_does_not_keep_the_others() {
    let capsid = Capsid::with_busybox();
    call(&capsid, &["create", "--name", "good", "busybox", "true"]).succeeds();
    call(&capsid, &["create", "--name", "bad", "busybox", "true"]).succeeds();
    let database = rusqlite::Connection::open(capsid.folder("data").join("containers.db")).unwrap();
    database
        .execute("UPDATE containers SET config = '{' WHERE name = 'bad'", [])
        .unwrap();
    let listed = call(&capsid, &["ps", "-a", "--format", "{{.Names}}"]).succeeds();
    assert_eq!(listed.text(), "good");
    assert!(listed.stderr.contains("is damaged"), "{}", listed.stderr);
    call(&capsid, &["start", "good"]).succeeds();
    call(&capsid, &["rm", "bad"]).exits(1).complains("is damaged");
}

#[test]
fn health_checks_are_run_and_shown() {
    let capsid = Capsid::with_busybox();
    let check = [
        "--health-cmd",
        "echo checked; test -e /tmp/well",
        "--health-interval",
        "300ms",
        "--health-retries",
        "2",
    ];
    capsid.detached("web", &[&check[..], &["busybox", "sleep", "1000"]].concat());
    let status = || capsid.field("web", ".State.Health.Status");
    eventually("unhealthy", 30, || status() == "unhealthy");
    call(&capsid, &["exec", "web", "touch", "/tmp/well"]).succeeds();
    eventually("healthy", 30, || status() == "healthy");
    assert!(
        call(&capsid, &["ps", "--format", "{{.Status}}"])
            .succeeds()
            .text()
            .contains("(healthy)")
    );
    let health = call(&capsid, &["inspect", "-f", "{{json .State.Health}}", "web"])
        .succeeds()
        .json();
    assert_eq!(
        (&health["FailingStreak"], &health["Log"][0]["Output"]),
        (&0.into(), &"checked\n".into())
    );
    assert!(health["Log"].as_array().unwrap().len() <= 5);
    let reported = actions(&capsid, &["--filter", "event=health_status"]);
    assert_eq!(reported, ["health_status: unhealthy", "health_status: healthy"]);
    // A check that hangs is ended, and none is left behind.
    let slow = [
        "--health-cmd",
        "sleep 100",
        "--health-interval",
        "200ms",
        "--health-timeout",
        "300ms",
        "--health-retries",
        "1",
    ];
    capsid.detached("slow", &[&slow[..], &["busybox", "sleep", "1000"]].concat());
    eventually("its end", 30, || {
        capsid.field("slow", ".State.Health.Status") == "unhealthy"
    });
    let log = call(&capsid, &["inspect", "-f", "{{json .State.Health.Log}}", "slow"])
        .succeeds()
        .text();
    assert!(log.contains("Health check exceeded timeout (0.3s)"), "{log}");
    let none = ["create", "--no-healthcheck", "--health-retries", "1", "busybox"];
    call(&capsid, &none)
        .exits(125)
        .complains("--no-healthcheck conflicts with --health-* options");
}

#[test]
fn several_containers_are_handled_at_once_and_told_in_order() {
    let capsid = Capsid::with_busybox();
    let names = ["one", "two", "three", "four"];
    for name in names {
        // As process 1 it ignores SIGTERM.
        call(&capsid, &["create", "--name", name, "busybox", "sleep", "1000"]).succeeds();
    }
    let all = |verb: &[&str]| {
        let words = [verb, &names].concat();
        call(&capsid, &words)
    };
    let reported = "one\ntwo\nthree\nfour\n";
    all(&["start"]).succeeds().prints(reported);
    all(&["pause"]).succeeds().prints(reported);
    all(&["unpause"]).succeeds().prints(reported);
    let stopped = call(&capsid, &["stop", "-t", "5", "one", "two", "nobody", "three", "four"]).exits(1);
    assert_eq!(stopped.complaints().len(), 1, "{stopped}");
    // One after another they would take 20 s.
    assert!(stopped.took < std::time::Duration::from_secs(15), "{stopped}");
    stopped.complains("nobody").prints(reported);
    all(&["wait"]).succeeds().prints("137\n137\n137\n137\n");
    call(&capsid, &["start", "one", "one"]).succeeds().prints("one\none\n");
    // Stopped one after another, those that run would take 5 s each.
    let restarted = all(&["restart", "-t", "5"]).succeeds();
    assert!(restarted.took < std::time::Duration::from_secs(15), "{restarted}");
    restarted.prints(reported);
    all(&["kill"]).succeeds().prints(reported);
    all(&["wait"]).succeeds().prints("137\n137\n137\n137\n");
    all(&["rm", "-f"]).succeeds().prints(reported);
}

/// Test of the verbs that wait for something that does not happen, or write what nobody reads.
#[test]
fn a_signal_ends_whatever_waits_within_a_second() {
    let capsid = Capsid::with_busybox();
    capsid.detached("it", &["busybox", "sleep", "1000"]);
    call(
        &capsid,
        &["exec", "it", "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=8"],
    )
    .succeeds();
    let verbs: &[&[&str]] = &[
        &["wait", "it"],
        &["logs", "-f", "it"],
        &["stats"],
        &["events"],
        &["attach", "--sig-proxy=false", "it"],
        &["cp", "it:/big", "-"],
        &["export", "it"],
        &["stop", "-t", "60", "it"],
        &["restart", "-t", "60", "it"],
    ];
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        for words in verbs {
            let mut child = capsid.call(*words).spawn_with(|command| {
                command
                    .stdin(Stdio::null())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::null());
            });
            sleep(Duration::from_millis(400));
            assert!(child.try_wait().unwrap().is_none(), "{words:?} has nothing to wait for");
            kill(Pid::from_raw(child.id() as i32), signal).unwrap();
            let ended = wait_until(&mut child, Instant::now() + patience(1));
            assert!(
                ended.is_some_and(|status| !status.success()),
                "{words:?} at {signal}: {ended:?}"
            );
        }
    }
    call(&capsid, &["exec", "it", "ls", "/big"]).succeeds();
    call(&capsid, &["rm", "-f", "it"]).succeeds();
}
