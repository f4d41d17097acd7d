//! Images made to exhaust their readers, or to be another than they seem: bounded memory and time, nothing left behind.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use capsid_tests::{Capsid, ImageBuilder, Layer};
use serde_json::json;

const NAME: &str = "bad:1";

fn tree(layer: Layer) -> ImageBuilder {
    ImageBuilder::new().layer(layer.finish())
}

fn harmless() -> Layer {
    Layer::new().folder("bin/").file("bin/file", "x")
}

#[test]
fn a_descriptor_with_the_wrong_size() {
    for (part, by) in [("config", 1), ("config", -1), ("layer", 1), ("layer", -1)] {
        let lie = |size: &mut serde_json::Value| *size = json!(size.as_i64().unwrap() + by);
        let refusal = Capsid::refuses_layout(NAME, |folder| {
            let mut layout = tree(harmless()).write_oci_layout(folder, NAME);
            lie(match part {
                "config" => &mut layout.manifest["config"]["size"],
                _ => &mut layout.manifest["layers"][0]["size"],
            });
            drop(layout.seal(NAME));
        });
        refusal.complains("wrong size");
    }
}

/// Starts a registry that serves the blobs of a layout, and its manifest at every tag.
fn serve(folder: &Path, manifest: &serde_json::Value) -> capsid_tests::server::Server {
    let (blobs, manifest) = (folder.join("blobs/sha256"), manifest.to_string());
    capsid_tests::server::Server::start(move |mut stream, _| {
        let Some(head) = capsid_tests::http::Head::read(&mut stream)? else {
            return Ok(());
        };
        let body = match head.target().rsplit_once("/sha256:") {
            Some((_, digest)) => fs::read(blobs.join(digest))?,
            None => manifest.clone().into_bytes(),
        };
        capsid_tests::http::answer(&mut stream, "200 OK", &body)
    })
}

#[test]
fn a_descriptor_with_the_wrong_size_in_the_registry() {
    let capsid = Capsid::with_busybox();
    let before = capsid.files();
    // A layer that is shorter than announced looks like a broken connection, and is tried again.
    for (part, by) in [("config", 1), ("config", -1), ("layer", -1)] {
        let folder = tempfile::tempdir().unwrap();
        let mut manifest = tree(harmless()).write_oci_layout(folder.path(), NAME).manifest;
        let size = match part {
            "config" => &mut manifest["config"]["size"],
            _ => &mut manifest["layers"][0]["size"],
        };
        *size = json!(size.as_i64().unwrap() + by);
        let server = serve(folder.path(), &manifest);
        let reference = format!("127.0.0.1:{}/{NAME}", server.port());
        let refused = capsid.call(["pull", "-q", &reference]).within(120).wait();
        refused.exits(1).complains_in_one_line();
        assert_eq!(capsid.files(), before, "{part} {by}");
    }
}

/// Returns the peak memory of the call itself in bytes, and its exit status.
fn peak_memory(capsid: &Capsid, arguments: &[&str]) -> (u64, std::process::ExitStatus) {
    let mut child = capsid.call(arguments).spawn_with(|command| {
        command.stdin(Stdio::null()).stdout(Stdio::null());
    });
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) << 10);
        if let Some(status) = child.try_wait().unwrap() {
            return (peak, status);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Writes a `docker save` archive that lists images of one layer, by the names of their configs.
fn write_archive_listing(path: &Path, configs: &[String], config: &str, layer: &[u8]) {
    let entries: Vec<_> = configs
        .iter()
        .enumerate()
        .map(|(index, name)| json!({"Config": name, "RepoTags": [format!("often:{index}")], "Layers": ["layer.tar"]}))
        .collect();
    let archive = Layer::new()
        .file("manifest.json", json!(entries).to_string())
        .file("config.json", config)
        .file("layer.tar", layer);
    fs::write(path, archive.finish()).unwrap();
}

#[test]
fn one_config_listed_300_times() {
    let capsid = Capsid::empty();
    let path = capsid.folder("home/often.tar");
    let layer = harmless().finish();
    let config = json!({
        "architecture": "amd64", "os": "linux", "comment": "x".repeat(3_900_000), "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", capsid_tests::image::sha256_hex(&layer))]},
    });
    let load = ["load", "-q", "-i", path.to_str().unwrap()];
    write_archive_listing(&path, &vec!["config.json".into(); 300], &config.to_string(), &layer);
    let (peak, status) = peak_memory(&capsid, &load);
    assert!(status.success() && peak < 256 << 20, "{status}, {} MiB", peak >> 20);
    // A blob with another spelling each time is read each time, up to a limit.
    let spelled: Vec<String> = (0..300)
        .map(|count| format!("{}config.json", "./".repeat(count)))
        .collect();
    write_archive_listing(&path, &spelled, &config.to_string(), &layer);
    let (peak, status) = peak_memory(&capsid, &load);
    assert!(
        status.code() == Some(1) && peak < 256 << 20,
        "{status}, {} MiB",
        peak >> 20
    );
    // So many values in 4 MiB would take a hundred times that.
    let many = format!("\",\"y\":[{}0],\"z\":\"", "{\"\":0},".repeat(450_000));
    let values = config.to_string().replace(&"x".repeat(3_900_000), &many);
    write_archive_listing(&path, &["config.json".into()], &values, &layer);
    let (peak, status) = peak_memory(&capsid, &load);
    assert!(
        status.code() == Some(1) && peak < 256 << 20,
        "{status}, {} MiB",
        peak >> 20
    );
}

/// Test with ranges of ports, each of which would be 65 535 ports if it were expanded.
#[test]
fn exposed_ports_that_are_ranges() {
    let capsid = Capsid::empty();
    let folder = tempfile::tempdir().unwrap();
    let ranges =
        |count: usize| serde_json::Value::from_iter((1..=count).map(|first| (format!("{first}-65535/tcp"), json!({}))));
    let image = |count| tree(harmless()).config("ExposedPorts", ranges(count));
    image(4000).write_oci_layout(folder.path(), NAME);
    capsid.load(folder.path()).succeeds();
    let created = capsid.call(["create", NAME, "true"]).wait().succeeds();
    assert!(created.took < Duration::from_secs(20), "{created}");
    let refused = capsid
        .call(["create", "-P", NAME, "true"])
        .wait()
        .exits(125)
        .complains("at most 1024");
    assert!(refused.took < Duration::from_secs(20), "{refused}");
    Capsid::refuses_layout(NAME, |folder| drop(image(5000).write_oci_layout(folder, NAME)))
        .complains("more than 4096 entries");
}

#[test]
fn a_changed_byte_of_a_layer() {
    let capsid = Capsid::with_busybox();
    let layers = capsid.folder("data/layers");
    let layer = fs::read_dir(&layers).unwrap().next().unwrap().unwrap().path();
    let data = layer.join("data");
    let mut bytes = fs::read(&data).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&data, bytes).unwrap();
    let create = || capsid.call(["create", "busybox", "true"]).wait();
    create()
        .exits(125)
        .complains("layer sha256:")
        .complains("capsid pull")
        .complains_in_one_line();
    capsid.call(["system", "verify"]).wait().exits(1).complains("damaged");
    capsid
        .load(&capsid_tests::TestImage::Busybox.docker_archive())
        .succeeds();
    capsid.call(["system", "verify"]).wait().succeeds();
    create().succeeds();
}
