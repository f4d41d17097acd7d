//! `ps`, `images`, `inspect` and `--format`: fields that scripts for docker ask for, in docker's formats.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use capsid_tests::{Capsid, ImageBuilder, Layer, Outcome};
use serde_json::{Value, json};

/// Runs `capsid WORDS...` to its end.
fn call(capsid: &Capsid, words: &[&str]) -> Outcome {
    capsid.call(words).wait()
}

/// Returns the lines that `capsid WORDS...` prints.
#[track_caller]
fn lines(capsid: &Capsid, words: &[&str]) -> Vec<String> {
    let text = call(capsid, words).succeeds().text();
    text.lines().map(str::to_owned).collect()
}

/// Returns the names of the containers that `ps -a` lists with these flags.
#[track_caller]
fn names(capsid: &Capsid, flags: &[&str]) -> Vec<String> {
    lines(capsid, &[&["ps", "-a", "--format", "{{.Names}}"], flags].concat())
}

/// Loads an image `app:1` with many fields, and `child:1`, which is made from it.
fn with_images() -> Capsid {
    let (capsid, folder) = (Capsid::with_busybox(), tempfile::tempdir().unwrap());
    let app = || {
        ImageBuilder::new()
            .layer(Layer::new().file("app", "1").finish())
            .config("Entrypoint", json!(["/entry"]))
            .config("Cmd", json!(["serve"]))
            .config("ExposedPorts", json!({ "80/tcp": {} }))
            .config("Volumes", json!({ "/data": {} }))
            .config("StopSignal", json!("SIGUSR1"))
            .config(
                "Healthcheck",
                json!({ "Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000_u64 }),
            )
            .config("Labels", json!({ "tier": "back", "vendor": "acme" }))
    };
    for (name, image) in [
        ("app", app()),
        ("child", app().layer(Layer::new().file("child", "2").finish())),
    ] {
        let path = folder.path().join(name);
        image.write_docker_archive(&path, &format!("{name}:1"));
        capsid.load(&path).succeeds();
    }
    capsid
}

#[track_caller]
fn create(capsid: &Capsid, name: &str, words: &[&str]) {
    call(capsid, &[&["create", "--name", name], words].concat()).succeeds();
}

#[test]
fn containers_have_their_images_labels() {
    let capsid = with_images();
    create(&capsid, "one", &["-l", "tier=front", "app:1"]);
    create(&capsid, "two", &["busybox", "true"]);
    let labels: Value = serde_json::from_str(&capsid.field("one", "json .Config.Labels")).unwrap();
    assert_eq!(labels, json!({ "tier": "front", "vendor": "acme" }));
    assert_eq!(
        names(&capsid, &["--filter", "label=vendor=acme", "-f", "label=tier=front"]),
        ["one"]
    );
    assert_eq!(names(&capsid, &["--filter", "label=tier=back"]), Vec::<String>::new());
    assert_eq!(names(&capsid, &["--filter", "label!=vendor"]), ["two"]);
    let row = lines(
        &capsid,
        &[
            "ps",
            "-a",
            "-f",
            "name=one",
            "--format",
            "{{.Label \"vendor\"}} {{.Labels}}",
        ],
    );
    assert_eq!(row, ["acme tier=front,vendor=acme"]);
}

#[test]
fn inspect_has_dockers_shapes() {
    let capsid = with_images();
    create(
        &capsid,
        "one",
        &[
            "--expose",
            "9000",
            "-p",
            "81",
            "-v",
            "named:/x",
            "--cap-drop",
            "ALL",
            "app:1",
            "job",
        ],
    );
    let object = call(&capsid, &["inspect", "one"]).succeeds().json()[0].clone();
    let config = &object["Config"];
    assert_eq!(
        (&config["Entrypoint"], &config["Cmd"]),
        (&json!(["/entry"]), &json!(["job"]))
    );
    assert_eq!(
        config["ExposedPorts"],
        json!({ "80/tcp": {}, "81/tcp": {}, "9000/tcp": {} })
    );
    assert_eq!(
        (&config["Volumes"], &config["StopSignal"]),
        (&json!({ "/data": {} }), &json!("SIGUSR1"))
    );
    assert_eq!(config["Healthcheck"]["Test"], json!(["CMD-SHELL", "true"]));
    assert_eq!(config["Healthcheck"]["Interval"], json!(5_000_000_000_u64));
    let host = &object["HostConfig"];
    assert_eq!(
        (&host["Binds"], &host["CapDrop"]),
        (&json!(["named:/x"]), &json!(["ALL"]))
    );
    assert_eq!(
        (&host["CapAdd"], &object["State"]["Health"]["Status"]),
        (&json!(null), &json!("starting"))
    );
    assert_eq!(object["NetworkSettings"]["Ports"]["80/tcp"], json!(null));
    let image = call(&capsid, &["image", "inspect", "app:1"]).succeeds().json()[0].clone();
    assert_eq!(image["Config"]["ExposedPorts"], json!({ "80/tcp": {} }));
    assert_eq!(image["Config"]["Volumes"], json!({ "/data": {} }));
    assert_eq!(image["Config"]["Healthcheck"]["Test"], json!(["CMD-SHELL", "true"]));
    // An object of any kind, or of one.
    let name = |words: &[&str]| lines(&capsid, &[&["inspect"], words].concat());
    assert_eq!(name(&["-f", "{{.Name}}", "named"]), ["named"]);
    assert_eq!(name(&["-f", "{{.Name}}", "--type", "network", "default"]), ["default"]);
    call(&capsid, &["inspect", "--type", "container", "named"])
        .exits(1)
        .complains("no such object");
}

#[test]
fn formats_are_gos_templates_on_every_verb() {
    let capsid = with_images();
    create(&capsid, "one", &["-e", "A=1", "-v", "named:/x", "app:1"]);
    for (words, expected) in [
        (
            &[
                "inspect",
                "-f",
                "{{range .Mounts}}{{println .Destination}}{{end}}",
                "one",
            ][..],
            "/x\n/data\n\n",
        ),
        (
            &[
                "inspect",
                "-f",
                "{{index .Config.Labels \"tier\"}}{{index .Config.Labels \"x\"}}",
                "one",
            ],
            "back\n",
        ),
        (
            &[
                "inspect",
                "-f",
                "{{if .State.Running}}up{{else}}{{.State.Status}}{{end}}",
                "one",
            ],
            "created\n",
        ),
        (
            &["inspect", "-f", "{{join .Config.Cmd \" \" | upper}}", "one"],
            "SERVE\n",
        ),
        (
            &["image", "inspect", "-f", "{{.Os}} {{len .RootFS.Layers}}", "child:1"],
            "linux 2\n",
        ),
        (&["images", "--format", "{{.Repository}}:{{.Tag}}", "app"], "app:1\n"),
        (
            &["images", "-a", "--format", "{{.Repository}}:{{.Tag}}", "app"],
            "app:1\n",
        ),
        (
            &["images", "--format", "table {{.Repository}}\\t{{.Tag}}", "chi*"],
            "REPOSITORY   TAG\nchild        1\n",
        ),
        (
            &["ps", "-a", "--format", "table {{.Names}}\\t{{.Label \"vendor\"}}"],
            "NAMES   vendor\none     acme\n",
        ),
        (
            &[
                "ps",
                "-a",
                "--format",
                "{{.LocalVolumes}} {{truncate .Image 3}} {{json .Names}}",
            ],
            "2 app \"one\"\n",
        ),
        (
            &[
                "volume",
                "ls",
                "-f",
                "name=named",
                "--format",
                "{{.Name | printf \"%q\"}}",
            ],
            "\"named\"\n",
        ),
        (
            &[
                "network",
                "ls",
                "--format",
                "{{if eq .Driver \"null\"}}{{.Name}}{{end}}",
            ],
            "\nnone\n",
        ),
        (
            &["system", "df", "--format", "{{with .Type}}{{lower .}}{{end}}"],
            "images\ncontainers\nlocal volumes\n",
        ),
        (&["info", "--format", "{{.Containers}}{{/* all */}}"], "1\n"),
        (&["version", "--format", "{{.Server.Os}}"], "linux\n"),
    ] {
        call(&capsid, words).succeeds().prints(expected);
    }
    let default = call(&capsid, &["ps", "-a", "--format", "table"]).succeeds().text();
    assert!(default.starts_with("CONTAINER ID"), "{default}");
    for format in ["{{.Nope}}", "{{.Names", "{{nope .Names}}"] {
        call(&capsid, &["ps", "-a", "--format", format])
            .exits(1)
            .complains_in_one_line();
    }
    let size = lines(&capsid, &["ps", "-a", "--format", "{{.Size}}"]);
    assert!(size[0].contains("(virtual "), "{size:?}");
}

#[test]
fn filters_choose_as_dockers_do() {
    let capsid = with_images();
    create(&capsid, "one", &["-v", "named:/x", "app:1"]);
    create(&capsid, "two", &["child:1"]);
    call(
        &capsid,
        &[
            "run", "-d", "--name", "three", "-p", "80", "busybox", "sh", "-c", SERVICE,
        ],
    )
    .succeeds();
    let id = capsid.field("one", ".Image");
    let port = lines(&capsid, &["port", "three", "80"])[0].clone();
    let publish = format!("publish={}", port.rsplit(':').next().unwrap());
    let ancestor = format!("ancestor={}", &id.trim().trim_start_matches("sha256:")[..12]);
    for (filters, expected) in [
        (&["before=two"][..], &["one"][..]),
        (&["since=one"], &["three", "two"]),
        (&["since=one", "before=three"], &["two"]),
        (&["ancestor=app:1"], &["two", "one"]),
        (&[&ancestor], &["two", "one"]),
        (&["ancestor=docker.io/library/child:1"], &["two"]),
        (&["ancestor=busybox", "ancestor=child:1"], &["three", "two"]),
        (&["ancestor=nothing"], &[]),
        (&["volume=named"], &["one"]),
        (&["volume=/data", "name=tw"], &["two"]),
        (&["health=none"], &["three"]),
        (&["health=starting"], &["two", "one"]),
        (&[&publish], &["three"]),
        (&["expose=79-80/tcp"], &["three"]),
        (&["publish=1"], &[]),
        (&["status=created", "status=running"], &["three", "two", "one"]),
        (&["is-task=true"], &[]),
    ] {
        let flags: Vec<&str> = filters.iter().flat_map(|filter| ["--filter", filter]).collect();
        assert_eq!(names(&capsid, &flags), expected, "{filters:?}");
    }
    call(&capsid, &["ps", "--filter", "before=nothing"])
        .exits(1)
        .complains("nothing");
    // Values that scripts compare are not followed by more.
    let status = lines(&capsid, &["ps", "--format", "{{.Status}}"]);
    assert!(status[0].starts_with("Up ") && !status[0].contains('('), "{status:?}");
    let accelerator = lines(&capsid, &["ps", "--format", "{{.Accelerator}} {{.Mounts}}", "-a"]);
    let of_kind = |mounts: &str| format!("{} {mounts}", capsid_tests::environment::accelerator());
    assert_eq!(accelerator[0], of_kind("").as_str());
    assert!(accelerator[2].contains("named"), "{accelerator:?}");
    let header = lines(&capsid, &["ps", "-n", "1"]).remove(0);
    assert!(header.contains(" STATUS ") && header.contains(" ACCEL "), "{header}");
    let images = |filter: &str| lines(&capsid, &["images", "--filter", filter, "--format", "{{.Repository}}"]);
    assert_eq!(images("reference=c*:1"), ["child"]);
    assert_eq!(images("dangling=true"), Vec::<String>::new());
    assert_eq!(images("label!=vendor"), ["busybox"]);
    assert!(images("since=app:1").iter().all(|name| name == "busybox"));
    // docker's negative numbers: all lines, and no SIGKILL.
    assert_eq!(lines(&capsid, &["logs", "--tail", "-1", "three"]), ["1", "2"]);
    call(&capsid, &["stop", "-t", "-1", "three"]).succeeds();
    assert_eq!(capsid.field("three", ".State.ExitCode"), "7");
}

/// Script that prints two lines, and ends by itself when it is asked to.
const SERVICE: &str = "trap 'exit 7' TERM; echo 1; echo 2; while :; do sleep 0.1; done";
