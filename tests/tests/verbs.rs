//! `events`, `update`, `port` and `system`: what happens is told in docker's words, and limits change while things run.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use capsid_tests::{Capsid, Outcome};

/// `capsid WORDS...` to its end.
fn call(capsid: &Capsid, words: &[&str]) -> Outcome {
    capsid.call(words).wait()
}

/// The actions that were told of a container, in order.
fn actions(capsid: &Capsid, flags: &[&str]) -> Vec<String> {
    let words = [
        &["events", "--since", "1h", "--until", "0s", "--format", "{{.Action}}"],
        flags,
    ]
    .concat();
    let told = call(capsid, &words).succeeds().text();
    told.lines().map(str::to_owned).collect()
}

#[test]
fn what_happens_is_told_in_dockers_words() {
    let capsid = Capsid::with_busybox();
    capsid.detached("web", &["-l", "tier=front", "busybox", "sleep", "1000"]);
    call(&capsid, &["exec", "web", "true"]).succeeds();
    call(&capsid, &["pause", "web"]).succeeds();
    call(&capsid, &["unpause", "web"]).succeeds();
    call(&capsid, &["stop", "-t", "0", "web"]).succeeds();
    call(&capsid, &["rename", "web", "old"]).succeeds();
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
        "kill",
        "die",
        "stop",
        "rename",
        "destroy",
    ];
    assert_eq!(all, expected);
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
