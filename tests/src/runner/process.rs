//! One child process whose output is read line by line and logged, and which is ended if no test of it ends any more.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::job::root;
use crate::libtest::{Reader, TestRun};

/// Outcome of a process.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Exit code; `None` if the process was ended because it hung, or died of a signal.
    pub(crate) code: Option<i32>,
    pub(crate) tests: Vec<TestRun>,
}

/// File under `target/test-logs` for the output of one job.
pub(crate) struct Log {
    pub(crate) path: PathBuf,
    file: File,
}

impl Log {
    /// Creates an empty log of this name.
    pub(crate) fn create(name: &str) -> io::Result<Self> {
        let folder = capsid_tests::environment::target_dir().join("test-logs");
        std::fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{}.log", name.replace(['/', ':'], "-")));
        let file = File::create(&path)?;
        Ok(Self { path, file })
    }

    /// Adds a line.
    pub(crate) fn line(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.file, "{line}")
    }
}

/// Returns the command of a test executable, with the arguments that make its output fit for timing.
pub(crate) fn test_command(executable: &Path, tests: &[String]) -> Vec<String> {
    let mut words = vec![executable.display().to_string(), "--test-threads=1".to_owned()];
    if !tests.is_empty() {
        words.push("--exact".to_owned());
        words.extend(tests.iter().cloned());
    }
    words
}

/// Runs a command in a process group of its own. `quiet_limit` is the time limit without the end of a test.
pub(crate) fn run(command: &mut Command, suite: &str, log: &mut Log, quiet_limit: Duration) -> io::Result<Ended> {
    let (output, writer) = io::pipe()?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0);
    let mut child = command.spawn()?;
    // Only the child and its own children have the writing end now.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut reader = Reader::new(suite, Instant::now());
    let has_ended = follow(output, &mut reader, log, quiet_limit)?;
    if !has_ended {
        log.line(&format!(
            "no test has ended for {} s: ended by the runner",
            quiet_limit.as_secs()
        ))?;
        log.line(&processes())?;
        end_group(&child);
    }
    let status = child.wait()?;
    Ok(Ended {
        code: if has_ended { status.code() } else { None },
        tests: reader.tests,
    })
}

/// Reads to the end of the output. Returns whether it was reached.
fn follow(output: io::PipeReader, reader: &mut Reader, log: &mut Log, quiet_limit: Duration) -> io::Result<bool> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            if sender.send((line, Instant::now())).is_err() {
                return;
            }
        }
    });
    let mut deadline = Instant::now() + quiet_limit;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok((line, now)) => {
                log.line(&line)?;
                if reader.line(&line, now) {
                    deadline = now + quiet_limit;
                }
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(true),
            Err(RecvTimeoutError::Timeout) => return Ok(false),
        }
    }
}

fn end_group(child: &Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // Its processes may all have ended a moment ago.
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Lists the existing processes and what they wait for.
fn processes() -> String {
    let output = Command::new("ps")
        .args(["-eo", "pid,ppid,stat,wchan:24,etime,args"])
        .output();
    output.map_or_else(
        |error| error.to_string(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

/// Builds a command in the workspace's folder.
pub(crate) fn in_root(words: &[impl AsRef<std::ffi::OsStr>]) -> Command {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).current_dir(root());
    command
}
