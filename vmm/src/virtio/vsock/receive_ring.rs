//! Receive queue of the guest: chains to be filled with one packet each.

use std::collections::VecDeque;

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;

use super::packet::{HEADER_BYTES, Header};
use crate::virtio::chain::{self, Buffers};

/// Chain with room for a packet.
#[derive(Debug)]
struct Slot<'m> {
    head: u16,
    header: Buffers<'m>,
    payload_bytes: usize,
}

/// Receive queue during one turn. Chains that were taken and not filled are returned.
#[derive(Debug)]
pub(super) struct ReceiveRing<'q, 'm> {
    queue: &'q mut Queue,
    memory: &'m GuestMemoryMmap,
    guest_cid: u64,
    taken: VecDeque<Slot<'m>>,
    /// Number of chains without room for a header.
    pub(super) malformed: u64,
    /// Whether any chain has been used.
    pub(super) used: bool,
}

impl<'q, 'm> ReceiveRing<'q, 'm> {
    pub(super) fn new(queue: &'q mut Queue, memory: &'m GuestMemoryMmap, guest_cid: u64) -> Self {
        Self {
            queue,
            memory,
            guest_cid,
            taken: VecDeque::new(),
            malformed: 0,
            used: false,
        }
    }

    /// Takes one chain, if there is one; returns its room for payload.
    pub(super) fn take(&mut self) -> Result<Option<Buffers<'m>>, virtio_queue::Error> {
        loop {
            let Some((head, chain)) = chain::pop(self.queue, self.memory)? else {
                return Ok(None);
            };
            if let Ok(mut chain) = chain
                && let Some(header) = chain.writable.split_front(HEADER_BYTES)
            {
                let payload = chain.writable;
                self.taken.push_back(Slot {
                    head,
                    header,
                    payload_bytes: payload.len(),
                });
                return Ok(Some(payload));
            }
            if !self.taken.is_empty() {
                // Those taken are returned as a run; this one is found again.
                self.queue.set_next_avail(self.queue.next_avail().wrapping_sub(1));
                return Ok(None);
            }
            self.malformed += 1;
            self.finish(head, 0)?;
        }
    }

    /// Fills the chain taken first with `header`; its payload is in place already.
    pub(super) fn fill(&mut self, header: &Header) -> Result<(), virtio_queue::Error> {
        let Some(slot) = self.taken.pop_front() else {
            return Ok(());
        };
        slot.header.copy_from(&header.encode(self.guest_cid));
        self.finish(slot.head, HEADER_BYTES as u32 + header.payload_bytes)
    }

    /// Uses the chain taken first without a packet in it.
    pub(super) fn skip(&mut self) -> Result<(), virtio_queue::Error> {
        self.malformed += 1;
        match self.taken.pop_front() {
            Some(slot) => self.finish(slot.head, 0),
            None => Ok(()),
        }
    }

    /// Room for payload in the chain taken first, in bytes.
    pub(super) fn front_payload_bytes(&self) -> usize {
        self.taken.front().map_or(0, |slot| slot.payload_bytes)
    }

    /// Returns the chains that are not filled.
    pub(super) fn put_back(&mut self) {
        let count = self.taken.len() as u16;
        self.queue.set_next_avail(self.queue.next_avail().wrapping_sub(count));
        self.taken.clear();
    }

    /// Requests a notification for new chains; returns whether there are some already.
    pub(super) fn wait_for_more(&mut self) -> Result<bool, virtio_queue::Error> {
        self.queue.enable_notification(self.memory)
    }

    fn finish(&mut self, head: u16, bytes: u32) -> Result<(), virtio_queue::Error> {
        self.used = true;
        self.queue.add_used(self.memory, head, bytes)
    }
}
