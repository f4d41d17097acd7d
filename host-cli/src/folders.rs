//! Where Capsid keeps things on the host.
//!
//! | folder | root | others |
//! |---|---|---|
//! | data: images, rootfs files, the scratch template | `/var/lib/capsid` | `$XDG_DATA_HOME/capsid` |
//! | run: locks and sockets of running pods | `/run/capsid` | `$XDG_RUNTIME_DIR/capsid` |
//! | config: `config.toml` | `/etc/capsid` | `$XDG_CONFIG_HOME/capsid` |
//!
//! `CAPSID_DATA_DIR` and `CAPSID_RUN_DIR` stand in for the first two.

use std::env;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::reserve;

/// The folders of one invocation. They exist, belong to the caller, and nobody else can enter them.
#[derive(Debug, Clone)]
pub(crate) struct Folders {
    pub data: PathBuf,
    pub run: PathBuf,
}

/// Why the folders cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FoldersError {
    #[error("cannot tell where to keep data: set HOME, XDG_DATA_HOME or CAPSID_DATA_DIR")]
    NoHome,
    #[error("cannot make folder {path}")]
    Make {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("folder {path} belongs to user {owner}, not to you: choose another by CAPSID_DATA_DIR or CAPSID_RUN_DIR")]
    Foreign { path: PathBuf, owner: u32 },
}

impl Folders {
    /// Finds and makes the folders.
    pub(crate) fn prepare(data: Option<PathBuf>, run: Option<PathBuf>) -> Result<Self, FoldersError> {
        let data = match data {
            Some(path) => path,
            None => default_data().ok_or(FoldersError::NoHome)?,
        };
        let run = run.unwrap_or_else(default_run);
        make_private(&data)?;
        make_private(&run)?;
        reserve::keep(&data);
        Ok(Self { data, run })
    }
}

/// The configuration file, if its place is known.
pub(crate) fn config_file() -> Option<PathBuf> {
    if let Some(path) = absolute("CAPSID_CONFIG") {
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

fn default_run() -> PathBuf {
    if let Some(path) = absolute("XDG_RUNTIME_DIR") {
        return path.join("capsid");
    }
    if is_root() {
        return "/run/capsid".into();
    }
    // No login session (cron, su): a folder of the user's own in /tmp; `make_private` refuses somebody else's.
    env::temp_dir().join(format!("capsid-{}", nix::unistd::getuid()))
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn absolute(variable: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}

/// Makes `path` with mode 0700; an existing one must be the caller's and is closed to others.
fn make_private(path: &Path) -> Result<(), FoldersError> {
    let failed = |source| FoldersError::Make {
        path: path.into(),
        source,
    };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed(e)),
        _ => {}
    }
    let metadata = std::fs::symlink_metadata(path).map_err(failed)?;
    if !metadata.is_dir() {
        // A link to a folder is fine when what it leads to is ours.
        let target = std::fs::metadata(path).map_err(failed)?;
        if !target.is_dir() {
            return Err(failed(io::ErrorKind::NotADirectory.into()));
        }
    }
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if metadata.uid() != nix::unistd::geteuid().as_raw() {
        return Err(FoldersError::Foreign {
            path: path.into(),
            owner: metadata.uid(),
        });
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}
