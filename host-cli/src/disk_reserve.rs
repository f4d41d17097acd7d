//! Small reserve of disk space for a full disk: the commands that free space need some themselves.
//!
//! SQLite takes 32 KiB of shared memory to open the state, and some pages to change it; on a disk without a byte free
//! not even `capsid ps` could work, let alone `capsid rm`. So a file reserves some space while there is enough, and is
//! removed when there is none.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use capsid_image::own_file;
use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Name of the file in the data folder.
const NAME: &str = "reserve";
/// Size of the reserve, enough for some commands: shared memory, journal and pages of two databases.
const RESERVE_BYTES: u64 = 1 << 20;
/// Threshold of free space below which a command may fail.
const SCARCE_BYTES: u64 = RESERVE_BYTES / 2;
/// Threshold of free space below which no reserve is created: the space has better uses.
const PLENTY_BYTES: u64 = 8 * RESERVE_BYTES;

/// Action that the free space requires.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Make,
    GiveUp,
    Nothing,
}

/// Creates the reserve, or removes it, according to the free space on the data folder's disk. Ignores errors: commands
/// work without the reserve, except on a full disk.
pub(crate) fn keep(data: &Path) {
    let path = data.join(NAME);
    let Ok(disk) = statvfs(data) else { return };
    let held = fs::symlink_metadata(&path).ok().filter(|found| found.is_file());
    let held_bytes = held.map_or(0, |file| file.blocks() * 512);
    match step(disk.f_bavail.saturating_mul(disk.f_frsize), held_bytes) {
        Step::Make => drop(make(&path)),
        Step::GiveUp => drop(fs::remove_file(&path)),
        Step::Nothing => {}
    }
}

fn step(free_bytes: u64, held_bytes: u64) -> Step {
    match (free_bytes, held_bytes) {
        (..SCARCE_BYTES, 1..) => Step::GiveUp,
        (PLENTY_BYTES.., ..RESERVE_BYTES) => Step::Make,
        _ => Step::Nothing,
    }
}

fn make(path: &Path) -> std::io::Result<()> {
    let file = own_file::create(path)?;
    let made = fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES);
    // A partial reserve would count as none, and be created anew each time.
    made.or_else(|_| fs::remove_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_held_back_while_there_is_enough() {
        assert_eq!(step(PLENTY_BYTES, 0), Step::Make);
        assert_eq!(step(PLENTY_BYTES, RESERVE_BYTES / 4), Step::Make);
        assert_eq!(step(PLENTY_BYTES, RESERVE_BYTES), Step::Nothing);
        assert_eq!(step(SCARCE_BYTES, RESERVE_BYTES), Step::Nothing);
        assert_eq!(step(SCARCE_BYTES - 1, RESERVE_BYTES), Step::GiveUp);
        assert_eq!(step(0, 0), Step::Nothing);
    }

    #[test]
    fn the_reserve_takes_room() {
        let folder = tempfile::tempdir().unwrap();
        keep(folder.path());
        let file = fs::metadata(folder.path().join(NAME)).unwrap();
        assert!(file.blocks() * 512 >= RESERVE_BYTES);
    }
    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let precious = folder.path().join("precious");
        fs::write(&precious, "kept").unwrap();
        std::os::unix::fs::symlink(&precious, folder.path().join(NAME)).unwrap();
        keep(folder.path());
        assert_eq!(fs::read(&precious).unwrap(), b"kept");
    }
}
