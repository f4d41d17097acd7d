//! Archive that a container sends to `cp`.
#![no_main]

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use capsid_archive::{Placing, UnpackError, Unpacking};
use libfuzzer_sys::fuzz_target;
use rustix::fs::{Mode, OFlags};

/// Makes a folder with another one beside it, which has a file that nobody may touch.
fn place() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let name = format!("capsid-fuzz-{}", std::process::id());
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() {
            memory.to_owned()
        } else {
            std::env::temp_dir()
        };
        let place = parent.join(name);
        fs::create_dir_all(place.join("outside")).expect("a folder");
        fs::write(place.join("outside/secret"), "secret").expect("a file");
        place
    })
}

fn open(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).expect("a folder")
}

/// Requires that nothing in the folder gives rights to a program of the host, whoever wrote the archive.
fn assert_harmless(folder: &Path) {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let metadata = entry.path().symlink_metadata().expect("there");
        let kind = metadata.file_type();
        assert!(!kind.is_block_device() && !kind.is_char_device());
        assert!(kind.is_symlink() || metadata.permissions().mode() & 0o6000 == 0);
        if kind.is_dir() {
            assert_harmless(&entry.path());
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let place = place();
    let to = place.join("to");
    fs::create_dir(&to).expect("a folder");
    let (first, archive) = bytes.split_first().unwrap_or((&0, &[]));
    if first & 1 == 1 {
        let _ = std::os::unix::fs::symlink("../outside", to.join("l"));
    }
    let strip = if first & 2 == 2 { b"top".to_vec() } else { Vec::new() };
    let unpacking = Unpacking {
        placing: Placing {
            name: (first & 4 == 4).then(|| "new".into()),
            strip,
        },
        ..Unpacking::default()
    };
    let done: Result<_, UnpackError> = unpacking.unpack(archive, open(&to));
    drop(done);
    assert_harmless(&to);
    // Folders may have modes that keep even their owner out.
    let removed = fs::remove_dir_all(&to);
    if removed.is_err() {
        open_up(&to);
        fs::remove_dir_all(&to).expect("removable");
    }
    let beside: Vec<_> = fs::read_dir(place).expect("there").flatten().collect();
    assert_eq!(beside.len(), 1, "something lies beside the folder");
    let outside: Vec<_> = fs::read_dir(place.join("outside")).expect("there").flatten().collect();
    assert_eq!(outside.len(), 1);
    assert_eq!(fs::read(place.join("outside/secret")).expect("there"), b"secret");
});

fn open_up(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}
