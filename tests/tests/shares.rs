//! Bind mounts: changes of a container to a folder or file of the host affect that folder or file, and nothing else on
//! the host.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use capsid_tests::environment::workload;
use capsid_tests::invocation::eventually;
use capsid_tests::layer::noise;
use capsid_tests::resident::{anonymous_kib, descendants};
use capsid_tests::{Capsid, Outcome};
use serde_json::json;
use tempfile::TempDir;

/// Runs `capsid WORDS...` to its end.
fn call(capsid: &Capsid, words: &[&str]) -> Outcome {
    capsid.call(words).wait()
}

/// Runs `capsid run --rm FLAGS busybox sh -c SCRIPT`.
fn shell(capsid: &Capsid, flags: &[&str], script: &str) -> Outcome {
    let words = flags.iter().copied().chain(["busybox", "sh", "-c", script]);
    capsid.run_call(words).within(180).wait()
}

/// Returns a flag's value that mounts `source` at `target`.
fn bind(source: &Path, target: &str) -> String {
    format!("{}:{target}", source.display())
}

/// Describes everything below a folder: names, kinds, modes, owners, sizes, contents, links, times of change.
fn listing(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut next = vec![folder.to_owned()];
    while let Some(path) = next.pop() {
        let about = fs::symlink_metadata(&path).unwrap();
        let (content, link) = (fs::read(&path).ok(), fs::read_link(&path).ok());
        let content = content.filter(|_| about.is_file());
        found.push(format!(
            "{} {:o} {}:{} {:?} {:?} {}.{}",
            path.display(),
            about.mode(),
            about.uid(),
            about.gid(),
            content,
            link,
            about.ctime(),
            about.ctime_nsec()
        ));
        if about.is_dir() {
            next.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    found.sort();
    found
}

/// Creates a folder to share, beside one that is not: `(parent, shared, secret)`.
fn folders() -> (TempDir, std::path::PathBuf, std::path::PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let (shared, secret) = (parent.path().join("shared"), parent.path().join("secret"));
    for folder in [&shared, &secret] {
        fs::create_dir(folder).unwrap();
    }
    fs::write(secret.join("file"), "of-the-host\n").unwrap();
    (parent, shared, secret)
}

#[test]
fn files_go_both_ways() {
    let (_parent, shared, _) = folders();
    let capsid = Capsid::with_busybox();
    fs::write(shared.join("given"), "by the host\n").unwrap();
    fs::hard_link(shared.join("given"), shared.join("twin")).unwrap();
    fs::create_dir(shared.join("folder")).unwrap();
    // Bigger than one request, and not a whole number of pages.
    fs::write(shared.join("large"), noise(7, (5 << 20) + 13)).unwrap();
    for index in 0..400 {
        fs::write(shared.join(format!("folder/{index}")), "").unwrap();
    }
    let script = "set -e; cd /d
        cat given; [ given -ef twin ] && stat -c %h twin
        ls folder | wc -l
        cp large copy && cmp large copy && cat copy copy >twice && truncate -s 10485760 copy
        mkdir -p a/b && echo made >a/b/c && mv a/b a/d && ln -s d/c a/link && cat a/link && ln a/d/c a/hard && sync a a/d .
        chmod 640 a/d/c && touch -d '2001-02-03 04:05:06' a/d/c && rm given
        for i in $(seq 200); do echo $i >a/$i; done; rm -r folder
        echo one >appended; echo two >>appended
        cp /bin/busybox busybox && ./busybox echo executed
        sync; df . | tail -n 1 | awk '{print $6}'";
    shell(&capsid, &["-v", &bind(&shared, "/d")], script)
        .succeeds()
        .prints("by the host\n2\n400\nmade\nexecuted\n/d\n");
    let large = noise(7, (5 << 20) + 13);
    assert_eq!(
        fs::read(shared.join("twice")).unwrap(),
        [large.clone(), large.clone()].concat()
    );
    let copy = fs::read(shared.join("copy")).unwrap();
    assert!(copy.len() == 10 << 20 && copy.starts_with(&large) && copy[large.len()..].iter().all(|byte| *byte == 0));
    let made = fs::metadata(shared.join("a/d/c")).unwrap();
    assert_eq!(
        (made.mode() & 0o7777, made.nlink(), made.mtime()),
        (0o640, 2, 981_173_106)
    );
    assert_eq!(fs::read_link(shared.join("a/link")).unwrap(), Path::new("d/c"));
    assert_eq!(fs::read_to_string(shared.join("appended")).unwrap(), "one\ntwo\n");
    assert_eq!(fs::read_dir(shared.join("a")).unwrap().count(), 203);
    assert!(!shared.join("given").exists() && !shared.join("folder").exists());
}

#[test]
fn a_huge_folder_is_listed_whole_and_its_server_stays_small() {
    // An emulated guest takes a millisecond for each, and one in the lab longer.
    let files = workload(5_000) as usize;
    let made = workload(300) as usize;
    let (_parent, shared, _) = folders();
    let capsid = Capsid::with_busybox();
    for index in 0..files {
        // Long names: a listing of more than one request.
        fs::write(shared.join(format!("{index:0200}")), "").unwrap();
    }
    capsid.detached("host", &["-v", &bind(&shared, "/d"), "busybox", "sleep", "1000"]);
    let exec = |script: &str| {
        let words = ["exec", "host", "sh", "-c", script];
        capsid.call(words).within(300).wait().succeeds().text()
    };
    assert_eq!(exec("ls /d | sort -u | wc -l"), files.to_string());
    // Every one is looked up, and so known to the server.
    assert_eq!(exec("find /d -type f -size 0 | wc -l"), files.to_string());
    exec(&format!("cd /d; for i in $(seq {made}); do : >made$i; done"));
    assert_eq!(fs::read_dir(&shared).unwrap().count(), files + made);
    let servers = || {
        let mut processes = descendants(capsid.supervisor("host"));
        processes.retain(|process| process.name == "capsid-fs");
        processes
    };
    let resident_kib = || servers().iter().map(|process| anonymous_kib(process.pid)).sum::<u64>();
    let known_kib = resident_kib();
    // The server's memory for a file is some hundred bytes, and it keeps nothing of a listing.
    assert!((1..48 << 10).contains(&known_kib), "{known_kib}");
    exec("for i in 1 2 3 4; do set -- /d/*; done");
    assert!(
        resident_kib() < known_kib + 1024,
        "{known_kib} KiB and then {}",
        resident_kib()
    );
    exec("cd /d; rm made*");
    assert_eq!(fs::read_dir(&shared).unwrap().count(), files);
    call(&capsid, &["rm", "-f", "host"]).succeeds();
}

#[test]
fn a_mapped_file_is_the_hosts() {
    let (_parent, shared, _) = folders();
    let capsid = Capsid::with_probe();
    fs::write(shared.join("file"), vec![b'a'; 20_000]).unwrap();
    capsid
        .probe_call(&["-v", &bind(&shared, "/d")], &["map", "/d/file", "9000", "changed"])
        .succeeds()
        .prints("aaaaaaa\n");
    let content = fs::read(shared.join("file")).unwrap();
    assert_eq!(&content[9000..9007], b"changed");
    assert_eq!(content.len(), 20_000);
}

/// Test as root of the guest with every capability: not even a mount of its own changes anything.
#[test]
fn a_read_only_share_cannot_be_changed() {
    let (_parent, shared, _) = folders();
    let capsid = Capsid::with_busybox();
    fs::create_dir(shared.join("folder")).unwrap();
    for name in ["file", "folder/file"] {
        fs::write(shared.join(name), "kept\n").unwrap();
    }
    symlink("file", shared.join("link")).unwrap();
    let before = listing(&shared);
    let attempts = "
        try() { \"$@\" 2>/dev/null && echo \"worked: $*\"; }
        attack() {
            cd \"$1\" || exit 1
            try sh -c 'echo x >file'; try sh -c 'echo x >>folder/file'; try sh -c 'echo x >new'
            try mkdir new; try rm file; try rmdir folder; try mv file new; try ln file new; try ln -s a new
            try chmod 777 file; try chown 5 file; try touch file; try truncate -s 0 file; try mknod new c 1 3
            try mkfifo new; try mv folder/file other; try cp /bin/busybox file
            cat file link
        }
        cd /d; tag=$(awk '$2 == \"/d\" { print $1 }' /proc/mounts)
        attack /d
        mount -o remount,rw /d 2>/dev/null; attack /d
        mkdir /again; mount -t virtiofs $tag /again && attack /again
        echo done";
    let flags = ["--privileged", "-v", &bind(&shared, "/d:ro")];
    shell(&capsid, &flags, attempts)
        .succeeds()
        .prints("kept\nkept\nkept\nkept\nkept\nkept\ndone\n");
    let mount = format!("type=bind,source={},target=/d,readonly", shared.display());
    shell(&capsid, &["--mount", &mount], "touch /d/x; cat /d/file")
        .prints("kept\n")
        .complains("Read-only file system");
    assert_eq!(listing(&shared), before);
}

/// Test of links: they lead where the container's root makes them lead, `..` of the share is the container's, and a
/// folder that the host, or another machine, turns into a link while it is walked through does not lead out either.
#[test]
fn nothing_outside_of_a_share_is_reached() {
    let (_parent, shared, secret) = folders();
    let capsid = Capsid::with_busybox();
    symlink(&secret, shared.join("link")).unwrap();
    symlink(secret.join("file"), shared.join("file-link")).unwrap();
    symlink("../secret", shared.join("up")).unwrap();
    fs::create_dir(shared.join("real")).unwrap();
    fs::write(shared.join("real/file"), "of-the-share\n").unwrap();
    symlink("../secret", shared.join("swapped")).unwrap();
    let before = listing(&secret);
    let attempts = "cd /d
        cat link/file file-link up/file ../secret/file /d/../secret/file link/../secret/file 2>/dev/null
        echo x >up/new 2>/dev/null; echo x >link/new 2>/dev/null; echo x >file-link 2>/dev/null
        ls /d/..|grep -c secret
        ln -s / root; ls root/etc >/dev/null; ln -s /proc/1/root/etc self; cat self/hostname >/dev/null 2>&1
        mknod disk b 254 0 2>/dev/null && echo 'a block device'; mknod null c 1 3 2>/dev/null && echo 'a device'
        cp /bin/busybox tool; chmod 6755 tool; stat -c %a tool
        echo start >started
        end=$(($(date +%s) + 4))
        while [ $(date +%s) -lt $end ]; do
            for i in 1 2 3 4 5 6 7 8; do cat real/file 2>/dev/null; echo x >real/made 2>/dev/null; done
        done | sort | uniq -c | awk '{ print $2 }'";
    let stop = AtomicBool::new(false);
    let swaps = thread::scope(|scope| {
        let swapping = scope.spawn(|| {
            // The guest walks through a folder, then a link that leads out, then a folder...
            let (real, swapped) = (shared.join("real"), shared.join("swapped"));
            let mut swaps = 0_u32;
            while !stop.load(Ordering::SeqCst) {
                exchange(&real, &swapped);
                swaps += 1;
            }
            swaps
        });
        let outcome = shell(&capsid, &["--privileged", "-v", &bind(&shared, "/d")], attempts);
        stop.store(true, Ordering::SeqCst);
        let reported = outcome.succeeds().text();
        assert_eq!(reported, "0\n755\nof-the-share", "of {:?}", shared);
        swapping.join().unwrap()
    });
    assert!(swaps > 100, "{swaps} swaps");
    assert_eq!(listing(&secret), before);
    assert_eq!(fs::metadata(shared.join("tool")).unwrap().mode() & 0o7777, 0o755);
    assert!(!shared.join("disk").exists() && !shared.join("null").exists());
}

/// Exchanges the names of two files.
fn exchange(one: &Path, other: &Path) {
    nix::fcntl::renameat2(
        nix::fcntl::AT_FDCWD,
        one,
        nix::fcntl::AT_FDCWD,
        other,
        nix::fcntl::RenameFlags::RENAME_EXCHANGE,
    )
    .unwrap();
}

/// Test that set-user-id files and device nodes that the host has in a share are ordinary files and nothing in the
/// container.
#[test]
fn owners_are_kept_and_special_files_are_not_special() {
    let (_parent, shared, _) = folders();
    let capsid = Capsid::with_busybox();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
    let file = shared.join("file");
    fs::write(&file, "x\n").unwrap();
    std::os::unix::fs::chown(&file, Some(1234), Some(5678)).unwrap();
    let tool = shared.join("tool");
    fs::copy(capsid_tests::environment::part("capsid-probe"), &tool).unwrap();
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o4755)).unwrap();
    nix::sys::stat::mknod(
        &shared.join("null"),
        nix::sys::stat::SFlag::S_IFCHR,
        nix::sys::stat::Mode::from_bits_truncate(0o666),
        nix::sys::stat::makedev(1, 3),
    )
    .unwrap();
    let script = "cd /d; stat -c %u:%g file; echo x >mine; mkdir below; stat -c %u:%g mine below
        cat null 2>/dev/null || echo 'no device'
        grep -q nosuid.*nodev /proc/mounts && ./tool report | grep -o '\"uid\":[0-9]*' | head -n 1; id -u";
    let flags = ["-u", "33:34", "-v", &bind(&shared, "/d")];
    let reported = shell(&capsid, &flags, script).succeeds().text();
    assert!(
        reported.starts_with("1234:5678\n33:34\n33:34\nno device\n"),
        "{reported}"
    );
    let mine = fs::metadata(shared.join("mine")).unwrap();
    assert_eq!((mine.uid(), mine.gid()), (33, 34));
    shell(
        &capsid,
        &["-v", &bind(&shared, "/d")],
        "chown 7:8 /d/file; echo y >>/d/tool",
    )
    .succeeds();
    let file = fs::metadata(&file).unwrap();
    assert_eq!((file.uid(), file.gid()), (7, 8));
    // A process that writes to it has no right to keep the bit.
    assert_eq!(fs::metadata(&tool).unwrap().mode() & 0o7000, 0);
}

#[test]
fn a_single_file_is_shared_alone() {
    let (_parent, shared, _) = folders();
    let capsid = Capsid::with_busybox();
    let (file, other) = (shared.join("file"), shared.join("other"));
    fs::write(&file, "one\n").unwrap();
    fs::write(&other, "of-the-host\n").unwrap();
    let before = listing(&shared);
    let flags = [
        "-v",
        &bind(&file, "/etc/config:ro"),
        "-v",
        &bind(&file, "/etc/hosts:ro"),
    ];
    shell(
        &capsid,
        &flags,
        "cat /etc/config /etc/hosts; echo x >/etc/config; echo x >/etc/hosts; rm /etc/config",
    )
    .prints("one\none\n")
    .complains("Read-only file system");
    assert_eq!(listing(&shared), before);
    // Its folder has nothing else, and takes nothing else.
    let script = "echo two >>/f; tag=$(awk '$2 == \"/f\" { print $1 }' /proc/mounts)
        mkdir /m; mount -t virtiofs $tag /m; ls -A /m; touch /m/new; mv /m/file /m/new; rm /m/file; cat /m/file";
    shell(&capsid, &["--privileged", "-v", &bind(&file, "/f")], script)
        .succeeds()
        .prints("file\none\ntwo\n");
    assert_eq!(fs::read_to_string(&file).unwrap(), "one\ntwo\n");
    assert_eq!(fs::read_to_string(&other).unwrap(), "of-the-host\n");
}

/// Test of bind mounts that give a folder a second path, which hides what it is: Capsid's own folders, their parents
/// and content, and the kernel's, stay refused. Needs no machine.
#[test]
fn other_paths_of_capsids_own_folders_are_refused() {
    let parent = tempfile::tempdir().unwrap();
    let capsid = Capsid::with_busybox();
    let script = "set -e; cd \"$0\"
        mkdir data run inner above proc beneath beneath/deep good plain
        mount --bind \"$1\" data; mount --bind \"$2\" run; mount --bind \"$1/blobs\" inner
        mount --bind \"$1/..\" above; mount --rbind /proc proc; mount --bind \"$1\" beneath/deep; mount --bind plain good
        for name in data run inner above proc proc/sys beneath beneath/deep above/home/../data data/new good; do
            \"$3\" create -q --network none -v \"$PWD/$name:/d\" busybox >out 2>&1 && echo $name made || echo $name $(cat out)
        done";
    let arguments = ["--map-root-user", "--mount", "sh", "-c", script];
    let mut invocation = capsid_tests::Invocation::new("unshare", arguments);
    let command = invocation.command();
    command.args([parent.path(), &capsid.folder("data"), &capsid.folder("run")]);
    command.arg(capsid_tests::environment::part("capsid"));
    command.env_clear().envs(capsid.environment());
    let outcome = invocation.within(120).wait().succeeds();
    let text = outcome.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 11, "{text}");
    for line in &lines[..10] {
        assert!(line.contains("which no container may have"), "{line}");
    }
    assert_eq!(lines[10], "good made");
    assert!(!capsid.folder("data").join("new").exists());
}

/// Test that the user's keys may be shared, and the user is warned.
#[test]
fn a_share_of_keys_is_warned_of() {
    let capsid = Capsid::with_busybox();
    let home = capsid.folder("home");
    for folder in [".ssh", ".docker/contexts", "work"] {
        fs::create_dir_all(home.join(folder)).unwrap();
    }
    let create = |source: &str| {
        let bind = bind(&home.join(source), "/d:ro");
        call(&capsid, &["create", "--network", "none", "-v", &bind, "busybox"]).succeeds()
    };
    for source in ["", ".ssh", ".docker/contexts"] {
        create(source).complains("keys and credentials");
    }
    assert!(!create("work").stderr.contains("keys"), "no key is there");
}

#[test]
fn a_share_with_sockets_is_warned_of() {
    let capsid = Capsid::with_busybox();
    let (_parent, shared, _) = folders();
    let create = || {
        let bind = bind(&shared, "/d");
        call(&capsid, &["create", "--network", "none", "-v", &bind, "busybox"]).succeeds()
    };
    assert!(!create().stderr.contains("socket"), "there is none");
    let _listener = std::os::unix::net::UnixListener::bind(shared.join("agent.sock")).unwrap();
    create()
        .complains("agent.sock")
        .complains("cannot connect to sockets of the host");
}

#[test]
fn sources_are_made_found_or_refused() {
    let (parent, shared, _) = folders();
    let capsid = Capsid::with_busybox();
    let before = capsid.files();
    let absent = shared.join("made/by/v");
    let mount = format!("type=bind,source={},target=/d", absent.display());
    capsid
        .run(["--mount", &mount, "busybox", "true"])
        .exits(125)
        .complains("does not exist")
        .complains_in_one_line();
    let (data, run) = (capsid.folder("data"), capsid.folder("run"));
    let socket = parent.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let link = parent.path().join("link");
    symlink("/proc", &link).unwrap();
    let refused = [
        ("/", "which no container may have"),
        ("/proc", "which no container may have"),
        ("/proc/self", "which no container may have"),
        ("/sys/fs", "which no container may have"),
        ("/dev", "which no container may have"),
        ("/dev/sda", "which no container may have"),
        ("/tmp/..", "which no container may have"),
        (link.to_str().unwrap(), "which no container may have"),
        (data.to_str().unwrap(), "which no container may have"),
        (run.to_str().unwrap(), "which no container may have"),
        (data.parent().unwrap().to_str().unwrap(), "which no container may have"),
        (socket.to_str().unwrap(), "it is a socket"),
        ("~/x", "write a path of the host's"),
        ("a/b", "write a path of the host's"),
    ];
    for (source, words) in refused {
        capsid
            .run(["-v", &format!("{source}:/d"), "busybox", "true"])
            .exits(125)
            .complains(words)
            .complains_in_one_line();
    }
    let many: Vec<String> = (0..9)
        .flat_map(|i| ["-v".to_owned(), bind(&shared, &format!("/{i}"))])
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    shell(&capsid, &many, "true")
        .exits(125)
        .complains("9 volumes and bind mounts");
    assert_eq!(capsid.files(), before);
    assert!(!absent.exists());
    shell(&capsid, &["-v", &bind(&absent, "/d")], "echo x >/d/file").succeeds();
    assert_eq!(fs::read_to_string(absent.join("file")).unwrap(), "x\n");
    call(
        &capsid,
        &["create", "--name", "one", "-v", &bind(&absent, "/d:ro"), "busybox"],
    )
    .succeeds();
    let reported = call(&capsid, &["inspect", "one"]).succeeds().json();
    let mount = &reported[0]["Mounts"][0];
    assert_eq!(
        (&mount["Type"], &mount["Source"], &mount["Destination"], &mount["RW"]),
        (
            &json!("bind"),
            &json!(fs::canonicalize(&absent).unwrap()),
            &json!("/d"),
            &json!(false)
        )
    );
    // Another file by the same name is another file.
    fs::remove_dir_all(&absent).unwrap();
    symlink("/proc", &absent).unwrap();
    call(&capsid, &["start", "-a", "one"]).complains("which no container may have");
}

/// Test that two machines and the host see each other's changes at once.
#[test]
fn a_folder_has_several_users() {
    let (_parent, shared, _) = folders();
    let capsid = Capsid::with_busybox();
    fs::write(shared.join("turn"), "0\n").unwrap();
    // Each waits for its turn and gives it to the next.
    let player = |name: &'static str, mine: u32, next: u32| {
        let script = format!("until [ $(cat /d/turn) = {mine} ]; do sleep 0.05; done; echo {next} >/d/turn; ls /d");
        let volume = bind(&shared, "/d");
        let words = [
            "run", "-d", "--name", name, "-v", &volume, "busybox", "sh", "-c", &script,
        ];
        capsid.call(words).wait().succeeds();
    };
    player("first", 1, 2);
    player("second", 2, 3);
    thread::sleep(Duration::from_millis(500));
    fs::write(shared.join("of-the-host"), "").unwrap();
    fs::write(shared.join("turn"), "1\n").unwrap();
    eventually("the last turn", 20, || {
        fs::read_to_string(shared.join("turn")).unwrap() == "3\n"
    });
    for name in ["first", "second"] {
        call(&capsid, &["wait", name]).succeeds().prints("0\n");
        call(&capsid, &["logs", name]).succeeds().prints("of-the-host\nturn\n");
        call(&capsid, &["rm", name]).succeeds();
    }
}
