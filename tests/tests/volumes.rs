//! Volumes: their content stays when the container, its pod or its supervisor does not.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::thread;
use std::time::{Duration, Instant};

use capsid_tests::environment::patience;
use capsid_tests::layer::Entry;
use capsid_tests::{Capsid, ImageBuilder, Layer, Outcome, TestImage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

/// Runs `capsid WORDS...` to its end.
fn call(capsid: &Capsid, words: &[&str]) -> Outcome {
    capsid.call(words).wait()
}

/// Runs `capsid run --rm FLAGS busybox sh -c SCRIPT`.
fn shell(capsid: &Capsid, flags: &[&str], script: &str) -> Outcome {
    let words = flags.iter().copied().chain(["busybox", "sh", "-c", script]);
    capsid.run(words)
}

/// Starts a container in the background that prints `ready` once its script has run, and sleeps.
#[track_caller]
fn detached(capsid: &Capsid, name: &str, flags: &[&str], script: &str) {
    let script = format!("{script}\necho ready; exec sleep 1000");
    let words = ["run", "-d", "--name", name]
        .into_iter()
        .chain(flags.iter().copied())
        .chain(["busybox", "sh", "-c", &script]);
    capsid.call(words).wait().succeeds();
    eventually("ready", || call(capsid, &["logs", name]).text().contains("ready"));
}

/// Returns one field of `capsid inspect`.
#[track_caller]
fn field(capsid: &Capsid, name: &str, path: &str) -> String {
    let format = format!("{{{{{path}}}}}");
    let reported = call(capsid, &["inspect", "-f", &format, name]).succeeds();
    reported.text().trim().to_owned()
}

/// Waits until `holds` returns true.
#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience(20);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Returns the names of all volumes.
#[track_caller]
fn volumes(capsid: &Capsid, flags: &[&str]) -> Vec<String> {
    let words: Vec<&str> = ["volume", "ls", "-q"].iter().chain(flags).copied().collect();
    let reported = call(capsid, &words).succeeds().text();
    reported.lines().map(str::to_owned).collect()
}

/// Counts the disks of volumes.
fn disks(capsid: &Capsid) -> usize {
    let is_disk = |file: &String| file.contains("volumes/") && file.contains("disk.ext4");
    capsid.files().into_iter().filter(is_disk).count()
}

/// Creates an installation with `seeded:latest`: busybox, and `/srv/data` with two files and an owner, declared as a
/// `VOLUME`. One of the files has a name that once meant half a copy. Links beside it lead to the kernel's files, some
/// of which are masked.
fn with_seeded() -> Capsid {
    let capsid = Capsid::with_busybox();
    let layer = Layer::new()
        .entry(&Entry {
            name: "srv/data/",
            kind: tar::EntryType::Directory,
            mode: 0o750,
            uid: 33,
            gid: 34,
            ..Entry::default()
        })
        .file("srv/data/seed", "from the image\n")
        .file("srv/data/.capsid-filling", "")
        .file("srv/linked/one", "two names\n")
        .hardlink("srv/linked/two", "srv/linked/one")
        .symlink("srv/kernel", "/proc/sys/kernel/random")
        .symlink("srv/firmware", "/sys/firmware");
    let image = TestImage::Busybox
        .build()
        .layer(layer.finish())
        .config("Volumes", json!({"/srv/data": {}}));
    load(&capsid, &image, "seeded:latest");
    capsid
}

fn load(capsid: &Capsid, image: &ImageBuilder, name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("image.tar");
    image.write_docker_archive(&archive, name);
    capsid.load(&archive).succeeds();
}

#[test]
fn what_is_written_is_there_for_the_next_container() {
    let capsid = Capsid::with_busybox();
    // Anybody who may write in a volume makes files of any name.
    let script = "ls -A /d; echo kept >/d/file; : >/d/.capsid-filling";
    shell(&capsid, &["-v", "data:/d"], script).prints("");
    shell(&capsid, &["-v", "data:/else/where"], "cat /else/where/file").prints("kept\n");
    call(
        &capsid,
        &[
            "run",
            "--name",
            "one",
            "-v",
            "data:/d",
            "busybox",
            "sh",
            "-c",
            "echo more >>/d/file",
        ],
    )
    .succeeds();
    call(&capsid, &["rm", "-v", "one"]).succeeds();
    let mount = "type=volume,source=data,target=/d";
    shell(
        &capsid,
        &["--mount", mount],
        "cat /d/file; mount | grep -c ' /d type ext4'",
    )
    .prints("kept\nmore\n1\n");
    assert_eq!(volumes(&capsid, &[]), ["data"]);
}

#[test]
fn a_new_volume_has_the_images_files() {
    let capsid = with_seeded();
    let script = "cat /srv/data/seed; stat -c '%a %u %g' /srv/data; echo x >/srv/data/seed";
    capsid
        .run(["-v", "data:/srv/data", "seeded", "sh", "-c", script])
        .succeeds()
        .prints("from the image\n750 33 34\n");
    capsid
        .run([
            "-v",
            "data:/srv/data",
            "seeded",
            "sh",
            "-c",
            "cd /srv/data; cat seed; ls -A",
        ])
        .succeeds()
        .prints("x\n.capsid-filling\nseed\n");
    capsid
        .run(["-v", "empty:/srv/data:nocopy", "seeded", "ls", "-A", "/srv/data"])
        .succeeds()
        .prints("");
}

/// Test of copied files, hard links among them, as with docker.
#[test]
fn a_new_volume_that_is_only_read_is_filled() {
    let capsid = with_seeded();
    // Two containers begin with it at once: one of them prepares it, the other waits.
    let volumes = [
        "-v",
        "data:/srv/data:ro",
        "-v",
        "linked:/srv/linked:ro",
        "-v",
        "blank:/blank:ro",
    ];
    let begin = |name| {
        let words = [
            &["run", "-d", "--name", name],
            &volumes[..],
            &["seeded", "sleep", "600"],
        ]
        .concat();
        call(&capsid, &words).succeeds();
    };
    std::thread::scope(|scope| {
        scope.spawn(|| begin("one"));
        begin("two");
    });
    let script = "ls -A /srv/data /blank; stat -c '%a %u' /srv/data; stat -c %h /srv/linked/one; \
        [ /srv/linked/one -ef /srv/linked/two ] && echo same; touch /srv/data/x";
    for name in ["one", "two"] {
        call(&capsid, &["exec", name, "sh", "-c", script])
            .exits(1)
            .prints("/blank:\n\n/srv/data:\n.capsid-filling\nseed\n750 33\n2\nsame\n")
            .complains("Read-only file system");
    }
    // The same in docker's long form, and for one that only another container, which never ran, has writable.
    let mount = "type=volume,source=long,target=/srv/data,readonly";
    call(
        &capsid,
        &["create", "--name", "never", "-v", "from:/srv/data", "seeded"],
    )
    .succeeds();
    for flags in [["--mount", mount], ["--volumes-from", "never:ro"]] {
        let words = [&flags[..], &["seeded", "ls", "-A", "/srv/data"]].concat();
        capsid.run(words).succeeds().prints(".capsid-filling\nseed\n");
    }
}

#[test]
fn a_link_of_the_images_does_not_have_a_volume_filled_by_the_kernel() {
    let capsid = with_seeded();
    let flags = [
        "kernel:/srv/kernel",
        "kernel:/k",
        "firmware:/srv/firmware",
        "firmware:/f",
    ];
    let words = flags.iter().flat_map(|volume| ["-v", *volume]);
    // Each volume is seen once more at a place that nothing covers.
    let script = "ls -A /k /f; readlink /srv/kernel";
    capsid
        .run(words.chain(["seeded", "sh", "-c", script]))
        .succeeds()
        .prints("/f:\n\n/k:\n/proc/sys/kernel/random\n");
}

#[test]
fn an_images_volume_is_one_without_a_name() {
    let capsid = with_seeded();
    let words = [
        "run",
        "--name",
        "one",
        "seeded",
        "sh",
        "-c",
        "cat /srv/data/seed; echo new >/srv/data/own",
    ];
    call(&capsid, &words).succeeds().prints("from the image\n");
    let names = volumes(&capsid, &[]);
    assert!(names.len() == 1 && names[0].len() == 64, "{names:?}");
    let other = ["--volumes-from", "one", "busybox", "cat", "/srv/data/own"];
    capsid.run(other).succeeds().prints("new\n");
    assert_eq!(volumes(&capsid, &[]), names, "it is the other container's still");
    call(&capsid, &["start", "-a", "one"])
        .succeeds()
        .prints("from the image\n");
    call(&capsid, &["rm", "-v", "one"]).succeeds();
    assert_eq!((volumes(&capsid, &[]).len(), disks(&capsid)), (0, 0));
}

#[test]
fn volumes_without_a_name_go_as_asked() {
    let capsid = Capsid::with_busybox();
    shell(&capsid, &["-v", "/a", "--mount", "target=/b"], "echo x >/a/x; ls /b").succeeds();
    assert_eq!((volumes(&capsid, &[]).len(), disks(&capsid)), (0, 0), "--rm");
    call(
        &capsid,
        &["create", "--name", "kept", "-v", "/a", "-v", "named:/b", "busybox"],
    )
    .succeeds();
    call(&capsid, &["rm", "kept"]).succeeds();
    assert_eq!((volumes(&capsid, &[]).len(), disks(&capsid)), (2, 2), "rm");
    call(&capsid, &["volume", "prune", "-f"]).succeeds();
    assert_eq!(volumes(&capsid, &[]), ["named"], "prune");
    call(
        &capsid,
        &["create", "--name", "all", "-v", "/a", "-v", "named:/b", "busybox"],
    )
    .succeeds();
    call(&capsid, &["rm", "-v", "all"]).succeeds();
    assert_eq!(volumes(&capsid, &[]), ["named"], "rm -v");
    call(&capsid, &["volume", "prune", "-a", "-f"]).succeeds();
    assert_eq!((volumes(&capsid, &[]).len(), disks(&capsid)), (0, 0), "prune -a");
}

#[test]
fn what_was_synced_survives_a_killed_supervisor() {
    let capsid = Capsid::with_busybox();
    let script = "mkdir /d/folder; i=0; while [ $i -lt 200 ]; do echo $i >/d/folder/$i; i=$((i+1)); done; sync";
    detached(&capsid, "victim", &["-v", "data:/d"], script);
    let pid: i32 = field(&capsid, "victim", ".State.Pid").parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    // The journal is not replayed yet, and a reader without the right to write cannot do so.
    shell(&capsid, &["-v", "data:/d:ro"], "true")
        .exits(125)
        .complains("may write")
        .complains_in_one_line();
    shell(&capsid, &["-v", "data:/d"], "ls /d/folder | wc -l; cat /d/folder/199")
        .succeeds()
        .prints("200\n199\n");
    shell(&capsid, &["-v", "data:/d:ro"], "cat /d/folder/7")
        .succeeds()
        .prints("7\n");
}

#[test]
fn a_killed_pod_with_rm_leaves_no_volume_without_a_name() {
    let capsid = Capsid::with_busybox();
    detached(
        &capsid,
        "victim",
        &["--rm", "-v", "/d", "-v", "data:/e"],
        "echo x >/d/x",
    );
    let pid: i32 = field(&capsid, "victim", ".State.Pid").parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    eventually("its removal", || call(&capsid, &["ps", "-aq"]).text().is_empty());
    assert_eq!((volumes(&capsid, &[]), disks(&capsid)), (vec!["data".to_owned()], 1));
}

#[test]
fn a_read_only_volume_cannot_be_written() {
    let capsid = Capsid::with_busybox();
    shell(&capsid, &["-v", "data:/d"], "echo first >/d/file").succeeds();
    // 53ef is ext4's magic number: it is the volume's disk that is not written.
    let script = "echo x >/d/file || echo refused; mount -o remount,rw /d; echo x >/d/file || echo refused
        name=$(sed -n 's|^/dev/\\([^ ]*\\) /d .*|\\1|p' /proc/mounts)
        mknod /disk b $(awk -v name=$name '$4 == name { print $1, $2 }' /proc/partitions)
        dd if=/disk bs=1 skip=1080 count=2 | hexdump -e '2/1 \"%02x\"'; echo
        dd if=/dev/zero of=/disk bs=4096 count=64 conv=fsync && echo WRITTEN; cat /d/file";
    let outcome = shell(&capsid, &["--privileged", "-v", "data:/d:ro"], script).succeeds();
    assert_eq!(outcome.text().trim(), "refused\nrefused\n53ef\nfirst", "{outcome}");
    shell(&capsid, &["-v", "data:/d"], "cat /d/file")
        .succeeds()
        .prints("first\n");
}

#[test]
fn one_pod_writes_or_several_read() {
    let capsid = Capsid::with_busybox();
    detached(&capsid, "writer", &["-v", "data:/d"], "echo text >/d/file");
    for flags in ["data:/d", "data:/d:ro"] {
        shell(&capsid, &["-v", flags], "true")
            .exits(125)
            .complains("volume data is in use by container writer")
            .complains_in_one_line();
    }
    call(&capsid, &["stop", "-t", "0", "writer"]).succeeds();
    detached(&capsid, "reader", &["-v", "data:/d:ro"], "cat /d/file");
    shell(&capsid, &["-v", "data:/d:ro"], "cat /d/file")
        .succeeds()
        .prints("text\n");
    shell(&capsid, &["--volumes-from", "writer:ro"], "cat /d/file")
        .succeeds()
        .prints("text\n");
    let refused = call(&capsid, &["start", "writer"]).exits(1);
    assert!(refused.stderr.contains("in use by container reader"), "{refused}");
    call(&capsid, &["rm", "-f", "reader"]).succeeds();
    call(&capsid, &["start", "writer"]).succeeds();
    // It writes its file anew, beside us.
    let wait_and_show = "until grep -q text /d/file; do sleep 0.1; done; cat /d/file";
    call(&capsid, &["exec", "writer", "sh", "-c", wait_and_show])
        .succeeds()
        .prints("text\n");
}

#[test]
fn a_volume_that_a_container_has_is_not_removed() {
    let capsid = Capsid::with_busybox();
    call(&capsid, &["volume", "create", "data"]).succeeds().prints("data\n");
    call(&capsid, &["volume", "create", "data"]).succeeds().prints("data\n");
    call(&capsid, &["create", "--name", "one", "-v", "data:/d", "busybox"]).succeeds();
    for words in [&["volume", "rm", "data"][..], &["volume", "rm", "-f", "data"]] {
        call(&capsid, words)
            .exits(1)
            .complains("used by container one")
            .complains_in_one_line();
    }
    call(&capsid, &["volume", "prune", "-af"]).succeeds();
    assert_eq!(volumes(&capsid, &["-f", "dangling=false"]), ["data"]);
    call(&capsid, &["rm", "one"]).succeeds();
    assert_eq!(volumes(&capsid, &["-f", "dangling=true"]), ["data"]);
    call(&capsid, &["volume", "rm", "data"]).succeeds().prints("data\n");
    call(&capsid, &["volume", "rm", "data"])
        .exits(1)
        .complains("no such volume: data");
    call(&capsid, &["volume", "rm", "-f", "data"]).succeeds().prints("");
    assert_eq!(disks(&capsid), 0);
}

#[test]
fn volumes_are_told_in_dockers_words() {
    let capsid = Capsid::with_busybox();
    call(&capsid, &["volume", "create", "--label", "tier=back", "data"]).succeeds();
    let unnamed = call(&capsid, &["volume", "create"]).succeeds().text();
    assert_eq!(unnamed.trim().len(), 64);
    let table = call(&capsid, &["volume", "ls"]).succeeds().text();
    assert!(
        table.starts_with("DRIVER") && table.contains("VOLUME NAME") && table.contains("data"),
        "{table}"
    );
    assert_eq!(volumes(&capsid, &["-f", "label=tier"]), ["data"]);
    assert_eq!(volumes(&capsid, &["-f", "name=dat"]), ["data"]);
    let format = [
        "volume",
        "ls",
        "-f",
        "name=data",
        "--format",
        "{{.Name}} {{.Driver}} {{.Labels}}",
    ];
    call(&capsid, &format).succeeds().prints("data local tier=back\n");
    let reported = call(&capsid, &["volume", "inspect", "data"]).succeeds().json();
    assert_eq!(
        (&reported[0]["Name"], &reported[0]["Labels"]["tier"]),
        (&json!("data"), &json!("back"))
    );
    call(&capsid, &["volume", "inspect", "nothing"])
        .exits(1)
        .complains("no such volume: nothing");
    call(&capsid, &["create", "--name", "one", "-v", "data:/d:ro", "busybox"]).succeeds();
    let reported = call(&capsid, &["inspect", "one"]).succeeds().json();
    let mount = &reported[0]["Mounts"][0];
    assert_eq!(
        (
            &mount["Type"],
            &mount["Name"],
            &mount["Destination"],
            &mount["RW"],
            &mount["Mode"]
        ),
        (
            &json!("volume"),
            &json!("data"),
            &json!("/d"),
            &json!(false),
            &json!("ro")
        )
    );
}

#[test]
fn memory_and_a_volume_inside_it_are_mounted_in_order() {
    let capsid = Capsid::with_busybox();
    let flags = [
        "-v",
        "data:/m/d",
        "--mount",
        "type=tmpfs,target=/m,tmpfs-size=1m,tmpfs-mode=711",
    ];
    shell(
        &capsid,
        &flags,
        "echo x >/m/d/x; stat -c %a /m; df -k /m | tail -n 1 | awk '{print $2}'",
    )
    .prints("711\n1024\n");
    shell(&capsid, &["-v", "data:/d"], "cat /d/x").prints("x\n");
}

#[test]
fn as_many_as_there_is_room_for() {
    let capsid = Capsid::with_busybox();
    // Under emulation, a network takes the place of one volume.
    let flags = ["--network", "none", "-v", "/a", "-v", "/b", "-v", "/c", "-v", "/d"];
    shell(
        &capsid,
        &flags,
        "for f in a b c d; do echo $f >/$f/$f; done; cat /[abcd]/?",
    )
    .succeeds()
    .prints("a\nb\nc\nd\n");
    let many: Vec<String> = (0..9).flat_map(|i| ["-v".to_owned(), format!("/{i}")]).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    shell(&capsid, &many, "true")
        .exits(125)
        .complains("9 volumes")
        .complains_in_one_line();
    assert_eq!(disks(&capsid), 0);
}

#[test]
fn bad_input_is_told_in_one_line_and_leaves_nothing() {
    let capsid = Capsid::with_busybox();
    assert_eq!(volumes(&capsid, &[]), [""; 0]);
    let before = capsid.files();
    let flags = [
        ["-v", "~/host:/d", "write a path of the host's"],
        ["-v", "data", "NAME:/path"],
        ["-v", "data:d", "NAME:/path"],
        ["-v", "data:/", "absolute"],
        ["-v", "data:/d:fast", "fast"],
        ["-v", "da ta:/d", "volume name"],
        ["-v", "data:/a/../b", "without .."],
        ["--mount", "type=volume,source=data", "target=PATH is missing"],
        ["--mount", "type=npipe,target=/d", "npipe"],
        ["--mount", "target=/d,colour=red", "colour=red"],
        ["--volumes-from", "nobody", "no such container: nobody"],
        ["--volumes-from", "x:fast", "x:fast"],
    ];
    for [flag, value, words] in flags {
        capsid
            .run([flag, value, "busybox", "true"])
            .exits(125)
            .complains(words)
            .complains_in_one_line();
    }
    shell(&capsid, &["-v", "a1:/d", "-v", "b1:/d"], "true")
        .exits(125)
        .complains("same place /d");
    call(&capsid, &["volume", "create", "a/b"])
        .exits(1)
        .complains_in_one_line();
    call(&capsid, &["volume", "ls", "-f", "colour=red"])
        .exits(1)
        .complains_in_one_line();
    assert_eq!(capsid.files(), before);
}

#[test]
fn a_disk_without_a_row_is_swept_if_its_making_was_recorded() {
    let capsid = Capsid::with_busybox();
    call(&capsid, &["volume", "create", "data"]).succeeds();
    let orphan = capsid.folder("data").join("volumes/orphan");
    std::fs::create_dir(&orphan).unwrap();
    std::fs::write(orphan.join("disk.ext4"), "half").unwrap();
    assert_eq!(volumes(&capsid, &[]), ["data"]);
    assert_eq!(disks(&capsid), 2);
    call(&capsid, &["volume", "create", "orphan"])
        .exits(1)
        .complains("move it away");
    let database = rusqlite::Connection::open(capsid.folder("data").join("containers.db")).unwrap();
    database
        .execute("INSERT INTO pending VALUES ('volume', 'orphan', 'make')", [])
        .unwrap();
    drop(database);
    assert_eq!(volumes(&capsid, &[]), ["data"]);
    assert_eq!(disks(&capsid), 1);
}
