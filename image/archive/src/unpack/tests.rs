use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::pack::Packer;
use crate::writer::TarWriter;

fn open(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
}

fn member(kind: u8, path: &str, link: &str, size: u64) -> Member {
    Member {
        path: path.into(),
        kind,
        link: link.into(),
        mode: 0o644,
        size,
        ..Member::default()
    }
}

fn archive(members: &[Member]) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    for member in members {
        tar.append(member, io::repeat(b'x')).unwrap();
    }
    tar.finish().unwrap()
}

/// Unpacks into the folder `to` of a temporary folder; the other files there are "outside".
fn unpack(dir: &Path, members: &[Member]) -> Result<Unpacked, UnpackError> {
    Unpacking::default().unpack(archive(members).as_slice(), open(&dir.join("to")))
}

fn unpacker(base: OwnedFd, folder_names_bytes: usize) -> Unpacker<'static> {
    static PLAIN: Unpacking = Unpacking {
        placing: Placing {
            strip: Vec::new(),
            name: None,
        },
        keep_owners: false,
        keep_privileges: false,
        make_devices: false,
    };
    Unpacker {
        base,
        how: &PLAIN,
        done: Unpacked::default(),
        folders: Vec::new(),
        folder_names_bytes,
        files: HashSet::new(),
        recent: None,
    }
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("to")).unwrap();
    std::fs::write(dir.path().join("secret"), "s").unwrap();
    dir
}

#[test]
fn nothing_is_written_outside() {
    let file = |path| member(b'0', path, "", 3);
    let escapes: [&[Member]; 7] = [
        &[file("../secret")],
        &[file("a/../../secret")],
        &[member(b'2', "l", "..", 0), file("l/secret")],
        &[
            member(b'2', "l", "../secret", 0),
            member(b'1', "h", "l", 0),
            file("h/x"),
        ],
        &[member(b'1', "h", "../secret", 0)],
        &[member(b'2', "l", "..", 0), member(b'5', "l", "", 0)],
        &[member(b'2', "l", "..", 0), member(b'1', "h", "l/secret", 0)],
    ];
    for members in escapes {
        let dir = folder();
        unpack(dir.path(), members).unwrap_err();
        assert_eq!(std::fs::read_to_string(dir.path().join("secret")).unwrap(), "s");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "{members:?}");
    }
}

#[test]
fn a_link_is_replaced_and_not_written_through() {
    let dir = folder();
    symlink("../secret", dir.path().join("to/file")).unwrap();
    unpack(dir.path(), &[member(b'0', "file", "", 3)]).unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join("secret")).unwrap(), "s");
    assert_eq!(std::fs::read_to_string(dir.path().join("to/file")).unwrap(), "xxx");
}

#[test]
fn links_are_to_files_of_the_archive() {
    let dir = folder();
    std::fs::write(dir.path().join("to/own"), "o").unwrap();
    assert!(matches!(
        unpack(dir.path(), &[member(b'1', "h", "own", 0)]),
        Err(UnpackError::Link { .. })
    ));
    unpack(dir.path(), &[member(b'0', "f", "", 2), member(b'1', "h", "f", 0)]).unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join("to/h")).unwrap(), "xx");
}

#[test]
fn privileges_and_devices_are_left_out() {
    let dir = folder();
    let members = [
        Member {
            mode: 0o6755,
            ..member(b'0', "suid", "", 1)
        },
        member(b'3', "null", "", 0),
        Member {
            mode: 0o2755,
            ..member(b'5', "group", "", 0)
        },
        Member {
            xattrs: vec![crate::reader::Xattr {
                name: CAPABILITIES.to_vec(),
                value: vec![1; 20],
            }],
            ..member(b'0', "capable", "", 1)
        },
        // A link is never executed, whatever its mode says.
        Member {
            mode: 0o6777,
            ..member(b'2', "link", "suid", 0)
        },
    ];
    let done = unpack(dir.path(), &members).unwrap();
    assert_eq!((done.devices_left_out, done.privileges_left_out), (1, 3));
    let mode = std::fs::metadata(dir.path().join("to/suid"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o755);
    assert!(!dir.path().join("to/null").exists());
    let group = std::fs::metadata(dir.path().join("to/group")).unwrap();
    assert_eq!(group.permissions().mode() & 0o7777, 0o755);
    let mut value = [0; 64];
    let capable = dir.path().join("to/capable");
    assert!(rustix::fs::getxattr(&capable, "security.capability", &mut value[..]).is_err());
}

#[test]
fn nothing_else_gets_what_was_meant_for_a_new_link_or_pipe() {
    let dir = folder();
    let to = open(&dir.path().join("to"));
    let unpacker = unpacker(to.try_clone().unwrap(), 0);
    // Somebody has replaced it: by a second name of a file, or by something of another kind.
    std::fs::hard_link(dir.path().join("secret"), dir.path().join("to/a")).unwrap();
    symlink("x", dir.path().join("to/b")).unwrap();
    std::fs::hard_link(dir.path().join("to/b"), dir.path().join("to/c")).unwrap();
    symlink("x", dir.path().join("to/d")).unwrap();
    let set = |kind, name: &str| unpacker.set_owner_and_times(&to, OsStr::new(name), &member(kind, name, "", 0));
    assert_eq!(set(b'2', "a"), Err(Errno::STALE));
    assert_eq!(set(b'2', "b"), Err(Errno::STALE));
    assert_eq!(set(b'6', "d"), Err(Errno::STALE));
    assert_eq!(set(b'2', "d"), Ok(()));
    assert_eq!(
        rustix::fs::statat(&to, "d", AtFlags::SYMLINK_NOFOLLOW)
            .unwrap()
            .st_mtime,
        0
    );
}

/// Number of rounds of a race; more for a soak run.
fn rounds() -> usize {
    let asked = std::env::var("CAPSID_RACE_ROUNDS").ok();
    asked.and_then(|rounds| rounds.parse().ok()).unwrap_or(1_000)
}

/// Guard that ends the other side of a race, also when a test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `act` for all rounds, and on until it has succeeded once, while `at` alternates between a folder and a link to
/// `outside`.
fn race(at: &Path, outside: &Path, mut act: impl FnMut() -> bool) {
    let (aside, link) = (at.with_extension("aside"), at.with_extension("link"));
    symlink(outside, &link).unwrap();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = Ends(&ended);
        let other = scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                std::fs::rename(at, &aside).unwrap();
                // Fails when the other side has created a folder there.
                if std::fs::rename(&link, at).is_ok() {
                    std::fs::rename(at, &link).unwrap();
                }
                while std::fs::rename(&aside, at).is_err() {
                    let _ = std::fs::remove_dir_all(at);
                }
            }
        });
        let (mut left, mut worked) = (rounds(), false);
        while (left > 0 || !worked) && !other.is_finished() {
            left = left.saturating_sub(1);
            worked |= act();
        }
    });
}

#[test]
fn a_thousand_races_with_a_link_write_nothing_outside() {
    let dir = folder();
    let outside = dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("file"), "s").unwrap();
    let at = dir.path().join("to/d");
    std::fs::create_dir(&at).unwrap();
    let members = [
        member(b'5', "d", "", 0),
        member(b'0', "d/file", "", 3),
        member(b'2', "d/link", "x", 0),
        member(b'6', "d/pipe", "", 0),
        member(b'5', "d/e", "", 0),
        member(b'0', "d/e/file", "", 3),
        member(b'1', "d/again", "d/file", 0),
    ];
    race(&at, &outside, || unpack(dir.path(), &members).is_ok());
    assert_eq!(std::fs::read_to_string(outside.join("file")).unwrap(), "s");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn a_thousand_races_with_a_link_read_nothing_outside() {
    let dir = folder();
    let outside = dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("file"), "a secret").unwrap();
    let at = dir.path().join("to/d");
    std::fs::create_dir(&at).unwrap();
    std::fs::write(at.join("file"), "shared").unwrap();
    race(&at, &outside, || {
        let mut packer = Packer::new(Vec::new());
        let packed = packer.add(open(&dir.path().join("to")), OsStr::new("d"), b"d");
        let bytes = packer.finish().unwrap();
        assert!(!bytes.windows(8).any(|part| part == b"a secret"));
        packed.is_ok()
    });
}

#[test]
fn folders_and_files_do_not_replace_each_other() {
    let dir = folder();
    std::fs::create_dir(dir.path().join("to/folder")).unwrap();
    std::fs::write(dir.path().join("to/file"), "").unwrap();
    let over = |kind, path| unpack(dir.path(), &[member(kind, path, "", 0)]);
    assert!(matches!(over(b'0', "folder"), Err(UnpackError::IsFolder(_))));
    assert!(matches!(over(b'5', "file"), Err(UnpackError::NotFolder(_))));
    over(b'5', "folder").unwrap();
}

#[test]
fn a_huge_empty_file_is_a_hole() {
    use std::os::unix::fs::MetadataExt;
    let dir = folder();
    let mut tar = TarWriter::new(Vec::new());
    let size = 64 << 20;
    tar.append(&member(b'0', "hole", "", size), io::empty()).unwrap();
    let bytes = tar.finish().unwrap();
    Unpacking::default()
        .unpack(bytes.as_slice(), open(&dir.path().join("to")))
        .unwrap();
    let metadata = std::fs::metadata(dir.path().join("to/hole")).unwrap();
    assert_eq!(metadata.len(), size);
    assert!(metadata.blocks() < 1000);
}

#[test]
fn a_hole_of_exabytes_is_not_read() {
    // A sparse file with one byte of data, or none, that claims a size of 2^62 bytes.
    let records = b"22 GNU.sparse.major=0\n39 GNU.sparse.size=4611686018427387904\n";
    let mut archive = Vec::new();
    for (kind, name, content) in [(b'x', "pax", &records[..]), (b'0', "huge", &b""[..])] {
        let mut block = [0; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[124..124 + 11].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        block[156] = kind;
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
        archive.extend(block);
        archive.extend(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    let dir = folder();
    let started = std::time::Instant::now();
    let unpacked = Unpacking::default().unpack(archive.as_slice(), open(&dir.path().join("to")));
    // A filesystem that supports such files creates one, another refuses it: either at once.
    assert!(
        matches!(unpacked, Ok(_) | Err(UnpackError::Write { .. })),
        "{unpacked:?}"
    );
    assert!(started.elapsed().as_secs() < 5);
}

#[test]
fn names_of_folders_are_bounded() {
    let name = "n".repeat(200);
    let deep = std::iter::repeat_n(name.as_str(), 19).collect::<Vec<_>>().join("/");
    let dir = folder();
    let mut unpacker = unpacker(open(&dir.path().join("to")), FOLDER_NAMES_BYTES_MAX - 3000);
    let mut nothing = TarReader::new(io::empty());
    let made = unpacker.make(member(b'5', &deep, "", 0), &mut nothing);
    assert!(matches!(made, Err(UnpackError::ManyFolders)), "{made:?}");
}

#[test]
fn a_tree_comes_back_as_it_was_under_another_name() {
    let from = tempfile::tempdir().unwrap();
    let path = from.path().join("tree");
    std::fs::create_dir_all(path.join("sub")).unwrap();
    std::fs::write(path.join("sub/file"), "content").unwrap();
    std::fs::hard_link(path.join("sub/file"), path.join("again")).unwrap();
    symlink("/nowhere", path.join("link")).unwrap();
    std::fs::set_permissions(path.join("sub"), std::fs::Permissions::from_mode(0o555)).unwrap();
    let mut packer = Packer::new(Vec::new());
    packer.add(open(from.path()), OsStr::new("tree"), b"tree").unwrap();
    let bytes = packer.finish().unwrap();
    let dir = folder();
    let how = Unpacking {
        placing: Placing {
            strip: b"tree".to_vec(),
            name: Some("new".into()),
        },
        ..Unpacking::default()
    };
    let done = how.unpack(bytes.as_slice(), open(&dir.path().join("to"))).unwrap();
    assert_eq!((done.entries, done.bytes), (5, 7));
    let new = dir.path().join("to/new");
    assert_eq!(std::fs::read_to_string(new.join("sub/file")).unwrap(), "content");
    assert_eq!(std::fs::read_to_string(new.join("again")).unwrap(), "content");
    assert_eq!(std::fs::read_link(new.join("link")).unwrap(), Path::new("/nowhere"));
    let mode = std::fs::metadata(new.join("sub")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o555);
    assert!(matches!(
        how.unpack(
            archive(&[member(b'0', "other/f", "", 0)]).as_slice(),
            open(&dir.path().join("to"))
        ),
        Err(UnpackError::Foreign(_))
    ));
}
