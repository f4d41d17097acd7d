//! The promises.

use std::os::unix::fs::MetadataExt;

use crate::fixture::{Disk, Fixture, Tar};

pub(crate) const ALL: &[(&str, fn())] = &[
    ("a_small_image_has_its_files", a_small_image_has_its_files),
    (
        "the_same_layers_give_the_same_bytes",
        the_same_layers_give_the_same_bytes,
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
        let image = fixture
            .load_bytes(crate::fixture::docker_archive(&layers()))
            .unwrap()
            .remove(0);
        Disk::write(&fixture.store.rootfs(&image).unwrap(), fixture.directory.path()).digest()
    };
    assert_eq!(digest(&Fixture::new()), digest(&Fixture::new()));
}
