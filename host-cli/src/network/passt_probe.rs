//! Confinement of passt on this host, as the kernel reports it: passt is started as for a pod, and has confined itself
//! when its system call filter is there.
//!
//! passt reports nothing, and ends when one of its steps fails (`isolation.c` in its source). Where `/proc` does not
//! let this user look, a step that must have succeeded before the filter counts as done.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use capsid_jail::{Confinement, Layer};

use super::{GATEWAY_MAC, GATEWAY_V4, GUEST_V4};
use crate::model::mac_words;
use crate::process::{HandedFiles, SpawnError};
use crate::sys;

/// Time limit for passt to confine itself, which takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time after which passt counts as confined where its filters cannot be counted: `/proc` hides the process (`hidepid`), or
/// the kernel is older than 5.9. It would have ended.
const SETTLED: Duration = Duration::from_millis(500);
/// Interval of checking whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Longest error text of passt that is read, bytes.
const COMPLAINTS_BYTES_MAX: u64 = 4096;
/// Namespaces that passt leaves, by their names in `/proc/PID/ns`. It keeps the network's, and the one of process ids,
/// since it runs in the foreground.
const NAMESPACES: [&str; 3] = ["mnt", "ipc", "uts"];

/// Reason why passt's confinement is unknown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbePasstError {
    #[error("cannot start passt")]
    Start(#[source] io::Error),
    #[error("cannot start passt")]
    Spawn(#[from] SpawnError),
    #[error("passt does not confine itself within {} s", PATIENCE.as_secs())]
    Slow,
    /// passt ended, with its last words.
    #[error("{0}")]
    Ended(String),
}

/// Starts passt, which ends with this call, and reads what confines it.
pub(crate) fn probe(program: &Path) -> Result<Confinement, ProbePasstError> {
    let (machine, theirs) = UnixStream::pair().map_err(ProbePasstError::Start)?;
    let mut files = HandedFiles::default();
    let socket = files.add(theirs);
    let mut command = Command::new(program);
    command
        .args(["--foreground", "--quiet", "--stderr", "--no-map-gw", "--ipv4-only"])
        .args(["--tcp-ports", "none", "--udp-ports", "none", "--interface", "lo"])
        .args(["--address", &GUEST_V4.to_string(), "--gateway", &GATEWAY_V4.to_string()])
        .args(["--mac-addr", &mac_words(GATEWAY_MAC), "--fd", &socket.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    sys::die_with_parent(&mut command);
    files.hand_to(&mut command)?;
    let mut passt = Passt(command.spawn().map_err(ProbePasstError::Start)?);
    let found = passt.confined();
    drop(machine);
    found
}

/// Running passt; killed and reaped when dropped.
struct Passt(Child);

impl Passt {
    fn confined(&mut self) -> Result<Confinement, ProbePasstError> {
        let folder = PathBuf::from(format!("/proc/{}", self.0.id()));
        let ours = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let outer_filters = filters(&fields(&ours));
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if self.0.try_wait().map_err(ProbePasstError::Start)?.is_some() {
                return Err(ProbePasstError::Ended(self.last_words()));
            }
            let status = fs::read_to_string(folder.join("status")).unwrap_or_default();
            let status = fields(&status);
            let is_countable = status.contains_key("Seccomp_filters");
            let is_settled = !is_countable && began.elapsed() > SETTLED;
            if is_settled || filters(&status) > outer_filters {
                return Ok(confinement(&status, &folder));
            }
            sleep(LOOK_EVERY);
        }
        Err(ProbePasstError::Slow)
    }

    fn last_words(&mut self) -> String {
        let mut words = String::new();
        if let Some(stderr) = self.0.stderr.take() {
            // Words that cannot be read count as absent.
            let _ = stderr.take(COMPLAINTS_BYTES_MAX).read_to_string(&mut words);
        }
        let complaint = crate::process::last_complaint(&words, |_| true);
        complaint.unwrap_or_else(|| "it ended without a reason".into())
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        // A process that has ended needs no signal.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns the lines of `/proc/PID/status` by name.
fn fields(status: &str) -> BTreeMap<&str, &str> {
    let lines = status.lines().filter_map(|line| line.split_once(':'));
    lines.map(|(name, value)| (name, value.trim())).collect()
}

/// Number of system call filters of a process; those of a surrounding container are among them. A kernel before 5.9
/// tells only whether there are any.
fn filters(status: &BTreeMap<&str, &str>) -> u32 {
    let any = || u32::from(status.get("Seccomp") == Some(&"2"));
    let count = status.get("Seccomp_filters");
    count.and_then(|count| count.parse().ok()).unwrap_or_else(any)
}

/// Reads the layers of a process that has its filter; a process whose status is hidden has those of passt's source.
fn confinement(status: &BTreeMap<&str, &str>, folder: &Path) -> Confinement {
    let is_hidden = status.is_empty();
    let has_left = |namespace: &&str| {
        let of = |process: &Path| fs::read_link(process.join("ns").join(namespace));
        match (of(folder), of(Path::new("/proc/self"))) {
            (Ok(its), Ok(ours)) => its != ours,
            _ => true,
        }
    };
    let is_empty = fs::read_dir(folder.join("root")).map_or(true, |mut entries| entries.next().is_none());
    Confinement::of(&[Layer::Seccomp])
        .with(Layer::UserNamespace, has_left(&"user"))
        .with(Layer::Namespaces, NAMESPACES.iter().all(has_left))
        .with(Layer::Root, is_empty)
        .with(Layer::User, is_hidden || has_left_root(status))
        .with(Layer::Capabilities, is_hidden || has_no_capabilities(status))
        .with(
            Layer::NoNewPrivileges,
            is_hidden || status.get("NoNewPrivs") == Some(&"1"),
        )
}

/// Whether none of the process's users is root: real, effective, saved, and that of the file system.
fn has_left_root(status: &BTreeMap<&str, &str>) -> bool {
    let mut users = status.get("Uid").into_iter().flat_map(|line| line.split_whitespace());
    users.clone().count() == 4 && users.all(|user| user != "0")
}

/// Whether the process has no capability. passt leaves its bounding set as it was, of which `no_new_privs` lets it gain
/// none.
fn has_no_capabilities(status: &BTreeMap<&str, &str>) -> bool {
    let is_empty = |set: &&str| {
        status
            .get(*set)
            .is_some_and(|bits| bits.bytes().all(|digit| digit == b'0'))
    };
    ["CapInh", "CapPrm", "CapEff", "CapAmb"].iter().all(is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_judged_by_what_the_kernel_says_of_it() {
        let text = "Name:\tpasst\nUid:\t65534\t65534\t65534\t65534\nCapInh:\t0000000000000000\nCapPrm:\t0000\n\
                    CapEff:\t0000\nCapBnd:\t0000\nCapAmb:\t0000\nNoNewPrivs:\t1\nSeccomp:\t2\n";
        let judge = |text: &str| confinement(&fields(text), Path::new("/nonexistent"));
        let found = judge(text);
        for layer in [Layer::User, Layer::Capabilities, Layer::NoNewPrivileges, Layer::Seccomp] {
            assert!(found.has(layer), "{layer}: {found}");
        }
        assert!(!judge(&text.replace("65534\nCap", "0\nCap")).has(Layer::User));
        assert!(judge(&text.replace("CapBnd:\t0000", "CapBnd:\t0400")).has(Layer::Capabilities));
        assert!(!judge(&text.replace("CapEff:\t0000", "CapEff:\t0400")).has(Layer::Capabilities));
        assert!(!judge(&text.replace("NoNewPrivs:\t1", "NoNewPrivs:\t0")).has(Layer::NoNewPrivileges));
        // A line that is missing proves nothing.
        let nothing = judge("Seccomp:\t2\n");
        let unproved = [Layer::User, Layer::Capabilities, Layer::NoNewPrivileges];
        assert!(!unproved.iter().any(|layer| nothing.has(*layer)), "{nothing}");
    }

    #[test]
    fn a_program_that_ends_is_told_with_its_words() {
        let error = probe(Path::new("/bin/false")).unwrap_err();
        assert!(matches!(error, ProbePasstError::Ended(_)), "{error:?}");
    }
}
