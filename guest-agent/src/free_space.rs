//! Blocks of an ext4 filesystem that nobody gets, whatever their rights: `reserved_clusters` in `/sys/fs/ext4`
//! (`Documentation/ABI/testing/sysfs-fs-ext4`). `statfs(2)` does not count them as available, and a write that would
//! need them fails with `ENOSPC` at once, although ext4 chooses its blocks later.

use std::fs;
use std::path::Path;

use capsid_protocol::KeepFree;

use crate::disk::{self, Disk};
use crate::log;

/// Bytes of a block, and of a cluster, of every filesystem that the host makes.
const BLOCK_BYTES: u64 = 4096;
/// Clusters that ext4 reserves by itself, for its own metadata (`ext4_calculate_resv_clusters`).
const RESERVED_MIN: u64 = 4096;
/// Unit of `/sys/class/block/*/size`.
const SECTOR_BYTES: u64 = 512;

/// Keeps parts of disks free. A disk that is not mounted is skipped.
pub(crate) fn keep(parts: &KeepFree) {
    let disks = match disk::disks() {
        Ok(disks) => disks,
        Err(e) => return log::warn(&format!("cannot keep disks free: {}", log::chain(&e))),
    };
    for part in &parts.disks {
        if let Some(disk) = disks.iter().find(|disk| disk.serial == part.serial) {
            keep_one(disk, part.bytes);
        }
    }
}

fn keep_one(disk: &Disk, bytes: u64) {
    let folder = Path::new("/sys/fs/ext4").join(disk.name());
    let sectors = fs::read_to_string(Path::new("/sys/class/block").join(disk.name()).join("size"));
    let disk_bytes = sectors.map_or(0, |text| {
        text.trim().parse::<u64>().unwrap_or(0).saturating_mul(SECTOR_BYTES)
    });
    let clusters = reserved_clusters(bytes, disk_bytes);
    // Fails where it is not mounted (any more).
    let _ = fs::write(folder.join("reserved_clusters"), clusters.to_string());
}

/// Returns the clusters to reserve: at least ext4's own number, and less than all, which the kernel refuses.
fn reserved_clusters(bytes: u64, disk_bytes: u64) -> u64 {
    let most = (disk_bytes / BLOCK_BYTES).saturating_sub(1);
    bytes.div_ceil(BLOCK_BYTES).max(RESERVED_MIN).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_never_all_and_never_too_little() {
        let disk = 10 << 30;
        assert_eq!(reserved_clusters(0, disk), RESERVED_MIN);
        assert_eq!(reserved_clusters(1 << 30, disk), 1 << 18);
        assert_eq!(reserved_clusters(u64::MAX, disk), disk / BLOCK_BYTES - 1);
        assert_eq!(reserved_clusters(5, 0), 0);
    }
}
