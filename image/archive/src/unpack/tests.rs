use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

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

/// Unpacks into the folder `to` of a temporary folder, whose other files are "outside".
fn unpack(dir: &Path, members: &[Member]) -> Result<Unpacked, UnpackError> {
    Unpacking::default().unpack(archive(members).as_slice(), open(&dir.join("to")))
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
    ];
    let done = unpack(dir.path(), &members).unwrap();
    assert_eq!(done.devices_left_out, 1);
    let mode = std::fs::metadata(dir.path().join("to/suid"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o755);
    assert!(!dir.path().join("to/null").exists());
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
    // A sparse file of one byte's data, or none, that claims to be of 2^62 bytes.
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
    // A filesystem that has such files makes one, another refuses it: at once.
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
    let mut unpacker = Unpacker {
        base: open(&dir.path().join("to")),
        how: &Unpacking::default(),
        done: Unpacked::default(),
        folders: Vec::new(),
        folder_names_bytes: FOLDER_NAMES_BYTES_MAX - 3000,
        files: HashSet::new(),
        recent: None,
    };
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
