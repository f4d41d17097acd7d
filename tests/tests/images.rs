//! Images: from real registries and archives, the same bytes every time, the same tree that other tools unpack.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use capsid_image::{Converter, Store};
use capsid_tests::image::{Compression, sha256_hex};
use capsid_tests::tree::{assert_same, describe};
use capsid_tests::{Capsid, ImageBuilder, Invocation, Layer, Outcome, Registry, TestImage};
use tempfile::TempDir;

fn docker_archive(image: TestImage) -> String {
    format!("docker-archive:{}", image.docker_archive().display())
}

/// Makes an OCI layout of a test image with skopeo, not with the code that made the archive.
fn oci_layout(image: TestImage, folder: &Path) -> PathBuf {
    let path = folder.join("layout");
    let target = format!("oci:{}:latest", path.display());
    Invocation::new(
        "skopeo",
        ["--insecure-policy", "copy", "--quiet", &docker_archive(image), &target],
    )
    .within(300)
    .wait()
    .succeeds();
    path
}

#[test]
fn an_image_is_pulled_over_tls_with_a_password() {
    let (capsid, registry) = (Capsid::empty(), Registry::start());
    registry.push(&docker_archive(TestImage::Busybox), "team/busybox:1");
    registry.introduce(&capsid);
    let name = registry.reference("team/busybox:1");
    capsid.call(["pull", &name]).wait().succeeds();
    capsid
        .run(["--pull", "never", &name, "echo", "pulled"])
        .succeeds()
        .prints("pulled\n");
}

#[test]
fn run_pulls_what_is_missing() {
    let (capsid, registry) = (Capsid::empty(), Registry::start());
    registry.push(&docker_archive(TestImage::Busybox), "busybox:latest");
    registry.introduce(&capsid);
    let name = registry.reference("busybox");
    capsid.run([&name, "echo", "pulled"]).succeeds().prints("pulled\n");
    capsid
        .run(["--pull", "never", "other", "true"])
        .exits(125)
        .complains("other");
}

#[test]
fn a_pull_by_digest_gets_that_digest() {
    let (capsid, registry) = (Capsid::empty(), Registry::start());
    let folder = tempfile::tempdir().unwrap();
    let layout = ImageBuilder::new()
        .layer(Layer::new().file("a", "a").finish())
        .write_oci_layout(folder.path(), "x:1");
    registry.push(&format!("oci:{}:x:1", folder.path().display()), "x:1");
    registry.introduce(&capsid);
    let name = format!("{}@{}", registry.reference("x"), layout.manifest_digest);
    capsid.call(["pull", &name]).wait().succeeds();
    let inspected = capsid.call(["image", "inspect", &name]).wait().succeeds().text();
    assert!(inspected.contains(&layout.manifest_digest), "{inspected}");
}

#[test]
fn a_registrys_wrong_password_is_one_clear_line() {
    let (capsid, registry) = (Capsid::empty(), Registry::start());
    registry.push(&docker_archive(TestImage::Busybox), "busybox:latest");
    registry.introduce_with(&capsid, "wrong");
    capsid
        .call(["pull", &registry.reference("busybox")])
        .wait()
        .exits(1)
        .complains_in_one_line();
}

#[test]
fn layers_of_every_compression_are_read() {
    let capsid = Capsid::with_busybox();
    for (name, compression) in [
        ("plain", Compression::None),
        ("gzip", Compression::Gzip),
        ("zstd", Compression::Zstd),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let image = TestImage::Busybox
            .build()
            .layer_as(Layer::new().file("hello", name).finish(), compression);
        image.write_oci_layout(folder.path(), &format!("{name}:1"));
        capsid.load(folder.path()).succeeds();
        capsid
            .run([&format!("{name}:1"), "cat", "/hello"])
            .succeeds()
            .prints(name);
    }
}

#[test]
fn every_form_of_an_image_loads() {
    let folder = tempfile::tempdir().unwrap();
    let layout = folder.path().join("layout");
    TestImage::Busybox.build().write_oci_layout(&layout, "busybox:latest");
    let archive = folder.path().join("oci.tar");
    Invocation::new(
        "tar",
        ["-C", layout.to_str().unwrap(), "-cf", archive.to_str().unwrap(), "."],
    )
    .wait()
    .succeeds();
    for path in [layout, archive, TestImage::Busybox.docker_archive()] {
        let capsid = Capsid::empty();
        capsid.load(&path).succeeds();
        capsid.run(["busybox", "echo", "loaded"]).succeeds().prints("loaded\n");
    }
}

/// Test of docker's archives since version 25: an OCI layout with its own `manifest.json` beside it, and the tags in
/// that alone.
#[test]
fn an_archive_of_both_kinds_loads() {
    let folder = tempfile::tempdir().unwrap();
    let layout = TestImage::Busybox.build().write_oci_layout(folder.path(), "only-a-tag");
    let path = |digest: &serde_json::Value| format!("blobs/{}", digest.as_str().unwrap().replace(':', "/"));
    let manifest = serde_json::json!([{
        "Config": path(&layout.manifest["config"]["digest"]),
        "RepoTags": ["both:1", "again:2"],
        "Layers": [path(&layout.manifest["layers"][0]["digest"])],
    }]);
    fs::write(folder.path().join("manifest.json"), manifest.to_string()).unwrap();
    let archive = folder.path().join("both.tar");
    let words = ["-C", folder.path().to_str().unwrap(), "-cf", archive.to_str().unwrap()];
    let members = ["oci-layout", "index.json", "manifest.json", "blobs"];
    Invocation::new("tar", words.into_iter().chain(members))
        .wait()
        .succeeds();
    let capsid = Capsid::empty();
    let loaded = capsid.load(&archive).succeeds().text();
    for name in ["both:1", "again:2"] {
        assert!(loaded.contains(name), "{loaded}");
        capsid.run([name, "echo", "loaded"]).succeeds().prints("loaded\n");
    }
}

/// Requires the registry's own digest for the name: `pull` and the lists show it, and it pins the image.
#[track_caller]
fn assert_known_by(capsid: &Capsid, name: &str, digest: &str) {
    let pulled = capsid.call(["pull", name]).wait().succeeds();
    pulled.complains(&format!("Digest: {digest}"));
    let listed = capsid.call(["images", "--digests"]).wait().succeeds().text();
    assert!(listed.contains(digest), "{listed}");
    assert_eq!(listed.lines().count(), 2, "a header and one name: {listed}");
    let repository = name.rsplit_once(':').unwrap().0;
    let pinned = format!("{repository}@{digest}");
    let inspected = capsid.call(["image", "inspect", &pinned]).wait().succeeds().json();
    assert_eq!(inspected[0]["RepoDigests"], serde_json::json!([pinned]));
}

#[test]
fn an_index_in_a_registry_leads_to_the_image_for_a_platform() {
    let (capsid, registry) = (Capsid::empty(), Registry::start());
    let folder = tempfile::tempdir().unwrap();
    let arm = ImageBuilder::new()
        .layer(Layer::new().file("for", "arm64").finish())
        .architecture("arm64")
        .write_oci_layout(&folder.path().join("arm"), "unused:1");
    let layout = folder.path().join("both");
    let both = TestImage::Busybox
        .build()
        .write_oci_layout(&layout, "unused:1")
        .join("amd64", &arm, "arm64", "both:1");
    registry.push(&format!("oci:{}:both:1", layout.display()), "both:1");
    registry.introduce(&capsid);
    let name = registry.reference("both:1");
    capsid.run([&name, "echo", "ours"]).succeeds().prints("ours\n");
    assert_known_by(&capsid, &name, &both.manifest_digest);
    let architecture = || {
        let inspected = capsid.call(["image", "inspect", &name]).wait().succeeds().json();
        inspected[0]["Architecture"].as_str().unwrap().to_owned()
    };
    assert_eq!(architecture(), "amd64");
    capsid
        .call(["pull", "--platform", "linux/arm64", &name])
        .wait()
        .succeeds();
    assert_eq!(architecture(), "arm64");
    let refusal = capsid
        .call(["pull", "--platform", "linux/s390x", &name])
        .wait()
        .exits(1);
    refusal.complains("s390x").complains("amd64").complains_in_one_line();
    assert_eq!(architecture(), "arm64");
}

#[test]
fn a_load_from_stdin_works() {
    let capsid = Capsid::empty();
    let bytes = fs::read(TestImage::Busybox.docker_archive()).unwrap();
    capsid.call(["load"]).input(bytes).wait().succeeds();
    capsid.run(["busybox", "true"]).succeeds();
}

#[test]
fn a_load_tells_the_names_of_its_archive() {
    let capsid = Capsid::with_busybox();
    let path = capsid.folder("tmp").join("image.tar");
    TestImage::Busybox.build().write_docker_archive(&path, "other:1");
    capsid.load(&path).succeeds().prints("Loaded image: other:1\n");
    // A layout's tag alone names no repository.
    let layout = capsid.folder("tmp").join("layout");
    TestImage::Busybox.build().write_oci_layout(&layout, "tag");
    let index = layout.join("index.json");
    let named = fs::read_to_string(&index).unwrap();
    fs::write(
        &index,
        named.replace("io.containerd.image.name", "some.other.annotation"),
    )
    .unwrap();
    let reported = capsid.load(&layout).succeeds().text();
    assert!(
        reported.starts_with("Loaded image ID: sha256:") && reported.lines().count() == 1,
        "{reported}"
    );
    TestImage::Busybox.build().write_docker_archive(&path, "Bug:t");
    let refused = capsid.load(&path).exits(1).complains_in_one_line();
    refused.complains("Bug:t").complains("must be lowercase");
}

#[test]
fn images_are_listed_inspected_and_removed() {
    let capsid = Capsid::with_busybox();
    assert!(capsid.call(["images"]).wait().succeeds().text().contains("busybox"));
    let listed = capsid.call(["images", "--json"]).wait().succeeds().text();
    assert!(listed.contains("busybox"), "{listed}");
    let inspected = capsid.call(["image", "inspect", "busybox"]).wait().succeeds().json();
    assert!(inspected.is_array() || inspected.is_object());
    capsid.call(["rmi", "busybox"]).wait().succeeds();
    assert_ne!(capsid.call(["image", "inspect", "busybox"]).wait().code(), 0);
    // All but the room held back for a full disk.
    let left: u64 = capsid
        .files()
        .iter()
        .filter(|path| !path.ends_with("reserve"))
        .filter_map(|path| fs::metadata(path).ok())
        .filter(fs::Metadata::is_file)
        .map(|m| m.len())
        .sum();
    assert!(
        left < 1 << 20,
        "{left} bytes are left of a removed image: {:?}",
        capsid.files()
    );
}

#[test]
fn forty_layers_are_one_tree() {
    let capsid = Capsid::with(&[TestImage::FortyLayers]);
    let script = "cat /stack/last; ls /stack | sort | tr '\\n' ' '";
    let shown = capsid.run(["layers", "sh", "-c", script]).succeeds().text();
    // Each layer removed the additions of the one two below it: of 0 to 38 only the last two files are left.
    let folders: Vec<String> = (0..39).map(|index| format!("folder{index}")).collect();
    let mut names: Vec<String> = folders
        .into_iter()
        .chain(["37", "38", "last"].map(str::to_owned))
        .collect();
    names.sort();
    assert_eq!(shown.trim(), format!("38\n{}", names.join(" ")));
    // Opaque: the folder is there, its content in lower layers is not.
    capsid.run(["layers", "ls", "/stack/folder9"]).succeeds().prints("");
    capsid
        .run(["layers", "ls", "/stack/folder8"])
        .succeeds()
        .prints("inside\n");
}

/// Returns the parts of the read-only disk that the guest gets: metadata first, then every blob.
fn rootfs_parts(capsid: &Capsid, name: &str, folder: &Path) -> Vec<PathBuf> {
    let converter = Converter {
        program: capsid_tests::environment::part("capsid"),
        arguments: vec![capsid_image::CONVERTER_COMMAND.into()],
    };
    let store = Store::open(&capsid.folder("data"), converter).unwrap();
    let image = store.find(name).unwrap().expect("a loaded image");
    let rootfs = store.rootfs(&image).unwrap();
    let write = |(index, mut part): (usize, File)| {
        let path = folder.join(format!("part{index}"));
        io::copy(&mut part, &mut File::create(&path).unwrap()).unwrap();
        path
    };
    let parts = std::iter::once(rootfs.metadata).chain(rootfs.data);
    parts.enumerate().map(write).collect()
}

/// Runs `fsck.erofs` on a disk; it takes the parts one by one.
fn fsck(parts: &[PathBuf], flags: &[&str]) -> Outcome {
    let (metadata, blobs) = parts.split_first().unwrap();
    let devices = blobs.iter().map(|path| format!("--device={}", path.display()));
    let words = devices
        .chain(flags.iter().map(|flag| (*flag).to_owned()))
        .chain([metadata.display().to_string()]);
    Invocation::new("fsck.erofs", words).within(300).wait()
}

#[test]
fn the_same_layers_give_the_same_bytes_twice() {
    let folder = tempfile::tempdir().unwrap();
    let digests = || -> Vec<String> {
        let image = TestImage::FortyLayers;
        let capsid = Capsid::with(&[image]);
        let parts = rootfs_parts(&capsid, image.name(), folder.path());
        parts.iter().map(|path| sha256_hex(&fs::read(path).unwrap())).collect()
    };
    assert_eq!(digests(), digests());
}

/// Unpacks our rootfs with erofs-utils and the same image with umoci: two foreign tools must agree.
#[track_caller]
fn assert_content_equals_umocis(image: TestImage) {
    let folder = TempDir::new().unwrap();
    let capsid = Capsid::with(&[image]);
    let parts = rootfs_parts(&capsid, image.name(), folder.path());
    fsck(&parts, &[]).succeeds();
    let ours = folder.path().join("ours");
    fsck(&parts, &[&format!("--extract={}", ours.display()), "--preserve"]).succeeds();
    let layout = format!("{}:latest", oci_layout(image, folder.path()).display());
    let bundle = folder.path().join("bundle");
    Invocation::new("umoci", ["unpack", "--image", &layout, bundle.to_str().unwrap()])
        .within(600)
        .wait()
        .succeeds();
    assert_same(&comparable(&ours), &comparable(&bundle.join("rootfs")));
    // Attributes lost in extraction are checked inside the guest.
    let script = "find / -xdev -type f -perm -1000 -o -xdev -type f -perm -2000 -o -xdev -type f -perm -4000";
    let inside = capsid.run([image.name(), "sh", "-c", script]).succeeds().text();
    let mut inside: Vec<&str> = inside.lines().map(|path| path.trim_start_matches('/')).collect();
    inside.sort_unstable();
    assert_eq!(inside, files_with_special_modes(&bundle.join("rootfs")));
}

fn files_with_special_modes(root: &Path) -> Vec<String> {
    let is_special = |line: &str| line.starts_with("f ") && !line.starts_with("f 0");
    let special = describe(root).into_iter().filter(|(_, line)| is_special(line));
    let mut paths: Vec<String> = special.map(|(path, _)| path.display().to_string()).collect();
    paths.sort_unstable();
    paths
}

/// Describes a tree without what the tools lose. Debian's fsck.erofs changes owners after modes, which removes
/// set-user-id bits, restores no extended attributes and makes no second name for an inode: those are compared inside
/// the guest. umoci makes the root folder itself, with a mode of its own.
fn comparable(root: &Path) -> std::collections::BTreeMap<PathBuf, String> {
    let mut tree = describe(root);
    tree.remove(Path::new(""));
    for line in tree.values_mut() {
        let kept: Vec<&str> = line
            .split(' ')
            .filter(|word| !word.starts_with("same-as=") && !is_attribute(word))
            .collect();
        *line = kept.join(" ");
        if line.starts_with("f ") {
            line.replace_range(2..3, "0");
        }
    }
    tree
}

fn is_attribute(word: &str) -> bool {
    ["user.", "security.", "trusted.", "system."]
        .iter()
        .any(|prefix| word.starts_with(prefix))
}

#[test]
fn debian_is_what_umoci_unpacks() {
    assert_content_equals_umocis(TestImage::DebianPython);
}

#[test]
fn a_hundred_thousand_files_are_what_umoci_unpacks() {
    assert_content_equals_umocis(TestImage::ManyFiles);
}

#[test]
fn forty_layers_are_what_umoci_unpacks() {
    assert_content_equals_umocis(TestImage::FortyLayers);
}

#[test]
fn attributes_and_links_survive() {
    use capsid_tests::layer::Entry;
    let capsid = Capsid::empty();
    // VFS_CAP_REVISION_2 with CAP_NET_RAW (13), effective: what `setcap cap_net_raw+ep` writes.
    let capability = [[1, 0, 0, 2], [0, 0x20, 0, 0], [0; 4], [0; 4], [0; 4]].concat();
    let xattrs: [(&str, &[u8]); 2] = [("security.capability", &capability), ("user.note", b"kept")];
    let layer = Layer::new()
        .entry(&Entry {
            name: "bin/capable",
            mode: 0o4755,
            uid: 7,
            gid: 8,
            xattrs: &xattrs,
            content: b"x",
            ..Entry::default()
        })
        .hardlink("bin/second-name", "bin/capable")
        .symlink("bin/third-name", "capable")
        .entry(&Entry {
            name: "node",
            kind: tar::EntryType::Char,
            device: (1, 3),
            mode: 0o620,
            ..Entry::default()
        })
        .entry(&Entry {
            name: "pipe",
            kind: tar::EntryType::Fifo,
            mode: 0o600,
            ..Entry::default()
        })
        .finish();
    let archive = capsid.folder("tmp").join("image.tar");
    TestImage::DebianPython
        .build()
        .layer(layer)
        .write_docker_archive(&archive, "odd:latest");
    capsid.load(&archive).succeeds();
    let script = "import os\n\
        s = os.stat('/bin/capable')\n\
        print(oct(s.st_mode), s.st_uid, s.st_gid, s.st_nlink, int(s.st_mtime))\n\
        print(os.getxattr('/bin/capable', 'security.capability').hex(), os.getxattr('/bin/capable', 'user.note'))\n\
        print(os.stat('/bin/second-name').st_ino == s.st_ino, os.readlink('/bin/third-name'))\n\
        n = os.stat('/node')\n\
        print(oct(n.st_mode), os.major(n.st_rdev), os.minor(n.st_rdev), oct(os.stat('/pipe').st_mode))";
    let expected = format!(
        "0o104755 7 8 2 1700000000\n{} b'kept'\nTrue capable\n0o20620 1 3 0o10600\n",
        capability.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    );
    capsid.run(["odd", "python3", "-c", script]).succeeds().prints(expected);
}

#[test]
fn layers_are_shared_between_images() {
    let capsid = Capsid::with(&[TestImage::Busybox, TestImage::Probe]);
    let sizes = |prefix: &str| {
        let files = capsid.files().into_iter().filter(|path| path.contains(prefix));
        files
            .filter_map(|path| fs::metadata(path).ok())
            .filter(fs::Metadata::is_file)
            .map(|metadata| metadata.len())
            .sum::<u64>()
    };
    let busybox = fs::metadata("/bin/busybox").unwrap().len();
    let probe = fs::metadata(capsid_tests::environment::part("capsid-probe"))
        .unwrap()
        .len();
    // Once as fetched at most, once as converted, and some metadata: a second copy of busybox would not fit.
    assert!(
        sizes("/data/") < 2 * (busybox + probe) + busybox,
        "{:?}",
        capsid.files()
    );
}
