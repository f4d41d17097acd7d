//! Running pods on this host: one folder each in the run folder, for as long as the pod lives.
//!
//! ```text
//! run/pods.lock          held for the moments in which folders are made, scanned and removed
//! run/pods/ID/lock       flock'ed by the pod's supervisor as long as it lives
//! run/pods/ID/pod.json   what the pod is
//! ```
//!
//! A folder whose lock is free belonged to a supervisor that was killed: the next command removes it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

/// What a pod is, for whoever looks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    pub id: String,
    pub name: String,
    pub image: String,
    pub image_id: String,
    pub accelerator: String,
    pub supervisor_pid: u32,
    pub labels: Vec<String>,
    pub stop_signal: u32,
}

/// A pod's folder; removed when dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    folder: PathBuf,
    _lock: File,
}

/// Why a pod cannot be registered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegisterError {
    #[error("the name {name:?} is already in use by container {id}")]
    NameTaken { name: String, id: String },
    #[error("cannot keep records in {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Registration {
    /// Registers a pod; its name must be free.
    pub(crate) fn claim(run: &Path, record: &PodRecord) -> Result<Self, RegisterError> {
        let _guard = lock_all(run)?;
        let taken = live_pods(run)?.into_iter().find(|pod| pod.name == record.name);
        if let Some(other) = taken {
            let id = other.id.chars().take(12).collect();
            return Err(RegisterError::NameTaken {
                name: record.name.clone(),
                id,
            });
        }
        let folder = run.join("pods").join(&record.id);
        make(&folder, record).map_err(|source| RegisterError::Io { path: folder, source })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // Whatever cannot be removed now, the next command removes: the lock is free then.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Removes what killed supervisors left.
pub(crate) fn sweep(run: &Path) -> Result<(), RegisterError> {
    let _guard = lock_all(run)?;
    live_pods(run).map(drop)
}

/// The lock over all folders. Held for moments only, so waiting is right.
fn lock_all(run: &Path) -> Result<File, RegisterError> {
    let path = run.join("pods.lock");
    let open = || {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    };
    open().map_err(|source| RegisterError::Io {
        path: path.clone(),
        source,
    })
}

/// Records of pods whose supervisor lives; folders of others are removed.
fn live_pods(run: &Path) -> Result<Vec<PodRecord>, RegisterError> {
    let pods = run.join("pods");
    let failed = |source| RegisterError::Io {
        path: pods.clone(),
        source,
    };
    std::fs::create_dir_all(&pods).map_err(failed)?;
    let mut live = Vec::new();
    for entry in std::fs::read_dir(&pods).map_err(failed)? {
        let folder = entry.map_err(failed)?.path();
        if is_held(&folder) {
            live.extend(read_record(&folder));
        } else {
            std::fs::remove_dir_all(&folder).map_err(failed)?;
        }
    }
    Ok(live)
}

fn is_held(folder: &Path) -> bool {
    let Ok(file) = File::open(folder.join("lock")) else {
        return false;
    };
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
}

fn read_record(folder: &Path) -> Option<PodRecord> {
    serde_json::from_slice(&std::fs::read(folder.join("pod.json")).ok()?).ok()
}

fn make(folder: &Path, record: &PodRecord) -> io::Result<Registration> {
    DirBuilder::new().mode(0o700).create(folder)?;
    let lock = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(folder.join("lock"))?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    let registration = Registration {
        folder: folder.into(),
        _lock: lock,
    };
    std::fs::write(folder.join("pod.json"), serde_json::to_vec_pretty(record)?)?;
    Ok(registration)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, name: &str) -> PodRecord {
        PodRecord {
            id: id.into(),
            name: name.into(),
            image: "busybox".into(),
            image_id: String::new(),
            accelerator: "kvm".into(),
            supervisor_pid: 1,
            labels: Vec::new(),
            stop_signal: 15,
        }
    }

    #[test]
    fn a_name_is_taken_as_long_as_its_pod_lives() {
        let run = tempfile::tempdir().unwrap();
        let first = Registration::claim(run.path(), &record("1", "web")).unwrap();
        let second = Registration::claim(run.path(), &record("2", "web"));
        assert!(matches!(second, Err(RegisterError::NameTaken { .. })));
        drop(first);
        assert!(Registration::claim(run.path(), &record("2", "web")).is_ok());
    }

    #[test]
    fn a_dead_supervisors_folder_is_swept() {
        let run = tempfile::tempdir().unwrap();
        let dead = Registration::claim(run.path(), &record("1", "web")).unwrap();
        let folder = dead.folder.clone();
        let Registration { _lock, .. } = &dead;
        rustix::fs::flock(_lock, FlockOperation::Unlock).unwrap();
        sweep(run.path()).unwrap();
        assert!(!folder.exists());
    }
}
