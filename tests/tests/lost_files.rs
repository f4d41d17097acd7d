//! Files of Capsid's own directories that are lost, damaged or replaced: nothing else is. No machine is started here.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use capsid_tests::snapshot::{assert_same, tree};
use capsid_tests::{Capsid, Outcome};

/// User id of somebody else.
const OTHER: u32 = 54_321;
const PRECIOUS: &str = "precious";
/// Files that come and go by themselves: caches, and SQLite's files beside a database.
const CACHES: [&str; 6] = [
    "reserve",
    "events.json",
    "events.json.1",
    "kvm-verdict.json",
    "-shm",
    "-wal",
];

fn call(capsid: &Capsid, words: &[&str]) -> Outcome {
    capsid.call(words).wait()
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Way to spoil a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Empty,
    Truncated,
    Random,
    Link,
    DanglingLink,
    Directory,
    Owner,
    Mode,
    Gone,
}

const FAULTS: [Fault; 9] = [
    Fault::Empty,
    Fault::Truncated,
    Fault::Random,
    Fault::Link,
    Fault::DanglingLink,
    Fault::Directory,
    Fault::Owner,
    Fault::Mode,
    Fault::Gone,
];

/// Spoiled file, which can be made whole again.
struct Spoiled {
    path: PathBuf,
    /// Original: a file that was put aside, or the owner and mode of the file itself.
    kept: Kept,
    target: PathBuf,
}

enum Kept {
    Aside(PathBuf),
    InPlace(fs::Metadata),
}

impl Spoiled {
    fn new(path: &Path, fault: Fault, aside: &Path) -> Self {
        let (kept, target) = (aside.join("kept"), aside.join("target"));
        fs::write(&target, PRECIOUS).unwrap();
        let metadata = fs::symlink_metadata(path).unwrap();
        let path = path.to_owned();
        match fault {
            Fault::Owner => chown(&path, Some(OTHER), Some(OTHER)).unwrap(),
            Fault::Mode => fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap(),
            _ => {
                fs::rename(&path, &kept).unwrap();
                replace(&path, fault, &kept, aside);
                let kept = Kept::Aside(kept);
                return Self { path, kept, target };
            }
        }
        let kept = Kept::InPlace(metadata);
        Self { path, kept, target }
    }

    /// Puts the file back. Requires that the targets of links are unchanged.
    #[track_caller]
    fn restore(self) {
        let path = &self.path;
        assert_eq!(
            fs::read_to_string(&self.target).unwrap(),
            PRECIOUS,
            "{}",
            path.display()
        );
        let nowhere = self.target.with_file_name("nowhere");
        assert!(!nowhere.exists(), "{} was made", nowhere.display());
        match self.kept {
            Kept::InPlace(metadata) => {
                chown(path, Some(metadata.uid()), Some(metadata.gid())).unwrap();
                fs::set_permissions(path, metadata.permissions()).unwrap();
            }
            Kept::Aside(kept) => {
                match fs::symlink_metadata(path) {
                    Ok(found) if found.is_dir() => fs::remove_dir_all(path).unwrap(),
                    Ok(_) => fs::remove_file(path).unwrap(),
                    Err(_) => {}
                }
                fs::rename(kept, path).unwrap();
            }
        }
    }
}

/// Puts something in the place of a file that was put aside.
fn replace(path: &Path, fault: Fault, kept: &Path, aside: &Path) {
    match fault {
        Fault::Empty => fs::write(path, "").unwrap(),
        Fault::Truncated => {
            // Disks are mostly holes: the part beyond the first MiB stays one.
            let length = fs::metadata(kept).unwrap().len() / 2;
            let mut bytes = Vec::new();
            if let Ok(file) = fs::File::open(kept) {
                let _ = file.take(length.min(1 << 20)).read_to_end(&mut bytes);
            }
            fs::write(path, bytes).unwrap();
            fs::OpenOptions::new()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(length)
                .unwrap();
        }
        Fault::Random => fs::write(path, [0xa5; 4096]).unwrap(),
        Fault::Link => symlink(aside.join("target"), path).unwrap(),
        Fault::DanglingLink => symlink(aside.join("nowhere"), path).unwrap(),
        Fault::Directory => fs::create_dir(path).unwrap(),
        Fault::Gone | Fault::Owner | Fault::Mode => {}
    }
}

/// Possible effect of a spoiled file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needed {
    /// Every command that uses the file fails and names it.
    Always,
    /// Every command that uses the file fails and names it, but a missing one is made again from the databases.
    Marker,
    /// Commands that need the file's content fail and name it; the others work as if nothing had happened.
    Sometimes,
}

/// File of either directory, and the commands that use it.
struct Victim {
    path: PathBuf,
    needed: Needed,
    commands: Vec<Vec<&'static str>>,
}

const PS: [&str; 4] = ["ps", "-a", "--format", "{{.Names}}"];
const IMAGES: [&str; 2] = ["images", "-q"];
const VOLUMES: [&str; 3] = ["volume", "ls", "-q"];

/// Creates an installation with an image, a container and two volumes. Nothing runs.
fn with_everything() -> Capsid {
    let capsid = Capsid::with_busybox();
    call(&capsid, &["create", "--name", "box", "-v", "notes:/notes", "busybox"]).succeeds();
    call(&capsid, &["volume", "create", "other"]).succeeds();
    capsid
}

fn first_in(folder: PathBuf) -> PathBuf {
    let mut names: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    names.swap_remove(0)
}

fn victims(capsid: &Capsid) -> Vec<Victim> {
    let (data, run) = (capsid.folder("data"), capsid.folder("run"));
    let victim = |path: PathBuf, needed, commands: &[&[&'static str]]| Victim {
        path,
        needed,
        commands: commands.iter().map(|words| words.to_vec()).collect(),
    };
    let run_it: &[&str] = &["run", "--rm", "busybox"];
    let mut all = vec![
        victim(data.join("containers.db"), Needed::Always, &[&PS, &VOLUMES, run_it]),
        victim(data.join("state.db"), Needed::Always, &[&IMAGES, run_it]),
        victim(
            data.join("capsid-directory.json"),
            Needed::Marker,
            &[&PS, &IMAGES, &VOLUMES],
        ),
        victim(
            run.join("capsid-directory.json"),
            Needed::Marker,
            &[&PS, &IMAGES, &VOLUMES],
        ),
    ];
    let layer = first_in(data.join("layers"));
    let container = first_in(data.join("containers"));
    let of_state = [
        data.join("reserve"),
        data.join("events.json"),
        data.join("volumes.lock"),
        data.join("scratch.lock"),
        data.join("scratch-journal-v1.ext4"),
        data.join("volume-v1.ext4"),
        container.join("scratch.ext4"),
        container,
        data.join("containers"),
        data.join("volumes/notes/disk.ext4"),
        data.join("volumes/notes"),
        data.join("volumes"),
        first_in(run.join("pods")).join("lock"),
        first_in(run.join("pods")),
        run.join("pods"),
    ];
    let of_images = [
        first_in(data.join("blobs")),
        first_in(data.join("rootfs")),
        first_in(data.join("locks")),
        layer.join("data"),
        layer.join("index"),
        layer,
    ];
    let folders = ["blobs", "layers", "rootfs", "locks", "tmp"].map(|name| data.join(name));
    for path in of_state {
        all.push(victim(path, Needed::Sometimes, &[&PS, &VOLUMES]));
    }
    for path in of_images.into_iter().chain(folders) {
        all.push(victim(path, Needed::Sometimes, &[&IMAGES]));
    }
    all
}

#[test]
fn a_file_that_is_lost_or_replaced_costs_nothing_else() {
    let capsid = with_everything();
    let aside = tempfile::tempdir_in(capsid.folder("home")).unwrap();
    let is_whole = |words: &[&str]| match words[0] {
        "ps" => "box".to_owned(),
        "volume" => "notes\nother".to_owned(),
        _ => call(&capsid, &IMAGES).succeeds().text(),
    };
    let expected: BTreeMap<Vec<&str>, String> = [&PS[..], &IMAGES, &VOLUMES]
        .map(|words| (words.to_vec(), is_whole(words)))
        .into();
    let all = victims(&capsid);
    assert!(all.len() > 20, "the layout has changed: {}", all.len());
    for victim in &all {
        for fault in FAULTS {
            // Only root can give a file away, and only others are kept out by a mode.
            if fault == Fault::Owner && !is_root() {
                continue;
            }
            let spoiled = Spoiled::new(&victim.path, fault, aside.path());
            let before = rest(&capsid, &victim.path);
            for words in &victim.commands {
                if fault == Fault::Mode && words[0] == "run" {
                    // A container would run for root.
                    continue;
                }
                assert_loses_nothing(&capsid, victim, fault, words, expected.get(words));
            }
            assert_same(
                &rest(&capsid, &victim.path),
                &before,
                &format!("{} {fault:?}", victim.path.display()),
            );
            spoiled.restore();
        }
    }
    for (words, whole) in &expected {
        assert_eq!(call(&capsid, words).succeeds().text(), *whole);
    }
}

/// Describes all files of both directories but the spoiled one, anything below it, and caches.
fn rest(capsid: &Capsid, spoiled: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = tree(&capsid.folder("data"));
    found.extend(tree(&capsid.folder("run")));
    let is_cache = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        CACHES.iter().any(|cache| name.ends_with(cache))
    };
    // Databases are compared by what the commands list; the folder's own mode is Capsid's.
    found.retain(|path, _| !path.starts_with(spoiled) && !is_cache(path) && path.extension().is_none_or(|e| e != "db"));
    found
}

#[track_caller]
fn assert_loses_nothing(capsid: &Capsid, victim: &Victim, fault: Fault, words: &[&str], whole: Option<&String>) {
    let outcome = call(capsid, words);
    let what = format!("{} {fault:?}\n{outcome}", victim.path.display());
    let name = victim.path.file_name().unwrap().to_str().unwrap();
    let harmless = match victim.needed {
        // Root may read everything.
        Needed::Always => fault == Fault::Mode && is_root(),
        Needed::Marker => fault == Fault::Gone || (fault == Fault::Mode && is_root()),
        Needed::Sometimes => outcome.code() == 0,
    };
    if harmless {
        assert_eq!(outcome.code(), 0, "{what}");
        if let Some(whole) = whole {
            assert_eq!(outcome.text(), *whole, "{what}");
        }
        return;
    }
    let code = if words[0] == "run" { 125 } else { 1 };
    assert_eq!(outcome.code(), code, "{what}");
    assert!(outcome.stderr.contains(name), "not named: {what}");
    assert_eq!(outcome.complaints().len(), 1, "{what}");
}

/// Test that the lock and the disks that verbs open themselves are never reached by a link.
#[test]
fn verbs_name_what_is_in_the_place_of_their_files() {
    let capsid = with_everything();
    let aside = tempfile::tempdir_in(capsid.folder("home")).unwrap();
    let pod = first_in(capsid.folder("run/pods"));
    let data = capsid.folder("data");
    let cases: [(PathBuf, &[&str]); 5] = [
        (data.join("volumes.lock"), &["volume", "create", "third"]),
        (data.join("volume-v1.ext4"), &["volume", "create", "third"]),
        (
            data.join("scratch-journal-v1.ext4"),
            &["create", "--name", "second", "busybox"],
        ),
        (pod.join("lock"), &["rm", "box"]),
        (pod, &["rm", "box"]),
    ];
    for (path, words) in cases {
        for fault in [Fault::Link, Fault::DanglingLink] {
            let spoiled = Spoiled::new(&path, fault, aside.path());
            let name = path.file_name().unwrap().to_str().unwrap();
            let outcome = call(&capsid, words);
            assert_ne!(outcome.code(), 0, "{fault:?}\n{outcome}");
            outcome.complains(name).complains_in_one_line();
            spoiled.restore();
        }
    }
    call(&capsid, &PS).succeeds().prints("box\n");
    call(&capsid, &VOLUMES).succeeds().prints("notes\nother\n");
    // SQLite's files beside a database are checked before SQLite opens it.
    for (end, make) in [("-wal", true), ("-shm", false), ("-journal", true)] {
        let side = data.join(format!("containers.db{end}"));
        let target = aside.path().join("target");
        if make {
            symlink(&target, &side).unwrap();
        } else {
            fs::create_dir(&side).unwrap();
        }
        call(&capsid, &PS).exits(1).complains(&format!("containers.db{end}"));
        if make {
            fs::remove_file(&side).unwrap();
        } else {
            fs::remove_dir(&side).unwrap();
        }
    }
    call(&capsid, &PS).succeeds().prints("box\n");
}

#[test]
fn lost_databases_are_begun_anew_and_volumes_stay() {
    let capsid = with_everything();
    let data = capsid.folder("data");
    let disk = data.join("volumes/notes/disk.ext4");
    let identity = fs::metadata(&disk).unwrap().ino();
    let container = first_in(data.join("containers"));
    fs::write(data.join("containers.db"), "").unwrap();
    call(&capsid, &PS)
        .exits(1)
        .complains("containers.db is empty")
        .complains("capsid system recover")
        .complains_in_one_line();
    let words = call(&capsid, &["system", "recover"]).succeeds().text();
    assert!(
        words.contains("Kept: volume notes") && words.contains("Begun anew"),
        "{words}"
    );
    call(&capsid, &VOLUMES).succeeds().prints("notes\nother\n");
    call(&capsid, &PS).succeeds().prints("");
    assert_eq!(fs::metadata(&disk).unwrap().ino(), identity);
    assert!(!call(&capsid, &IMAGES).succeeds().text().is_empty());
    let moved = |name: &str| {
        let places = fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path());
        let mut places = places.filter(|path| path.display().to_string().contains("/recovered-"));
        places.any(|place| place.join(name).exists())
    };
    let name = container.file_name().unwrap().to_str().unwrap();
    assert!(moved(&format!("containers/{name}/scratch.ext4")));
    // The images' database, and the markers.
    fs::write(data.join("state.db"), [0x5a; 9000]).unwrap();
    fs::write(data.join("capsid-directory.json"), "{").unwrap();
    fs::write(capsid.folder("run/capsid-directory.json"), "").unwrap();
    call(&capsid, &IMAGES).exits(1);
    call(&capsid, &["system", "recover"]).succeeds();
    call(&capsid, &IMAGES).succeeds().prints("");
    call(&capsid, &VOLUMES).succeeds().prints("notes\nother\n");
    assert!(moved("layers") && moved("state.db"));
    // A second time there is nothing to do.
    let before = tree(&data).len();
    call(&capsid, &["system", "recover"]).succeeds();
    assert_eq!(tree(&data).len(), before);
}
