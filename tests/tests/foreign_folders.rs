//! Directories that are not Capsid's are left unchanged; those of the last release are taken over; read-only and
//! relative ones are used as far as possible. Hardly a machine is started here.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use capsid_tests::environment::part;
use capsid_tests::requirement::skip;
use capsid_tests::snapshot::tree;
use capsid_tests::{Capsid, Invocation, Outcome};

/// User id of somebody else.
const OTHER: u32 = 54_321;
const PRECIOUS: &str = "precious";
const PS: [&str; 4] = ["ps", "-a", "--format", "{{.Names}}"];
const IMAGES: [&str; 2] = ["images", "-q"];
const VOLUMES: [&str; 3] = ["volume", "ls", "-q"];

fn call(capsid: &Capsid, words: &[&str]) -> Outcome {
    capsid.call(words).wait()
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Creates an installation with an image, a container and two volumes. Nothing runs.
fn with_everything() -> Capsid {
    let capsid = Capsid::with_busybox();
    call(&capsid, &["create", "--name", "box", "-v", "notes:/notes", "busybox"]).succeeds();
    call(&capsid, &["volume", "create", "other"]).succeeds();
    capsid
}

/// Creates content that somebody else's directory may hold: names that Capsid has too.
fn foreign(root: &Path) {
    for path in [
        "containers/mine",
        "volumes/mine",
        "tmp/mine",
        "pods/mine",
        "layers",
        "podman",
    ] {
        fs::create_dir_all(root.join(path)).unwrap();
        fs::write(root.join(path).join("file"), PRECIOUS).unwrap();
    }
    let podmans = rusqlite::Connection::open(root.join("db.sql")).unwrap();
    podmans.execute_batch("CREATE TABLE containers (id TEXT);").unwrap();
    fs::set_permissions(root, Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_directory_that_is_not_capsids_is_refused_and_left_as_it_is() {
    let capsid = Capsid::empty();
    let theirs = capsid.folder("home").join("theirs");
    foreign(&theirs);
    let before = tree(&theirs);
    let verbs: [&[&str]; 10] = [
        &["ps"],
        &["images"],
        &["volume", "ls"],
        &["doctor"],
        &["system", "df"],
        &["system", "prune", "-af"],
        &["system", "recover"],
        &["network", "prune", "-f"],
        &["pod", "ls"],
        &["run", "--rm", "busybox"],
    ];
    for flag in ["--data-dir", "--run-dir"] {
        for words in verbs {
            let words = [&[flag, theirs.to_str().unwrap()], words].concat();
            let outcome = call(&capsid, &words);
            let code = if words.contains(&"run") { 125 } else { 1 };
            outcome
                .exits(code)
                .complains(theirs.to_str().unwrap())
                .complains("not Capsid's")
                .complains_in_one_line();
            assert_eq!(tree(&theirs), before, "{words:?}");
        }
    }
    // Neither is a database of another program with the name of one of ours.
    fs::rename(theirs.join("db.sql"), theirs.join("state.db")).unwrap();
    let before = tree(&theirs);
    let words = ["--data-dir", theirs.to_str().unwrap(), "images"];
    call(&capsid, &words).exits(1).complains("not Capsid's");
    assert_eq!(tree(&theirs), before);
    // The two directories are distinct: one is not taken for the other.
    call(&capsid, &PS).succeeds();
    let data = capsid.folder("data").display().to_string();
    call(&capsid, &["--run-dir", &data, "ps"])
        .exits(1)
        .complains("data directory");
}

/// Statements that give containers back what their implicit pods have, and remove those.
const WITHOUT_IMPLICIT_PODS: &str = "
    DROP TRIGGER container_leaves;
    DROP TRIGGER pod_leaves;
    UPDATE containers SET pod = NULL, config = (SELECT json_patch(containers.config, json_object(
        'machine', json_extract(pods.config, '$.machine'),
        'accelerator', json_extract(pods.config, '$.accelerator'),
        'network', json_extract(pods.config, '$.network')
    )) FROM pods WHERE pods.id = containers.pod) WHERE pod = id;
    DELETE FROM pods WHERE implicit;
    ALTER TABLE pods DROP COLUMN implicit;
    CREATE TRIGGER container_leaves AFTER DELETE ON containers BEGIN
        DELETE FROM memberships WHERE pod = OLD.id;
    END;
    CREATE TRIGGER pod_leaves AFTER DELETE ON pods BEGIN
        DELETE FROM memberships WHERE pod = OLD.id;
    END;
";

/// Test with a directory of the last release, which had no marker, and databases without an identity.
#[test]
fn a_directory_of_the_last_release_is_taken_over() {
    let capsid = with_everything();
    let data = capsid.folder("data");
    let images = call(&capsid, &IMAGES).succeeds().text();
    for (name, version) in [("containers.db", 5), ("state.db", 1)] {
        let database = rusqlite::Connection::open(data.join(name)).unwrap();
        let triggers: Vec<String> = database
            .prepare("SELECT name FROM sqlite_schema WHERE type = 'trigger' AND sql LIKE '%pending%'")
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        for trigger in triggers {
            database.execute_batch(&format!("DROP TRIGGER {trigger};")).unwrap();
        }
        if name == "containers.db" {
            database
                .execute_batch("ALTER TABLE volumes DROP COLUMN prepared;")
                .unwrap();
            database.execute_batch(WITHOUT_IMPLICIT_PODS).unwrap();
        }
        database
            .execute_batch(&format!(
                "DROP TABLE pending; DROP TABLE identity; PRAGMA application_id = 0; PRAGMA user_version = {version};"
            ))
            .unwrap();
    }
    for folder in ["data", "run"] {
        fs::remove_file(capsid.folder(folder).join("capsid-directory.json")).unwrap();
    }
    // A loss before the upgrade is not taken for an empty list after it.
    let kept = fs::read(data.join("containers.db")).unwrap();
    fs::write(data.join("containers.db"), "").unwrap();
    let before = tree(&data.join("volumes"));
    call(&capsid, &PS).exits(1).complains("containers.db is empty");
    assert_eq!(tree(&data.join("volumes")), before);
    fs::write(data.join("containers.db"), kept).unwrap();
    call(&capsid, &PS).succeeds().prints("box\n");
    call(&capsid, &VOLUMES).succeeds().prints("notes\nother\n");
    assert_eq!(call(&capsid, &IMAGES).succeeds().text(), images);
    assert!(data.join("capsid-directory.json").exists());
    // Afterwards the container is used as any other.
    call(&capsid, &["rm", "box"]).succeeds();
    call(&capsid, &["volume", "rm", "notes", "other"]).succeeds();
    assert_eq!(fs::read_dir(data.join("volumes")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(data.join("containers")).unwrap().count(), 0);
}

/// Test without a session: the run directory is in `/tmp`, where anybody may have made something of that name.
#[test]
fn a_link_in_tmp_does_not_lead_to_the_users_files() {
    const TEST: &str = "a_link_in_tmp_does_not_lead_to_the_users_files";
    let uid = if is_root() {
        OTHER
    } else {
        nix::unistd::geteuid().as_raw()
    };
    if Path::new(&format!("/run/user/{uid}")).exists() {
        return skip(TEST, "this user has a session, whose directory is preferred");
    }
    let capsid = Capsid::empty();
    for name in ["", "data", "run", "home", "tmp"] {
        fs::set_permissions(capsid.folder(name), Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(capsid.folder("tmp"), Permissions::from_mode(0o1777)).unwrap();
    let program = capsid.folder("home/capsid");
    fs::copy(part("capsid"), &program).unwrap();
    let theirs = capsid.folder("run/theirs");
    fs::create_dir_all(theirs.join("pods/mine")).unwrap();
    fs::create_dir_all(theirs.join("pods").join("a".repeat(64))).unwrap();
    let data = capsid.folder("data/own");
    fs::create_dir(&data).unwrap();
    for path in [&theirs, &data] {
        chown(path, Some(uid), Some(uid)).unwrap();
    }
    fs::set_permissions(&theirs, Permissions::from_mode(0o755)).unwrap();
    let ps = || {
        let id = uid.to_string();
        let drop = ["--reuid", &id, "--regid", &id, "--clear-groups"];
        let drop = if is_root() { &drop[..] } else { &[] };
        let program = program.display().to_string();
        let mut invocation = Invocation::new("setpriv", drop.iter().chain(&[program.as_str(), "ps"]));
        let command = invocation.command();
        command.env_clear().env("PATH", "/usr/bin:/bin");
        command
            .env("CAPSID_DATA_DIR", &data)
            .env("TMPDIR", capsid.folder("tmp"));
        command.env("HOME", capsid.folder("home"));
        invocation.wait()
    };
    let place = capsid.folder("tmp").join(format!("capsid-{uid}"));
    let before = tree(&theirs);
    symlink(&theirs, &place).unwrap();
    ps().exits(1)
        .complains("symbolic link")
        .complains(place.to_str().unwrap())
        .complains_in_one_line();
    assert_eq!(tree(&theirs), before);
    fs::remove_file(&place).unwrap();
    // A directory of somebody else, or one open to others.
    fs::create_dir(&place).unwrap();
    if is_root() {
        ps().exits(1).complains("belongs to user 0");
        chown(&place, Some(uid), Some(uid)).unwrap();
    }
    fs::set_permissions(&place, Permissions::from_mode(0o777)).unwrap();
    ps().exits(1).complains("open to other users (mode 777)");
    assert_eq!(fs::metadata(&place).unwrap().mode() & 0o777, 0o777);
    fs::remove_dir(&place).unwrap();
    ps().succeeds();
    assert_eq!(fs::metadata(&place).unwrap().mode() & 0o777, 0o700);
    ps().succeeds();
}

#[test]
fn a_read_only_data_directory_is_read() {
    const TEST: &str = "a_read_only_data_directory_is_read";
    if !is_root() {
        return skip(TEST, "only root can mount");
    }
    let capsid = with_everything();
    let data = capsid.folder("data");
    let read_only = |words: &str| {
        let mount = format!("mount --bind {0} {0} && mount -o remount,ro,bind {0}", data.display());
        let script = format!("{mount} && exec {} {words}", part("capsid").display());
        let mut call = Invocation::new("unshare", ["--mount", "sh", "-c", &script]);
        for (name, value) in capsid.environment() {
            call = call.env(name, value);
        }
        call.wait()
    };
    let probe = read_only("version");
    if probe.code() != 0 {
        return skip(TEST, "this process may not mount");
    }
    read_only("ps -a --format '{{.Names}}'").succeeds().prints("box\n");
    assert_eq!(read_only("images -q").succeeds().text().lines().count(), 1);
    assert!(read_only("volume ls -q").succeeds().text().contains("notes"));
    for words in [
        "inspect box",
        "image inspect busybox",
        "logs box",
        "system df",
        "info",
        "pod ls",
        "network ls",
    ] {
        read_only(words).succeeds();
    }
    for words in ["rm box", "volume create more", "pod create", "create busybox"] {
        let outcome = read_only(words);
        assert_ne!(outcome.code(), 0, "{outcome}");
        outcome.complains_in_one_line().complains("read-only");
    }
    call(&capsid, &PS).succeeds().prints("box\n");
}

#[test]
fn directories_may_be_relative() {
    let capsid = with_everything();
    let call = |words: &str| {
        let words = ["--data-dir", "data", "--run-dir", "./run"]
            .into_iter()
            .chain(words.split_whitespace());
        let mut call = capsid.call(words);
        call.command().current_dir(capsid.folder("data").parent().unwrap());
        call.command()
            .env_remove("CAPSID_DATA_DIR")
            .env_remove("CAPSID_RUN_DIR");
        call.wait()
    };
    call("run -d --name far busybox sleep 1000").succeeds();
    call("exec far true").succeeds();
    call("rm -f far").succeeds().prints("far\n");
    assert!(!Path::new("/data/containers.db").exists() && !Path::new("/run/capsid-directory.json").exists());
}
