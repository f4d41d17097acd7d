//! `cp`, `diff` and `export`: files are copied by docker's rules, and nothing of a container is written anywhere else.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use capsid_tests::{Capsid, Outcome};

/// Runs `capsid WORDS...` to its end.
fn call(capsid: &Capsid, words: &[&str]) -> Outcome {
    capsid.call(words).wait()
}

fn copy(capsid: &Capsid, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Outcome {
    let (from, to) = (from.as_ref().to_str().unwrap(), to.as_ref().to_str().unwrap());
    call(capsid, &["cp", "-q", from, to])
}

/// Returns the output of a script in the container.
#[track_caller]
fn shell(capsid: &Capsid, name: &str, script: &str) -> String {
    call(capsid, &["exec", name, "sh", "-c", script]).succeeds().text()
}

/// Creates a folder with a file, a link and a folder with a file.
fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("file"), "content").unwrap();
    fs::write(tree.join("sub/below"), vec![7; 300_000]).unwrap();
    fs::set_permissions(tree.join("file"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink("file", tree.join("link")).unwrap();
    dir
}

#[track_caller]
fn assert_tree(tree: &Path) {
    assert_eq!(fs::read_to_string(tree.join("file")).unwrap(), "content");
    assert_eq!(fs::read(tree.join("sub/below")).unwrap(), vec![7; 300_000]);
    assert_eq!(fs::read_link(tree.join("link")).unwrap(), Path::new("file"));
    assert_eq!(fs::metadata(tree.join("file")).unwrap().mode() & 0o7777, 0o640);
}

#[test]
fn trees_go_in_and_come_back() {
    let capsid = Capsid::with_busybox();
    capsid.detached("web", &["busybox", "sleep", "1000"]);
    let dir = tree();
    let path = |name: &str| dir.path().join(name);
    // Into an existing folder, under a new name, and the content alone.
    copy(&capsid, path("tree"), "web:/tmp").succeeds();
    copy(&capsid, path("tree"), "web:/tmp/new").succeeds();
    shell(&capsid, "web", "mkdir /tmp/flat");
    copy(&capsid, path("tree/."), "web:/tmp/flat").succeeds();
    let list = shell(
        &capsid,
        "web",
        "cd /tmp; find . -type f | sort; stat -c %u:%g:%a tree/file",
    );
    assert_eq!(
        list,
        "./flat/file\n./flat/sub/below\n./new/file\n./new/sub/below\n./tree/file\n./tree/sub/below\n0:0:640"
    );
    // And back, by the same rules.
    copy(&capsid, "web:/tmp/tree", path("back")).succeeds();
    assert_tree(&path("back"));
    fs::create_dir(path("into")).unwrap();
    copy(&capsid, "web:/tmp/tree", path("into")).succeeds();
    assert_tree(&path("into/tree"));
    copy(&capsid, "web:/tmp/tree/.", path("into")).succeeds();
    assert_tree(&path("into"));
    // A link is a link, unless it is followed.
    copy(&capsid, "web:/tmp/tree/link", path("as-link")).succeeds();
    assert_eq!(fs::read_link(path("as-link")).unwrap(), Path::new("file"));
    let followed = path("followed");
    call(
        &capsid,
        &["cp", "-qL", "web:/tmp/tree/link", followed.to_str().unwrap()],
    )
    .succeeds();
    assert_eq!(fs::read_to_string(&followed).unwrap(), "content");
    // An impossible copy is reported, and makes nothing.
    copy(&capsid, "web:/nope", path("nope"))
        .exits(1)
        .complains("/nope: no such file or directory");
    assert!(!path("nope").exists());
    copy(&capsid, path("tree/file"), "web:/none/file")
        .exits(1)
        .complains("no such directory");
    copy(&capsid, path("tree"), "web:/tmp/tree/file")
        .exits(1)
        .complains("cannot copy a directory to a file");
    copy(&capsid, path("tree"), path("tree"))
        .exits(1)
        .complains("must specify at least one container source");
    // Mounted small files are written through.
    copy(&capsid, path("tree/file"), "web:/etc/hosts").succeeds();
    assert_eq!(shell(&capsid, "web", "cat /etc/hosts"), "content");
}

#[test]
fn containers_that_do_not_run_are_copied_to_and_compared() {
    let capsid = Capsid::with_busybox();
    let dir = tree();
    let script = "echo new > /etc/new; rm /bin/vi; mkdir /made; sleep 1000";
    capsid.detached("web", &["busybox", "sh", "-c", script]);
    let changes = "C /bin\nD /bin/vi\nC /etc\nA /etc/new\nA /made";
    let seen = || call(&capsid, &["diff", "web"]).succeeds().text();
    capsid_tests::invocation::eventually("its changes", 20, || seen() == changes);
    call(&capsid, &["stop", "-t", "0", "web"]).succeeds();
    assert_eq!(seen(), changes);
    copy(&capsid, dir.path().join("tree"), "web:/made").succeeds();
    copy(&capsid, "web:/made/tree", dir.path().join("back")).succeeds();
    assert_tree(&dir.path().join("back"));
    assert_eq!(
        call(&capsid, &["inspect", "-f", "{{.State.Status}}", "web"])
            .succeeds()
            .text(),
        "exited"
    );
    call(&capsid, &["start", "web"]).succeeds();
    assert_eq!(shell(&capsid, "web", "cat /made/tree/file"), "content");
}

#[test]
fn archives_flow_through_the_standard_streams() {
    let capsid = Capsid::with_busybox();
    capsid.detached("web", &["busybox", "sleep", "1000"]);
    let dir = tree();
    let tar = Command::new("tar")
        .args(["c", "tree"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    capsid.call(["cp", "-", "web:/tmp"]).input(tar.stdout).wait().succeeds();
    // Files of a container whose user its image does not have, and which never starts.
    call(
        &capsid,
        &["create", "--name", "nobodys", "--user", "nobody-there", "busybox"],
    )
    .succeeds();
    call(
        &capsid,
        &["cp", "nobodys:/bin/busybox", dir.path().join("copy").to_str().unwrap()],
    )
    .succeeds();
    // Compressed, as docker takes it.
    for (letter, name) in [("z", "gzip"), ("J", "xz"), ("j", "bzip2")] {
        let tar = Command::new("tar")
            .args([
                &format!("c{letter}"),
                "--transform",
                &format!("s/^tree/{name}/"),
                "tree",
            ])
            .current_dir(dir.path())
            .output()
            .unwrap();
        capsid.call(["cp", "-", "web:/tmp"]).input(tar.stdout).wait().succeeds();
        let file = format!("/tmp/{name}/sub/below");
        call(&capsid, &["exec", "web", "test", "-f", &file]).succeeds();
    }
    capsid
        .call(["cp", "-", "web:/none"])
        .input([0; 1024])
        .wait()
        .exits(1)
        .complains("no such directory");
    let names = |archive: &[u8]| {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap();
        let mut names: Vec<String> = entries
            .map(|e| e.unwrap().path().unwrap().display().to_string())
            .collect();
        names.sort();
        names
    };
    let packed = call(&capsid, &["cp", "web:/tmp/tree", "-"]).succeeds();
    assert_eq!(
        names(&packed.stdout),
        ["tree/", "tree/file", "tree/link", "tree/sub/", "tree/sub/below"]
    );
    // The root alone: neither the mounts over it nor the volumes.
    let exported = names(&call(&capsid, &["export", "web"]).succeeds().stdout);
    assert!(exported.contains(&"tmp/tree/sub/below".to_owned()), "{exported:?}");
    assert!(
        !exported.iter().any(|name| name.starts_with("proc/") && name != "proc/"),
        "{exported:?}"
    );
    let file = dir.path().join("web.tar");
    call(&capsid, &["export", "-o", file.to_str().unwrap(), "web"]).succeeds();
    assert_eq!(names(&fs::read(&file).unwrap()), exported);
}

/// Test with a hostile container: links to the host's paths, folders that become links while they are copied, names
/// with line ends, set-user-id files, devices, and a file of a terabyte.
#[test]
fn a_hostile_container_writes_nothing_outside() {
    let capsid = Capsid::with_busybox();
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "untouched").unwrap();
    let target = outside.display();
    let script = format!(
        "mkdir -p /h/d /h/keep; echo in > /h/d/file; ln -s {target} /h/link; ln -s {target}/file /h/f; \
         touch \"$(printf '/h/a\\nb')\" '/h/..x'; cp /bin/busybox /h/suid; chmod 6755 /h/suid; \
         truncate -s 1T /h/keep/huge; mknod /h/null c 1 3; mkfifo /h/fifo; \
         mkdir /s/d; echo shared > /s/d/file; ln -s {target} /s/out; ln -s {target} /s/l; \
         while :; do mv /h/d /h/e; ln -s {target} /h/d; rm /h/d; mv /h/e /h/d; \
         mv /s/d /s/e; mv /s/l /s/d; mv /s/d /s/l; mv /s/e /s/d; done"
    );
    let shared = dir.path().join("shared");
    fs::create_dir(&shared).unwrap();
    let bind = format!("{}:/s", shared.display());
    let words = ["--cap-add", "MKNOD", "-v", &bind, "busybox", "sh", "-c", &script];
    capsid.detached("bad", &words);
    capsid_tests::invocation::eventually("fifo", 20, || {
        call(&capsid, &["exec", "bad", "test", "-p", "/h/fifo"]).code() == 0
    });
    let rounds = std::env::var("CAPSID_RACE_ROUNDS").map_or(6, |rounds| rounds.parse().unwrap());
    for round in 0..3.max(rounds / 5) {
        let to = dir.path().join(format!("to{round}"));
        fs::create_dir(&to).unwrap();
        // Links at the user's own target are not followed either.
        symlink(&outside, to.join("d")).unwrap();
        symlink(outside.join("file"), to.join("suid")).unwrap();
        // The folder in the link's way may be an error, the rest is copied or not, but nothing is outside. The huge
        // file would take the day.
        for path in [
            "/h/d", "/h/link", "/h/f", "/h/suid", "/h/null", "/h/a\nb", "/h/..x", "/h/fifo",
        ] {
            copy(&capsid, format!("bad:{path}"), &to);
        }
        let suid = fs::symlink_metadata(to.join("suid")).unwrap();
        assert_eq!((suid.is_file(), suid.mode() & 0o7777), (true, 0o755));
        assert!(fs::read_link(to.join("link")).is_ok() && to.join("a\nb").exists());
        assert!(!to.join("null").exists());
    }
    // Also not for root, who keeps owners.
    let kept = dir.path().join("kept");
    call(&capsid, &["cp", "-a", "bad:/h/suid", kept.to_str().unwrap()])
        .succeeds()
        .complains("set-user-id");
    assert_eq!(fs::metadata(&kept).unwrap().mode() & 0o7777, 0o755);
    // Into a folder that is a link half of the time: the container's own, or an error.
    let source = dir.path().join("evil");
    fs::write(&source, "evil").unwrap();
    for _ in 0..rounds / 2 {
        copy(&capsid, &source, "bad:/h/d/");
        copy(&capsid, &source, "bad:/h/link/");
    }
    // In a folder that it shares with the host, for the host's paths as well.
    for _ in 0..rounds {
        copy(&capsid, shared.join("d/file"), "bad:/h/got");
        let got = call(&capsid, &["exec", "bad", "cat", "/h/got"]).text();
        assert!(!got.contains("untouched"), "read a file of the host's");
        copy(&capsid, "bad:/h/suid", shared.join("d/file"));
    }
    copy(&capsid, shared.join("out/file"), "bad:/h/got")
        .exits(1)
        .complains("is a link in a folder that is shared with a container");
    copy(&capsid, "bad:/h/suid", shared.join("out/file")).exits(1);
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "untouched");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}
