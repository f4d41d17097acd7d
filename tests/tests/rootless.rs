//! Use of Capsid by a user without any right: everything for which the machine itself does not need `/dev/kvm`.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::time::Duration;

use capsid_tests::environment::part;
use capsid_tests::invocation::{Invocation, eventually};
use capsid_tests::sys::limit_open_files;
use capsid_tests::walls::{NO_CAPABILITIES, confined_below};
use capsid_tests::{Outcome, TestImage};
use tempfile::TempDir;

/// User id that this machine knows nothing of.
const USER: u32 = 54_321;

/// Installation that such a user can read, and folders of that user's own.
struct Person {
    root: TempDir,
}

impl Person {
    fn new() -> Self {
        let root = tempfile::Builder::new().prefix("capsid-test-").tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let person = Self { root };
        fs::create_dir(person.folder("bin")).unwrap();
        for name in ["capsid", "capsid-vmm", "capsid-fs", "capsid-agent", "vmlinux"] {
            fs::copy(part(name), person.folder("bin").join(name)).unwrap();
        }
        for name in ["data", "run", "home", "tmp"] {
            fs::create_dir(person.folder(name)).unwrap();
            chown(person.folder(name), Some(USER), Some(USER)).unwrap();
        }
        person
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn call(&self, words: &[&str]) -> Invocation {
        let user = USER.to_string();
        let mut invocation = Invocation::new(
            "/usr/bin/setpriv",
            ["--reuid", &user, "--regid", &user, "--clear-groups"],
        );
        let command = invocation.command();
        command
            .args(["--inh-caps=-all", "--"])
            .arg(self.folder("bin/capsid"))
            .args(words);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("CAPSID_ACCEL", "emulate");
        for (name, folder) in [
            ("HOME", "home"),
            ("TMPDIR", "tmp"),
            ("CAPSID_DATA_DIR", "data"),
            ("CAPSID_RUN_DIR", "run"),
        ] {
            command.env(name, self.folder(folder));
        }
        invocation.within(120)
    }

    #[track_caller]
    fn does(&self, words: &[&str]) -> Outcome {
        self.call(words).wait().succeeds()
    }
}

#[test]
fn an_ordinary_user_has_pods_networks_and_volumes() {
    let person = Person::new();
    let archive = fs::read(TestImage::DebianPython.docker_archive()).unwrap();
    person.call(&["load", "-q"]).input(archive).wait().succeeds();
    person.does(&["network", "create", "back"]);
    let shared = person.folder("home").display().to_string();
    let served = format!("{shared}:/served");
    let flags = [
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "back",
        "-p",
        "127.0.0.1::80",
        "-v",
        &served,
    ];
    let server = ["debian-python", "python3", "-m", "http.server", "-d", "/served", "80"];
    person.does(&[&flags[..], &server].concat());
    fs::write(person.folder("home/page"), "a page").unwrap();
    let port = person.does(&["port", "web", "80"]).text();
    eventually("the server serves", 60, || {
        fetch(port.trim()).is_ok_and(|page| page.ends_with("a page"))
    });
    let supervisor = person.does(&["inspect", "-f", "{{.State.Pid}}", "web"]).text();
    let walls = confined_below(supervisor.trim().parse().unwrap());
    let qemu = walls.iter().find(|walls| walls.name.starts_with("qemu")).unwrap();
    qemu.assert_is_confined_qemu();
    // As itself and nobody else, in a user namespace of its own.
    assert_eq!(qemu.user(), Some(USER));
    let ours = walls.iter().filter(|walls| !walls.name.starts_with("passt"));
    ours.for_each(|walls| walls.assert_confined(NO_CAPABILITIES));
    let client = [
        "run",
        "--rm",
        "--network",
        "back",
        "-v",
        "notes:/notes",
        "debian-python",
        "python3",
        "-c",
        FETCH,
    ];
    person
        .does(&[&client[..], &["web:80", "/notes/page"]].concat())
        .prints("a page");
    let reader = [
        "run",
        "--rm",
        "-v",
        "notes:/notes",
        "debian-python",
        "cat",
        "/notes/page",
    ];
    person.does(&reader).prints("a page");
    person.does(&["rm", "-f", "web"]);
    person.does(&["network", "rm", "back"]);
}

/// Opens files until it may not, and then one more after it has closed them.
const OPEN_MANY: &str = r#"
import errno
held = []
try:
    for number in range(500):
        held.append(open(f"/d/{number}"))
except OSError as error:
    print(errno.errorcode[error.errno], 50 < len(held) < 200)
held.clear()
print(open("/d/499").read())
"#;

/// Test that a guest which has more files open than its file server may is refused, and goes on.
#[test]
fn files_of_a_share_beyond_the_limit_are_refused() {
    let person = Person::new();
    let archive = fs::read(TestImage::DebianPython.docker_archive()).unwrap();
    person.call(&["load", "-q"]).input(archive).wait().succeeds();
    let share = person.folder("home/share");
    fs::create_dir(&share).unwrap();
    for number in 0..500 {
        fs::write(share.join(number.to_string()), "x").unwrap();
    }
    let bind = format!("{}:/d", share.display());
    let run = ["run", "--rm", "--network", "none", "-v", &bind, "debian-python"];
    let mut call = person.call(&[&run[..], &["python3", "-c", OPEN_MANY]].concat());
    // No other process of a pod comes near.
    limit_open_files(call.command(), 200);
    call.wait().succeeds().prints("EMFILE True\nx\n");
}

/// Fetches the page from the host, with its header.
fn fetch(address: &str) -> std::io::Result<String> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.write_all(b"GET /page HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Script that fetches a page, prints it, and writes it to a given path.
const FETCH: &str = "\
import sys, urllib.request
page = urllib.request.urlopen('http://' + sys.argv[1] + '/page', timeout=10).read()
sys.stdout.buffer.write(page)
for path in sys.argv[2:]: open(path, 'wb').write(page)
";
