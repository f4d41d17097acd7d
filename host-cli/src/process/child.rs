//! Child processes of a machine: started with chosen open files only, ended with this process.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use tokio::process::{Child, ChildStderr, Command};

use super::running_machine::MachineEnd;
use crate::console;
use crate::sys;

/// Reason why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnError {
    #[error("cannot hand open files to {program}")]
    Fds {
        program: String,
        #[source]
        source: command_fds::FdMappingCollision,
    },
    #[error("cannot start {program}")]
    Spawn {
        program: String,
        #[source]
        source: io::Error,
    },
}

/// First number for passed files: above stdio.
const FIRST_FD: i32 = 3;

/// Files that a child finds open, with the numbers that they have there.
#[derive(Debug, Default)]
pub(crate) struct HandedFiles(Vec<FdMapping>);

impl HandedFiles {
    /// Adds a file; returns its number in the child.
    pub(crate) fn add(&mut self, fd: impl Into<OwnedFd>) -> i32 {
        let child_fd = FIRST_FD + self.0.len() as i32;
        self.0.push(FdMapping {
            parent_fd: fd.into(),
            child_fd,
        });
        child_fd
    }

    /// Makes `command` start with these files.
    pub(crate) fn hand_to(self, command: &mut std::process::Command) -> Result<(), SpawnError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let handed = command.fd_mappings(self.0);
        handed.map(drop).map_err(|source| SpawnError::Fds { program, source })
    }

    /// Returns the numbers of all files that were added.
    pub(crate) fn numbers(&self) -> Vec<i32> {
        self.0.iter().map(|file| file.child_fd).collect()
    }
}

/// Starts `program` with those files, no stdin, its stdout and stderr in `log`. The process is killed when this process
/// ends, however that happens, and when the returned value is dropped.
pub(crate) fn spawn(program: &Path, arguments: &[String], files: HandedFiles, log: Stdio) -> Result<Child, SpawnError> {
    let name = program.display().to_string();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true);
    // A process group of its own: Ctrl-C in the user's terminal is for the container, not for the machine.
    command.process_group(0);
    sys::die_with_parent(command.as_std_mut());
    command
        .as_std_mut()
        .fd_mappings(files.0)
        .map_err(|source| SpawnError::Fds {
            program: name.clone(),
            source,
        })?;
    command
        .spawn()
        .map_err(|source| SpawnError::Spawn { program: name, source })
}

/// Starts `program` with those files and its stderr in `log`, as a process that nobody waits for and that outlives this
/// process.
pub(crate) fn spawn_on_its_own(
    program: &Path,
    arguments: &[String],
    files: HandedFiles,
    log: Stdio,
) -> Result<(), SpawnError> {
    let name = program.display().to_string();
    let mut command = std::process::Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    sys::leave_parent(&mut command);
    command.fd_mappings(files.0).map_err(|source| SpawnError::Fds {
        program: name.clone(),
        source,
    })?;
    let spawned = command.spawn().and_then(|mut parent| parent.wait());
    spawned
        .map(drop)
        .map_err(|source| SpawnError::Spawn { program: name, source })
}

/// Converts the end of a process into the end of its machine.
pub(crate) fn ended(program: &str, status: io::Result<ExitStatus>, console: String) -> MachineEnd {
    let killed = status
        .as_ref()
        .is_ok_and(|status| status.signal() == Some(libc::SIGKILL));
    let reason = match status {
        Err(e) => format!("{program} could not be waited for: {e}"),
        Ok(status) => match (status.code(), status.signal()) {
            (_, Some(libc::SIGSYS)) => format!("{program} was killed by its seccomp filter"),
            (_, Some(libc::SIGKILL)) => format!("{program} was killed"),
            (_, Some(signal)) => format!("{program} died of signal {signal}"),
            (Some(code), _) => format!("{program} exited with code {code}"),
            (None, None) => format!("{program} ended"),
        },
    };
    MachineEnd {
        reason,
        killed,
        console,
    }
}

/// Longest line of a process's stderr that is reported with its end, bytes.
const LAST_WORDS_BYTES_MAX: usize = 1024;

/// Returns the last line of `complaints` that is `wanted` and not empty, made safe for a terminal: a hostile guest may
/// have influenced it.
pub(crate) fn last_complaint(complaints: &str, wanted: impl Fn(&str) -> bool) -> Option<String> {
    let mut lines = complaints.lines().rev().map(str::trim);
    let line = lines.find(|line| !line.is_empty() && wanted(line))?;
    Some(capsid_image::printable(line.as_bytes(), LAST_WORDS_BYTES_MAX))
}

/// Collects the text that a process writes to stderr.
pub(crate) async fn collect_complaints(stderr: Option<ChildStderr>) -> String {
    match stderr {
        Some(stderr) => console::collect(stderr).await,
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_one_line_that_does_nothing_to_a_terminal() {
        let words = |text| last_complaint(text, |line| !line.starts_with("noise"));
        assert_eq!(words("first\nlast \n\nnoise\n").as_deref(), Some("last"));
        assert_eq!(words("\n noise\n"), None);
        let reported = words("qemu: \x1b]0;title\x07 \x1b[2J\u{9b}31m").unwrap();
        assert!(!reported.chars().any(char::is_control), "{reported:?}");
        let long = "x".repeat(1 << 20);
        assert!(words(&long).unwrap().len() <= LAST_WORDS_BYTES_MAX + 8);
    }
}
