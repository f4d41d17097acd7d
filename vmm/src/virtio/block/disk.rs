//! One disk made of several host files, one after the other. Raw bytes only: nothing ever looks at the contents.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::FallocateFlags;

use super::request::{Range, SECTOR_BYTES};
use super::room::Room;
use crate::limits::DISK_EXTENTS_MAX;
use crate::virtio::chain::Buffers;
use crate::virtio::sys;

/// Files are rounded up to this, the block size of the file systems on them.
const EXTENT_ALIGNMENT: u64 = 4096;

/// Why a disk cannot be made of these files.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// No file, or too many.
    #[error("a disk of {count} files (1 to {DISK_EXTENTS_MAX} are possible)")]
    ExtentCount {
        /// How many.
        count: usize,
    },
    /// A writable disk is exactly one file.
    #[error("a writable disk of {count} files")]
    WritableExtents {
        /// How many.
        count: usize,
    },
    /// The length of a file cannot be read.
    #[error("cannot read the length of file {index}")]
    Length {
        /// Which.
        index: usize,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Not a file with a length.
    #[error("file {index} is not a regular file")]
    NotRegular {
        /// Which.
        index: usize,
    },
    /// A writable file must end at a sector.
    #[error("a writable disk of {bytes} bytes, which are no whole sectors")]
    PartialSector {
        /// Its length.
        bytes: u64,
    },
    /// More than 2^64 bytes together.
    #[error("the files are too large together")]
    TooLarge,
}

#[derive(Debug)]
struct Extent {
    file: File,
    /// Where it begins on the disk.
    start: u64,
    /// Its length; the disk is zero from there to the next extent.
    bytes: u64,
}

/// The disk. Its capacity never changes.
#[derive(Debug)]
pub struct Disk {
    extents: Vec<Extent>,
    capacity_bytes: u64,
    readonly: bool,
    room: Room,
}

impl Disk {
    /// A disk of `files`, in disk order.
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

    /// As [`Self::new`], with the length of each file: it need not be asked for, which a filtered thread cannot.
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

    /// Bytes on the disk: whole sectors.
    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    /// Whether writes are refused.
    #[must_use]
    pub fn is_readonly(&self) -> bool {
        self.readonly
    }

    /// Fills `target` from `offset` on; the range lies on the disk.
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

    /// Writes `source` from `offset` on; the range lies on the disk.
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

    /// Gives the space of `range` back; it reads as zero then.
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
            // Someone has cut the file: its bytes are lost, and zeros in their place would be a lie.
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
