//! One call of a program under a time limit, and its outcome.

use std::ffi::OsStr;
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::environment::patience;
use crate::sys;

/// Call that is not started yet.
#[derive(Debug)]
pub struct Invocation {
    command: Command,
    input: Vec<u8>,
    limit: Duration,
    stdout: Option<Stdio>,
}

/// Outcome of a call.
pub struct Outcome {
    /// Command line, for messages.
    pub line: String,
    /// Exit status.
    pub status: ExitStatus,
    /// Complete output.
    pub stdout: Vec<u8>,
    /// Complete error output.
    pub stderr: String,
    /// Time from start to end.
    pub took: Duration,
}

impl Invocation {
    /// Prepares a call of `program` with `arguments`, nothing on stdin, 60 s of time.
    pub fn new<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: impl IntoIterator<Item = A>) -> Self {
        let mut command = Command::new(program);
        command.args(arguments);
        Self {
            command,
            input: Vec::new(),
            limit: patience(60),
            stdout: None,
        }
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the input, which is written to stdin before it is closed.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// Sets the program's stdout: the outcome then contains no output.
    pub fn stdout(mut self, to: impl Into<Stdio>) -> Self {
        self.stdout = Some(to.into());
        self
    }

    /// Sets a stdout that nobody reads any more.
    pub fn closed_stdout(self) -> Self {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        self.stdout(writer)
    }

    /// Sets another time limit, in seconds of an ordinary machine.
    pub fn within(mut self, seconds: u64) -> Self {
        self.limit = patience(seconds);
        self
    }

    /// Returns the command, for settings that this type does not have.
    pub fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Starts with the streams that `configure` sets; the caller drives the child.
    pub fn spawn_with(mut self, configure: impl FnOnce(&mut Command)) -> Child {
        configure(&mut self.command);
        sys::die_with_parent(&mut self.command);
        self.command
            .spawn()
            .unwrap_or_else(|error| panic!("{:?}: {error}", self.command))
    }

    /// Runs to the end.
    pub fn wait(mut self) -> Outcome {
        let line = format!("{:?}", self.command);
        let started = Instant::now();
        self.command
            .stdin(Stdio::piped())
            .stdout(self.stdout.take().unwrap_or_else(Stdio::piped))
            .stderr(Stdio::piped());
        sys::die_with_parent(&mut self.command);
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("{line}: {error}"));
        let mut stdin = child.stdin.take().expect("piped");
        let input = self.input;
        // A child that does not read its stdin closes it: not the test's concern.
        let feeder = thread::spawn(move || drop(stdin.write_all(&input)));
        let stdout = child.stdout.take().map(drain);
        let stderr = drain(child.stderr.take().expect("piped"));
        let status = wait_until(&mut child, started + self.limit);
        let took = started.elapsed();
        let stdout = stdout.map_or_else(Vec::new, |reader| reader.join().expect("reader"));
        let stderr = String::from_utf8_lossy(&stderr.join().expect("reader")).into_owned();
        feeder.join().expect("feeder");
        match status {
            Some(status) => Outcome {
                line,
                status,
                stdout,
                stderr,
                took,
            },
            None => panic!(
                "{line}: not done after {:?}\nstdout: {}\nstderr: {stderr}",
                self.limit,
                String::from_utf8_lossy(&stdout)
            ),
        }
    }
}

/// Waits for the end. At the deadline asks politely, so that the program under test can clean up, then kills.
pub fn wait_until(child: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().expect("wait") {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    thread::sleep(Duration::from_secs(2));
    let _ = child.kill();
    let _ = child.wait();
    None
}

/// Waits until `holds` returns true, some seconds of an ordinary machine.
#[track_caller]
pub fn eventually(what: &str, seconds: u64, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience(seconds);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(Duration::from_millis(100));
    }
}

fn drain(mut stream: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("a pipe");
        bytes
    })
}

impl Outcome {
    /// Returns the exit code as a shell shows it.
    pub fn code(&self) -> i32 {
        self.status
            .code()
            .unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Requires this exit code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert!(self.code() == code, "expected exit code {code}\n{self}");
        self
    }

    /// Requires success.
    #[track_caller]
    pub fn succeeds(self) -> Self {
        self.exits(0)
    }

    /// Requires exactly this on stdout.
    #[track_caller]
    pub fn prints(self, expected: impl AsRef<[u8]>) -> Self {
        let expected = expected.as_ref();
        assert!(
            self.stdout == expected,
            "expected stdout {:?}\n{self}",
            String::from_utf8_lossy(expected)
        );
        self
    }

    /// Requires these words on stderr.
    #[track_caller]
    pub fn complains(self, words: &str) -> Self {
        assert!(
            self.stderr.to_lowercase().contains(&words.to_lowercase()),
            "expected {words:?} on stderr\n{self}"
        );
        self
    }

    /// Requires one line on stderr, apart from the warning that emulation is no boundary.
    #[track_caller]
    pub fn complains_in_one_line(self) -> Self {
        let lines = self.complaints();
        assert!(
            lines.len() == 1,
            "expected one line on stderr, found {}\n{self}",
            lines.len()
        );
        assert!(
            !lines[0].contains("panicked"),
            "a panic is not an error message\n{self}"
        );
        self
    }

    /// Returns the lines on stderr that are not warnings.
    pub fn complaints(&self) -> Vec<&str> {
        let is_warning = |line: &str| line.to_lowercase().contains("warning");
        self.stderr
            .lines()
            .filter(|line| !line.trim().is_empty() && !is_warning(line))
            .collect()
    }

    /// Returns stdout as text without the last line feed.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end_matches('\n').to_owned()
    }

    /// Parses stdout as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("not JSON: {error}\n{self}"))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = String::from_utf8_lossy(&self.stdout[..self.stdout.len().min(4096)]);
        writeln!(f, "{}\n  {} after {:?}", self.line, self.status, self.took)?;
        write!(
            f,
            "  stdout ({} bytes): {shown}\n  stderr: {}",
            self.stdout.len(),
            self.stderr
        )
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
