//! Test cases: the promises of the store.

use std::os::unix::fs::MetadataExt;

use capsid_image::{Digest, Removed};

use crate::fixture::{Disk, Fixture, Tar, docker_archive, docker_archive_for, filter, open, run};

pub(crate) const ALL: &[(&str, fn())] = &[
    ("a_small_image_has_its_files", a_small_image_has_its_files),
    (
        "the_same_layers_give_the_same_bytes",
        the_same_layers_give_the_same_bytes,
    ),
    (
        "compressed_layers_and_archives_load",
        compressed_layers_and_archives_load,
    ),
    ("hostile_layers_are_refused_by_name", hostile_layers_are_refused_by_name),
    (
        "hostile_archives_are_refused_by_name",
        hostile_archives_are_refused_by_name,
    ),
    (
        "a_full_disk_is_told_and_leaves_nothing",
        a_full_disk_is_told_and_leaves_nothing,
    ),
    ("names_come_and_go", names_come_and_go),
    (
        "an_image_listed_often_is_loaded_once",
        an_image_listed_often_is_loaded_once,
    ),
    ("sparse_files_cost_what_they_hold", sparse_files_cost_what_they_hold),
    ("a_damaged_layer_is_never_served", a_damaged_layer_is_never_served),
    ("a_damaged_rootfs_is_made_anew", a_damaged_rootfs_is_made_anew),
    ("two_processes_convert_a_layer_once", two_processes_convert_a_layer_once),
    ("odd_names_and_nodes_survive", odd_names_and_nodes_survive),
    ("real_images_equal_gnu_tar", real_images_equal_gnu_tar),
    (
        "random_layers_are_what_umoci_unpacks",
        crate::umoci::random_layers_are_what_umoci_unpacks,
    ),
    (
        "a_registry_gives_images_to_whom_it_should",
        crate::registry::a_registry_gives_images_to_whom_it_should,
    ),
];

fn a_small_image_has_its_files() {
    let fixture = Fixture::new();
    let lower = Tar::new()
        .directory("etc/")
        .file("etc/a", b"one")
        .file("etc/b", b"two")
        .file("etc/c", b"3")
        .finish();
    let upper = Tar::new()
        .file("etc/.wh.a", b"")
        .file("etc/b", &[7; 10_000])
        .symlink("l", "etc/b")
        .link("h", "etc/c")
        .finish();
    let out = fixture.extract(&[lower, upper]);
    assert!(!out.join("etc/a").exists());
    assert_eq!(std::fs::read(out.join("l")).unwrap(), [7; 10_000]);
    assert_eq!(std::fs::metadata(out.join("h")).unwrap().len(), 1);
    assert_eq!(std::fs::metadata(out.join("etc/b")).unwrap().mtime(), 1_600_000_000);
}

fn the_same_layers_give_the_same_bytes() {
    let layers = || {
        [
            Tar::new().file("a/b/c", b"hello").symlink("x", "y").finish(),
            Tar::new().file("d", b"d").finish(),
        ]
    };
    let digest = |fixture: &Fixture| {
        let image = fixture.load_bytes(docker_archive(&layers())).unwrap().remove(0);
        Disk::write(&fixture.store.rootfs(&image).unwrap(), fixture.directory.path()).digest()
    };
    assert_eq!(digest(&Fixture::new()), digest(&Fixture::new()));
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

fn compressed_layers_and_archives_load() {
    let tar = Tar::new().file("a", b"hello").finish();
    let layers = [
        tar.clone(),
        gzip(&tar),
        zstd::encode_all(&tar[..], 1).unwrap(),
        filter(&["bzip2", "-c"], &tar),
        filter(&["xz", "-c"], &tar),
    ];
    for layer in layers {
        for pack in [
            |bytes: Vec<u8>| bytes,
            |bytes: Vec<u8>| gzip(&bytes),
            |b: Vec<u8>| zstd::encode_all(&b[..], 1).unwrap(),
            |b: Vec<u8>| filter(&["bzip2", "-c"], &b),
            |b: Vec<u8>| filter(&["xz", "-c"], &b),
        ] {
            let fixture = Fixture::new();
            let image = fixture
                .load_bytes(pack(docker_archive(std::slice::from_ref(&layer))))
                .unwrap()
                .remove(0);
            assert_eq!(
                std::fs::read(fixture.extract_image(&image).join("a")).unwrap(),
                b"hello"
            );
        }
    }
}

fn hostile_layers_are_refused_by_name() {
    let fixture = Fixture::new();
    let whole = Tar::new().file("a", &[1; 100_000]).finish();
    let cases: &[(&str, Vec<u8>)] = &[
        ("leaves the image's root", Tar::new().file("../evil", b"x").finish()),
        (
            "leaves the image's root",
            Tar::new().file("a/../../evil", b"x").finish(),
        ),
        (
            "leaves the image's root",
            Tar::new().link("l", "../../etc/passwd").finish(),
        ),
        ("does not exist", Tar::new().link("l", "/etc/passwd").finish()),
        (
            "hard link to the directory",
            Tar::new().directory("d").link("l", "d").finish(),
        ),
        ("lies below a file", Tar::new().file("f", b"").file("f/x", b"").finish()),
        ("replaces the root", Tar::new().file("./", b"x").finish()),
        ("not a valid whiteout", Tar::new().file(".wh...", b"").finish()),
        ("not a valid whiteout", Tar::new().file("d/.wh.", b"").finish()),
        (
            "symbolic links",
            Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", b"").finish(),
        ),
        ("unsupported type", Tar::new().entry(b'V', "label", "", 0, b"").finish()),
        (
            "extended attributes",
            Tar::new()
                .pax("SCHILY.xattr.user.x", &[7; 70_000])
                .file("f", b"")
                .finish(),
        ),
        ("not a valid tar archive", b"this is no tar".repeat(100)),
        ("truncated in entry \"a\"", whole[..50_000].to_vec()),
        ("not a valid tar archive", gzip(&whole)[..200].to_vec()),
        (
            "decompression bomb",
            zstd::encode_all(std::io::Read::take(std::io::repeat(0), 300 << 20), 1).unwrap(),
        ),
    ];
    for (message, layer) in cases {
        let reported = fixture.refusal(std::slice::from_ref(layer));
        assert!(reported.contains(message), "{message:?} is not in {reported:?}");
        let named = format!("cannot use layer {}", Digest::of(layer));
        assert!(reported.contains(&named), "{named:?} is not in {reported:?}");
    }
    // Of several, the one at fault; in a compressed one, the place in its tar.
    let below = Tar::new().file("f", b"").finish();
    let above = gzip(&Tar::new().file("f/x", b"").finish());
    let reported = fixture.refusal(&[below.clone(), above.clone()]);
    assert!(
        reported.contains(&format!("cannot use layer {}", Digest::of(&above))),
        "{reported:?}"
    );
    let mut broken = Tar::new().file("a", &[1; 1000]).file("b", b"x").finish();
    broken[512 + 1024] = b'?';
    let reported = fixture.refusal(&[below, broken]);
    assert!(reported.contains("at byte 2048 of the tar"), "{reported:?}");
    let good = Tar::new().file("/abs", b"x").finish();
    assert!(fixture.extract(&[good]).join("abs").exists());
}

fn hostile_archives_are_refused_by_name() {
    let fixture = Fixture::new();
    let layer = Tar::new().file("a", b"x").finish();
    let replace = |from: &str, to: &str| {
        let archive = String::from_utf8(docker_archive(std::slice::from_ref(&layer))).unwrap();
        assert_eq!(from.len(), to.len());
        archive.replace(from, to).into_bytes()
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("not an image archive", Tar::new().file("x", b"").finish()),
        ("cannot read the archive", vec![b'x'; 2000]),
        (
            "duplicate key",
            Tar::new()
                .file("manifest.json", b"[{\"Config\":\"a\",\"Config\":\"b\"}]")
                .finish(),
        ),
        ("holds no image", Tar::new().file("manifest.json", b"[]").finish()),
        ("no layers", docker_archive(&[])),
        (
            "lacks",
            replace("\"Config\":\"config.json\"", "\"Config\":\"../../confi\""),
        ),
        (
            "no image for platform linux/amd64; available: linux/arm64",
            docker_archive_for(std::slice::from_ref(&layer), "arm64"),
        ),
    ];
    for (message, archive) in cases {
        let reported = crate::fixture::chain(&fixture.load_bytes(archive).expect_err(message));
        assert!(reported.contains(message), "{message:?} is not in {reported:?}");
        fixture.assert_empty();
    }
}

/// Tests a full disk, only as root: a small tmpfs in a mount namespace needs privileges; a file size limit needs none,
/// but kills.
fn a_full_disk_is_told_and_leaves_nothing() {
    let fixture = Fixture::new();
    let small = fixture.path("small");
    std::fs::create_dir(&small).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m", "none"])
        .arg(&small)
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("skipped: a tmpfs cannot be mounted here");
        return;
    }
    let noise: Vec<u8> = (0..8 << 20)
        .map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let archive = fixture.path("big.tar");
    std::fs::write(&archive, docker_archive(&[Tar::new().file("big", &noise).finish()])).unwrap();
    let store = open(&small);
    let error = capsid_image::load(&store, capsid_image::LoadSource::Path(archive), &()).unwrap_err();
    let left = std::fs::read_dir(small.join("tmp")).unwrap().count();
    drop(store);
    run(std::process::Command::new("umount").arg(&small));
    assert!(error.to_string().contains("no space left for"), "{error}");
    assert_eq!(left, 0);
}

fn names_come_and_go() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let shared = Tar::new().file("a", b"shared").finish();
    let image = fixture
        .load_bytes(docker_archive(std::slice::from_ref(&shared)))
        .unwrap()
        .remove(0);
    store.tag("test", &"other:1".parse().unwrap()).unwrap();
    assert_eq!(store.find(&image.id.short()).unwrap().unwrap().references.len(), 2);
    assert!(store.remove(&image.id.short(), false).is_err());
    let untagged = store.remove("test:latest", false).unwrap();
    assert_eq!(untagged, [Removed::Untagged("test".parse().unwrap())]);
    assert!(store.find("test").unwrap().is_none());
    let rootfs = store.rootfs(&image).unwrap();
    assert_eq!(store.remove("other:1", false).unwrap().len(), 3);
    assert!(rootfs.metadata.metadata().unwrap().len() >= 4096);
    fixture.assert_empty();
    assert!(store.rootfs(&image).is_err());
}

/// Archive whose `manifest.json` lists the image of [`docker_archive`] under other names, with its config and layer.
fn archive_listing(entries: &[serde_json::Value], config_padding: usize, layer: &[u8]) -> Vec<u8> {
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "comment": "x".repeat(config_padding), "config": { "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(layer)] },
    });
    let manifest = serde_json::Value::from(entries.to_vec()).to_string();
    Tar::new()
        .file("manifest.json", manifest.as_bytes())
        .file("config.json", config.to_string().as_bytes())
        .symlink("alias.tar", "layer.tar")
        .file("layer.tar", layer)
        .finish()
}

fn an_image_listed_often_is_loaded_once() {
    let fixture = Fixture::new();
    let layer = Tar::new().file("a", b"x").finish();
    let entry = |config: String, name: usize| serde_json::json!({ "Config": config, "RepoTags": [format!("test:{name}")], "Layers": ["layer.tar"] });
    let same: Vec<_> = (0..300).map(|name| entry("config.json".into(), name)).collect();
    let images = fixture.load_bytes(archive_listing(&same, 3 << 20, &layer)).unwrap();
    assert_eq!((images.len(), images[0].references.len()), (1, 300));
    // Another spelling for each: then everything read for them counts.
    let spelled: Vec<_> = (0..300)
        .map(|name| entry(format!("{}config.json", "./".repeat(name)), name))
        .collect();
    let error = fixture
        .load_bytes(archive_listing(&spelled, 3 << 20, &layer))
        .unwrap_err();
    assert!(error.to_string().contains("MiB of manifests"), "{error}");
    let linked = serde_json::json!({ "Config": "config.json", "RepoTags": ["linked:1"], "Layers": ["alias.tar"] });
    assert_eq!(
        fixture.load_bytes(archive_listing(&[linked], 0, &layer)).unwrap().len(),
        1
    );
}

/// Sparse file in GNU tar's old format: `content` at `offset`, in a file of `size` bytes.
fn sparse(name: &str, offset: u64, content: &[u8], size: u64) -> Vec<u8> {
    let mut tar = Tar::new().entry(b'S', name, "", 0o644, content).finish();
    let number = |value: u64| {
        let mut field = [0; 12];
        field[4..].copy_from_slice(&value.to_be_bytes());
        field[0] = 0x80;
        field
    };
    tar[386..398].copy_from_slice(&number(offset));
    tar[398..410].copy_from_slice(&number(content.len() as u64));
    tar[483..495].copy_from_slice(&number(size));
    tar[148..156].fill(b' ');
    let sum: u32 = tar[..512].iter().map(|&byte| u32::from(byte)).sum();
    tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar
}

fn sparse_files_cost_what_they_hold() {
    let fixture = Fixture::new();
    let start = std::time::Instant::now();
    for size in [(10 << 30) + 1, (1 << 63) - 1] {
        let reported = fixture.refusal(&[sparse("bomb", 0, b"x", size)]);
        assert!(reported.contains("expands beyond the limit"), "{reported}");
    }
    let image = fixture
        .load_bytes(docker_archive(&[sparse("file", 9 << 30, b"x", (9 << 30) + 5)]))
        .unwrap()
        .remove(0);
    let rootfs = fixture.store.rootfs(&image).unwrap();
    let data = rootfs.data[0].metadata().unwrap();
    assert_eq!(data.len(), (9 << 30) + 4096);
    assert!(data.blocks() * 512 < 4 << 20, "{} blocks", data.blocks());
    // A sparse member of the archive itself would be longer than its stored bytes.
    let mut archive = sparse("manifest.json", 0, b"[]", (1 << 63) - 1);
    archive.truncate(1024);
    let reported = crate::fixture::chain(&fixture.load_bytes(archive).unwrap_err());
    assert!(reported.contains("wrong size"), "{reported}");
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

/// Changes one byte in the middle of a file; of its metadata, only the times change.
fn flip_a_byte(path: &std::path::Path) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let (middle, mut byte) = (file.metadata().unwrap().len() / 2, [0]);
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
}

/// Path of the only entry in a directory of the store.
fn only(fixture: &Fixture, directory: &str) -> std::path::PathBuf {
    let mut entries = std::fs::read_dir(fixture.store.root().join(directory)).unwrap();
    let path = entries.next().unwrap().unwrap().path();
    assert!(entries.next().is_none());
    path
}

fn a_damaged_layer_is_never_served() {
    let fixture = Fixture::new();
    let archive = docker_archive(&[Tar::new().file("a", &[7; 100_000]).finish()]);
    let load = || fixture.load_bytes(archive.clone()).unwrap().remove(0);
    let image = load();
    assert_eq!(fixture.store.verify().unwrap(), []);
    let assert_refused = || {
        let error = fixture.store.rootfs(&image).unwrap_err().to_string();
        assert!(
            error.contains("layer sha256:") && error.contains("capsid pull"),
            "{error}"
        );
        let damage = fixture.store.verify().unwrap();
        let is_layer = |part: &str| part.starts_with("layer sha256:");
        assert!(
            damage.iter().all(|damage| is_layer(&damage.part)) && !damage.is_empty(),
            "{damage:?}"
        );
        // A load or pull repairs it.
        load();
        fixture.store.rootfs(&image).unwrap();
        assert_eq!(fixture.store.verify().unwrap(), []);
    };
    for name in ["data", "index", "seal"] {
        std::fs::remove_file(only(&fixture, "layers").join(name)).unwrap();
        assert_refused();
    }
    for name in ["data", "index"] {
        flip_a_byte(&only(&fixture, "layers").join(name));
        assert_refused();
    }
    let seal = only(&fixture, "layers").join("seal");
    std::fs::write(&seal, "{}").unwrap();
    assert_refused();
    assert_eq!(std::fs::read_dir(fixture.store.root().join("tmp")).unwrap().count(), 0);
}

fn a_damaged_rootfs_is_made_anew() {
    let fixture = Fixture::new();
    let archive = docker_archive(&[Tar::new().file("a", b"hello").finish()]);
    let image = fixture.load_bytes(archive).unwrap().remove(0);
    let digest = || Disk::write(&fixture.store.rootfs(&image).unwrap(), fixture.directory.path()).digest();
    let before = digest();
    let path = only(&fixture, "rootfs").join("metadata");
    flip_a_byte(&path);
    assert_eq!(fixture.store.verify().unwrap().len(), 1);
    assert_eq!(digest(), before);
    assert_eq!(fixture.store.verify().unwrap(), []);
    // An earlier version has left a file of that name.
    let directory = only(&fixture, "rootfs");
    std::fs::remove_dir_all(&directory).unwrap();
    std::fs::write(&directory, "old").unwrap();
    assert_eq!(digest(), before);
}

fn two_processes_convert_a_layer_once() {
    let fixture = Fixture::new();
    let archive = docker_archive(&[Tar::new().file("a", &[3; 3_000_000]).finish()]);
    let path = fixture.path("archive.tar");
    std::fs::write(&path, archive).unwrap();
    let loads: Vec<_> = (0..6)
        .map(|_| {
            let (root, path) = (fixture.store.root().to_owned(), path.clone());
            std::thread::spawn(move || {
                capsid_image::load(&open(&root), capsid_image::LoadSource::Path(path), &())
                    .unwrap()
                    .remove(0)
                    .image
                    .id
            })
        })
        .collect();
    let ids: Vec<_> = loads.into_iter().map(|load| load.join().unwrap()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(fixture.store.list().unwrap().len(), 1);
    assert_eq!(std::fs::read_dir(fixture.store.root().join("tmp")).unwrap().count(), 0);
}

fn odd_names_and_nodes_survive() {
    let fixture = Fixture::new();
    let mut tar = Tar::new();
    tar.entry(b'3', "null", "", 0o666, b"")
        .entry(b'6', "fifo", "", 0o600, b"")
        .entry(b'0', "suid", "", 0o4755, b"x");
    tar.pax("mtime", b"12.5")
        .directory("-early")
        .file("-early/!a", b"")
        .file("-early/~z", b"");
    for number in 0..500 {
        tar.file(
            &format!("many/file-with-a-rather-long-name-{number:05}"),
            &number.to_string().into_bytes(),
        );
    }
    tar.symlink("long", &"x/".repeat(50));
    let out = fixture.extract(&[tar.finish()]);
    let stat = |name: &str| std::fs::symlink_metadata(out.join(name)).unwrap();
    assert_eq!((stat("null").rdev(), stat("null").mode()), (0x103, 0o020_666));
    // The tool changes the owner last, which removes setuid bits: only permissions can be compared here.
    assert_eq!(
        (stat("fifo").mode(), stat("suid").mode() & 0o170_777),
        (0o010_600, 0o100_755)
    );
    assert_eq!(std::fs::read_dir(out.join("many")).unwrap().count(), 500);
    assert_eq!(std::fs::read_link(out.join("long")).unwrap().as_os_str().len(), 100);
    assert!(out.join("-early/!a").exists() && out.join("-early/~z").exists());
}

/// Compares the layouts named by `CAPSID_TEST_LAYOUTS` (folders, separated by `:`) with GNU tar's result.
fn real_images_equal_gnu_tar() {
    let Some(layouts) = std::env::var_os("CAPSID_TEST_LAYOUTS") else {
        println!("skipped: CAPSID_TEST_LAYOUTS names no OCI layouts");
        return;
    };
    for layout in std::env::split_paths(&layouts) {
        let fixture = Fixture::new();
        let start = std::time::Instant::now();
        let image = fixture.load_path(&layout).unwrap().remove(0);
        println!("{}: loaded in {:.2} s", layout.display(), start.elapsed().as_secs_f32());
        let rootfs = fixture.store.rootfs(&image).unwrap();
        let disk = Disk::write(&rootfs, fixture.directory.path());
        disk.check();
        let (ours, theirs) = (fixture.path("ours"), fixture.path("theirs"));
        std::fs::create_dir(&theirs).unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&fixture.store.manifest(&image).unwrap()).unwrap();
        for layer in manifest["layers"].as_array().unwrap() {
            let blob = layout
                .join("blobs")
                .join(layer["digest"].as_str().unwrap().replace(':', "/"));
            let mut tar = std::process::Command::new("tar");
            run(tar
                .args(["--xattrs", "--xattrs-include=*", "--same-owner", "-xpzf"])
                .arg(blob)
                .arg("-C")
                .arg(&theirs));
        }
        if let Some(mount) = disk.mount(&ours) {
            assert_same_trees(&ours, &theirs);
            drop(mount);
        } else {
            println!("no loop mount here: fsck.erofs extracts instead");
            disk.extract(&ours);
            assert_same_trees(&ours, &theirs);
        }
    }
}

fn assert_same_trees(ours: &std::path::Path, theirs: &std::path::Path) {
    // Every path with type, mode, owner, link count of files, size, time, target and attributes, then all contents.
    let list = |root: &std::path::Path| {
        let format = "%P|%y|%m|%U|%G|%T@|%l|";
        let files = run(std::process::Command::new("find").arg(root).args([
            "-mindepth",
            "1",
            "-printf",
            &format!("{format}\\n"),
        ]));
        let sizes = run(std::process::Command::new("find")
            .arg(root)
            .args(["-type", "f", "-printf", "%P|%n|%s\\n"]));
        // A directory without an entry has the time 1970 here, and today's with tar: the one intended difference.
        let implied = |line: &&str| !line.starts_with("data|d|");
        let mut lines: Vec<String> = files
            .lines()
            .chain(sizes.lines())
            .filter(implied)
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    };
    let (left, right) = (list(ours), list(theirs));
    let differing: Vec<_> = left
        .iter()
        .filter(|line| right.binary_search(line).is_err())
        .take(10)
        .collect();
    let missing: Vec<_> = right
        .iter()
        .filter(|line| left.binary_search(line).is_err())
        .take(10)
        .collect();
    println!("{} lines compared", left.len());
    assert!(
        differing.is_empty() && missing.is_empty(),
        "ours: {differing:#?}\ntheirs: {missing:#?}"
    );
    run(std::process::Command::new("diff")
        .args(["-r", "--no-dereference", "-x", "dev"])
        .arg(ours)
        .arg(theirs));
    let attributes = |root: &std::path::Path| {
        run(std::process::Command::new("sh")
            .arg("-c")
            .arg("cd \"$0\" && getfattr -R -h -d -m - . 2>/dev/null | sort || true")
            .arg(root))
    };
    assert_eq!(attributes(ours), attributes(theirs));
}
