//! Balloon device (virtio 1.3, section 5.5), of which only free page reporting is used: memory that a guest frees is
//! returned to the host. The guest is never asked to inflate: a pod's memory is what its limit says.

use std::os::fd::BorrowedFd;

use capsid_jail::Rule;
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap};

use super::chain::{self, Buffers};
use super::device::{Cause, Device, QueueFault, Signals};
use super::drain::{Next, drain};
use super::filters;
use super::sys::{self, Backing};

/// Queue sizes of inflate, deflate, reporting: in this order when neither statistics nor hinting are offered (section
/// 5.5.2).
const QUEUE_SIZES: &[u16] = &[64, 64, 64];
const REPORTING: usize = 2;

/// Feature bit of free page reporting (section 5.5.3).
const VIRTIO_BALLOON_F_REPORTING: u32 = 5;

/// Configuration space, `num_pages` and `actual`: no page is requested.
const CONFIG: [u8; 8] = [0; 8];

/// Balloon device of a guest.
#[derive(Debug, Default)]
pub struct BalloonDevice {
    reported_bytes: u64,
    malformed: u64,
}

impl BalloonDevice {
    /// Makes a device to which no page has been reported.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of bytes that the guest has reported free, and the host has taken back.
    #[must_use]
    pub fn reported_bytes(&self) -> u64 {
        self.reported_bytes
    }

    /// Number of malformed reports, and of pages for a balloon that was never inflated.
    #[must_use]
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    fn drain(
        &mut self,
        index: usize,
        memory: &GuestMemoryMmap,
        queue: &mut Queue,
    ) -> Result<bool, virtio_queue::Error> {
        drain(memory, queue, |queue| {
            let Some((head, chain)) = chain::pop(queue, memory)? else {
                return Ok(Next::Empty);
            };
            match chain {
                Ok(chain) if index == REPORTING && chain.writable.len() > 0 => {
                    self.reported_bytes += discard(&chain.writable, backing(memory)) as u64;
                }
                _ => self.malformed += 1,
            }
            queue.add_used(memory, head, 0)?;
            Ok(Next::Used)
        })
    }
}

/// Gives pages back to the host; returns the number of bytes that it took. The guest reads zeros there until it writes
/// again.
fn discard(pages: &Buffers<'_>, backing: Backing) -> usize {
    // A report that the host cannot act on loses memory and is no error: the pages stay the guest's as before.
    let bytes = pages.slices().map(|slice| sys::discard(slice, backing).unwrap_or(0));
    bytes.sum()
}

fn backing(memory: &GuestMemoryMmap) -> Backing {
    let is_shared = memory.iter().any(|region| region.flags() & libc::MAP_SHARED != 0);
    if is_shared { Backing::Shared } else { Backing::Private }
}

impl Device for BalloonDevice {
    fn id(&self) -> u32 {
        VIRTIO_ID_BALLOON
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_BALLOON_F_REPORTING
    }

    fn config(&self) -> &[u8] {
        &CONFIG
    }

    fn syscalls(&self) -> Vec<Rule> {
        filters::balloon_rules()
    }

    fn activate(&mut self, _features: u64) {}

    fn reset(&mut self) {}

    fn backend_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn process(
        &mut self,
        _cause: Cause,
        memory: &GuestMemoryMmap,
        queues: &mut [&mut Queue],
    ) -> Result<Signals, QueueFault> {
        let mut signals = Signals::default();
        for (index, queue) in queues.iter_mut().enumerate().filter(|(_, queue)| queue.ready()) {
            let fault = |source| QueueFault { index, source };
            if self.drain(index, memory, queue).map_err(fault)? && queue.needs_notification(memory).map_err(fault)? {
                signals.mark(index);
            }
        }
        Ok(signals)
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::virtio::test_driver::{MEMORY_BYTES, TestQueue, memory, process};

    /// Guest address at the beginning of a page where no queue lies.
    const PAGES: u64 = TestQueue::FREE;

    fn queues() -> [TestQueue; 3] {
        [TestQueue::new(0), TestQueue::new(1), TestQueue::new(2)]
    }

    fn run(device: &mut BalloonDevice, memory: &GuestMemoryMmap, queues: &mut [TestQueue; 3]) {
        let mut queues: Vec<&mut TestQueue> = queues.iter_mut().collect();
        process(device, Cause::Queue(REPORTING), memory, &mut queues).expect("good queues");
    }

    #[test]
    fn reported_pages_are_empty_and_others_stay() {
        let (mut device, memory, mut queues) = (BalloonDevice::new(), memory(), queues());
        let ones = [1; 4 * 4096];
        memory.write_slice(&ones, GuestAddress(PAGES)).expect("in memory");
        // From the middle of a page to the middle of another: only whole pages are returned.
        queues[REPORTING].add(&memory, &[(PAGES + 2048, 3 * 4096, true)]);
        run(&mut device, &memory, &mut queues);
        let mut bytes = [9; 4 * 4096];
        memory.read_slice(&mut bytes, GuestAddress(PAGES)).expect("in memory");
        let (first, rest) = bytes.split_at(4096);
        let (middle, last) = rest.split_at(2 * 4096);
        assert!(first.iter().chain(last).all(|&byte| byte == 1));
        assert!(middle.iter().all(|&byte| byte == 0));
        assert_eq!((device.reported_bytes(), device.malformed()), (2 * 4096, 0));
    }

    #[test]
    fn nonsense_is_counted_and_answered() {
        let (mut device, memory, mut queues) = (BalloonDevice::new(), memory(), queues());
        memory.write_slice(&[1; 4096], GuestAddress(PAGES)).expect("in memory");
        queues[REPORTING].add(&memory, &[(PAGES, 4096, false)]);
        queues[REPORTING].add(&memory, &[(MEMORY_BYTES, 4096, true)]);
        queues[REPORTING].add(&memory, &[(PAGES, 0, true)]);
        queues[0].add(&memory, &[(PAGES, 4096, false)]);
        run(&mut device, &memory, &mut queues);
        assert_eq!((device.reported_bytes(), device.malformed()), (0, 4));
        assert_eq!(queues[REPORTING].used(&memory).len(), 3);
        let mut bytes = [0; 4096];
        memory.read_slice(&mut bytes, GuestAddress(PAGES)).expect("in memory");
        assert_eq!(bytes, [1; 4096]);
    }
}
