//! What a block device reads and writes: one disk, or the disks of a bay.

use std::io;
use std::os::fd::BorrowedFd;

use super::bay::Bay;
use super::disk::Disk;
use super::request::{Geometry, Range};
use crate::virtio::chain::Buffers;

/// The medium. Ranges lie within its capacity.
#[derive(Debug)]
pub(super) enum Medium {
    Disk { disk: Disk, ignore_flush: bool },
    Bay(Bay),
}

impl Medium {
    pub(super) fn geometry(&self) -> Geometry {
        match self {
            Self::Disk { disk, .. } => Geometry {
                capacity_bytes: disk.capacity_bytes(),
                readonly: disk.is_readonly(),
            },
            // Each of its disks has its own word on writing.
            Self::Bay(bay) => Geometry {
                capacity_bytes: bay.capacity_bytes(),
                readonly: false,
            },
        }
    }

    pub(super) fn read(&mut self, offset: u64, target: Buffers<'_>) -> io::Result<()> {
        match self {
            Self::Disk { disk, .. } => disk.read(offset, target),
            Self::Bay(bay) => bay.read(offset, target),
        }
    }

    pub(super) fn write(&mut self, offset: u64, source: Buffers<'_>) -> io::Result<()> {
        match self {
            Self::Disk { disk, .. } => disk.write(offset, source),
            Self::Bay(bay) => bay.write(offset, source),
        }
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Disk { ignore_flush: true, .. } => Ok(()),
            Self::Disk { disk, .. } => disk.flush(),
            Self::Bay(bay) => bay.flush(),
        }
    }

    pub(super) fn punch_hole(&mut self, range: Range) -> io::Result<()> {
        match self {
            Self::Disk { disk, .. } => disk.punch_hole(range),
            Self::Bay(bay) => bay.punch_hole(range),
        }
    }

    pub(super) fn zero(&mut self, range: Range) -> io::Result<()> {
        match self {
            Self::Disk { disk, .. } => disk.zero(range),
            Self::Bay(bay) => bay.zero(range),
        }
    }

    /// Readable when the supervisor wants something of it.
    pub(super) fn control(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Disk { .. } => None,
            Self::Bay(bay) => Some(bay.control()),
        }
    }

    /// Does what the supervisor wants.
    pub(super) fn obey(&mut self) {
        if let Self::Bay(bay) = self {
            bay.obey();
        }
    }
}
