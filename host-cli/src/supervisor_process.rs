//! Supervisor process of a container or pod, found by its command line: also when the files through which it is reached
//! are gone. Lock and socket lie in the run directory, which anybody with permission can remove while the machine
//! continues to run.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::resident::descendants;

/// Word of the command line that names the purpose of the process: the verb of [`crate::cli`].
const VERB: &[u8] = b"supervise";
/// Time limit for the kernel to end a killed process.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// Running supervisor.
#[derive(Debug)]
pub(crate) struct SupervisorProcess {
    /// Descriptor of the process, valid for as long as it is held, however pids are reused.
    pidfd: OwnedFd,
    pid: Pid,
}

impl SupervisorProcess {
    /// Finds the supervisor of the container or pod `id`, if one of this user runs.
    pub(crate) fn find(id: &str) -> Option<Self> {
        let program = std::env::current_exe().ok()?;
        Self::find_of(program.file_name()?, id)
    }

    /// Finds the supervisor among processes that run a program of this name.
    fn find_of(program: &OsStr, id: &str) -> Option<Self> {
        let user = rustix::process::geteuid().as_raw();
        let entries = fs::read_dir("/proc").ok()?.flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter_map(Pid::from_raw).find_map(|pid| {
            // Opened first, so that everything below is read from the same process.
            let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
            let folder = format!("/proc/{}", pid.as_raw_nonzero());
            let is_ours = fs::metadata(&folder).is_ok_and(|found| found.uid() == user);
            let line = is_ours.then(|| fs::read(format!("{folder}/cmdline")));
            let line = line.and_then(Result::ok)?;
            let runs_it = fs::read_link(format!("{folder}/exe")).is_ok_and(|path| is_named(&path, program));
            (runs_it && is_supervisor_of(&line, id) && !has_ended(&pidfd, Duration::ZERO))
                .then_some(Self { pidfd, pid })
        })
    }

    /// Makes the supervisor stop, and kills it if it does not within `patience`; with zero patience, at once. Returns
    /// when its machine and everything else that it started have ended too.
    pub(crate) fn end(&self, patience: Duration) {
        let children = self.children();
        let polite = (!patience.is_zero()).then_some((Signal::TERM, patience));
        for (signal, wait) in polite.into_iter().chain([(Signal::KILL, KILL_WAIT)]) {
            // Fails when the process has ended meanwhile.
            let _ = pidfd_send_signal(&self.pidfd, signal);
            if has_ended(&self.pidfd, wait) {
                break;
            }
        }
        // The kernel ends them with it, by their parent-death signal, but not in the same moment.
        for child in children {
            let _ = pidfd_send_signal(&child, Signal::KILL);
            has_ended(&child, KILL_WAIT);
        }
    }

    /// Returns the supervisor's descendants, which are its own for as long as it runs.
    fn children(&self) -> Vec<OwnedFd> {
        let pids = descendants(self.pid.as_raw_nonzero().get().unsigned_abs()).into_iter();
        let pids = pids.filter_map(|pid| Pid::from_raw(pid.try_into().ok()?));
        let children = pids
            .filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
            .collect();
        // If the supervisor had ended, its pid might have been another's.
        if has_ended(&self.pidfd, Duration::ZERO) {
            Vec::new()
        } else {
            children
        }
    }
}

/// Whether a process's program has this name; a program that was replaced since has an additional word.
fn is_named(path: &Path, program: &OsStr) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    name.strip_suffix(b" (deleted)").unwrap_or(name) == program.as_bytes()
}

/// Whether a command line, with words ended by zero bytes, is that of the supervisor of `id`.
fn is_supervisor_of(line: &[u8], id: &str) -> bool {
    let mut words = line.split(|byte| *byte == 0).skip(1).skip_while(|word| *word != VERB);
    let (verb, flags) = (words.next(), [&b"--lock-fd"[..], b"--connection-fd"]);
    verb.is_some() && words.clone().any(|word| flags.contains(&word)) && words.any(|word| word == id.as_bytes())
}

fn has_ended(pidfd: &OwnedFd, within: Duration) -> bool {
    let timeout = Timespec {
        tv_sec: within.as_secs() as i64,
        tv_nsec: i64::from(within.subsec_nanos()),
    };
    let ended = || poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout));
    rustix::io::retry_on_intr(ended).is_ok_and(|ready| ready == 1)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn only_a_supervisors_command_line_is_one() {
        let line = |words: &[&str]| {
            words
                .iter()
                .flat_map(|word| [word.as_bytes(), b"\0"].concat())
                .collect::<Vec<u8>>()
        };
        assert!(is_supervisor_of(
            &line(&["capsid", "--data-dir", "/d", "supervise", "--lock-fd", "3", "id"]),
            "id"
        ));
        for other in [
            &["capsid", "supervise", "--lock-fd", "3", "other"][..],
            &["capsid", "supervise", "id"],
            &["capsid", "rm", "id"],
            &["supervise", "id"],
            &["grep", "id", "supervise"],
            &[],
        ] {
            assert!(!is_supervisor_of(&line(other), "id"), "{other:?}");
        }
    }

    #[test]
    fn it_is_found_and_ended_and_nothing_else() {
        let id = format!("test-{}", std::process::id());
        let sleep = |word: &str| {
            Command::new("sh")
                .args(["-c", "sleep 100", "sh", word, "--lock-fd", "3", &id])
                .spawn()
                .unwrap()
        };
        let (mut supervisor, mut other) = (sleep("supervise"), sleep("watch"));
        let shell = fs::read_link(format!("/proc/{}/exe", supervisor.id())).unwrap();
        let shell = shell.file_name().unwrap();
        assert!(SupervisorProcess::find(&id).is_none(), "another program");
        SupervisorProcess::find_of(shell, &id)
            .unwrap()
            .end(Duration::from_secs(5));
        assert!(!supervisor.wait().unwrap().success());
        assert!(SupervisorProcess::find_of(shell, &id).is_none());
        assert_eq!(other.try_wait().unwrap(), None);
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
