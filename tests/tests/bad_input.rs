//! Bad input: one clear line, the right exit code (docker's: 125 from `run`, 1 from other verbs), nothing left behind.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use capsid_tests::image::{Compression, gzip};
use capsid_tests::layer::Entry;
use capsid_tests::requirement::skip;
use capsid_tests::{Capsid, ImageBuilder, Layer, Outcome, Registry};
use serde_json::json;
use tar::EntryType;

const NAME: &str = "bad:1";

fn tree(layer: Layer) -> ImageBuilder {
    ImageBuilder::new().layer(layer.finish())
}

fn harmless() -> Layer {
    Layer::new().folder("bin/").file("bin/file", "x")
}

#[track_caller]
fn assert_layer_refused(layer: Layer) -> Outcome {
    Capsid::refuses_layout(NAME, |folder| drop(tree(layer).write_oci_layout(folder, NAME)))
}

/// Requires that a layer does no harm: refused, or loaded with everything beneath the root.
#[track_caller]
fn assert_layer_harmless(layer: Layer, outside: &Path) {
    let capsid = Capsid::empty();
    let folder = tempfile::tempdir().unwrap();
    tree(layer).write_oci_layout(folder.path(), NAME);
    let outcome = capsid.load(folder.path());
    assert!([0, 1].contains(&outcome.code()), "{outcome}");
    assert!(!outside.exists(), "{} was written", outside.display());
}

/// Returns a path outside of every folder of the test, which nobody else makes.
fn outside() -> PathBuf {
    PathBuf::from(
        format!(
            "/tmp/capsid-escape-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        )
        .replace(['(', ')'], ""),
    )
}

#[test]
fn no_such_image() {
    let capsid = Capsid::with_busybox();
    let before = capsid.files();
    capsid
        .run(["--pull", "never", "nowhere", "true"])
        .exits(125)
        .complains("nowhere")
        .complains_in_one_line();
    assert_eq!(capsid.files(), before);
}

#[test]
fn no_such_registry() {
    let capsid = Capsid::with_busybox();
    let before = capsid.files();
    // Port 1 of this host: refused at once, and no name is looked up.
    capsid
        .run(["localhost:1/image", "true"])
        .exits(125)
        .complains("localhost:1")
        .complains_in_one_line();
    assert_eq!(capsid.files(), before);
}

#[test]
fn no_such_image_in_the_registry() {
    let (capsid, registry) = (Capsid::with_busybox(), Registry::start());
    registry.introduce(&capsid);
    let before = capsid.files();
    capsid
        .run([&registry.reference("missing:1"), "true"])
        .exits(125)
        .complains("missing")
        .complains_in_one_line();
    assert_eq!(capsid.files(), before);
}

#[test]
fn a_name_that_is_none() {
    let capsid = Capsid::with_busybox();
    for name in ["UPPER", "a//b", "x:", "x@sha256:123", "../x", "", "x y"] {
        capsid.run([name, "true"]).exits(125).complains_in_one_line();
    }
}

#[test]
fn a_wrong_digest_in_a_layout() {
    Capsid::refuses_layout(NAME, |folder| {
        let layout = tree(harmless()).write_oci_layout(folder, NAME);
        let blob = layout.layer_blob(0);
        let mut bytes = fs::read(&blob).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(blob, bytes).unwrap();
    });
}

#[test]
fn a_wrong_digest_from_a_registry() {
    let (capsid, registry) = (Capsid::with_busybox(), Registry::start());
    let folder = tempfile::tempdir().unwrap();
    let layout = tree(harmless()).write_oci_layout(folder.path(), "x:1");
    registry.push(&format!("oci:{}:x:1", folder.path().display()), "x:1");
    registry.introduce(&capsid);
    let blob = registry.blob(layout.manifest["layers"][0]["digest"].as_str().unwrap());
    let mut bytes = fs::read(&blob).unwrap();
    bytes[20] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let before = capsid.files();
    capsid
        .call(["pull", &registry.reference("x:1")])
        .wait()
        .exits(1)
        .complains("digest")
        .complains_in_one_line();
    assert_eq!(capsid.files(), before);
}

#[test]
fn a_layer_whose_content_is_not_its_diff_id() {
    Capsid::refuses_layout(NAME, |folder| {
        let other = gzip(&Layer::new().file("other", "y").finish());
        drop(
            tree(harmless())
                .write_oci_layout(folder, NAME)
                .replace_layer(0, &other, NAME),
        );
    });
}

#[test]
fn a_truncated_layer() {
    Capsid::refuses_layout(NAME, |folder| {
        let layout = tree(harmless()).write_oci_layout(folder, NAME);
        let whole = fs::read(layout.layer_blob(0)).unwrap();
        drop(layout.replace_layer(0, &whole[..whole.len() / 2], NAME));
    });
}

#[test]
fn a_layer_that_is_cut_short_in_the_registry() {
    let (capsid, registry) = (Capsid::with_busybox(), Registry::start());
    let folder = tempfile::tempdir().unwrap();
    let layout = tree(harmless()).write_oci_layout(folder.path(), "x:1");
    registry.push(&format!("oci:{}:x:1", folder.path().display()), "x:1");
    registry.introduce(&capsid);
    let blob = registry.blob(layout.manifest["layers"][0]["digest"].as_str().unwrap());
    let bytes = fs::read(&blob).unwrap();
    fs::write(&blob, &bytes[..bytes.len() / 2]).unwrap();
    let before = capsid.files();
    capsid
        .call(["pull", &registry.reference("x:1")])
        .wait()
        .exits(1)
        .complains_in_one_line();
    assert_eq!(capsid.files(), before);
}

#[test]
fn a_layer_that_is_not_a_tar() {
    Capsid::refuses_layout(NAME, |folder| {
        drop(
            ImageBuilder::new()
                .layer(vec![0x55; 4096])
                .write_oci_layout(folder, NAME),
        )
    });
}

#[test]
fn a_layer_whose_file_ends_early() {
    assert_layer_refused(Layer::new().liar("file", 1 << 20));
}

#[test]
fn a_layer_whose_file_claims_more_than_any_disk_holds() {
    assert_layer_refused(Layer::new().liar("file", u64::MAX / 4));
}

#[test]
fn names_that_leave_the_root() {
    let outside = outside();
    let absolute = outside.display().to_string();
    let climbing = format!("../../../../../../..{absolute}");
    let inner = format!("a/../../../../../../..{absolute}");
    for name in [&absolute, &climbing, &inner] {
        assert_layer_harmless(Layer::new().file(name, "x"), &outside);
    }
    assert_layer_refused(Layer::new().file("../escape", "x"));
}

#[test]
fn links_that_leave_the_root() {
    let outside = outside();
    let target = outside.display().to_string();
    let folder = Path::new(&target).parent().unwrap().display().to_string();
    let name = Path::new(&target).file_name().unwrap().to_str().unwrap();
    // A file written through a symbolic link that leads out.
    assert_layer_harmless(
        Layer::new().symlink("out", &folder).file(&format!("out/{name}"), "x"),
        &outside,
    );
    // A hard link to a file of the host, then its content replaced.
    assert_layer_harmless(
        Layer::new()
            .hardlink("host", "../../../../../../etc/hostname")
            .file("host", "x"),
        &outside,
    );
    assert_layer_refused(Layer::new().hardlink("host", "../../../../../../etc/hostname"));
    assert_layer_refused(Layer::new().hardlink("a", "b").hardlink("b", "a"));
}

#[test]
fn a_link_out_of_the_root_leads_to_the_containers_own_file() {
    let capsid = Capsid::empty();
    let folder = tempfile::tempdir().unwrap();
    let layer = Layer::new()
        .symlink("etc/hosts-link", "../../../../../../../etc/passwd")
        .finish();
    capsid_tests::TestImage::Busybox
        .build()
        .layer(layer)
        .write_oci_layout(folder.path(), NAME);
    capsid.load(folder.path()).succeeds();
    let shown = capsid.run([NAME, "cat", "/etc/hosts-link"]).succeeds().text();
    assert!(shown.starts_with("root:x:0:0:root:/root:/bin/sh"), "{shown}");
}

#[test]
fn a_whiteout_with_a_name_that_is_none() {
    assert_layer_refused(Layer::new().file(".wh...", ""));
    assert_layer_refused(Layer::new().file("a/.wh..", ""));
}

#[test]
fn a_component_that_is_too_long() {
    let name = format!("folder/{}", "n".repeat(256));
    assert_layer_refused(Layer::new().file(&name, "x"));
}

#[test]
fn a_path_that_is_too_long_or_too_deep() {
    assert_layer_refused(Layer::new().file(&"d/".repeat(2100), "x"));
}

#[test]
fn a_device_number_or_type_that_is_none() {
    let odd = Entry {
        name: "odd",
        kind: EntryType::new(b'Q'),
        ..Entry::default()
    };
    assert_layer_refused(Layer::new().entry(&odd));
}

/// Layer of 11 GiB of zeroes in some megabytes: stopped by the limit on a layer, long before the disk is full.
#[test]
fn a_bomb() {
    if capsid_tests::environment::in_lab() {
        return skip("a_bomb", "the lab's disk is memory");
    }
    let capsid = Capsid::with_busybox();
    let folder = tempfile::tempdir().unwrap();
    let layout = tree(harmless()).write_oci_layout(folder.path(), NAME);
    let bomb = zstd_bomb(11);
    assert!(bomb.len() < 4 << 20, "{} bytes", bomb.len());
    let mut layout = layout.replace_layer(0, &bomb, NAME);
    layout.manifest["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+zstd");
    drop(layout.seal(NAME));
    let before = capsid.files();
    let outcome = capsid
        .load(folder.path())
        .exits(1)
        .complains("limit")
        .complains_in_one_line();
    assert!(outcome.took < Duration::from_secs(60), "{outcome}");
    assert_eq!(capsid.files(), before);
}

/// Builds a tar of one file of zeroes. A zstd stream may have many frames, so one is made and then repeated.
fn zstd_bomb(gibibytes: u64) -> Vec<u8> {
    const FRAME_BYTES: u64 = 64 << 20;
    let bytes = gibibytes << 30;
    let mut header = tar::Header::new_ustar();
    header.set_path("zeroes").unwrap();
    header.set_size(bytes);
    header.set_mode(0o644);
    header.set_cksum();
    let frame = |content: &[u8]| zstd::encode_all(content, 1).unwrap();
    let zeroes = frame(&vec![0; FRAME_BYTES as usize]);
    let frames = (bytes / FRAME_BYTES) as usize;
    [frame(header.as_bytes()), zeroes.repeat(frames), frame(&[0; 1024])].concat()
}

#[test]
fn more_layers_than_the_limit() {
    Capsid::refuses_layout(NAME, |folder| {
        let image = (0..129).fold(ImageBuilder::new(), |image, index| {
            image.layer(Layer::new().file(&format!("f{index}"), "x").finish())
        });
        drop(image.write_oci_layout(folder, NAME));
    })
    .complains("layers");
}

#[test]
fn duplicate_keys_in_json() {
    Capsid::refuses_layout(NAME, |folder| {
        let layout = tree(harmless()).write_oci_layout(folder, NAME);
        let text = layout.manifest.to_string();
        // A reader that takes the last key and one that takes the first see two images.
        let twice = text.replacen("\"layers\":", "\"layers\":[],\"layers\":", 1);
        assert_ne!(text, twice);
        drop(layout.seal_bytes(twice.as_bytes(), NAME));
    });
}

#[test]
fn json_that_is_none() {
    for text in ["", "{", "[]", "null", "{\"schemaVersion\":1}", "\u{feff}{}"] {
        Capsid::refuses_layout(NAME, |folder| {
            drop(
                tree(harmless())
                    .write_oci_layout(folder, NAME)
                    .seal_bytes(text.as_bytes(), NAME),
            )
        });
    }
}

#[test]
fn json_that_is_too_deep_or_too_large() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    Capsid::refuses_layout(NAME, |folder| {
        drop(
            tree(harmless())
                .write_oci_layout(folder, NAME)
                .seal_bytes(deep.as_bytes(), NAME),
        )
    });
    let large = format!("{{\"x\":\"{}\"}}", "y".repeat(5 << 20));
    Capsid::refuses_layout(NAME, |folder| {
        drop(
            tree(harmless())
                .write_oci_layout(folder, NAME)
                .seal_bytes(large.as_bytes(), NAME),
        )
    });
}

#[test]
fn a_digest_that_is_a_path() {
    for digest in [
        "../../etc/passwd",
        "sha256:../../../etc/passwd",
        "sha256:ABC",
        "sha512:00",
        "sha256:",
    ] {
        Capsid::refuses_layout(NAME, |folder| {
            let mut layout = tree(harmless()).write_oci_layout(folder, NAME);
            layout.manifest["layers"][0]["digest"] = json!(digest);
            drop(layout.seal(NAME));
        });
    }
}

#[test]
fn an_image_for_another_architecture() {
    let refusal = Capsid::refuses_layout(NAME, |folder| {
        drop(tree(harmless()).architecture("arm64").write_oci_layout(folder, NAME))
    });
    refusal.complains("arm64");
}

#[test]
fn an_image_without_layers() {
    Capsid::refuses_layout(NAME, |folder| drop(ImageBuilder::new().write_oci_layout(folder, NAME))).complains("layer");
}

#[test]
fn more_diff_ids_than_layers() {
    Capsid::refuses_layout(NAME, |folder| {
        let image = ImageBuilder::new()
            .layer(harmless().finish())
            .layer_as(Layer::new().finish(), Compression::None);
        let mut layout = image.write_oci_layout(folder, NAME);
        layout.manifest["layers"].as_array_mut().unwrap().pop();
        drop(layout.seal(NAME));
    });
}

#[test]
fn a_file_that_is_no_image() {
    let capsid = Capsid::with_busybox();
    let before = capsid.files();
    capsid.load(Path::new("/bin/busybox")).exits(1).complains_in_one_line();
    capsid
        .load(Path::new("/no/such/file"))
        .exits(1)
        .complains("/no/such/file")
        .complains_in_one_line();
    capsid.call(["load"]).input("").wait().exits(1).complains_in_one_line();
    assert_eq!(capsid.files(), before);
}

#[test]
fn an_error_cannot_steer_the_terminal() {
    let capsid = Capsid::empty();
    let outcome = capsid
        .run(["--pull", "never", "x\u{1b}]0;owned\u{7}", "true"])
        .exits(125);
    assert!(!outcome.stderr.contains('\u{1b}'), "{:?}", outcome.stderr);
}

#[test]
fn a_kernel_that_is_none() {
    let capsid = Capsid::with_busybox();
    // The first run formats what all later ones copy.
    capsid.run(["busybox", "true"]).succeeds();
    let before = capsid.files();
    for kernel in ["/etc/passwd", "/no/such/kernel", "/bin/busybox", "/dev/null", "/tmp"] {
        let outcome = capsid
            .run(["--kernel", kernel, "busybox", "true"])
            .exits(125)
            .complains("kernel");
        let outcome = outcome.complains_in_one_line();
        assert!(outcome.took < Duration::from_secs(10), "{outcome}");
    }
    assert_eq!(capsid.files(), before);
}

#[test]
fn no_room_on_the_disk() {
    let capsid = Capsid::empty();
    let archive = capsid_tests::TestImage::Busybox.docker_archive();
    capsid.call(["images"]).wait().succeeds();
    let before = capsid.files();
    // A limit on the size of files stands for a full disk: it needs no mount. Busybox alone is larger than 1 MiB.
    let script = format!(
        "ulimit -f 1024; trap '' XFSZ; exec {} load -i {}",
        capsid_tests::environment::part("capsid").display(),
        archive.display()
    );
    let mut invocation = capsid_tests::Invocation::new("bash", ["-c", &script]);
    for (name, value) in capsid.environment() {
        invocation = invocation.env(name, value);
    }
    invocation.wait().exits(1).complains_in_one_line();
    assert_eq!(capsid.files(), before);
    // And with room again it works.
    capsid.load(&archive).succeeds();
}

#[test]
fn a_store_that_cannot_be_written() {
    let capsid = Capsid::empty();
    let file = capsid.folder("tmp").join("not-a-folder");
    fs::write(&file, "x").unwrap();
    let outcome = capsid.call(["images"]).env("CAPSID_DATA_DIR", file.join("data")).wait();
    outcome.exits(1).complains("not-a-folder").complains_in_one_line();
}

#[test]
fn no_permission_for_kvm() {
    const TEST: &str = "no_permission_for_kvm";
    if !nix::unistd::geteuid().is_root() {
        return skip(TEST, "only root can become somebody without permission");
    }
    let capsid = Capsid::empty();
    // `nobody` may use none of this host's devices of root's.
    let mode = fs::metadata("/dev/kvm").map(|metadata| metadata.permissions().mode() & 0o006);
    if mode.is_ok_and(|bits| bits != 0) {
        return skip(TEST, "everybody may use /dev/kvm here");
    }
    let everything = fs::Permissions::from_mode(0o777);
    for name in ["", "data", "run", "home", "tmp"] {
        fs::set_permissions(capsid.folder(name), everything.clone()).unwrap();
    }
    // Copies in a folder that `nobody` may enter, whatever the path to the build is like.
    let bin = capsid.folder("home/bin");
    fs::create_dir(&bin).unwrap();
    for name in ["capsid", "capsid-vmm", "capsid-agent", "vmlinux"] {
        fs::copy(capsid_tests::environment::part(name), bin.join(name)).unwrap();
    }
    let archive = bin.join("busybox.tar");
    fs::copy(capsid_tests::TestImage::Busybox.docker_archive(), &archive).unwrap();
    let call = |arguments: &[&str]| {
        let drop = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        let program = bin.join("capsid").display().to_string();
        let words = drop
            .iter()
            .map(|word| (*word).to_owned())
            .chain([program])
            .chain(arguments.iter().map(|word| (*word).to_owned()));
        let mut invocation = capsid_tests::Invocation::new("setpriv", words);
        for (name, value) in capsid.environment() {
            invocation = invocation.env(name, value);
        }
        invocation
            .env("CAPSID_DATA_DIR", capsid.folder("data/own"))
            .env("CAPSID_RUN_DIR", capsid.folder("run/own"))
            .wait()
    };
    call(&["load", "-i", archive.to_str().unwrap()]).succeeds();
    call(&["run", "--accel", "kvm", "busybox", "true"])
        .exits(125)
        .complains("/dev/kvm")
        .complains_in_one_line();
}
