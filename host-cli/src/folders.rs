//! Folders in which Capsid keeps things on the host.
//!
//! | folder | root | others |
//! |---|---|---|
//! | data: images, rootfs files, the scratch template | `/var/lib/capsid` | `$XDG_DATA_HOME/capsid` |
//! | run: locks and sockets of running pods | `/run/capsid` | `$XDG_RUNTIME_DIR/capsid` |
//! | config: `config.toml` | `/etc/capsid` | `$XDG_CONFIG_HOME/capsid` |
//!
//! `CAPSID_DATA_DIR` and `CAPSID_RUN_DIR` replace the first two. Without `XDG_RUNTIME_DIR`, a user's run folder is
//! `/run/user/UID/capsid` where that is the user's alone, and `/tmp/capsid-UID` otherwise.
//!
//! Each folder is Capsid's or was empty: see [`Directory`]. In `/tmp` anybody may create a link or folder of that name.
//! So links are not followed there, and the folder must be the user's with mode 0700; nobody else can rename or replace
//! it from then on, because `/tmp` is sticky, and its path is as good as an open descriptor.

use std::env;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use capsid_image::{Directory, DirectoryError, DirectorySpec, Links, Recovered, STORE_DATABASE};

use crate::{disk_reserve, id, state};

/// Data folder: its contents, and the sign that it is Capsid's.
pub(crate) const DATA: DirectorySpec = DirectorySpec {
    kind: "data",
    databases: &[STORE_DATABASE, state::DATABASE],
    subdirectories: &["blobs", "layers", "rootfs", "locks", "tmp", "containers", "volumes"],
    is_older: |_| false,
};

/// Run folder.
const RUN: DirectorySpec = DirectorySpec {
    kind: "run",
    databases: &[],
    subdirectories: &["pods", "networks"],
    is_older: is_older_run,
};

/// Folders of one invocation. They exist, belong to the caller, and nobody else can enter them.
#[derive(Debug, Clone)]
pub(crate) struct Folders {
    pub data: PathBuf,
    pub run: PathBuf,
}

/// Reason why the folders cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FoldersError {
    #[error("no place to keep data: set HOME, XDG_DATA_HOME or CAPSID_DATA_DIR")]
    NoHome,
    #[error(transparent)]
    Directory(#[from] DirectoryError),
}

/// Path of a folder, and whether links to it are followed.
type RunPath = (PathBuf, Links);

impl Folders {
    /// Finds and creates the folders.
    pub(crate) fn prepare(data: Option<PathBuf>, run: Option<PathBuf>) -> Result<Self, FoldersError> {
        let (data, run) = places(data, run)?;
        let data = Directory::open(&data.0, &DATA, data.1)?.path().to_owned();
        let run = Directory::open(&run.0, &RUN, run.1)?.path().to_owned();
        disk_reserve::keep(&data);
        Ok(Self { data, run })
    }

    /// Repairs folders that [`prepare`](Self::prepare) refuses, and opens them. `check` is called with the run folder
    /// before anything changes in the data folder.
    pub(crate) fn recover(
        data: Option<PathBuf>,
        run: Option<PathBuf>,
        check: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<(Self, [Recovered; 2])> {
        let (data, run) = places(data, run)?;
        let of_run = Directory::recover(&run.0, &RUN, run.1)?;
        check(Directory::open(&run.0, &RUN, run.1)?.path())?;
        let of_data = Directory::recover(&data.0, &DATA, data.1)?;
        let folders = Self::prepare(Some(data.0), Some(run.0))?;
        Ok((folders, [of_data, of_run]))
    }
}

fn places(data: Option<PathBuf>, run: Option<PathBuf>) -> Result<(RunPath, RunPath), FoldersError> {
    let data = match data {
        Some(path) => path,
        None => default_data().ok_or(FoldersError::NoHome)?,
    };
    let run = run.map_or_else(default_run, |path| (path, Links::Follow));
    Ok(((data, Links::Follow), run))
}

/// Returns the path of the configuration file that the user names, which must exist.
pub(crate) fn named_config_file() -> Option<PathBuf> {
    let path = env::var_os("CAPSID_CONFIG").filter(|path| !path.is_empty())?;
    // A working directory that is gone makes the path as wrong as it is.
    Some(std::path::absolute(&path).unwrap_or_else(|_| path.into()))
}

/// Returns the path of the configuration file, if it is known.
pub(crate) fn config_file() -> Option<PathBuf> {
    if let Some(path) = named_config_file() {
        return Some(path);
    }
    if is_root() && env::var_os("XDG_CONFIG_HOME").is_none() {
        return Some("/etc/capsid/config.toml".into());
    }
    absolute("XDG_CONFIG_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".config")))
        .map(|d| d.join("capsid/config.toml"))
}

fn default_data() -> Option<PathBuf> {
    if let Some(path) = absolute("XDG_DATA_HOME") {
        return Some(path.join("capsid"));
    }
    if is_root() {
        return Some("/var/lib/capsid".into());
    }
    Some(absolute("HOME")?.join(".local/share/capsid"))
}

fn default_run() -> RunPath {
    if let Some(path) = absolute("XDG_RUNTIME_DIR") {
        return (path.join("capsid"), Links::Follow);
    }
    if is_root() {
        return ("/run/capsid".into(), Links::Follow);
    }
    let uid = nix::unistd::getuid().as_raw();
    run_without_session(uid, Path::new("/run/user"), &env::temp_dir())
}

/// Returns the run folder of a user without `XDG_RUNTIME_DIR` (cron, su): that of the login session if there is one.
fn run_without_session(uid: u32, sessions: &Path, temporary: &Path) -> RunPath {
    let session = sessions.join(uid.to_string());
    let is_users_alone = std::fs::symlink_metadata(&session)
        .is_ok_and(|found| found.is_dir() && found.uid() == uid && found.mode() & 0o777 == 0o700);
    if is_users_alone {
        return (session.join("capsid"), Links::Refuse);
    }
    (temporary.join(format!("capsid-{uid}")), Links::Refuse)
}

/// Whether everything in a folder was created by the last release as a run folder: there was no marker yet.
fn is_older_run(path: &Path) -> bool {
    let all = |path: &Path, is_known: &dyn Fn(&OsStr) -> bool| {
        let entries = std::fs::read_dir(path);
        entries.is_ok_and(|entries| {
            let mut names = entries.map(|entry| entry.map(|entry| entry.file_name()));
            names.all(|name| name.is_ok_and(|name| is_known(&name)))
        })
    };
    let is_id = |name: &OsStr| name.to_str().is_some_and(id::is_id);
    all(path, &|name| match name.to_str() {
        Some("pods" | "networks") => all(&path.join(name), &is_id),
        Some("kvm-verdict.json") => true,
        // A temporary file of the KVM verdict while it is written.
        Some(name) => name.starts_with(".tmp"),
        None => false,
    })
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn absolute(variable: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn refusal(path: &Path, links: Links) -> String {
        Directory::open(path, &RUN, links).unwrap_err().to_string()
    }

    #[test]
    fn the_sessions_folder_is_preferred_and_must_be_the_users_alone() {
        let place = tempfile::tempdir().unwrap();
        let (sessions, temporary) = (place.path().join("user"), place.path().join("tmp"));
        let uid = nix::unistd::geteuid().as_raw();
        let session = sessions.join(uid.to_string());
        let chosen = || run_without_session(uid, &sessions, &temporary).0;
        let fallback = temporary.join(format!("capsid-{uid}"));
        assert_eq!(chosen(), fallback);
        fs::create_dir_all(&session).unwrap();
        fs::set_permissions(&session, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(chosen(), fallback);
        fs::set_permissions(&session, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(chosen(), session.join("capsid"));
        assert_eq!(run_without_session(uid + 1, &sessions, &temporary).1, Links::Refuse);
        fs::rename(&session, place.path().join("elsewhere")).unwrap();
        symlink(place.path().join("elsewhere"), &session).unwrap();
        assert_eq!(chosen(), fallback);
    }

    #[test]
    fn a_public_place_is_entered_only_where_nobody_else_had_a_hand() {
        let place = tempfile::tempdir().unwrap();
        let public = place.path().join("tmp");
        fs::create_dir(&public).unwrap();
        fs::set_permissions(&public, fs::Permissions::from_mode(0o1777)).unwrap();
        let ours = public.join("capsid-1");
        let target = place.path().join("target");
        fs::create_dir_all(target.join("pods/precious")).unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o755)).unwrap();
        symlink(&target, &ours).unwrap();
        assert!(refusal(&ours, Links::Refuse).contains("symbolic link"));
        fs::remove_file(&ours).unwrap();
        fs::create_dir(&ours).unwrap();
        fs::set_permissions(&ours, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(refusal(&ours, Links::Refuse).contains("open to other users (mode 755)"));
        assert_eq!(fs::metadata(&ours).unwrap().mode() & 0o777, 0o755);
        fs::set_permissions(&ours, fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(&public, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(refusal(&ours, Links::Refuse).contains("no sticky bit"));
        fs::set_permissions(&public, fs::Permissions::from_mode(0o1777)).unwrap();
        // A directory further up is as good a place to put another one.
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let refused = refusal(&ours, Links::Refuse);
        assert!(
            refused.contains("no sticky bit") && !refused.contains("/tmp/tmp"),
            "{refused}"
        );
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o700)).unwrap();
        Directory::open(&ours, &RUN, Links::Refuse).unwrap();
        // Nothing was touched where the link led.
        assert!(target.join("pods/precious").is_dir());
        assert_eq!(fs::metadata(&target).unwrap().mode() & 0o777, 0o755);
        assert!(refusal(&target, Links::Follow).contains("not Capsid's"));
    }

    #[test]
    fn a_run_folder_of_the_last_release_is_taken_over() {
        let run = tempfile::tempdir().unwrap();
        let pod = run.path().join("pods").join("a".repeat(64));
        fs::create_dir_all(&pod).unwrap();
        fs::write(pod.join("lock"), "").unwrap();
        fs::write(run.path().join("kvm-verdict.json"), "{}").unwrap();
        Directory::open(run.path(), &RUN, Links::Follow).unwrap();
        assert!(pod.join("lock").exists());
        let foreign = tempfile::tempdir().unwrap();
        fs::create_dir_all(foreign.path().join("pods/mine")).unwrap();
        assert!(refusal(foreign.path(), Links::Follow).contains("not Capsid's"));
    }
}
