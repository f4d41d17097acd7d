//! Flags in docker's forms, with docker's exit codes, and checked before anything is done. Hardly a machine is started
//! here.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use capsid_tests::{Capsid, Outcome, TestImage};
use serde_json::json;

/// Runs `capsid LINE` to its end.
fn call(capsid: &Capsid, line: &str) -> Outcome {
    capsid.call(line.split_whitespace()).wait()
}

#[test]
fn flags_have_dockers_forms() {
    let capsid = Capsid::with_busybox();
    let line = "-e=A=1 -eB=2 -m=96m -it=false --read-only=true --init=false --sig-proxy=T --tmpfs /s:size=10% --mount TYPE=Tmpfs,Target=/t";
    let script = "echo $A$B $(hostname | wc -c); touch /t/x /s/x; touch /x";
    let words = line
        .split_whitespace()
        .chain(["--hostname", "", "busybox", "sh", "-c", script]);
    capsid.run(words).exits(1).prints("12 13\n").complains("read-only");
}

#[test]
fn a_wrong_flag_has_dockers_exit_code() {
    let capsid = Capsid::with_busybox();
    for line in [
        "run --fly busybox",
        "run --rm=maybe busybox",
        "run",
        "run -p +80:80 busybox",
        "run --security-opt no-new-privileges: busybox",
        "--require seccomp run --fly busybox",
        "create --fly busybox",
        "container create --fly busybox",
        "exec --fly web true",
        "start --fly web",
        "rm --force=maybe web",
        "images --fly",
    ] {
        let outcome = call(&capsid, line).exits(125);
        assert!(!outcome.stderr.contains("panicked"), "{outcome}");
    }
    for line in ["rm", "exec web", "start", "fly", "volume inspect"] {
        call(&capsid, line).exits(1);
    }
}

#[test]
fn flags_are_checked_before_a_registry_is_asked_or_anything_is_made() {
    let capsid = Capsid::with(&[TestImage::Busybox]);
    call(&capsid, "create --name taken busybox").succeeds();
    let before = capsid.files();
    let new = capsid.folder("home").join("new");
    let given = capsid.folder("home").join("given");
    std::fs::write(&given, "").unwrap();
    let bind = format!("-v {}:/d --memory 1k", new.display());
    let id_file = format!("--cidfile {}", given.display());
    for flags in [
        "--name a",
        "--name taken",
        "--user a:b:c",
        "--user 2147483648",
        "--group-add a:b",
        "--memory 1k",
        "--cpus -1",
        "--cpuset-cpus x",
        "--mount type=fly,target=/x",
        "--mount type=bind,source=/nowhere,target=/x",
        "--tmpfs rel",
        "-v a:rel",
        "--volumes-from nobody",
        "--network nowhere",
        "--ip 10.0.0.1",
        "--sysctl dev.x=1",
        "--ulimit files=1",
        "--label =x",
        "--stop-signal FLY",
        "--cap-add FLY",
        "--security-opt seccomp=/nowhere",
        "--health-interval soon",
        "--log-driver fly",
        "--egress fly!",
        "--dns fly",
        "--env-file /nowhere",
        "--platform fly/fly/fly/fly",
        "--platform linux/arm64",
        "--pod nowhere",
        "-w rel",
        &bind,
        &id_file,
    ] {
        let outcome = call(&capsid, &format!("run {flags} registry.invalid/x true"));
        let outcome = outcome.exits(125).complains_in_one_line();
        assert!(!outcome.stderr.contains("registry.invalid"), "{outcome}");
    }
    for flags in ["--sysctl vm.x=1", "--sysctl x", "--memory 1k", &bind] {
        call(&capsid, &format!("pod create {flags}"))
            .exits(1)
            .complains_in_one_line();
    }
    call(&capsid, "pull --platform fly/fly/fly/fly registry.invalid/x").exits(1);
    assert_eq!(capsid.files(), before);
    assert!(!new.exists(), "a folder was made for a container that was not");
}

#[test]
fn empty_words_and_metadata_are_dockers() {
    let capsid = Capsid::with_busybox();
    let image = |name: &str, fields: &[(&str, serde_json::Value)]| {
        // As with docker, missing fields of an image's platform are those of this machine.
        let busybox = TestImage::Busybox.build().architecture("");
        let image = fields
            .iter()
            .fold(busybox, |image, (field, value)| image.config(field, value.clone()));
        let path = capsid.folder("tmp").join("image.tar");
        image.write_docker_archive(&path, name);
        capsid.load(&path).succeeds();
        std::fs::remove_file(path).unwrap();
    };
    image(
        "informing",
        &[
            ("Entrypoint", json!([""])),
            ("Cmd", json!(["ls", "-d", "/rel"])),
            ("ExposedPorts", json!({"90/sctp": {}, "91/TCP": {}, "odd": {}})),
            ("Volumes", json!({"rel": {}})),
        ],
    );
    capsid.run(["-p", "80/TCP", "informing"]).succeeds().prints("/rel\n");
    image("empty", &[("Cmd", json!([""]))]);
    let before = capsid.files();
    for words in [&["empty"][..], &["busybox", ""]] {
        let outcome = capsid.run(words).exits(127).complains_in_one_line();
        outcome.complains("executable file not found in $PATH");
    }
    assert_eq!(capsid.files(), before);
}
