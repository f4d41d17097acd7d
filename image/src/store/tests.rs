use super::*;
use crate::reference::Reference;

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), Converter::default()).unwrap();
    (directory, store)
}

#[test]
fn leftovers_vanish_when_the_store_is_opened() {
    let (directory, first) = store();
    let alive = first.workspace().unwrap();
    std::fs::create_dir_all(directory.path().join("tmp/dead/x")).unwrap();
    std::fs::write(directory.path().join("blobs").join("0".repeat(64)), "x").unwrap();
    let orphan = format!("layers/{}.{}", "1".repeat(64), "2".repeat(64));
    std::fs::create_dir_all(directory.path().join(&orphan)).unwrap();
    let _second = Store::open(directory.path(), Converter::default()).unwrap();
    assert!(alive.path().exists());
    for gone in ["tmp/dead", &format!("blobs/{}", "0".repeat(64)), &orphan] {
        assert!(!directory.path().join(gone).exists(), "{gone}");
    }
}

#[test]
fn held_objects_are_not_collected() {
    let (directory, first) = store();
    let name = format!("{}.{}", "1".repeat(64), "2".repeat(64));
    let path = directory.path().join("layers").join(&name);
    std::fs::create_dir_all(&path).unwrap();
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
    assert!(matches!(error, OpenStoreError::Newer { found: 99, .. }), "{error}");
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
