//! Block device (virtio 1.3, section 5.2): one queue, synchronous, straight between host files and guest memory. Only
//! writes that the host has no room for are [`held`].

mod backend;
mod config_space;
mod disk;
mod disk_slots;
#[cfg(test)]
mod disk_slots_tests;
mod held;
mod request;
mod room;
#[cfg(test)]
mod tests;

use std::os::fd::{BorrowedFd, OwnedFd};

use capsid_jail::Rule;
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;

use super::chain::Descriptors;
use super::device::{Cause, Device, QueueFault, Signals};
use super::drain::{Next, drain};
use super::filters;
use backend::Backend;
use disk_slots::DiskSlots;
use held::Held;
use request::{BlockRequest, Command, Range, SERIAL_BYTES, STATUS_IOERR, STATUS_OK};

pub use disk::{Disk, DiskError};
pub use request::SECTOR_BYTES;

const QUEUE_SIZES: &[u16] = &[256];

/// Counts of errors so far, by their origin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlockCounters {
    /// Number of chains that cannot be answered: no header, no status byte, bad addresses.
    pub malformed: u64,
    /// Number of requests answered with an error because of what they ask for.
    pub refused: u64,
    /// Number of requests that failed on the host's files.
    pub failed: u64,
    /// Number of times that a write found no room on the host's disk, and was held.
    pub held: u64,
}

/// Block device of a guest.
#[derive(Debug)]
pub struct BlockDevice {
    backend: Backend,
    serial: [u8; SERIAL_BYTES],
    config: [u8; config_space::BYTES],
    counters: BlockCounters,
    held: Held,
}

impl BlockDevice {
    /// Makes a device for `disk`. Only the first 20 bytes of `serial` are used.
    #[must_use]
    pub fn new(disk: Disk, serial: &str, ignore_flush: bool) -> Self {
        Self::of(Backend::Disk { disk, ignore_flush }, serial)
    }

    /// Makes a device of empty disk slots, which the supervisor fills through `control`: see [`crate::disk_slots`].
    #[must_use]
    pub fn with_disk_slots(control: OwnedFd, serial: &str) -> Self {
        Self::of(Backend::DiskSlots(DiskSlots::new(control)), serial)
    }

    fn of(backend: Backend, serial: &str) -> Self {
        let mut padded = [0; SERIAL_BYTES];
        for (target, source) in padded.iter_mut().zip(serial.bytes()) {
            *target = source;
        }
        let config = config_space::encode(backend.geometry());
        let held = Held::new(backend.control(), !backend.geometry().readonly);
        Self {
            backend,
            serial: padded,
            config,
            counters: BlockCounters::default(),
            held,
        }
    }

    /// Counts of errors so far.
    #[must_use]
    pub fn counters(&self) -> BlockCounters {
        self.counters
    }

    fn drain(&mut self, memory: &GuestMemoryMmap, queue: &mut Queue) -> Result<bool, virtio_queue::Error> {
        drain(memory, queue, |queue| match Descriptors::pop(queue, memory)? {
            None => Ok(Next::Empty),
            Some(descriptors) => {
                let is_answered = self.answer(descriptors, memory, queue)?;
                Ok(if is_answered { Next::Used } else { Next::Held })
            }
        })
    }

    /// Retries the held requests: a small one may find room where a large one does not.
    fn retry(&mut self, memory: &GuestMemoryMmap, queue: &mut Queue) -> Result<bool, virtio_queue::Error> {
        let mut answered = false;
        for descriptors in self.held.take() {
            answered |= self.answer(descriptors, memory, queue)?;
        }
        Ok(answered)
    }

    /// Answers a request, or holds it; returns whether it was answered.
    fn answer(
        &mut self,
        descriptors: Descriptors,
        memory: &GuestMemoryMmap,
        queue: &mut Queue,
    ) -> Result<bool, virtio_queue::Error> {
        let chain = descriptors.chain(memory);
        let written = match chain.map(|chain| BlockRequest::parse(chain, self.backend.geometry())) {
            Ok(Ok(request)) => self.serve(request),
            Ok(Err(_)) | Err(_) => {
                self.counters.malformed += 1;
                Some(0)
            }
        };
        match written {
            Some(written) => queue.add_used(memory, descriptors.head, written)?,
            None => self.held.push(descriptors),
        }
        Ok(written.is_some())
    }

    /// Serves a request: returns the number of bytes written to the guest, including the status, or `None` to hold it.
    fn serve(&mut self, request: BlockRequest<'_>) -> Option<u32> {
        let (result, data_bytes) = match request.command {
            Command::Read { offset, target } => {
                let bytes = target.len();
                (self.backend.read(offset, target), bytes)
            }
            Command::Write { offset, source } => (self.backend.write(offset, source), 0),
            Command::Flush => (self.backend.flush(), 0),
            Command::Serial { target } => (Ok(()), target.copy_from(&self.serial)),
            Command::Discard(ranges) => {
                let mut ranges = ranges.into_iter();
                (ranges.try_for_each(|range| self.backend.punch_hole(range)), 0)
            }
            Command::WriteZeroes(ranges) => {
                let mut ranges = ranges.into_iter();
                let zero = |(range, unmap): (Range, bool)| match unmap {
                    true => self.backend.punch_hole(range),
                    false => self.backend.zero(range),
                };
                (ranges.try_for_each(zero), 0)
            }
            Command::Refuse { status } => {
                self.counters.refused += 1;
                request.status.copy_from(&[status]);
                return Some(1);
            }
        };
        let status = match result {
            Ok(()) => STATUS_OK,
            Err(error) if self.held.takes(&error) => {
                self.counters.held += 1;
                return None;
            }
            Err(error) => {
                match disk_slots::is_guests(&error) {
                    true => self.counters.refused += 1,
                    false => self.counters.failed += 1,
                }
                STATUS_IOERR
            }
        };
        request.status.copy_from(&[status]);
        Some(data_bytes as u32 + 1)
    }
}

impl Device for BlockDevice {
    fn id(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        let mut bits = vec![
            VIRTIO_F_VERSION_1,
            VIRTIO_RING_F_INDIRECT_DESC,
            VIRTIO_RING_F_EVENT_IDX,
            VIRTIO_BLK_F_SIZE_MAX,
            VIRTIO_BLK_F_SEG_MAX,
            VIRTIO_BLK_F_BLK_SIZE,
            VIRTIO_BLK_F_TOPOLOGY,
        ];
        match self.backend.geometry().readonly {
            true => bits.push(VIRTIO_BLK_F_RO),
            false => bits.extend([VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES]),
        }
        bits.iter().fold(0, |features, &bit| features | 1 << bit)
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn syscalls(&self) -> Vec<Rule> {
        match &self.backend {
            Backend::Disk { disk, .. } if disk.is_readonly() => filters::readonly_block_rules(),
            Backend::Disk { .. } => filters::block_rules(),
            Backend::DiskSlots(_) => filters::disk_slots_rules(),
        }
    }

    fn activate(&mut self, _features: u64) {}

    fn reset(&mut self) {
        self.held.clear();
    }

    fn backend_fd(&self) -> Option<BorrowedFd<'_>> {
        self.held.fd().or_else(|| self.backend.control())
    }

    fn process(
        &mut self,
        cause: Cause,
        memory: &GuestMemoryMmap,
        queues: &mut [&mut Queue],
    ) -> Result<Signals, QueueFault> {
        let mut signals = Signals::default();
        if cause == Cause::Backend {
            self.backend.handle_control();
        }
        let Some(queue) = queues.first_mut().filter(|queue| queue.ready()) else {
            return Ok(signals);
        };
        let fault = |source| QueueFault { index: 0, source };
        let answered = match cause {
            Cause::Backend => self.retry(memory, queue),
            Cause::Queue(_) => self.drain(memory, queue),
        };
        if answered.map_err(fault)? && queue.needs_notification(memory).map_err(fault)? {
            signals.mark(0);
        }
        Ok(signals)
    }
}
