//! Random stacks of layers, unpacked by Capsid and by umoci: two independent programs must agree on links, whiteouts
//! and clashes.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::Command;

use capsid_image::Digest;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::json;

use crate::fixture::{Fixture, Tar, docker_archive};

/// Number of stacks that are compared; each costs some processes.
const CASES: u32 = 60;

/// Entry of a random layer.
#[derive(Debug, Clone)]
enum Piece {
    Directory(String),
    File(String),
    Symlink(String, &'static str),
    Link(String, String),
    Whiteout(String),
    Opaque(String),
}

fn piece() -> impl Strategy<Value = Piece> {
    let targets = vec!["a", "b", "/b", "../a", "/a/b", "nowhere/x"];
    prop_oneof![
        4 => directory().prop_map(Piece::Directory),
        4 => file().prop_map(Piece::File),
        4 => ("([ab]/)?l", proptest::sample::select(targets)).prop_map(|(at, target)| Piece::Symlink(at, target)),
        1 => (file(), file()).prop_map(|(at, target)| Piece::Link(at, target)),
        1 => directory().prop_map(Piece::Whiteout),
        1 => file().prop_map(Piece::Whiteout),
        2 => directory().prop_map(Piece::Opaque),
    ]
}

/// Random paths of directories, where `l` is also a link to one (to no other link: no circles). Few and short, so that
/// entries meet: most stacks have a link, something at its target, and a layer that changes both.
fn directory() -> impl Strategy<Value = String> {
    prop_oneof![2 => "[abl]", 2 => "[abl]/[abl]", 1 => "[ab]/[abl]/[ab]"]
}

/// Random paths of files, never where another entry needs a directory.
fn file() -> impl Strategy<Value = String> {
    prop_oneof![1 => "[fg]", 3 => "[abl]/[fg]", 3 => "[ab]/[abl]/[fg]"]
}

/// Builds a layer without two entries for one path, as every tool writes it.
fn layer(pieces: &[Piece], number: usize) -> Vec<u8> {
    let mut tar = Tar::new();
    let mut seen = BTreeSet::new();
    for piece in pieces {
        if let Piece::Directory(path) | Piece::File(path) | Piece::Symlink(path, _) | Piece::Link(path, _) = piece
            && !seen.insert(path)
        {
            continue;
        }
        match piece {
            Piece::Directory(path) => tar.directory(&format!("{path}/")),
            Piece::File(path) => tar.file(path, format!("{number} {path}").as_bytes()),
            Piece::Symlink(path, target) => tar.symlink(path, target),
            Piece::Link(path, target) => tar.link(path, target),
            Piece::Whiteout(path) => {
                let name = path.rfind('/').map_or(0, |slash| slash + 1);
                tar.file(&format!("{}.wh.{}", &path[..name], &path[name..]), b"")
            }
            Piece::Opaque(path) => tar.file(&format!("{path}/.wh..wh..opq"), b""),
        };
    }
    tar.finish()
}

/// Writes an OCI layout with one image, `x`.
fn write_layout(at: &Path, layers: &[Vec<u8>]) {
    let blobs = at.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |media_type: &str, bytes: &[u8]| {
        let digest = Digest::of(bytes);
        let name = digest.to_string().trim_start_matches("sha256:").to_owned();
        std::fs::write(blobs.join(name), bytes).unwrap();
        json!({ "mediaType": format!("application/vnd.oci.image.{media_type}"), "digest": digest, "size": bytes.len() })
    };
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {}, "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = put("config.v1+json", config.to_string().as_bytes());
    let layers: Vec<_> = layers.iter().map(|layer| put("layer.v1.tar", layer)).collect();
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
    let mut manifest = put("manifest.v1+json", manifest.to_string().as_bytes());
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "x" });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    std::fs::write(at.join("index.json"), index.to_string()).unwrap();
    std::fs::write(at.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// Every path below `root`, with its type and content.
fn contents(root: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let at = entry.unwrap().path();
            let kind = std::fs::symlink_metadata(&at).unwrap().file_type();
            let content = if kind.is_dir() {
                pending.push(at.clone());
                "directory".to_owned()
            } else if kind.is_symlink() {
                format!("link to {}", std::fs::read_link(&at).unwrap().display())
            } else {
                assert!(!kind.is_fifo());
                std::fs::read_to_string(&at).unwrap()
            };
            all.insert(at.strip_prefix(root).unwrap().display().to_string(), content);
        }
    }
    all
}

/// Unpacks one stack with both programs and returns both results, if both accept it.
fn unpack(layers: &[Vec<u8>]) -> Option<(BTreeMap<String, String>, BTreeMap<String, String>)> {
    let fixture = Fixture::new();
    let image = fixture.load_bytes(docker_archive(layers)).ok()?.remove(0);
    let ours = contents(&fixture.extract_image(&image));
    let (layout, root) = (fixture.path("layout"), fixture.path("root"));
    write_layout(&layout, layers);
    let mut command = Command::new("umoci");
    command.args(["raw", "unpack"]);
    if !is_root() {
        command.arg("--rootless");
    }
    command.arg("--image").arg(format!("{}:x", layout.display())).arg(&root);
    let unpacked = command.output().expect("umoci starts");
    unpacked.status.success().then(|| (ours, contents(&root)))
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0)
}

pub(crate) fn random_layers_are_what_umoci_unpacks() {
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let compared = std::cell::Cell::new(0);
    let stacks = vec(vec(piece(), 3..9), 2..4);
    let result = runner.run(&stacks, |stack| {
        let layers: Vec<Vec<u8>> = stack
            .iter()
            .enumerate()
            .map(|(number, pieces)| layer(pieces, number))
            .collect();
        if let Some((ours, umocis)) = unpack(&layers) {
            compared.set(compared.get() + 1);
            prop_assert_eq!(ours, umocis);
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    assert!(
        compared.get() > CASES / 3,
        "only {} stacks were taken by both",
        compared.get()
    );
    println!("{} stacks compared", compared.get());
}
