//! Backend of a block device: one disk, or the disks in slots.

use std::io;
use std::os::fd::BorrowedFd;

use super::disk::Disk;
use super::disk_slots::DiskSlots;
use super::request::{Geometry, Range};
use crate::virtio::chain::Buffers;

/// Backend of a block device. Ranges lie within its capacity.
#[derive(Debug)]
pub(super) enum Backend {
    Disk { disk: Disk, ignore_flush: bool },
    DiskSlots(DiskSlots),
}

impl Backend {
    pub(super) fn geometry(&self) -> Geometry {
        match self {
            Self::Disk { disk, .. } => Geometry {
                capacity_bytes: disk.capacity_bytes(),
                readonly: disk.is_readonly(),
            },
            // Each disk decides about writes itself.
            Self::DiskSlots(disk_slots) => Geometry {
                capacity_bytes: disk_slots.capacity_bytes(),
                readonly: false,
            },
        }
    }

    pub(super) fn read(&mut self, offset: u64, target: Buffers<'_>) -> io::Result<()> {
        match self {
            Self::Disk { disk, .. } => disk.read(offset, target),
            Self::DiskSlots(disk_slots) => disk_slots.read(offset, target),
        }
    }

    pub(super) fn write(&mut self, offset: u64, source: Buffers<'_>) -> io::Result<()> {
        match self {
            Self::Disk { disk, .. } => disk.write(offset, source),
            Self::DiskSlots(disk_slots) => disk_slots.write(offset, source),
        }
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Disk { ignore_flush: true, .. } => Ok(()),
            Self::Disk { disk, .. } => disk.flush(),
            Self::DiskSlots(disk_slots) => disk_slots.flush(),
        }
    }

    pub(super) fn punch_hole(&mut self, range: Range) -> io::Result<()> {
        match self {
            Self::Disk { disk, .. } => disk.punch_hole(range),
            Self::DiskSlots(disk_slots) => disk_slots.punch_hole(range),
        }
    }

    pub(super) fn zero(&mut self, range: Range) -> io::Result<()> {
        match self {
            Self::Disk { disk, .. } => disk.zero(range),
            Self::DiskSlots(disk_slots) => disk_slots.zero(range),
        }
    }

    /// Fd that is readable when the supervisor has sent a change.
    pub(super) fn control(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Disk { .. } => None,
            Self::DiskSlots(disk_slots) => Some(disk_slots.control()),
        }
    }

    /// Applies the changes that the supervisor has sent.
    pub(super) fn handle_control(&mut self) {
        if let Self::DiskSlots(disk_slots) = self {
            disk_slots.handle_control();
        }
    }
}
