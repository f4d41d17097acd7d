//! Room on the host's disk for guests whose disks are sparse files: a guest sees as much free space as the host could
//! store. The guest keeps the rest of each disk free, and its programs get `ENOSPC` in time. When several guests, or
//! others, take the last of the room at once, data that a guest has accepted waits in the block device until there is
//! room again.

use std::convert::Infallible;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use capsid_protocol::FreePart;
use capsid_protocol::spec::mount::Source;
use tokio::time::sleep;

use super::guest::Guest;
use super::supervised_container::SupervisedContainer;
use crate::{store_folder, volumes};

/// Number of bytes that guests leave to Capsid's own files: state and logs. Twice what the machines' disks leave, so
/// that programs get their error before writes wait.
const KEPT_BYTES: u64 = 2 * capsid_vmm::limits::ROOM_KEPT_BYTES;
/// Divisor for small disks: guests leave this part of the disk, if that is less than `KEPT_BYTES`.
const KEPT_PART: u64 = capsid_vmm::limits::ROOM_KEPT_PART / 2;
/// Granularity in bytes: a smaller change is not reported to the guest.
const GRAIN_BYTES: u64 = 256 << 10;

/// Sparse file that a guest writes to.
#[derive(Debug)]
struct Sparse {
    /// Serial of the disk in the guest.
    serial: String,
    path: PathBuf,
    /// Size of the inode tables: never stored as long as they are zero, and no free space either.
    table_bytes: u64,
    /// Number of bytes that the guest was last told to keep free.
    reported_bytes: u64,
}

impl Sparse {
    fn new(serial: String, path: PathBuf) -> Self {
        Self {
            serial,
            table_bytes: fs::File::open(&path)
                .and_then(|file| inode_table_bytes(&file))
                .unwrap_or(0),
            path,
            reported_bytes: 0,
        }
    }

    /// Returns the part that the guest should keep free, if it has changed.
    fn change(&mut self, room_bytes: u64) -> Option<FreePart> {
        let file = fs::metadata(&self.path).ok()?;
        let length = file.len().saturating_sub(self.table_bytes);
        let bytes = unbacked_bytes(length, file.blocks() * 512, room_bytes);
        if bytes == self.reported_bytes {
            return None;
        }
        self.reported_bytes = bytes;
        Some(FreePart {
            serial: self.serial.clone(),
            bytes,
        })
    }
}

/// Number of bytes of a sparse file that the host could not store: the guest keeps them free. A block that the guest
/// has freed and the host still stores is as good as room.
fn unbacked_bytes(length: u64, stored: u64, room: u64) -> u64 {
    let bytes = length.saturating_sub(stored).saturating_sub(room);
    bytes.next_multiple_of(GRAIN_BYTES)
}

/// Size of an ext4 filesystem's inode tables: `s_inodes_count` times `s_inode_size` of its superblock, which begins at
/// 1024 (fs/ext4/ext4.h). The guest can write any values there, and see more room than there is: then its writes wait.
fn inode_table_bytes(disk: &fs::File) -> io::Result<u64> {
    let (mut count, mut size) = ([0; 4], [0; 2]);
    disk.read_exact_at(&mut count, 1024)?;
    disk.read_exact_at(&mut size, 1024 + 0x58)?;
    Ok(u64::from(u32::from_le_bytes(count)) * u64::from(u16::from_le_bytes(size)))
}

/// Tells the guest how much to keep free of the container's disks, as long as the container runs.
pub(super) async fn watch(supervised: &SupervisedContainer, guest: &Guest) -> Infallible {
    let mut disks: Vec<Sparse> = disks(supervised)
        .into_iter()
        .map(|(serial, path)| Sparse::new(serial, path))
        .collect();
    loop {
        let Some(room_bytes) = room(&supervised.data) else {
            return std::future::pending().await;
        };
        let disks: Vec<FreePart> = disks.iter_mut().filter_map(|disk| disk.change(room_bytes)).collect();
        if !disks.is_empty() {
            // A broken session is noticed by the tasks that read from it.
            let _ = guest.keep_free(disks).await;
        }
        sleep(pause(room_bytes)).await;
    }
}

/// Watch on whether a guest still writes to a container's disks: data that its programs left to the kernel when they
/// ended.
pub(super) struct Writing {
    paths: Vec<PathBuf>,
    seen: Vec<Option<(i64, i64)>>,
}

impl Writing {
    pub(super) fn of(supervised: &SupervisedContainer) -> Self {
        let paths: Vec<PathBuf> = disks(supervised).into_iter().map(|(_, path)| path).collect();
        let seen = modified(&paths);
        Self { paths, seen }
    }

    /// Whether the guest has written since the last call.
    pub(super) fn goes_on(&mut self) -> bool {
        let now = modified(&self.paths);
        std::mem::replace(&mut self.seen, now) != self.seen
    }
}

/// Returns the times at which files were last written to.
fn modified(paths: &[PathBuf]) -> Vec<Option<(i64, i64)>> {
    let time = |path| fs::metadata(path).ok().map(|file| (file.mtime(), file.mtime_nsec()));
    paths.iter().map(time).collect()
}

/// Whether guests may fill no more of the host's disk.
pub(super) fn is_used_up(data: &Path) -> bool {
    room(data) == Some(0)
}

/// Number of bytes that guests may still fill.
fn room(data: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(data).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    let kept = KEPT_BYTES.min(bytes(disk.f_blocks) / KEPT_PART);
    Some(bytes(disk.f_bavail).saturating_sub(kept))
}

/// Time until the next check. A guest writes some gigabytes a second at best, into its memory first.
fn pause(room_bytes: u64) -> Duration {
    Duration::from_millis(match room_bytes >> 30 {
        0 => 100,
        1..8 => 500,
        _ => 2000,
    })
}

/// Returns the disks that the container writes to: serial in the guest and file of each. In a pod's machine the serials
/// differ from those in the container's row.
fn disks(supervised: &SupervisedContainer) -> Vec<(String, PathBuf)> {
    let container = supervised.container.borrow();
    let running = supervised.running();
    let in_guest = running.as_ref().map_or(&container.spec, |running| &running.spec);
    let scratch = store_folder::scratch(&supervised.data, &supervised.id);
    let mut disks = vec![(in_guest.root.scratch_serial.clone(), scratch)];
    for (own, there) in container.spec.mounts.iter().zip(&in_guest.mounts) {
        let (Some(Source::Volume(own)), Some(Source::Volume(there))) = (&own.source, &there.source) else {
            continue;
        };
        let mut mounts = container.config.mounts.iter();
        let Some(mount) = mounts.find(|mount| mount.serial == own.serial) else {
            continue;
        };
        if disks.iter().all(|(serial, _)| *serial != there.serial) {
            disks.push((there.serial.clone(), volumes::disk(&supervised.data, &mount.volume)));
        }
    }
    disks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_sees_what_the_host_could_store() {
        let gib = 1 << 30;
        assert_eq!(unbacked_bytes(10 * gib, 0, 20 * gib), 0);
        assert_eq!(unbacked_bytes(10 * gib, 0, 2 * gib), 8 * gib);
        assert_eq!(unbacked_bytes(10 * gib, 3 * gib, 2 * gib), 5 * gib);
        assert_eq!(unbacked_bytes(10 * gib, 10 * gib, 0), 0);
        assert_eq!(unbacked_bytes(10 * gib, gib, 1), 9 * gib);
    }

    #[test]
    fn the_fuller_the_disk_the_closer_it_is_watched() {
        let gib = 1 << 30;
        assert!(pause(0) < pause(2 * gib) && pause(2 * gib) < pause(100 * gib));
    }
}
