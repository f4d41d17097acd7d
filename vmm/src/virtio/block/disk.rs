//! Disk made of several host files, one after the other. Raw bytes only: nothing ever interprets the contents.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::FallocateFlags;

use super::request::{Range, SECTOR_BYTES};
use super::room::Room;
use crate::limits::DISK_EXTENTS_MAX;
use crate::virtio::chain::Buffers;
use crate::virtio::sys;

/// Alignment to which file lengths are rounded up, the block size of the file systems on them.
const EXTENT_ALIGNMENT: u64 = 4096;

/// Reason why a disk cannot be made of these files.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The disk has no file, or too many.
    #[error("a disk of {count} files (1 to {DISK_EXTENTS_MAX} are possible)")]
    ExtentCount {
        /// Number of files.
        count: usize,
    },
    /// A writable disk does not consist of exactly one file.
    #[error("a writable disk of {count} files")]
    WritableExtents {
        /// Number of files.
        count: usize,
    },
    /// The length of a file cannot be read.
    #[error("cannot read the length of file {index}")]
    Length {
        /// Index of the file.
        index: usize,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The file is not a regular file with a length.
    #[error("file {index} is not a regular file")]
    NotRegular {
        /// Index of the file.
        index: usize,
    },
    /// The length of a writable file is not a multiple of a sector.
    #[error("a writable disk of {bytes} bytes, which are no whole sectors")]
    PartialSector {
        /// Length of the file in bytes.
        bytes: u64,
    },
    /// The files have more than 2^64 bytes together.
    #[error("the files are too large together")]
    TooLarge,
}

#[derive(Debug)]
struct Extent {
    file: File,
    /// Offset of the extent on the disk.
    start: u64,
    /// Length of the extent; the disk is zero from its end to the next extent.
    bytes: u64,
}

/// Disk made of host files. Its capacity never changes.
#[derive(Debug)]
pub struct Disk {
    extents: Vec<Extent>,
    capacity_bytes: u64,
    readonly: bool,
    room: Room,
}

impl Disk {
    /// Makes a disk of `files`, in disk order.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn new(files: Vec<File>, readonly: bool) -> Result<Self, DiskError> {
        let mut measured = Vec::with_capacity(files.len());
        for (index, file) in files.into_iter().enumerate() {
            let metadata = file.metadata().map_err(|source| DiskError::Length { index, source })?;
            if !metadata.is_file() {
                return Err(DiskError::NotRegular { index });
            }
            measured.push((file, metadata.len()));
        }
        Self::of_lengths(measured.into_iter(), readonly)
    }

    /// Makes a disk like [`Self::new`], with the length of each file given: a filtered thread cannot ask for lengths.
    pub(super) fn of_lengths(
        files: impl ExactSizeIterator<Item = (File, u64)>,
        readonly: bool,
    ) -> Result<Self, DiskError> {
        let count = files.len();
        if count == 0 || count > DISK_EXTENTS_MAX {
            return Err(DiskError::ExtentCount { count });
        }
        if !readonly && count > 1 {
            return Err(DiskError::WritableExtents { count });
        }
        let mut extents = Vec::with_capacity(count);
        let mut start: u64 = 0;
        for (file, bytes) in files {
            let alignment = if readonly { EXTENT_ALIGNMENT } else { SECTOR_BYTES };
            let padded = bytes.checked_next_multiple_of(alignment).ok_or(DiskError::TooLarge)?;
            if !readonly && padded != bytes {
                return Err(DiskError::PartialSector { bytes });
            }
            extents.push(Extent { file, start, bytes });
            start = start
                .checked_add(padded)
                .filter(|&end| end <= i64::MAX as u64)
                .ok_or(DiskError::TooLarge)?;
        }
        Ok(Self {
            extents,
            capacity_bytes: start,
            readonly,
            room: Room::new(),
        })
    }

    /// Capacity of the disk in bytes: whole sectors.
    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    /// Whether writes are refused.
    #[must_use]
    pub fn is_readonly(&self) -> bool {
        self.readonly
    }

    /// Fills `target` from `offset` on; the range must lie on the disk.
    pub(super) fn read(&self, mut offset: u64, mut target: Buffers<'_>) -> io::Result<()> {
        let after = self.extents.partition_point(|extent| extent.start <= offset);
        for (index, extent) in self.extents.iter().enumerate().skip(after.saturating_sub(1)) {
            let end = self
                .extents
                .get(index + 1)
                .map_or(self.capacity_bytes, |next| next.start);
            let bytes = (end - offset).min(target.len() as u64) as usize;
            let part = target.split_front(bytes).ok_or(io::ErrorKind::UnexpectedEof)?;
            extent.read(offset - extent.start, part)?;
            if target.len() == 0 {
                return Ok(());
            }
            offset = end;
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    /// Writes `source` from `offset` on; the range must lie on the disk.
    pub(super) fn write(&mut self, mut offset: u64, mut source: Buffers<'_>) -> io::Result<()> {
        let bytes = source.len() as u64;
        self.take_room(Range { offset, bytes })?;
        let file = self.writable_file()?;
        while source.len() > 0 {
            let count = retry(|| sys::write_at(file.as_fd(), &source, offset))?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            source.skip(count);
            offset += count as u64;
        }
        Ok(())
    }

    /// Makes all writes durable.
    pub(super) fn flush(&self) -> io::Result<()> {
        match self.readonly {
            true => Ok(()),
            false => Ok(rustix::fs::fdatasync(self.writable_file()?)?),
        }
    }

    /// Frees the space of `range`, which then reads as zero.
    pub(super) fn punch_hole(&self, range: Range) -> io::Result<()> {
        self.allocate(range, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE)
    }

    /// Makes `range` zero and keeps its space.
    pub(super) fn zero(&mut self, range: Range) -> io::Result<()> {
        self.take_room(range)?;
        self.allocate(range, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE)
    }

    fn allocate(&self, range: Range, flags: FallocateFlags) -> io::Result<()> {
        if range.bytes == 0 {
            return Ok(());
        }
        let file = self.writable_file()?;
        Ok(rustix::io::retry_on_intr(|| {
            rustix::fs::fallocate(file, flags, range.offset, range.bytes)
        })?)
    }

    fn take_room(&mut self, range: Range) -> io::Result<()> {
        match self.extents.as_slice() {
            [extent] if !self.readonly => self.room.take(&extent.file, range),
            _ => Ok(()),
        }
    }

    fn writable_file(&self) -> io::Result<&File> {
        match self.extents.as_slice() {
            [extent] if !self.readonly => Ok(&extent.file),
            _ => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }
}

impl Extent {
    fn read(&self, mut offset: u64, mut target: Buffers<'_>) -> io::Result<()> {
        let stored = self.bytes.saturating_sub(offset).min(target.len() as u64) as usize;
        let mut from_file = target.split_front(stored).ok_or(io::ErrorKind::UnexpectedEof)?;
        target.zero();
        while from_file.len() > 0 {
            let count = retry(|| sys::read_at(self.file.as_fd(), &from_file, offset))?;
            // The file was truncated by someone: its bytes are lost, and zeros in their place would be wrong.
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            from_file.skip(count);
            offset += count as u64;
        }
        Ok(())
    }
}

fn retry(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
