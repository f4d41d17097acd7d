//! Disks of the container, found by virtio-blk serial and mounted as its root.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use capsid_protocol::ContainerSpec;
use capsid_protocol::spec::mount::Source;
use capsid_protocol::spec::{DISK_SLOTS_SERIAL, Root, Slot, slot_serial};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::disk_slots::{self, DiskSlotsError};
use crate::mount::{MountError, attach, filesystem};
use crate::plan::attribute;

/// Folder in which the container init assembles the root, a tmpfs that only its own mount namespace sees.
pub(crate) const STAGING: &str = "/run";

/// Error of making a container's root from its disks.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    /// No disk carries the serial.
    #[error("no disk with serial {0}")]
    Absent(String),
    /// The list of disks cannot be read.
    #[error("cannot list the disks")]
    List(#[source] std::io::Error),
    /// A folder for a mount cannot be made.
    #[error("cannot make the folder {path}")]
    Folder { path: PathBuf, source: Errno },
    /// The disk in one of the machine's slots cannot be added.
    #[error("cannot use the machine's disk slots")]
    DiskSlots(#[source] DiskSlotsError),
    /// A mount failed.
    #[error("cannot mount the {disk} disk")]
    Mount { disk: &'static str, source: MountError },
}

/// Mounts `root`'s disks and the overlay of both. Returns the path of the assembled root.
pub(crate) fn mount_root(root: &Root) -> Result<PathBuf, DiskError> {
    let staging = Path::new(STAGING);
    let (lower, scratch, merged) = (staging.join("rootfs"), staging.join("scratch"), staging.join("root"));
    for folder in [&lower, &scratch, &merged] {
        make_folder(folder)?;
    }
    let disks = disks()?;
    let rootfs_disk = named(&disks, &root.rootfs_serial)?;
    let failed = |disk| move |source| DiskError::Mount { disk, source };
    filesystem("erofs", &[("source", rootfs_disk.path.as_str())], &["ro"], 0)
        .and_then(|m| attach(&m, CWD, &lower))
        .map_err(failed("rootfs"))?;
    let scratch_disk = named(&disks, &root.scratch_serial)?;
    filesystem(
        "ext4",
        &[("source", scratch_disk.path.as_str())],
        &[],
        attribute::NOATIME,
    )
    .and_then(|m| attach(&m, CWD, &scratch))
    .map_err(failed("scratch"))?;
    let (upper, work) = (scratch.join("upper"), scratch.join("work"));
    for folder in [&upper, &work] {
        make_folder(folder)?;
    }
    let options = [
        ("source", "overlay"),
        ("lowerdir", path_text(&lower)),
        ("upperdir", path_text(&upper)),
        ("workdir", path_text(&work)),
    ];
    filesystem("overlay", &options, &[], 0)
        .and_then(|m| attach(&m, CWD, &merged))
        .map_err(failed("overlay"))?;
    Ok(merged)
}

/// Opens the image's root and the scratch disk's upper folder, in private read-only mounts. For disks that are mounted
/// already, this is the same filesystem once more.
pub(crate) fn layers(root: &Root) -> Result<(OwnedFd, OwnedFd), DiskError> {
    let disks = disks()?;
    let mount = |disk: &'static str, kind, serial: &str, flags: &[&str]| {
        let found = named(&disks, serial)?;
        let mount = filesystem(kind, &[("source", found.path.as_str())], flags, attribute::READONLY);
        mount.map_err(|source| DiskError::Mount { disk, source })
    };
    let rootfs = mount("rootfs", "erofs", &root.rootfs_serial, &["ro"])?;
    let scratch = mount("scratch", "ext4", &root.scratch_serial, &[])?;
    let open = |mount: &OwnedFd, path: &str| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(mount, path, flags, Mode::empty()).map_err(|source| DiskError::Folder {
            path: path.into(),
            source,
        })
    };
    // A container that never ran has none yet.
    match rustix::fs::statat(&scratch, "upper", AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok((open(&rootfs, ".")?, open(&scratch, "upper")?)),
        Err(_) => Ok((open(&rootfs, ".")?, open(&scratch, "lost+found")?)),
    }
}

/// Returns a path of ours as text: all are built from ASCII constants.
fn path_text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// Creates a folder, unless it exists.
fn make_folder(path: &Path) -> Result<(), DiskError> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(source) => Err(DiskError::Folder {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Disk of the machine, identified by its serial.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) serial: String,
    /// Path of the device node.
    pub(crate) path: String,
    /// Whether the disk cannot be written.
    pub(crate) is_readonly: bool,
}

impl Disk {
    /// Creates the disk of a device whose attributes are in `folder`.
    fn new(serial: String, name: &str, folder: &Path) -> Self {
        let readonly = fs::read_to_string(folder.join("ro"));
        Self {
            serial,
            path: format!("/dev/{name}"),
            is_readonly: readonly.is_ok_and(|value| value.trim() == "1"),
        }
    }

    /// Returns the name of the device.
    pub(crate) fn name(&self) -> &str {
        self.path.trim_start_matches("/dev/")
    }
}

/// Returns all disks with a serial, read once: the kernel asks the device for it each time.
pub(crate) fn disks() -> Result<Vec<Disk>, DiskError> {
    let mut disks = Vec::new();
    for entry in fs::read_dir("/sys/block").map_err(DiskError::List)? {
        let entry = entry.map_err(DiskError::List)?;
        // Only virtio-blk disks have the attribute.
        let Ok(serial) = fs::read_to_string(entry.path().join("serial")) else {
            continue;
        };
        let serial = serial.trim_end_matches(['\n', '\0']).to_owned();
        let name = entry.file_name().display().to_string();
        if serial == DISK_SLOTS_SERIAL {
            for slot in disk_slots::slots(&name) {
                let partition = format!("{name}{slot}");
                disks.push(Disk::new(slot_serial(slot), &partition, &entry.path().join(&partition)));
            }
        }
        disks.push(Disk::new(serial, &name, &entry.path()));
    }
    Ok(disks)
}

/// Returns the names of the devices with these serials.
pub(crate) fn names(serials: &[String]) -> Vec<String> {
    let disks = disks().unwrap_or_default().into_iter();
    let named = disks.filter(|disk| serials.contains(&disk.serial));
    named.map(|disk| disk.name().to_owned()).collect()
}

/// Returns the sectors written to disks since the machine started: the seventh number of each one's `stat`
/// (`Documentation/block/stat.rst`).
pub(crate) fn sectors_written(names: &[String]) -> u64 {
    let written = names.iter().filter_map(|name| {
        let stat = fs::read_to_string(Path::new("/sys/class/block").join(name).join("stat")).ok()?;
        stat.split_whitespace().nth(6)?.parse::<u64>().ok()
    });
    written.fold(0, u64::wrapping_add)
}

/// Makes devices of the disks in the machine's disk slots.
pub(crate) fn add_slots(slots: &[Slot]) -> Result<(), DiskError> {
    if slots.is_empty() {
        return Ok(());
    }
    let disk_slots = find(DISK_SLOTS_SERIAL)?;
    slots
        .iter()
        .try_for_each(|slot| disk_slots::add(disk_slots.name(), slot))
        .map_err(DiskError::DiskSlots)
}

/// Removes the device of a slot, if the serial names one and nobody uses it.
pub(crate) fn remove_slot(serial: &str) -> Result<(), Errno> {
    let slot = serial.strip_prefix(slot_serial(0).trim_end_matches('0'));
    match slot.and_then(|number| number.parse().ok()) {
        Some(slot) => disk_slots::remove(find(DISK_SLOTS_SERIAL).map_err(|_| Errno::NODEV)?.name(), slot),
        None => Ok(()),
    }
}

/// Finds the disk with `serial` among `disks`.
fn named<'a>(disks: &'a [Disk], serial: &str) -> Result<&'a Disk, DiskError> {
    let found = disks.iter().find(|disk| disk.serial == serial);
    found.ok_or_else(|| DiskError::Absent(serial.to_owned()))
}

/// Finds the disk with `serial`.
pub(crate) fn find(serial: &str) -> Result<Disk, DiskError> {
    let found = disks()?.into_iter().find(|disk| disk.serial == serial);
    found.ok_or_else(|| DiskError::Absent(serial.to_owned()))
}

/// Whether the disk is not mounted anywhere; a missing disk is free. A mount claims its device, and no other exclusive
/// open gets it (`open(2)`, `O_EXCL` on block devices).
pub(crate) fn is_free(serial: &str) -> bool {
    let Ok(disk) = find(serial) else {
        return true;
    };
    let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC;
    !matches!(rustix::fs::open(&disk.path, flags, Mode::empty()), Err(Errno::BUSY))
}

/// Returns the serials of the disks that `spec` mounts, each once.
pub(crate) fn serials(spec: &ContainerSpec) -> Vec<String> {
    let volumes = spec.mounts.iter().filter_map(|mount| match &mount.source {
        Some(Source::Volume(volume)) => Some(&volume.serial),
        _ => None,
    });
    let root = [&spec.root.rootfs_serial, &spec.root.scratch_serial];
    let unique: BTreeSet<&String> = root.into_iter().chain(volumes).collect();
    unique.into_iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use capsid_protocol::spec::{Mount, Volume};

    use super::*;

    #[test]
    fn a_spec_names_its_disks_once() {
        let volume = |serial: &str| Mount {
            source: Some(Source::Volume(Volume {
                serial: serial.into(),
                populate: false,
            })),
            ..Mount::default()
        };
        let spec = ContainerSpec {
            root: Root {
                rootfs_serial: "r".into(),
                scratch_serial: "s".into(),
                readonly: false,
            },
            mounts: vec![volume("v"), volume("v"), Mount::default()],
            ..ContainerSpec::default()
        };
        assert_eq!(serials(&spec), ["r", "s", "v"]);
    }

    #[test]
    fn a_disk_that_is_not_there_is_free() {
        assert!(is_free("no such serial"));
    }
}
