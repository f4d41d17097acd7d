//! A virtio device as its transport sees it. Two transports carry the same devices: virtio-mmio (our own VMM) and
//! vhost-user (QEMU).

use std::os::fd::BorrowedFd;

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;

/// Why a device is asked to work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The guest notified this queue.
    Queue(usize),
    /// [`Device::backend_fd`] is readable.
    Backend,
}

/// The queues whose guest driver must be interrupted: bit n is queue n.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Signals(pub u8);

impl Signals {
    /// Marks queue `index`.
    pub fn mark(&mut self, index: usize) {
        self.0 |= 1 << index;
    }

    /// Whether any queue is marked.
    pub fn any(self) -> bool {
        self.0 != 0
    }
}

/// A queue that the guest has made unusable: the device stops with `DEVICE_NEEDS_RESET`, everything else goes on.
#[derive(Debug, thiserror::Error)]
#[error("queue {index} is unusable")]
pub struct QueueFault {
    /// Which queue.
    pub index: usize,
    /// What was wrong.
    #[source]
    pub source: virtio_queue::Error,
}

/// A virtio device. All methods are called under one lock, from one thread at a time.
pub trait Device: Send {
    /// Virtio device id (virtio 1.3, section 5).
    fn id(&self) -> u32;

    /// Largest size of each queue, a power of two.
    fn queue_sizes(&self) -> &'static [u16];

    /// Feature bits offered, `VIRTIO_F_VERSION_1` among them.
    fn features(&self) -> u64;

    /// The configuration space as it is now; reads past its end give zero, writes are ignored.
    fn config(&self) -> &[u8];

    /// The driver said `DRIVER_OK` with these features.
    fn activate(&mut self, features: u64);

    /// The driver reset the device.
    fn reset(&mut self);

    /// Readable when the host side has work for the device (an epoll fd may stand for many).
    fn backend_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Works off a queue or the host side. Guest mistakes in single requests are counted and answered or skipped.
    ///
    /// # Errors
    /// [`QueueFault`] when a queue itself cannot be used any more.
    fn process(
        &mut self,
        cause: Cause,
        memory: &GuestMemoryMmap,
        queues: &mut [&mut Queue],
    ) -> Result<Signals, QueueFault>;
}
