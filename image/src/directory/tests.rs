use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Barrier;

use super::*;

static STEPS: [&str; 2] = [
    "CREATE TABLE things (name TEXT) STRICT;",
    "CREATE TABLE more (name TEXT) STRICT;",
];
const THINGS: DatabaseSpec = DatabaseSpec {
    name: "things.db",
    table: "things",
    describes: &["objects"],
    migrations: &STEPS,
};
const SPEC: DirectorySpec = DirectorySpec {
    kind: "data",
    databases: &[THINGS],
    subdirectories: &["objects"],
    is_older: |_| false,
};

fn open(path: &Path) -> Result<rusqlite::Connection, DirectoryError> {
    Directory::open(path, &SPEC, Links::Follow)?.open_database(&THINGS)
}

fn refusal(path: &Path) -> String {
    open(path).unwrap_err().to_string()
}

/// Directory in use, with a file that only its database describes.
fn in_use() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let database = open(directory.path()).unwrap();
    database.execute("INSERT INTO things VALUES ('x')", []).unwrap();
    fs::create_dir(directory.path().join("objects")).unwrap();
    fs::write(directory.path().join("objects/x"), "precious").unwrap();
    directory
}

#[test]
fn many_commands_mark_a_new_directory_at_once() {
    for _ in 0..20 {
        let directory = tempfile::tempdir().unwrap();
        let at_once = Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    at_once.wait();
                    open(directory.path()).unwrap();
                });
            }
        });
        assert!(open(directory.path()).is_ok());
    }
}

#[test]
fn a_directory_that_holds_other_things_is_refused_untouched() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(directory.path().join("objects")).unwrap();
    let words = refusal(directory.path());
    assert!(words.contains("not empty and not Capsid's"), "{words}");
    assert!(Directory::recover(directory.path(), &SPEC, Links::Follow).is_err());
    let names: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(names.len(), 1);
    assert_eq!(fs::metadata(directory.path()).unwrap().mode() & 0o777, 0o755);
    // A new filesystem of its own is as good as empty, and what a killed claim left is no obstacle.
    fs::remove_dir(directory.path().join("objects")).unwrap();
    fs::create_dir(directory.path().join(LOST_FOUND)).unwrap();
    fs::write(directory.path().join(marker::UNFINISHED), "{").unwrap();
    open(directory.path()).unwrap();
    assert_eq!(fs::metadata(directory.path()).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn a_newer_database_is_left_alone() {
    let directory = in_use();
    let known = DatabaseSpec {
        migrations: &STEPS[..1],
        ..THINGS
    };
    let opened = Directory::open(directory.path(), &SPEC, Links::Follow).unwrap();
    let error = opened.open_database(&known).unwrap_err();
    assert!(
        matches!(error, DirectoryError::Newer { found: 2, known: 1, .. }),
        "{error}"
    );
    open(directory.path()).unwrap();
}

#[test]
fn an_older_directory_is_taken_over_with_what_it_holds() {
    let directory = in_use();
    fs::remove_file(directory.path().join(marker::NAME)).unwrap();
    let database = rusqlite::Connection::open(directory.path().join("things.db")).unwrap();
    database
        .execute_batch("DROP TABLE identity; DROP TABLE more; PRAGMA user_version = 1; PRAGMA application_id = 0;")
        .unwrap();
    drop(database);
    let count = |database: rusqlite::Connection| -> i64 {
        database
            .query_row("SELECT count(*) FROM things", [], |row| row.get(0))
            .unwrap()
    };
    assert_eq!(count(open(directory.path()).unwrap()), 1);
    // A lost marker comes back from what the database knows.
    fs::remove_file(directory.path().join(marker::NAME)).unwrap();
    assert_eq!(count(open(directory.path()).unwrap()), 1);
    assert!(directory.path().join("objects/x").exists());
    // An older database that is empty now is a loss, not a beginning.
    fs::remove_file(directory.path().join(marker::NAME)).unwrap();
    fs::write(directory.path().join("things.db"), "").unwrap();
    assert!(refusal(directory.path()).contains("things.db is empty"));
    assert!(!directory.path().join(marker::NAME).exists());
}

#[test]
fn a_database_of_another_directory_is_refused() {
    let (one, other) = (in_use(), in_use());
    fs::copy(other.path().join("things.db"), one.path().join("things.db")).unwrap();
    assert!(refusal(one.path()).contains("things.db belongs to another directory"));
    // Without a marker, only what agrees is taken over.
    let stranger = tempfile::tempdir().unwrap();
    rusqlite::Connection::open(stranger.path().join("things.db"))
        .unwrap()
        .execute_batch("CREATE TABLE other (x);")
        .unwrap();
    assert!(refusal(stranger.path()).contains("not Capsid's"));
}

#[test]
fn a_database_whose_making_was_cut_short_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    Directory::open(directory.path(), &SPEC, Links::Follow).unwrap();
    fs::write(directory.path().join("things.db"), "").unwrap();
    open(directory.path()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    Directory::open(directory.path(), &SPEC, Links::Follow).unwrap();
    let database = rusqlite::Connection::open(directory.path().join("things.db")).unwrap();
    database.execute_batch("PRAGMA journal_mode = WAL;").unwrap();
    drop(database);
    open(directory.path()).unwrap();
}

#[test]
fn a_recovery_moves_what_is_lost_and_keeps_what_is_sound() {
    let directory = in_use();
    let nothing = Directory::recover(directory.path(), &SPEC, Links::Follow).unwrap();
    assert!(nothing.lost.is_empty() && nothing.moved_to.is_none());
    let database = directory.path().join("things.db");
    let spoil: [&dyn Fn(); 4] = [
        &|| fs::write(&database, "").unwrap(),
        &|| fs::write(&database, vec![0x55; 5000]).unwrap(),
        &|| {
            fs::remove_file(&database).unwrap();
            symlink("/nonexistent", &database).unwrap();
        },
        &|| fs::remove_file(&database).unwrap(),
    ];
    for spoil in spoil {
        fs::write(directory.path().join("objects/x"), "precious").unwrap();
        spoil();
        assert!(open(directory.path()).is_err());
        let recovered = Directory::recover(directory.path(), &SPEC, Links::Follow).unwrap();
        assert_eq!(recovered.lost, ["things.db"]);
        let place = recovered.moved_to.unwrap();
        assert_eq!(fs::read(place.join("objects/x")).unwrap(), b"precious");
        open(directory.path()).unwrap();
    }
    fs::write(directory.path().join(marker::NAME), "{").unwrap();
    assert!(refusal(directory.path()).contains(marker::NAME));
    let recovered = Directory::recover(directory.path(), &SPEC, Links::Follow).unwrap();
    assert!(recovered.lost.is_empty(), "the database is sound");
    open(directory.path()).unwrap();
}
