//! Entropy device (virtio 1.3, section 5.4): the host's random bytes for the guest.

use std::os::fd::BorrowedFd;

use capsid_jail::Rule;
use rustix::rand::{GetRandomFlags, getrandom};
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;

use super::chain::{self, Buffers};
use super::device::{Cause, Device, QueueFault, Signals};
use super::drain::{Next, drain};
use super::filters;
use crate::limits::RNG_REQUEST_BYTES_MAX;

const QUEUE_SIZES: &[u16] = &[64];

/// Number of bytes fetched by one call: up to 256 the kernel returns all or nothing (getrandom(2)).
const PORTION_BYTES: usize = 256;

/// Entropy device of a guest.
#[derive(Debug, Default)]
pub struct RngDevice {
    malformed: u64,
}

impl RngDevice {
    /// Makes an entropy device.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of chains without room for a byte, or with bad addresses.
    #[must_use]
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    fn drain(&mut self, memory: &GuestMemoryMmap, queue: &mut Queue) -> Result<bool, virtio_queue::Error> {
        drain(memory, queue, |queue| {
            let Some((head, chain)) = chain::pop(queue, memory)? else {
                return Ok(Next::Empty);
            };
            let written = chain.map_or(0, |chain| fill(chain.writable));
            if written == 0 {
                self.malformed += 1;
            }
            queue.add_used(memory, head, written as u32)?;
            Ok(Next::Used)
        })
    }
}

/// Fills `target`, at most [`RNG_REQUEST_BYTES_MAX`] of it; returns the number of bytes.
fn fill(mut target: Buffers<'_>) -> usize {
    let wanted = target.len().min(RNG_REQUEST_BYTES_MAX);
    let mut filled = 0;
    while filled < wanted {
        let mut portion = [0; PORTION_BYTES];
        let most = PORTION_BYTES.min(wanted - filled);
        // This can fail only before the host's generator is seeded; the guest asks again.
        let Ok(count) = getrandom(&mut portion[..most], GetRandomFlags::empty()) else {
            break;
        };
        let Some(part) = target.split_front(count) else {
            break;
        };
        filled += part.copy_from(&portion[..count]);
    }
    filled
}

impl Device for RngDevice {
    fn id(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn config(&self) -> &[u8] {
        &[]
    }

    fn syscalls(&self) -> Vec<Rule> {
        filters::rng_rules()
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
        let Some(queue) = queues.first_mut().filter(|queue| queue.ready()) else {
            return Ok(signals);
        };
        let fault = |source| QueueFault { index: 0, source };
        if self.drain(memory, queue).map_err(fault)? && queue.needs_notification(memory).map_err(fault)? {
            signals.mark(0);
        }
        Ok(signals)
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::virtio::test_driver::{TestQueue, memory, process};

    #[test]
    fn buffers_are_filled_with_different_bytes() {
        let (mut device, memory, mut queue) = (RngDevice::new(), memory(), TestQueue::new(0));
        queue.add(
            &memory,
            &[(TestQueue::FREE, 300, true), (TestQueue::FREE + 0x1000, 33, true)],
        );
        assert!(
            process(&mut device, Cause::Queue(0), &memory, &mut [&mut queue])
                .expect("a good queue")
                .any()
        );
        assert_eq!(queue.used(&memory)[0].1, 333);
        let mut bytes = [0; 300];
        memory
            .read_slice(&mut bytes, GuestAddress(TestQueue::FREE))
            .expect("in memory");
        // 300 equal bytes, or a tail of 44 zeros, occur by chance once in more than 2^350 times.
        assert!(bytes.iter().any(|&byte| byte != bytes[0]));
        assert!(bytes[256..].iter().any(|&byte| byte != 0));
    }

    #[test]
    fn a_request_is_bounded_whatever_its_descriptors_claim() {
        let (mut device, memory, mut queue) = (RngDevice::new(), memory(), TestQueue::new(0));
        queue.add(
            &memory,
            &[(TestQueue::FREE, 1 << 20, true), (TestQueue::FREE, 1 << 20, true)],
        );
        queue.add(&memory, &[(TestQueue::FREE, 16, false)]);
        queue.add(&memory, &[(u64::MAX, 16, true)]);
        process(&mut device, Cause::Queue(0), &memory, &mut [&mut queue]).expect("a good queue");
        let used: Vec<u32> = queue.used(&memory).iter().map(|used| used.1).collect();
        assert_eq!(used, [RNG_REQUEST_BYTES_MAX as u32, 0, 0]);
        assert_eq!(device.malformed(), 2);
    }
}
