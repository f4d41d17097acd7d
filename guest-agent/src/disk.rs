//! The container's disks, found by virtio-blk serial and mounted as its root.

use std::fs;
use std::path::{Path, PathBuf};

use capsid_protocol::spec::Root;
use rustix::fs::{CWD, Mode};
use rustix::io::Errno;

use crate::mount::{MountError, attach, filesystem};
use crate::plan::attribute;

/// Where the stage assembles the root, in a tmpfs that only its own mount namespace sees.
pub(crate) const STAGING: &str = "/run";

/// Why a container's root cannot be made from its disks.
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
    /// A mount failed.
    #[error("cannot mount the {disk} disk")]
    Mount { disk: &'static str, source: MountError },
}

/// Mounts `root`'s disks and the overlay of both: the path of the assembled root.
pub(crate) fn mount_root(root: &Root) -> Result<PathBuf, DiskError> {
    let staging = Path::new(STAGING);
    let (lower, scratch, merged) = (staging.join("rootfs"), staging.join("scratch"), staging.join("root"));
    for folder in [&lower, &scratch, &merged] {
        make_folder(folder)?;
    }
    let disks = disks()?;
    let rootfs_disk = find(&disks, &root.rootfs_serial)?;
    let failed = |disk| move |source| DiskError::Mount { disk, source };
    filesystem("erofs", &[("source", rootfs_disk)], &["ro"], 0)
        .and_then(|m| attach(&m, CWD, &lower))
        .map_err(failed("rootfs"))?;
    let scratch_disk = find(&disks, &root.scratch_serial)?;
    filesystem("ext4", &[("source", scratch_disk)], &[], attribute::NOATIME)
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

/// A path of ours as text: all are built from ASCII constants.
fn path_text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// Makes a folder, or finds it there.
fn make_folder(path: &Path) -> Result<(), DiskError> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(source) => Err(DiskError::Folder {
            path: path.to_owned(),
            source,
        }),
    }
}

/// A disk that can be told from others.
struct Disk {
    serial: String,
    /// Its device node.
    node: String,
}

/// All disks with a serial, read once: the kernel asks the device for it each time.
fn disks() -> Result<Vec<Disk>, DiskError> {
    let mut disks = Vec::new();
    for entry in fs::read_dir("/sys/block").map_err(DiskError::List)? {
        let entry = entry.map_err(DiskError::List)?;
        // Only virtio-blk disks have the attribute.
        if let Ok(serial) = fs::read_to_string(entry.path().join("serial")) {
            disks.push(Disk {
                serial: serial.trim_end_matches(['\n', '\0']).to_owned(),
                node: format!("/dev/{}", entry.file_name().display()),
            });
        }
    }
    Ok(disks)
}

/// The device node of the disk with `serial`.
fn find<'a>(disks: &'a [Disk], serial: &str) -> Result<&'a str, DiskError> {
    let found = disks.iter().find(|disk| disk.serial == serial);
    found
        .map(|disk| disk.node.as_str())
        .ok_or_else(|| DiskError::Absent(serial.to_owned()))
}
