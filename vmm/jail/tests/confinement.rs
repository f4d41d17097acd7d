//! The promises of the jail, checked from outside: this program starts itself as the process to confine and reads
//! about it in `/proc`.
#![allow(missing_docs)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use capsid_jail::{Condition, Jail, Resource, Rlimit, Rule, SyscallFilter, abort_on_panic, panic_rules};

const ROLE: &str = "--confined";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(ROLE) {
        confined(arguments.next().as_deref() == Some("with-pid-namespace"));
    }
    let mut users = vec![None];
    if rustix::process::geteuid().is_root() {
        users.push(Some(1000));
    }
    for user in users {
        for pid_namespace in [true, false] {
            println!("user {user:?}, pid namespace {pid_namespace}");
            nothing_of_the_host_is_left(&Start { user, pid_namespace });
            a_forbidden_call_kills(&Start { user, pid_namespace });
            a_forbidden_call_in_a_second_thread_kills(&Start { user, pid_namespace });
            a_panic_aborts(&Start { user, pid_namespace });
            the_exit_status_arrives(&Start { user, pid_namespace });
            it_dies_with_its_parent(&Start { user, pid_namespace });
        }
    }
    println!("ok");
    ExitCode::SUCCESS
}

/// The confined process: obeys one letter from stdin.
fn confined(pid_namespace: bool) -> ! {
    abort_on_panic();
    let rlimits = vec![
        Rlimit {
            resource: Resource::RLIMIT_NOFILE,
            most: 64,
        },
        Rlimit {
            resource: Resource::RLIMIT_NPROC,
            most: 3,
        },
    ];
    let jail = Jail {
        keep_fds: vec![0, 1, 2],
        rlimits,
        pid_namespace,
    };
    jail.enter().expect("the jail is entered");
    let mut rules = panic_rules();
    rules.push(Rule::when(
        libc::SYS_read,
        vec![Condition::equals(0, 0)],
        "test: orders",
    ));
    rules.push(Rule::when(
        libc::SYS_write,
        vec![Condition::equals(0, 1)],
        "test: answers",
    ));
    let filter = SyscallFilter::new(&rules).expect("the rules compile");
    let (to_thread, orders) = std::sync::mpsc::channel::<()>();
    let (started, has_started) = std::sync::mpsc::channel::<()>();
    let in_thread = filter.clone();
    let thread = std::thread::spawn(move || {
        in_thread.apply_to_thread().expect("the filter is taken");
        let _ = started.send(());
        if orders.recv().is_ok() {
            let _ = fs::File::open("/etc/passwd");
        }
    });
    filter.apply_to_thread().expect("the filter is taken");
    has_started.recv().expect("the thread starts");
    std::io::stdout()
        .write_all(b"r\n")
        .and_then(|()| std::io::stdout().flush())
        .expect("stdout is open");
    let mut order = [0];
    std::io::stdin().read_exact(&mut order).expect("stdin is open");
    match order[0] {
        b'o' => drop(fs::File::open("/etc/passwd")),
        b't' => {
            let _ = to_thread.send(());
            let _ = thread.join();
        }
        b'p' => panic!("as ordered"),
        _ => std::process::exit(7),
    }
    std::process::exit(99)
}

struct Start {
    user: Option<u32>,
    pid_namespace: bool,
}

/// A confined process that waits for its order.
struct Confined {
    process: Child,
    /// The process itself; the relay's child when there is a relay.
    pid: u32,
    _home: tempfile::TempDir,
}

impl Start {
    fn start(&self) -> Confined {
        // Another user may not reach the build directory.
        let home = tempfile::tempdir().expect("a temporary directory");
        let program = home.path().join("confinement");
        fs::copy("/proc/self/exe", &program).expect("a copy of this program");
        let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(home.path(), everyone).expect("a readable directory");
        let mut command = Command::new(program);
        command
            .arg(ROLE)
            .env("SECRET", "in the environment")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        command.stderr(Stdio::piped());
        if self.pid_namespace {
            command.arg("with-pid-namespace");
        }
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        let mut process = command.spawn().expect("the process starts");
        let mut ready = [0; 2];
        if process.stdout.as_mut().expect("a pipe").read_exact(&mut ready).is_err() {
            let mut complaint = String::new();
            let _ = process.stderr.as_mut().expect("a pipe").read_to_string(&mut complaint);
            panic!("not confined: {complaint}");
        }
        let pid = if self.pid_namespace {
            child_of(process.id())
        } else {
            process.id()
        };
        Confined {
            process,
            pid,
            _home: home,
        }
    }
}

impl Confined {
    /// Gives the order; how the started process ended, and what it wrote to stderr.
    fn order(mut self, letter: u8) -> (ExitStatus, String) {
        self.process
            .stdin
            .take()
            .expect("a pipe")
            .write_all(&[letter])
            .expect("the process listens");
        let mut said = String::new();
        self.process
            .stderr
            .take()
            .expect("a pipe")
            .read_to_string(&mut said)
            .expect("text");
        (self.process.wait().expect("a child"), said)
    }
}

fn nothing_of_the_host_is_left(start: &Start) {
    let confined = start.start();
    let process = Path::new("/proc").join(confined.pid.to_string());
    let tasks: Vec<_> = fs::read_dir(process.join("task"))
        .expect("tasks")
        .map(|task| task.expect("a task").path())
        .collect();
    assert_eq!(tasks.len(), 2, "both threads");
    let mut statuses: Vec<_> = tasks
        .iter()
        .map(|task| fs::read_to_string(task.join("status")).expect("a status"))
        .collect();
    if start.pid_namespace {
        statuses
            .push(fs::read_to_string(format!("/proc/{}/status", confined.process.id())).expect("the relay's status"));
    }
    for status in &statuses {
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(field(status, set), "0000000000000000", "{set}");
        }
        assert_eq!(field(status, "NoNewPrivs"), "1");
        assert_eq!(field(status, "Seccomp"), "2");
        assert!(!field(status, "Uid").starts_with("0\t"), "still root");
    }
    let limits = fs::read_to_string(process.join("limits")).expect("limits");
    for (name, most) in [
        ("Max core file size", 0),
        ("Max locked memory", 65536),
        ("Max open files", 64),
        ("Max processes", 3),
    ] {
        let line = limits
            .lines()
            .find(|line| line.starts_with(name))
            .expect("the limit is listed");
        let hard: u64 = line[name.len()..]
            .split_whitespace()
            .nth(1)
            .and_then(|n| n.parse().ok())
            .expect("a number");
        assert!(hard <= most, "{line}");
    }
    if rustix::process::geteuid().is_root() {
        for name in ["user", "mnt", "net", "ipc", "uts", "cgroup", "pid"] {
            if name == "pid" && !start.pid_namespace {
                continue;
            }
            let ours = fs::read_link(format!("/proc/self/ns/{name}")).expect("our namespace");
            assert_ne!(
                fs::read_link(process.join("ns").join(name)).expect("its namespace"),
                ours,
                "{name}"
            );
        }
        let mounts = fs::read_to_string(process.join("mountinfo")).expect("mounts");
        assert_eq!(mounts.lines().count(), 1, "{mounts}");
        assert!(mounts.contains(" ro,"), "{mounts}");
        assert_eq!(fs::read_dir(process.join("root")).expect("its root").count(), 0);
        assert_eq!(
            fs::read_link(process.join("cwd")).expect("its directory"),
            Path::new("/")
        );
        let mut fds: Vec<_> = fs::read_dir(process.join("fd"))
            .expect("fds")
            .map(|fd| fd.expect("a fd").file_name())
            .collect();
        fds.sort();
        assert_eq!(fds, ["0", "1", "2"]);
        let environment = fs::read(process.join("environ")).expect("its environment");
        assert!(
            environment.iter().all(|&byte| byte == 0),
            "the environment is still there"
        );
    } else {
        println!("  skipped: namespaces, mounts and fds of a process that hides its memory can be read by root only");
    }
    confined.order(b'e');
}

fn a_forbidden_call_kills(start: &Start) {
    let (status, _) = start.start().order(b'o');
    assert_eq!(status.signal(), Some(libc::SIGSYS), "{status}");
}

fn a_forbidden_call_in_a_second_thread_kills(start: &Start) {
    let (status, _) = start.start().order(b't');
    assert_eq!(status.signal(), Some(libc::SIGSYS), "{status}");
}

fn a_panic_aborts(start: &Start) {
    let (status, said) = start.start().order(b'p');
    assert_eq!(status.signal(), Some(libc::SIGABRT), "{status}: {said}");
    assert!(said.contains("as ordered"), "{said}");
}

fn the_exit_status_arrives(start: &Start) {
    let (status, said) = start.start().order(b'e');
    assert_eq!(status.code(), Some(7), "{status}: {said}");
}

fn it_dies_with_its_parent(start: &Start) {
    if !start.pid_namespace {
        return;
    }
    let mut confined = start.start();
    confined.process.kill().expect("the relay can be killed");
    confined.process.wait().expect("a child");
    let deadline = Instant::now() + Duration::from_secs(2);
    while is_alive(confined.pid) {
        assert!(Instant::now() < deadline, "the confined process outlives its relay");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| !field(&status, "State").starts_with('Z'))
}

fn child_of(parent: u32) -> u32 {
    let processes = fs::read_dir("/proc")
        .expect("proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut children = processes.filter(|pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/status"))
            .is_ok_and(|status| field(&status, "PPid") == parent.to_string())
    });
    children.next().expect("the relay has a child")
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim()
}
