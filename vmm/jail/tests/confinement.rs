//! Guarantees of the jail, checked from outside: this program starts itself as the process to confine and reads about
//! it in `/proc`.
#![allow(missing_docs)]

mod harness;

use std::ffi::CString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use capsid_jail::{
    Condition, Jail, Program, ProgramFile, Resource, Rlimit, Rule, SyscallFilter, abort_on_panic, panic_rules,
};

const ROLE: &str = "--confined";
/// Argument of the process that executes this program in a root of its own.
const EXECUTING: &str = "--executing";
/// Name of the dynamic loader as programs contain it (System V ABI, AMD64 supplement).
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
/// Argument of this program when it is executed in that root.
const EXECUTED: &str = "--executed";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(ROLE) {
        confined(arguments.next().as_deref() == Some("with-pid-namespace"));
    }
    match std::env::args().nth(1).as_deref() {
        Some(EXECUTING) => executing(),
        Some(EXECUTED) => executed(),
        _ => {}
    }
    harness::run(&[
        ("a_program_has_its_own_files_and_nothing_else", || {
            users().for_each(a_program_has_its_own_files_and_nothing_else);
        }),
        ("nothing_of_the_host_is_left", || {
            starts().for_each(|start| nothing_of_the_host_is_left(&start))
        }),
        ("a_forbidden_call_kills", || {
            starts().for_each(|start| a_forbidden_call_kills(&start))
        }),
        ("a_forbidden_call_in_a_second_thread_kills", || {
            starts().for_each(|start| a_forbidden_call_in_a_second_thread_kills(&start));
        }),
        ("a_panic_aborts", || starts().for_each(|start| a_panic_aborts(&start))),
        ("the_exit_status_arrives", || {
            starts().for_each(|start| the_exit_status_arrives(&start))
        }),
        ("it_dies_with_its_parent", || {
            starts().for_each(|start| it_dies_with_its_parent(&start))
        }),
    ])
}

/// Users to confine: the one who runs the tests, and for root also another.
fn users() -> impl Iterator<Item = Option<u32>> {
    let other = rustix::process::geteuid().is_root().then_some(Some(1000));
    std::iter::once(None).chain(other)
}

/// Ways to start a confined process.
fn starts() -> impl Iterator<Item = Start> {
    users().flat_map(|user| [true, false].map(|pid_namespace| Start { user, pid_namespace }))
}

/// Runs the confined process: obeys one letter from stdin.
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

/// Executes this program with no files but those that it consists of, and fd 9 to be opened again.
fn executing() -> ! {
    let maps = fs::read_to_string("/proc/self/maps").expect("procfs");
    let mut paths: Vec<&str> = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| &line[at..]))
        .collect();
    paths.sort_unstable();
    paths.dedup();
    let own = fs::read_link("/proc/self/exe").expect("procfs");
    let files = paths.into_iter().map(|path| ProgramFile {
        source: path.into(),
        // The loader's name in programs is that of a symbolic link.
        name: if path.contains("/ld-linux") { LOADER } else { path }.into(),
    });
    let word = |text: &str| CString::new(text).expect("no NUL");
    let program = Program {
        executable: own,
        files: files.collect(),
        arguments: vec![word("program"), word(EXECUTED)],
        environment: vec![word("ONLY=this")],
        reopened_fds: vec![9],
        reports: false,
    };
    let jail = Jail {
        keep_fds: vec![0, 1, 2, 9],
        rlimits: vec![Rlimit {
            resource: Resource::RLIMIT_NOFILE,
            most: 64,
        }],
        pid_namespace: true,
    };
    let refused = [Rule::always(libc::SYS_ptrace, "test: any filter")];
    let filter = SyscallFilter::refusing(&refused, libc::EPERM).expect("the rule compiles");
    match jail.execute(&program, &[filter]) {
        Ok(never) => match never {},
        Err(error) => panic!("{error:?}"),
    }
}

/// Prints what a program can access, one line each, then waits for the end of its input.
fn executed() -> ! {
    let mut names = Vec::new();
    let mut folders = vec![PathBuf::from("/")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_folder = entry.file_type().expect("a type").is_dir();
            if is_folder && path != Path::new("/fd") {
                folders.push(path);
            } else {
                names.push(path.display().to_string());
            }
        }
    }
    names.sort();
    let outcome = |result: std::io::Result<String>| result.unwrap_or_else(|error| format!("{:?}", error.kind()));
    let write = |path: &str| outcome(fs::write(path, "x").map(|()| "written".into()));
    println!("files {}", names.join(" "));
    println!("environment {:?}", std::env::vars().collect::<Vec<_>>());
    println!("own {}", outcome(fs::read_to_string("/fd/9")));
    println!("new {}", write("/new"));
    println!(
        "program {}",
        write(names.iter().find(|name| name.contains(".so")).expect("a library"))
    );
    println!("ready");
    let _ = std::io::stdin().read(&mut [0]);
    std::process::exit(7)
}

fn a_program_has_its_own_files_and_nothing_else(user: Option<u32>) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let copy = home.path().join("confinement");
    fs::copy("/proc/self/exe", &copy).expect("a copy of this program");
    let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(home.path(), everyone).expect("a readable directory");
    let readable = home.path().join("readable");
    fs::write(&readable, "content").expect("a file");
    let mut command = Command::new("/bin/sh");
    let script = format!("exec 9<'{}'; exec '{}' {EXECUTING}", readable.display(), copy.display());
    command
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    let mut relay = command.spawn().expect("the process starts");
    let mut lines = BufReader::new(relay.stdout.take().expect("a pipe")).lines();
    let mut next = || lines.next().expect("a line").expect("text");
    let files = next();
    let files: Vec<&str> = files.strip_prefix("files ").expect("files").split(' ').collect();
    let is_known = |name: &&str| name.ends_with("/confinement") || name.contains(".so") || *name == "/fd";
    assert!(files.iter().all(is_known), "{files:?}");
    assert_eq!(next(), r#"environment [("ONLY", "this")]"#);
    assert_eq!(next(), "own content");
    assert_eq!(next(), "new ReadOnlyFilesystem");
    let refused = next();
    assert!(!refused.contains("written"), "{refused}");
    assert_eq!(next(), "ready");
    let pid = child_of(relay.id());
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(&status, set), "0000000000000000", "{set}");
    }
    assert_eq!(field(&status, "NoNewPrivs"), "1");
    assert_eq!(field(&status, "Seccomp"), "2");
    let own: u32 = field(&status, "Uid")
        .split('\t')
        .next()
        .and_then(|uid| uid.parse().ok())
        .expect("a user");
    match user.or_else(|| (!rustix::process::geteuid().is_root()).then(|| rustix::process::geteuid().as_raw())) {
        Some(user) => assert_eq!(own, user),
        None => assert!(own > 1_900_000_000, "a user of its own, not {own}"),
    }
    for name in ["user", "mnt", "net", "ipc", "uts", "cgroup", "pid"] {
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).expect("a namespace");
        assert_ne!(namespace(&pid.to_string()), namespace("self"), "{name}");
    }
    drop(relay.stdin.take());
    assert_eq!(relay.wait().expect("a child").code(), Some(7));
}

struct Start {
    user: Option<u32>,
    pid_namespace: bool,
}

/// Confined process that waits for its order.
struct Confined {
    process: Child,
    /// Pid of the confined process itself; the relay's child when there is a relay.
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
    /// Sends the order; returns how the started process ended, and what it wrote to stderr.
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
