//! Room on the host's disk that guests leave to others. Without this limit a guest would take the last of it, and each
//! byte that is freed later, whoever frees it and for what purpose: Capsid could not write its state any more, not even
//! to remove a container.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use rustix::fs::SeekFrom;

use super::request::Range;
use crate::limits::{ROOM_KEPT_BYTES, ROOM_KEPT_PART};

/// Number of bytes that may be written before the next check of the disk.
const LOOK_BYTES: u64 = 1 << 20;
/// Time that may pass before the next check of the disk.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Number of bytes that may be written to a sparse file before the next check of the host's disk.
#[derive(Debug)]
pub(super) struct Room {
    bytes_left: u64,
    looked: Instant,
}

impl Room {
    pub(super) fn new() -> Self {
        Self {
            bytes_left: 0,
            looked: Instant::now(),
        }
    }

    /// Takes room for a write.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`], like the host's own error, if there is too little room and some of the range has
    /// no blocks yet.
    pub(super) fn take(&mut self, file: &File, range: Range) -> io::Result<()> {
        if self.bytes_left < range.bytes || self.looked.elapsed() > LOOK_EVERY {
            self.looked = Instant::now();
            self.bytes_left = free_bytes(file)?.min(LOOK_BYTES.max(range.bytes));
        }
        match self.bytes_left.checked_sub(range.bytes) {
            Some(left) => self.bytes_left = left,
            None if is_stored(file, range) => {}
            None => return Err(io::ErrorKind::StorageFull.into()),
        }
        Ok(())
    }
}

/// Number of bytes that guests may still fill.
fn free_bytes(file: &File) -> io::Result<u64> {
    let disk = rustix::fs::fstatvfs(file)?;
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    let kept = ROOM_KEPT_BYTES.min(bytes(disk.f_blocks) / ROOM_KEPT_PART);
    Ok(bytes(disk.f_bavail).saturating_sub(kept))
}

/// Whether all of a range has its blocks, so that writing it takes no room.
fn is_stored(file: &File, range: Range) -> bool {
    rustix::fs::seek(file, SeekFrom::Hole(range.offset)).is_ok_and(|hole| hole >= range.offset + range.bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn what_is_stored_needs_no_room() {
        let file = tempfile::tempfile().expect("a file");
        file.write_all_at(&[1; 8192], 0).expect("space");
        file.set_len(1 << 20).expect("sparse");
        let range = |offset, bytes| Range { offset, bytes };
        assert!(is_stored(&file, range(0, 8192)));
        assert!(!is_stored(&file, range(4096, 8192)));
        assert!(!is_stored(&file, range(65536, 512)));
        let mut room = Room {
            bytes_left: 0,
            looked: Instant::now() + Duration::from_secs(1000),
        };
        assert!(room.take(&file, range(0, 0)).is_ok());
    }

    #[test]
    fn a_look_is_good_for_many_writes() {
        let file = tempfile::tempfile().expect("a file");
        let mut room = Room::new();
        let range = Range { offset: 0, bytes: 4096 };
        room.take(&file, range).expect("room in the temporary folder");
        assert_eq!(room.bytes_left, LOOK_BYTES - 4096);
    }
}
