//! The disks of a bay: see [`crate::bay`].

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::disk::Disk;
use super::request::Range;
use crate::bay::{Change, DONE, FILES_MAX, MESSAGE_BYTES_MAX, REFUSED, SLOT_BYTES, SLOTS};
use crate::message::{self, Received};
use crate::virtio::chain::Buffers;

/// A disk in its slot.
#[derive(Debug)]
struct Inserted {
    disk: Disk,
    ignore_flush: bool,
    /// Written to since the last flush.
    is_dirty: bool,
}

/// The slots and the supervisor's word on them.
#[derive(Debug)]
pub(super) struct Bay {
    slots: Vec<Option<Inserted>>,
    control: OwnedFd,
}

impl Bay {
    /// An empty bay. `control` stays open for as long as the machine runs.
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

    /// Does what the supervisor asks for, as far as it has asked.
    pub(super) fn obey(&mut self) {
        loop {
            let done = match message::receive(&self.control, MESSAGE_BYTES_MAX, FILES_MAX) {
                // The supervisor is gone, and this process is about to be.
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
            Change::Insert {
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
                *place = Some(Inserted {
                    disk,
                    ignore_flush,
                    is_dirty: false,
                });
                true
            }
            Change::Remove { slot } => self.slots[usize::from(slot)].take().is_some(),
        }
    }

    /// The disk that the whole range lies on, and where on it.
    fn find(&mut self, offset: u64, bytes: u64) -> io::Result<(&mut Inserted, u64)> {
        let slot = usize::try_from(offset / SLOT_BYTES).unwrap_or(usize::MAX);
        let within = offset % SLOT_BYTES;
        let inserted = self.slots.get_mut(slot).and_then(Option::as_mut);
        let inserted = inserted.filter(|inserted| within + bytes <= inserted.disk.capacity_bytes());
        inserted.map(|inserted| (inserted, within)).ok_or_else(nothing_there)
    }

    /// As [`Self::find`], for writing.
    fn find_writable(&mut self, offset: u64, bytes: u64) -> io::Result<(&mut Inserted, u64)> {
        let (inserted, within) = self.find(offset, bytes)?;
        if inserted.disk.is_readonly() {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        inserted.is_dirty = true;
        Ok((inserted, within))
    }

    pub(super) fn read(&mut self, offset: u64, target: Buffers<'_>) -> io::Result<()> {
        let (inserted, within) = self.find(offset, target.len() as u64)?;
        inserted.disk.read(within, target)
    }

    pub(super) fn write(&mut self, offset: u64, source: Buffers<'_>) -> io::Result<()> {
        let (inserted, within) = self.find_writable(offset, source.len() as u64)?;
        inserted.disk.write(within, source)
    }

    pub(super) fn punch_hole(&mut self, range: Range) -> io::Result<()> {
        let (inserted, offset) = self.find_writable(range.offset, range.bytes)?;
        inserted.disk.punch_hole(Range { offset, ..range })
    }

    pub(super) fn zero(&mut self, range: Range) -> io::Result<()> {
        let (inserted, offset) = self.find_writable(range.offset, range.bytes)?;
        inserted.disk.zero(Range { offset, ..range })
    }

    /// A flush does not say of which disk: all that were written to.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        for inserted in self.slots.iter_mut().flatten() {
            if inserted.is_dirty && !inserted.ignore_flush {
                inserted.disk.flush()?;
            }
            inserted.is_dirty = false;
        }
        Ok(())
    }
}

/// A range outside of all disks: the guest's mistake, as writing to a read-only one is.
fn nothing_there() -> io::Error {
    io::ErrorKind::NotFound.into()
}

/// Whether an error is the guest's mistake and not the host's trouble.
pub(super) fn is_guests(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ReadOnlyFilesystem
    )
}
