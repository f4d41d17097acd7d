//! Golden plans: the complete results of a command line and an image.

use capsid_image::ImageConfig;
use clap::Parser;

use super::*;
use crate::cli::{Cli, Command};

/// The config of Debian's python image, as registries serve it.
const CONFIG: &str = r#"{
    "architecture": "amd64", "os": "linux",
    "config": {
        "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"],
        "Entrypoint": ["/entry"], "Cmd": ["python3"], "WorkingDir": "/app", "User": "app", "StopSignal": "SIGINT"
    },
    "rootfs": {"type": "layers", "diff_ids": ["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}
}"#;

fn around() -> Surroundings {
    Surroundings {
        id: "0123456789abcdef".repeat(4),
        host_cpus: 4,
        accelerator: AccelChoice::Kvm,
        kernel: None,
        user_env: vec!["LANG=de".into()],
        seccomp_profile: None,
        terminal: None,
        volumes: VolumeSources {
            new_names: vec!["a".repeat(64)],
            room: 4,
            ..VolumeSources::default()
        },
        pod: None,
        networks: Found::new(),
        host_address: Some([192, 168, 7, 7].into()),
    }
}

/// Parses a line of `run`.
fn request(flags: &[&str], command: &[&str]) -> Result<RunRequest, PlanError> {
    let words = ["capsid", "run"].iter().chain(flags).chain(&["image"]).chain(command);
    let Command::Run(args) = Cli::try_parse_from(words).unwrap().command else {
        unreachable!("the verb is run")
    };
    RunRequest::parse(*args)
}

fn planned(flags: &[&str], command: &[&str]) -> Result<Plan, PlanError> {
    let image = ImageConfig::parse(CONFIG.as_bytes()).unwrap();
    plan(&request(flags, command)?, &image, around())
}

/// Formats the plan as text without absent fields, so that a new flag changes no plan without it; the seccomp program by
/// its length only, because it has tests of its own.
fn golden(mut plan: Plan) -> String {
    let program_bytes = std::mem::take(&mut plan.spec.seccomp).len();
    let text = |words: Vec<Vec<u8>>| {
        words
            .into_iter()
            .map(|w| String::from_utf8_lossy(&w).into_owned())
            .collect::<Vec<_>>()
    };
    let (args, env) = (
        text(std::mem::take(&mut plan.spec.args)),
        text(std::mem::take(&mut plan.spec.env)),
    );
    let files: Vec<_> = std::mem::take(&mut plan.spec.files)
        .into_iter()
        .map(|file| file.path)
        .collect();
    let confined = if program_bytes > 0 { "confined" } else { "unconfined" };
    let plan = format!("{plan:#?}");
    let present = plan.lines().filter(|line| !line.ends_with(": None,"));
    let plan = present.collect::<Vec<_>>().join("\n");
    format!("args {args:?}\nenv {env:?}\nfiles {files:?}\nseccomp {confined}\n{plan}\n")
}

#[test]
fn an_image_alone_gives_dockers_defaults() {
    insta::assert_snapshot!(golden(planned(&[], &[]).unwrap()));
}

#[test]
fn flags_override_the_image() {
    let flags = [
        "-it",
        "-u",
        "1:2",
        "-w",
        "/w",
        "-m",
        "64m",
        "--cpus",
        "1.5",
        "--pids-limit",
        "9",
        "--read-only",
        "--tmpfs",
        "/t:size=1m",
        "--cap-drop",
        "ALL",
        "--cap-add",
        "KILL",
        "--security-opt",
        "no-new-privileges",
        "--ulimit",
        "nofile=5",
        "--sysctl",
        "net.ipv4.ip_forward=1",
        "--init",
        "--stop-signal",
        "9",
        "-h",
        "box",
        "--entrypoint",
        "sh",
    ];
    insta::assert_snapshot!(golden(planned(&flags, &["-c", "id"]).unwrap()));
}

#[test]
fn privileged_opens_the_machine_and_nothing_else() {
    let plan = planned(&["--privileged"], &[]).unwrap();
    assert_eq!(plan.spec.capabilities, crate::capability::ALL);
    assert!(plan.spec.all_devices && plan.spec.seccomp.is_empty());
    assert!(plan.spec.masked_paths.is_empty() && plan.spec.readonly_paths.is_empty());
}

#[test]
fn an_entrypoint_flag_drops_the_images_command() {
    let args = |flags: &[&str], command: &[&str]| {
        let words = planned(flags, command).unwrap().spec.args;
        words
            .into_iter()
            .map(|word| String::from_utf8(word).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(args(&[], &[]), ["/entry", "python3"]);
    assert_eq!(args(&[], &["ls"]), ["/entry", "ls"]);
    assert_eq!(args(&["--entrypoint", "sh"], &[]), ["sh"]);
    assert_eq!(args(&["--entrypoint", ""], &["ls"]), ["ls"]);
    assert!(matches!(planned(&["--entrypoint", ""], &[]), Err(PlanError::NoCommand)));
    let empty = planned(&["--entrypoint", ""], &["", "x"]);
    assert!(matches!(empty, Err(PlanError::EmptyProgram)));
}

#[test]
fn wrong_flags_are_refused() {
    for flags in [
        ["--name", "a"],
        ["-w", "rel"],
        ["-h", "a b"],
        ["--sysctl", "x"],
        ["-l", "=v"],
        ["--stop-signal", "0"],
        ["--cap-add", "FLY"],
        ["--security-opt", "apparmor=x"],
    ] {
        assert!(planned(&flags, &[]).is_err(), "{flags:?}");
    }
}

#[test]
fn flags_are_checked_without_an_image() {
    let checked = |flags: &[&str], command: &[&str]| check(&request(flags, command)?, around());
    // An image may have an entrypoint for this.
    checked(&[], &[""]).unwrap();
    checked(&[], &[]).unwrap();
    checked(&["--entrypoint", ""], &[]).unwrap();
    for flags in [
        ["--health-interval", "soon"],
        ["--user", "a:b:c"],
        ["--sysctl", "dev.x=1"],
    ] {
        assert!(checked(&flags, &[]).is_err(), "{flags:?}");
    }
}

#[test]
fn mounts_replace_defaults_and_come_after_what_they_lie_in() {
    let flags = [
        "--tmpfs",
        "/dev/shm:size=1m",
        "-v",
        "data:/srv/deep/er",
        "--mount",
        "target=/srv",
        "--rm",
    ];
    let plan = planned(&flags, &[]).unwrap();
    let targets: Vec<&str> = plan.spec.mounts.iter().map(|m| m.target.as_str()).collect();
    assert_eq!(targets.iter().filter(|target| **target == "/dev/shm").count(), 1);
    assert_eq!(targets[targets.len() - 3..], ["/srv", "/dev/shm", "/srv/deep/er"]);
    assert_eq!(plan.config.mounts.len(), 2);
    assert!(!plan.spec.discards_disks, "its volumes are kept");
    assert!(planned(&["--rm"], &[]).unwrap().spec.discards_disks);
    assert!(planned(&["--shm-size", "0"], &[]).is_err());
}

#[test]
fn labels_are_the_images_overlaid_by_the_users() {
    let labelled = CONFIG.replace(
        "\"User\": \"app\"",
        "\"Labels\": {\"tier\": \"back\", \"vendor\": \"x\"}",
    );
    let image = ImageConfig::parse(labelled.as_bytes()).unwrap();
    let plan = plan(&request(&["-l", "tier=front"], &[]).unwrap(), &image, around()).unwrap();
    assert_eq!(plan.config.labels, ["tier=front", "vendor=x"]);
}
