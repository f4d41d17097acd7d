//! Receive queue of the guest: chains for frames, of which a long one fills several.
//!
//! All chains of a frame become used at once, by one change of the ring's index: Linux drops a frame whose other
//! buffers are not there yet (`receive_mergeable` in `drivers/net/virtio_net.c`). `virtio-queue` can only use one at a
//! time, and counts these for its decision to interrupt; so both are implemented here.

use std::sync::atomic::{Ordering, fence};

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::header::{self, HEADER_BYTES};
use crate::limits::NET_CHAINS_PER_FRAME_MAX;
use crate::virtio::chain::{self, Buffers};

/// Layout of the used ring (virtio 1.3, section 2.7.8): flags and index, then elements of an id and a length.
const USED_HEADER_BYTES: u64 = 4;
const USED_ELEMENT_BYTES: u64 = 8;
/// Layout of the available ring (virtio 1.3, section 2.7.6): flags and index, then elements, then `used_event`.
const AVAILABLE_HEADER_BYTES: u64 = 4;
const AVAILABLE_ELEMENT_BYTES: u64 = 2;

/// Format in which a driver accepts frames.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RxFormat {
    /// Whether a frame may fill several chains.
    pub(super) merges: bool,
    /// Whether the driver accepts our declaration that checksums are valid.
    pub(super) trusts: bool,
}

/// Result of delivering a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    Done,
    /// The queue has only `chains` chains yet, which are not enough.
    NoRoom {
        chains: u16,
    },
    /// The available chains will never hold the frame.
    Impossible,
}

/// Receive queue during one turn.
pub(super) struct ReceiveRing<'q, 'm> {
    queue: &'q mut Queue,
    memory: &'m GuestMemoryMmap,
    rx_format: RxFormat,
    /// Index of the used ring before this turn.
    before: u16,
}

impl<'q, 'm> ReceiveRing<'q, 'm> {
    pub(super) fn new(queue: &'q mut Queue, memory: &'m GuestMemoryMmap, rx_format: RxFormat) -> Self {
        let before = queue.next_used();
        Self {
            queue,
            memory,
            rx_format,
            before,
        }
    }

    /// Delivers a frame to the guest.
    pub(super) fn deliver(&mut self, frame: &[u8]) -> Result<Delivery, virtio_queue::Error> {
        let wanted = HEADER_BYTES + frame.len();
        let most = if self.rx_format.merges {
            NET_CHAINS_PER_FRAME_MAX
        } else {
            1
        };
        let mut room = Buffers::default();
        let mut taken: Vec<(u16, usize)> = Vec::new();
        while room.len() < wanted {
            if taken.len() == most {
                self.give_back(taken.len());
                return Ok(Delivery::Impossible);
            }
            let Some((head, chain)) = chain::pop(self.queue, self.memory)? else {
                self.give_back(taken.len());
                return Ok(Delivery::NoRoom {
                    chains: taken.len() as u16,
                });
            };
            // A broken chain has no room, and is returned empty.
            let writable = chain.map_or_else(|_| Buffers::default(), |chain| chain.writable);
            let bytes = writable.len().min(wanted - room.len());
            taken.push((head, bytes));
            room.append(writable);
        }
        let header = header::received(taken.len() as u16, self.rx_format.trusts);
        if let Some(start) = room.split_front(HEADER_BYTES) {
            start.copy_from(&header);
        }
        room.copy_from(frame);
        self.use_all(&taken)?;
        Ok(Delivery::Done)
    }

    /// Requests a notification for more than `chains` chains; returns whether there are more already.
    pub(super) fn wait_for_more(&mut self, chains: u16) -> Result<bool, virtio_queue::Error> {
        let next = self.queue.next_avail();
        // The requested index lies behind the chains that were returned.
        self.queue.set_next_avail(next.wrapping_add(chains));
        let has_more = self.queue.enable_notification(self.memory);
        self.queue.set_next_avail(next);
        has_more
    }

    pub(super) fn expect_nothing(&mut self) -> Result<(), virtio_queue::Error> {
        self.queue.disable_notification(self.memory)
    }

    /// Whether the driver wants to be interrupted for what this turn has used.
    pub(super) fn needs_interrupt(&self) -> Result<bool, virtio_queue::Error> {
        let (old, new) = (self.before, self.queue.next_used());
        if old == new || !self.queue.event_idx_enabled() {
            return Ok(old != new);
        }
        // The index is written before the driver's `used_event` is read (section 2.7.7.2).
        fence(Ordering::SeqCst);
        let offset = AVAILABLE_HEADER_BYTES + u64::from(self.queue.size()) * AVAILABLE_ELEMENT_BYTES;
        let event: u16 = self
            .memory
            .load(place(self.queue.avail_ring(), offset)?, Ordering::Relaxed)
            .map(u16::from_le)
            .map_err(virtio_queue::Error::GuestMemory)?;
        // `vring_need_event` of linux/virtio_ring.h.
        Ok(new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old))
    }

    fn give_back(&mut self, count: usize) {
        self.queue
            .set_next_avail(self.queue.next_avail().wrapping_sub(count as u16));
    }

    fn use_all(&mut self, taken: &[(u16, usize)]) -> Result<(), virtio_queue::Error> {
        let mut next = self.queue.next_used();
        for (head, bytes) in taken {
            let slot = u64::from(next % self.queue.size());
            let offset = USED_HEADER_BYTES + slot * USED_ELEMENT_BYTES;
            let (head, bytes) = (u64::from(*head), *bytes as u64);
            let element = head | bytes << 32;
            self.memory
                .write_obj(element.to_le(), place(self.queue.used_ring(), offset)?)
                .map_err(virtio_queue::Error::GuestMemory)?;
            next = next.wrapping_add(1);
        }
        self.queue.set_next_used(next);
        self.memory
            .store(next.to_le(), place(self.queue.used_ring(), 2)?, Ordering::Release)
            .map_err(virtio_queue::Error::GuestMemory)
    }
}

fn place(ring: u64, offset: u64) -> Result<GuestAddress, virtio_queue::Error> {
    let address = ring.checked_add(offset).ok_or(virtio_queue::Error::AddressOverflow)?;
    Ok(GuestAddress(address))
}
