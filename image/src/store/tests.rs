use super::database::{ImageRow, StoreDirectory};
use super::*;
use crate::directory::DirectoryError;
use crate::reference::Reference;

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), Converter::default()).unwrap();
    (directory, store)
}

#[test]
fn recorded_leftovers_vanish_when_the_store_is_opened_and_others_stay() {
    let (directory, first) = store();
    let alive = first.workspace().unwrap();
    let blob = |digit: &str| format!("blobs/{}", digit.repeat(64));
    let layer = |digit: &str| format!("layers/{}.{}", digit.repeat(64), digit.repeat(64));
    let (workspace, unknown) = ("0123456789abcdef", "tmp/fedcba9876543210");
    let gone = [blob("0"), layer("1"), format!("tmp/{workspace}")];
    let stays = [blob("2"), layer("3"), unknown.into(), "tmp/mine".into()];
    for path in gone.iter().chain(&stays) {
        std::fs::create_dir_all(directory.path().join(path)).unwrap();
        std::fs::write(directory.path().join(path).join("x"), "").unwrap();
    }
    let database = first.database();
    database.record(StoreDirectory::Blobs, &"0".repeat(64)).unwrap();
    database
        .record(StoreDirectory::Layers, &format!("{0}.{0}", "1".repeat(64)))
        .unwrap();
    database.record(StoreDirectory::Tmp, workspace).unwrap();
    // Names that no store of ours would make.
    database.record(StoreDirectory::Tmp, "mine").unwrap();
    database.record(StoreDirectory::Blobs, "../../x").unwrap();
    drop(database);
    let second = Store::open(directory.path(), Converter::default()).unwrap();
    assert!(alive.path().exists());
    for path in &gone {
        assert!(!directory.path().join(path).exists(), "{path}");
    }
    for path in &stays {
        assert!(directory.path().join(path).join("x").exists(), "{path}");
    }
    assert!(second.database().pending(StoreDirectory::Layers).unwrap().is_empty());
}

/// Simulates another command that makes the same image and has recorded what it is about to make.
#[test]
fn an_image_is_stored_again_beside_another_maker() {
    let (_directory, store) = store();
    let digest = |digit: &str| format!("sha256:{}", digit.repeat(64)).parse::<Digest>().unwrap();
    let row = || ImageRow {
        id: digest("1"),
        manifest: digest("2"),
        size_bytes: 0,
        added: 0,
        references: Vec::new(),
        layers: Vec::new(),
    };
    store.database().insert_image(row(), digest("3")).unwrap();
    store
        .database()
        .record(StoreDirectory::Rootfs, &digest("3").hex())
        .unwrap();
    store.database().insert_image(row(), digest("3")).unwrap();
}

#[test]
fn held_objects_are_not_collected() {
    let (directory, first) = store();
    let name = format!("{}.{}", "1".repeat(64), "2".repeat(64));
    let path = directory.path().join("layers").join(&name);
    std::fs::create_dir_all(&path).unwrap();
    first.database().record(StoreDirectory::Layers, &name).unwrap();
    let lock = first.lock_layer(LayerName::parse(&name).unwrap()).unwrap();
    Store::open(directory.path(), Converter::default()).unwrap();
    assert!(path.exists());
    drop(lock);
    Store::open(directory.path(), Converter::default()).unwrap();
    assert!(!path.exists());
}

#[test]
fn a_newer_store_is_left_alone() {
    let (directory, first) = store();
    drop(first);
    let database = rusqlite::Connection::open(directory.path().join("state.db")).unwrap();
    database.pragma_update(None, "user_version", 99).unwrap();
    drop(database);
    let error = Store::open(directory.path(), Converter::default()).unwrap_err();
    let OpenStoreError::Directory(DirectoryError::Newer { found: 99, .. }) = error else {
        panic!("{error}");
    };
}

#[test]
fn what_is_not_there_is_not_found() {
    let (_directory, store) = store();
    for name in [
        "busybox",
        "sha256:0000",
        "abcd",
        "Not A Name",
        &format!("x@sha256:{}", "0".repeat(64)),
    ] {
        assert!(store.find(name).unwrap().is_none(), "{name}");
    }
    let error = store.remove("busybox", false).unwrap_err();
    assert_eq!(error.to_string(), "no such image: busybox");
    assert!(store.tag("busybox", &"x".parse::<Reference>().unwrap()).is_err());
}
