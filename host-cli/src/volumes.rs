//! Volumes: disks that outlive the containers that use them.
//!
//! ```text
//! data/volumes/NAME/disk.ext4    the disk; flock'ed by the pods that have it: one that writes, or several that read
//! data/volumes.lock              held while volumes are made or removed, and while a container gets its volumes
//! ```
//!
//! A row exists once the disk is complete, and is removed before the disk is: an interruption leaves a disk without a
//! row but with a record in `pending`, which the next command removes. A disk with neither is left alone. ext4 is no
//! cluster filesystem: two machines that have it, one of them writing, destroy it. The lock belongs to the open file,
//! which the machine's processes have too: it is free when the last of them has ended, for whatever reason.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use capsid_image::own_file;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::accelerator::Disk;
use crate::clock;
use crate::model::{Container, Volume, VolumeMount};
use crate::plan;
use crate::scratch::{self, ScratchError};
use crate::state::{Pending, State, StateError, Step};

/// Time limit for a pod to wait for a volume that no running container has: the processes of its last pod are about to
/// end.
const LAST_POD_WAIT: Duration = Duration::from_secs(20);
/// Interval between attempts to lock the volume.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Name of the lock file.
const LOCK: &str = "volumes.lock";

/// Offset of ext4's incompatible features: 0x60 bytes into the superblock, which begins at 1024 (fs/ext4/ext4.h).
const FEATURES_OFFSET: u64 = 1024 + 0x60;
/// Flag `EXT4_FEATURE_INCOMPAT_RECOVER`: the journal must be replayed before anything is read.
const NEEDS_RECOVERY: u32 = 0x4;

/// Reason why a volume cannot be created, removed or used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("cannot lock the volumes with {path}")]
    Lock {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{path} is in the way of a new volume, and Capsid knows nothing of it: move it away, or choose another name"
    )]
    Occupied { path: PathBuf },
    #[error("cannot make the folder of volume {name}")]
    Folder {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot make the disk of volume {name}")]
    Disk {
        name: String,
        #[source]
        source: ScratchError,
    },
    #[error("cannot remove the disk of volume {name}")]
    Remove {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("no such volume: {0}")]
    Unknown(String),
    #[error("volume {name} is used by container {container}: remove that container first")]
    Used { name: String, container: String },
    #[error("cannot open the disk of volume {name}")]
    Open {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "volume {name} is in use by {holder}: a volume is one disk, and only one running pod at a time can have it, \
         or several that all have it read-only"
    )]
    InUse { name: String, holder: String },
    #[error("volume {0} was in use when its pod was killed: let a container have it that may write to it first")]
    NeedsRecovery(String),
    #[error("cannot read or change what is known of volumes")]
    State(#[from] StateError),
}

/// Lock that is held while volumes are created or removed.
#[derive(Debug)]
pub(crate) struct VolumesLock {
    _file: File,
}

impl VolumesLock {
    /// Takes the lock; waits for other commands, which hold it for milliseconds.
    pub(crate) fn take(data: &Path) -> Result<Self, VolumeError> {
        Self::open(data, FlockOperation::LockExclusive).map_err(|source| VolumeError::Lock {
            path: data.join(LOCK),
            source,
        })
    }

    fn open(data: &Path, operation: FlockOperation) -> io::Result<Self> {
        let file = own_file::lock_file(&data.join(LOCK))?;
        rustix::fs::flock(&file, operation)?;
        Ok(Self { _file: file })
    }
}

/// Lock on volumes that a container uses first while it may only read them: one container prepares them for all.
#[derive(Debug)]
pub(crate) struct FirstUseLock {
    _folders: Vec<File>,
}

impl FirstUseLock {
    /// Takes the lock of each of these different volumes, without waiting. Returns `None` while another container has
    /// one.
    pub(crate) fn try_take(data: &Path, names: &[&str]) -> Result<Option<Self>, VolumeError> {
        let mut folders = Vec::with_capacity(names.len());
        for &name in names {
            let failed = |source: io::Error| VolumeError::Open {
                name: name.into(),
                source,
            };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let folder =
                rustix::fs::open(all(data).join(name), flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
            match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => folders.push(File::from(folder)),
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(failed(errno.into())),
            }
        }
        Ok(Some(Self { _folders: folders }))
    }
}

/// Returns the folder of all volumes.
pub(crate) fn all(data: &Path) -> PathBuf {
    data.join("volumes")
}

/// Returns the path of a volume's disk.
pub(crate) fn disk(data: &Path, name: &str) -> PathBuf {
    all(data).join(name).join("disk.ext4")
}

/// Creates the disk of a new volume, durably; the caller adds the row while it holds the lock.
pub(crate) fn make_disk(_lock: &VolumesLock, state: &State, data: &Path, name: &str) -> Result<(), VolumeError> {
    let folder = all(data).join(name);
    let failed = |source| VolumeError::Folder {
        name: name.into(),
        source,
    };
    let is_recorded = |(known, _): &(String, Step)| known == name;
    if state.pending(Pending::Volume)?.iter().any(is_recorded) {
        // Left by a command that was killed.
        remove_disk(state, data, name)?;
    }
    if std::fs::symlink_metadata(&folder).is_ok() {
        return Err(VolumeError::Occupied { path: folder });
    }
    state.record(Pending::Volume, name)?;
    let mut builder = DirBuilder::new();
    builder.mode(0o700).recursive(true).create(&folder).map_err(failed)?;
    let made = scratch::create_volume(data, &disk(data, name)).map_err(|source| VolumeError::Disk {
        name: name.into(),
        source,
    });
    let synced = made.and_then(|()| {
        let sync = |path: &Path| File::open(path)?.sync_all();
        sync(&folder)
            .and_then(|()| sync(&all(data)))
            .and_then(|()| sync(data))
            .map_err(failed)
    });
    if synced.is_err() {
        // The first error is the one to report, and the next command tries again.
        let _ = remove_disk(state, data, name);
    }
    synced
}

/// Removes a volume's disk, if there is one, and its record.
pub(crate) fn remove_disk(state: &State, data: &Path, name: &str) -> Result<(), VolumeError> {
    match std::fs::remove_dir_all(all(data).join(name)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        removed => removed.map_err(|source| VolumeError::Remove {
            name: name.into(),
            source,
        })?,
    }
    state.finish_pending(Pending::Volume, name);
    Ok(())
}

/// Creates the disks of those volumes that do not exist yet, and returns the rows to add. On an error there are none.
pub(crate) fn make_missing(
    lock: &VolumesLock,
    state: &State,
    data: &Path,
    mounts: &[VolumeMount],
) -> Result<Vec<Volume>, VolumeError> {
    let mut made: Vec<Volume> = Vec::new();
    for mount in mounts {
        if made.iter().any(|volume| volume.name == mount.volume) || state.volume(&mount.volume)?.is_some() {
            continue;
        }
        if let Err(error) = make_disk(lock, state, data, &mount.volume) {
            for volume in &made {
                // As above: the first error is the one to report.
                let _ = remove_disk(state, data, &volume.name);
            }
            return Err(error);
        }
        made.push(Volume {
            name: mount.volume.clone(),
            created_ns: clock::now_ns(),
            labels: Vec::new(),
            anonymous: mount.anonymous,
            prepared: false,
        });
    }
    Ok(made)
}

/// Removes a container's row, and with `anonymous` the volumes that were created for it and that no other container
/// has.
pub(crate) fn remove_container(
    state: &State,
    data: &Path,
    container: &Container,
    anonymous: bool,
) -> Result<(), VolumeError> {
    let own = || container.config.mounts.iter().filter(|mount| mount.anonymous);
    if !anonymous || own().next().is_none() {
        return Ok(state.remove(&container.id)?);
    }
    let _lock = VolumesLock::take(data)?;
    let mut names: Vec<String> = Vec::new();
    for mount in own() {
        let users = state.users_of_volume(&mount.volume)?;
        if users.iter().all(|user| user.id == container.id) && !names.contains(&mount.volume) {
            names.push(mount.volume.clone());
        }
    }
    state.remove_with_volumes(&container.id, &names)?;
    names.iter().try_for_each(|name| remove_disk(state, data, name))
}

/// Removes a volume that no container has.
pub(crate) fn remove(state: &State, data: &Path, name: &str) -> Result<(), VolumeError> {
    let _lock = VolumesLock::take(data)?;
    if state.volume(name)?.is_none() {
        return Err(VolumeError::Unknown(name.into()));
    }
    if let Some(user) = state.users_of_volume(name)?.first() {
        return Err(VolumeError::Used {
            name: name.into(),
            container: user.name.clone(),
        });
    }
    state.remove_volume(name)?;
    remove_disk(state, data, name)
}

/// Removes the disks of volumes that a command was creating or removing when it was killed, unless another command
/// creates one right now.
pub(crate) fn sweep(state: &State, data: &Path) -> Result<(), VolumeError> {
    if state.pending(Pending::Volume)?.is_empty() {
        return Ok(());
    }
    let Ok(_lock) = VolumesLock::open(data, FlockOperation::NonBlockingLockExclusive) else {
        return Ok(());
    };
    for (name, _) in state.pending(Pending::Volume)? {
        if plan::check_name(&name).is_ok() && state.volume(&name)?.is_none() {
            remove_disk(state, data, &name)?;
        }
    }
    Ok(())
}

/// Volume that a container needs, listed once however often it is mounted.
#[derive(Debug)]
pub(crate) struct Needed {
    pub name: String,
    pub serial: String,
    /// Whether no container that has the volume at the same time may write to it, and it needs no preparation.
    pub readonly: bool,
    /// Whether no container may write to the volume, but the agent must: it is new.
    pub is_to_be_prepared: bool,
}

/// Returns the volumes of a container, each once. `siblings` are the containers of its pod.
pub(crate) fn needed(state: &State, container: &Container, siblings: &[Container]) -> Result<Vec<Needed>, VolumeError> {
    let mut needed: Vec<Needed> = Vec::new();
    for mount in &container.config.mounts {
        if needed.iter().any(|known| known.serial == mount.serial) {
            continue;
        }
        let mut all = siblings.iter().chain([container]).flat_map(|one| &one.config.mounts);
        let readonly = all.all(|other| other.volume != mount.volume || other.readonly);
        let is_prepared = state.volume(&mount.volume)?.is_some_and(|volume| volume.prepared);
        needed.push(Needed {
            name: mount.volume.clone(),
            serial: mount.serial.clone(),
            readonly: readonly && is_prepared,
            is_to_be_prepared: readonly && !is_prepared,
        });
    }
    Ok(needed)
}

/// Records that the volumes of a container are prepared: the container has them mounted.
pub(crate) fn record_prepared(state: &State, container: &Container) -> Result<(), StateError> {
    let mounts = &container.config.mounts;
    mounts
        .iter()
        .try_for_each(|mount| state.set_volume_prepared(&mount.volume))
}

/// Opens and locks the disks of a container's volumes for a pod.
pub(crate) fn open(state: &State, data: &Path, container: &Container) -> Result<Vec<Disk>, VolumeError> {
    needed(state, container, &[])?
        .iter()
        .map(|volume| open_disk(state, data, container, volume))
        .collect()
}

/// Opens and locks the disk of one volume.
pub(crate) fn open_disk(
    state: &State,
    data: &Path,
    container: &Container,
    volume: &Needed,
) -> Result<Disk, VolumeError> {
    Ok(Disk {
        serial: volume.serial.clone(),
        readonly: volume.readonly,
        is_durable: true,
        files: vec![open_one(state, data, container, &volume.name, volume.readonly)?],
    })
}

fn open_one(
    state: &State,
    data: &Path,
    container: &Container,
    name: &str,
    readonly: bool,
) -> Result<File, VolumeError> {
    let failed = |source| VolumeError::Open {
        name: name.into(),
        source,
    };
    let mut options = OpenOptions::new();
    options.read(true).write(!readonly);
    let file = own_file::open(&disk(data, name), &mut options).map_err(failed)?;
    let operation = if readonly {
        FlockOperation::NonBlockingLockShared
    } else {
        FlockOperation::NonBlockingLockExclusive
    };
    let deadline = Instant::now() + LAST_POD_WAIT;
    loop {
        match rustix::fs::flock(&file, operation) {
            Ok(()) => break,
            Err(Errno::WOULDBLOCK) => {}
            Err(e) => return Err(failed(e.into())),
        }
        let holder = state
            .users_of_volume(name)?
            .into_iter()
            .find(|user| user.id != container.id && user.status.is_live());
        if holder.is_some() || Instant::now() > deadline {
            return Err(VolumeError::InUse {
                name: name.into(),
                holder: holder.map_or_else(|| "another pod".into(), |user| format!("container {}", user.name)),
            });
        }
        std::thread::sleep(LOOK_EVERY);
    }
    if readonly && needs_recovery(&file).map_err(failed)? {
        return Err(VolumeError::NeedsRecovery(name.into()));
    }
    Ok(file)
}

/// Whether ext4 would have to write to the disk before it can be read.
fn needs_recovery(disk: &File) -> io::Result<bool> {
    let mut features = [0u8; 4];
    disk.read_exact_at(&mut features, FEATURES_OFFSET)?;
    Ok(u32::from_le_bytes(features) & NEEDS_RECOVERY != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_use_is_one_containers_at_a_time() {
        let data = tempfile::tempdir().unwrap();
        for name in ["one", "two"] {
            DirBuilder::new()
                .recursive(true)
                .create(all(data.path()).join(name))
                .unwrap();
        }
        let take = |names: &[&str]| FirstUseLock::try_take(data.path(), names);
        let first = take(&["one"]).unwrap();
        assert!(first.is_some());
        assert!(take(&["two", "one"]).unwrap().is_none());
        assert!(take(&["two"]).unwrap().is_some(), "a failed attempt keeps no lock");
        drop(first);
        assert!(take(&["two", "one"]).unwrap().is_some());
        assert!(matches!(take(&["gone"]), Err(VolumeError::Open { .. })));
    }

    #[test]
    fn only_recorded_disks_without_a_row_are_swept() {
        let data = tempfile::tempdir().unwrap();
        let state = State::open(data.path()).unwrap();
        for name in ["kept", "lost", "unknown"] {
            DirBuilder::new()
                .recursive(true)
                .create(all(data.path()).join(name))
                .unwrap();
            std::fs::write(disk(data.path(), name), "").unwrap();
        }
        state.record(Pending::Volume, "lost").unwrap();
        state
            .add_volume(&Volume {
                name: "kept".into(),
                created_ns: 1,
                labels: vec!["a=b".into()],
                anonymous: false,
                prepared: false,
            })
            .unwrap();
        {
            let lock = VolumesLock::take(data.path()).unwrap();
            sweep(&state, data.path()).unwrap();
            assert!(disk(data.path(), "lost").exists(), "it may be in the making");
            let refused = make_disk(&lock, &state, data.path(), "unknown").unwrap_err();
            assert!(matches!(refused, VolumeError::Occupied { .. }), "{refused}");
        }
        sweep(&state, data.path()).unwrap();
        assert!(!disk(data.path(), "lost").exists());
        assert!(disk(data.path(), "kept").exists() && disk(data.path(), "unknown").exists());
        assert_eq!(state.volume("kept").unwrap().unwrap().labels, ["a=b"]);
        remove(&state, data.path(), "kept").unwrap();
        assert!(!disk(data.path(), "kept").exists());
        assert!(state.pending(Pending::Volume).unwrap().is_empty());
        assert!(matches!(
            remove(&state, data.path(), "kept"),
            Err(VolumeError::Unknown(_))
        ));
    }

    #[test]
    fn a_disk_that_was_not_unmounted_is_told() {
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(4096).unwrap();
        assert!(!needs_recovery(&disk).unwrap());
        disk.write_all_at(&[0x46, 2, 0, 0], FEATURES_OFFSET).unwrap();
        assert!(needs_recovery(&disk).unwrap());
    }
}
