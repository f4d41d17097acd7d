//! Disks in slots: see [`crate::disk_slots`].

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::disk::Disk;
use super::request::Range;
use crate::disk_slots::{Change, DONE, FILES_MAX, MESSAGE_BYTES_MAX, REFUSED, SLOT_BYTES, SLOTS};
use crate::message::{self, Received};
use crate::virtio::chain::Buffers;

/// Disk that is plugged into a slot.
#[derive(Debug)]
struct Plugged {
    disk: Disk,
    ignore_flush: bool,
    /// Whether the disk was written to since the last flush.
    is_dirty: bool,
}

/// Disk slots, and the socket on which the supervisor sends changes.
#[derive(Debug)]
pub(super) struct DiskSlots {
    slots: Vec<Option<Plugged>>,
    control: OwnedFd,
}

impl DiskSlots {
    /// Makes slots without disks. `control` stays open for as long as the machine runs.
    pub(super) fn new(control: OwnedFd) -> Self {
        Self {
            slots: (0..SLOTS).map(|_| None).collect(),
            control,
        }
    }

    pub(super) fn capacity_bytes(&self) -> u64 {
        u64::from(SLOTS) * SLOT_BYTES
    }

    pub(super) fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// Applies the changes that the supervisor has sent.
    pub(super) fn handle_control(&mut self) {
        loop {
            let done = match message::receive(&self.control, MESSAGE_BYTES_MAX, FILES_MAX) {
                // The supervisor is gone, and this process is about to end.
                Received::Nothing | Received::End => return,
                Received::Excess => false,
                Received::Message(bytes, fds) => {
                    let change = Change::decode(&bytes);
                    change.is_some_and(|change| self.apply(change, fds.into_iter().map(File::from).collect()))
                }
            };
            message::answer(&self.control, &[if done { DONE } else { REFUSED }]);
        }
    }

    fn apply(&mut self, change: Change, files: Vec<File>) -> bool {
        match change {
            Change::Plug {
                slot,
                readonly,
                ignore_flush,
                lengths,
            } => {
                let place = &mut self.slots[usize::from(slot)];
                if place.is_some() || files.len() != lengths.len() {
                    return false;
                }
                let disk = Disk::of_lengths(files.into_iter().zip(lengths), readonly);
                let Ok(disk) = disk else { return false };
                if disk.capacity_bytes() > SLOT_BYTES {
                    return false;
                }
                *place = Some(Plugged {
                    disk,
                    ignore_flush,
                    is_dirty: false,
                });
                true
            }
            Change::Unplug { slot } => self.slots[usize::from(slot)].take().is_some(),
        }
    }

    /// Disk that the whole range lies on, and the offset on it.
    fn find(&mut self, offset: u64, bytes: u64) -> io::Result<(&mut Plugged, u64)> {
        let slot = usize::try_from(offset / SLOT_BYTES).unwrap_or(usize::MAX);
        let within = offset % SLOT_BYTES;
        let plugged = self.slots.get_mut(slot).and_then(Option::as_mut);
        let plugged = plugged.filter(|plugged| within + bytes <= plugged.disk.capacity_bytes());
        plugged.map(|plugged| (plugged, within)).ok_or_else(nothing_there)
    }

    /// Disk for a write to the range, like [`Self::find`].
    fn find_writable(&mut self, offset: u64, bytes: u64) -> io::Result<(&mut Plugged, u64)> {
        let (plugged, within) = self.find(offset, bytes)?;
        if plugged.disk.is_readonly() {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        plugged.is_dirty = true;
        Ok((plugged, within))
    }

    pub(super) fn read(&mut self, offset: u64, target: Buffers<'_>) -> io::Result<()> {
        let (plugged, within) = self.find(offset, target.len() as u64)?;
        plugged.disk.read(within, target)
    }

    pub(super) fn write(&mut self, offset: u64, source: Buffers<'_>) -> io::Result<()> {
        let (plugged, within) = self.find_writable(offset, source.len() as u64)?;
        plugged.disk.write(within, source)
    }

    pub(super) fn punch_hole(&mut self, range: Range) -> io::Result<()> {
        let (plugged, offset) = self.find_writable(range.offset, range.bytes)?;
        plugged.disk.punch_hole(Range { offset, ..range })
    }

    pub(super) fn zero(&mut self, range: Range) -> io::Result<()> {
        let (plugged, offset) = self.find_writable(range.offset, range.bytes)?;
        plugged.disk.zero(Range { offset, ..range })
    }

    /// Flushes all disks that were written to: a flush does not name its disk.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        for plugged in self.slots.iter_mut().flatten() {
            if plugged.is_dirty && !plugged.ignore_flush {
                plugged.disk.flush()?;
            }
            plugged.is_dirty = false;
        }
        Ok(())
    }
}

/// Error for a range outside of all disks: a mistake of the guest, like writing to a read-only disk.
fn nothing_there() -> io::Error {
    io::ErrorKind::NotFound.into()
}

/// Whether an error is the guest's mistake and not a failure of the host.
pub(super) fn is_guests(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ReadOnlyFilesystem
    )
}
