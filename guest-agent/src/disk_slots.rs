//! The machine's disk slots: parts of one huge block device, each made a device of its own by a partition that no
//! table on the disk knows of (`BLKPG`, `include/uapi/linux/blkpg.h`).

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use capsid_protocol::spec::{SLOT_BYTES, Slot};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::sys;

/// Unit of `/sys/block/*/size` and `start`, whatever the disk's own blocks are.
const SECTOR_BYTES: u64 = 512;
/// Highest slot number. Slots have the numbers of partitions: 0 is the disk itself, and Linux has 255
/// (`DISK_MAX_PARTS`).
const SLOT_MAX: u32 = 255;

/// Error of using a slot.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskSlotsError {
    /// The slot number is invalid, or the length does not fit.
    #[error("slot {slot} with {bytes} bytes is none")]
    Slot { slot: u32, bytes: u64 },
    /// The device of the disk slots cannot be opened.
    #[error("cannot open {path}")]
    Open { path: String, source: Errno },
    /// The kernel refuses the partition.
    #[error("cannot make a partition of slot {slot}")]
    Add { slot: u32, source: Errno },
    /// The slot's device cannot be made read-only.
    #[error("cannot make slot {slot} read-only")]
    ReadOnly { slot: u32, source: Errno },
}

/// Makes a device of the disk in a slot, if there is none yet. `name` is that of the disk slots' device, such as `vda`.
pub(crate) fn add(name: &str, slot: &Slot) -> Result<(), DiskSlotsError> {
    let Slot { slot, bytes, readonly } = *slot;
    let is_whole = bytes.is_multiple_of(SECTOR_BYTES);
    if !(1..=SLOT_MAX).contains(&slot) || bytes == 0 || bytes > SLOT_BYTES || !is_whole {
        return Err(DiskSlotsError::Slot { slot, bytes });
    }
    let device = open(name)?;
    let start = u64::from(slot) * SLOT_BYTES;
    match sys::add_partition(device.as_fd(), slot as i32, start, bytes) {
        Ok(()) => {}
        // Another container has the same disk.
        Err(Errno::BUSY) if is_there(name, slot, start, bytes) => {}
        Err(source) => return Err(DiskSlotsError::Add { slot, source }),
    }
    if readonly {
        let partition = open(&format!("{name}{slot}"))?;
        sys::set_block_device_readonly(partition.as_fd())
            .map_err(|source| DiskSlotsError::ReadOnly { slot, source })?;
    }
    Ok(())
}

/// Removes the device of a slot that nobody uses. Nothing of it stays in the kernel's caches.
pub(crate) fn remove(name: &str, slot: u32) -> Result<(), Errno> {
    let device = open(name).map_err(|_| Errno::NODEV)?;
    match sys::remove_partition(device.as_fd(), slot as i32) {
        // It was never made.
        Ok(()) | Err(Errno::NXIO) => Ok(()),
        Err(e) => Err(e),
    }
}

/// Returns the slots that have a device.
pub(crate) fn slots(name: &str) -> Vec<u32> {
    let entries = fs::read_dir(format!("/sys/block/{name}"))
        .into_iter()
        .flatten()
        .flatten();
    let numbers = entries.map(|entry| fs::read_to_string(entry.path().join("partition")));
    numbers.filter_map(|text| text.ok()?.trim().parse().ok()).collect()
}

fn open(name: &str) -> Result<OwnedFd, DiskSlotsError> {
    let path = format!("/dev/{name}");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(&path, flags, Mode::empty()).map_err(|source| DiskSlotsError::Open { path, source })
}

/// Whether the existing partition is the wanted one.
fn is_there(name: &str, slot: u32, start: u64, bytes: u64) -> bool {
    let sectors = |file: &str| -> Option<u64> {
        let text = fs::read_to_string(format!("/sys/block/{name}/{name}{slot}/{file}")).ok()?;
        text.trim().parse().ok()
    };
    sectors("start") == Some(start / SECTOR_BYTES) && sectors("size") == Some(bytes / SECTOR_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_slot_is_refused() {
        for (slot, bytes) in [(0, 512), (256, 512), (1, 0), (1, 513), (1, SLOT_BYTES + 512)] {
            let slot = Slot {
                slot,
                bytes,
                readonly: false,
            };
            assert!(matches!(add("nothing", &slot), Err(DiskSlotsError::Slot { .. })));
        }
    }
}
