//! Driver's side of a queue, for tests and fuzz targets: it writes to guest memory what a guest's kernel, or an
//! attacker in its place, would.

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::device::{Cause, Device, QueueFault, Signals};

/// Size of guest memory in bytes; it has two regions, so that buffers can lie across their border.
pub const MEMORY_BYTES: u64 = 4 << 20;
const SIZE: u16 = 64;
const QUEUE_BYTES: u64 = 0x2000;

/// Descriptor: address, length, whether the device writes.
pub type Part = (u64, u32, bool);

/// Makes the memory of a guest.
pub fn memory() -> GuestMemoryMmap {
    let half = MEMORY_BYTES / 2;
    let ranges = [(GuestAddress(0), half as usize), (GuestAddress(half), half as usize)];
    GuestMemoryMmap::from_ranges(&ranges).expect("address space")
}

/// Writes to guest memory.
///
/// # Panics
/// If the place is not in memory.
#[cfg(fuzzing)]
pub fn write(memory: &GuestMemoryMmap, bytes: &[u8], address: u64) {
    memory.write_slice(bytes, GuestAddress(address)).expect("in memory");
}

/// Queue of the driver. Queue n lies at n * 8 KiB; the rest is free from [`TestQueue::FREE`] on.
pub struct TestQueue {
    base: u64,
    next_descriptor: u16,
    available: u16,
    used_seen: u16,
    /// Queue as the device sees it.
    pub queue: Queue,
}

impl TestQueue {
    /// First guest address where no queue lies.
    pub const FREE: u64 = 0x10000;

    /// Makes queue `index`, empty.
    ///
    /// # Panics
    /// Never: its addresses are aligned.
    #[must_use]
    pub fn new(index: u64) -> Self {
        let base = index * QUEUE_BYTES + 0x1000;
        let mut queue = Queue::new(SIZE).expect("a power of two");
        queue.try_set_desc_table_address(GuestAddress(base)).expect("aligned");
        queue
            .try_set_avail_ring_address(GuestAddress(base + 0x800))
            .expect("aligned");
        queue
            .try_set_used_ring_address(GuestAddress(base + 0x1000))
            .expect("aligned");
        queue.set_ready(true);
        Self {
            base,
            next_descriptor: 0,
            available: 0,
            used_seen: 0,
            queue,
        }
    }

    /// Makes a chain available; returns its head.
    pub fn add(&mut self, memory: &GuestMemoryMmap, parts: &[Part]) -> u16 {
        let head = self.next_descriptor % SIZE;
        for (index, &(address, bytes, writable)) in parts.iter().enumerate() {
            let slot = self.next_descriptor % SIZE;
            self.next_descriptor = self.next_descriptor.wrapping_add(1);
            let next = u16::from(index + 1 < parts.len());
            let flags = next | u16::from(writable) << 1;
            let at = GuestAddress(self.base + u64::from(slot) * 16);
            let mut raw = [0; 16];
            raw[..8].copy_from_slice(&address.to_le_bytes());
            raw[8..12].copy_from_slice(&bytes.to_le_bytes());
            raw[12..14].copy_from_slice(&flags.to_le_bytes());
            raw[14..].copy_from_slice(&(self.next_descriptor % SIZE).to_le_bytes());
            memory.write_slice(&raw, at).expect("in memory");
        }
        self.offer(memory, head);
        head
    }

    /// Makes `head` available, whatever its descriptors are.
    pub fn offer(&mut self, memory: &GuestMemoryMmap, head: u16) {
        let ring = self.base + 0x800;
        let entry = GuestAddress(ring + 4 + u64::from(self.available % SIZE) * 2);
        memory.write_obj(head, entry).expect("in memory");
        self.available = self.available.wrapping_add(1);
        memory
            .write_obj(self.available, GuestAddress(ring + 2))
            .expect("in memory");
    }

    /// Chains used since the last call: head and bytes written.
    pub fn used(&mut self, memory: &GuestMemoryMmap) -> Vec<(u16, u32)> {
        let ring = self.base + 0x1000;
        let index: u16 = memory.read_obj(GuestAddress(ring + 2)).expect("in memory");
        let mut used = Vec::new();
        while self.used_seen != index {
            let entry = ring + 4 + u64::from(self.used_seen % SIZE) * 8;
            let head: u32 = memory.read_obj(GuestAddress(entry)).expect("in memory");
            let bytes: u32 = memory.read_obj(GuestAddress(entry + 4)).expect("in memory");
            used.push((head as u16, bytes));
            self.used_seen = self.used_seen.wrapping_add(1);
        }
        used
    }
}

/// Lets `device` process `queues`.
pub fn process(
    device: &mut dyn Device,
    cause: Cause,
    memory: &GuestMemoryMmap,
    queues: &mut [&mut TestQueue],
) -> Result<Signals, QueueFault> {
    let mut queues: Vec<&mut Queue> = queues.iter_mut().map(|queue| &mut queue.queue).collect();
    device.process(cause, memory, &mut queues)
}
