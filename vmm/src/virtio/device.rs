//! Virtio device as its transport sees it. Two transports carry the same devices: virtio-mmio (our own VMM) and
//! vhost-user (QEMU).

use std::os::fd::BorrowedFd;

use capsid_jail::Rule;
use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;

/// Reason why a device is processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The guest notified this queue.
    Queue(usize),
    /// The fd of [`Device::backend_fd`] is readable.
    Backend,
}

/// Set of queues whose guest driver must be interrupted: bit n is queue n.
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

/// Error of a queue that the guest has made unusable: the device stops with `DEVICE_NEEDS_RESET`, everything else
/// continues.
#[derive(Debug, thiserror::Error)]
#[error("queue {index} is unusable")]
pub struct QueueFault {
    /// Index of the queue.
    pub index: usize,
    /// Cause of the fault.
    #[source]
    pub source: virtio_queue::Error,
}

/// Virtio device. All methods are called under one lock, from one thread at a time.
pub trait Device: Send {
    /// Virtio device id (virtio 1.3, section 5).
    fn id(&self) -> u32;

    /// Maximum size of each queue, a power of two.
    fn queue_sizes(&self) -> &'static [u16];

    /// Feature bits offered, including `VIRTIO_F_VERSION_1`.
    fn features(&self) -> u64;

    /// Current configuration space; reads past its end return zero, writes are ignored.
    fn config(&self) -> &[u8];

    /// Rules for the system calls that the device makes while it serves a guest, with reasons. A thread that serves
    /// devices permits those of its devices only, and its own.
    fn syscalls(&self) -> Vec<Rule>;

    /// Starts the device: the driver has set `DRIVER_OK` with these features.
    fn activate(&mut self, features: u64);

    /// Resets the device, as the driver requested.
    fn reset(&mut self);

    /// Fd that is readable when the host side has work for the device (an epoll fd may stand for many).
    fn backend_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Processes a queue or the host side. Guest mistakes in single requests are counted, and answered or skipped.
    ///
    /// # Errors
    /// [`QueueFault`] if a queue itself cannot be used any more.
    fn process(
        &mut self,
        cause: Cause,
        memory: &GuestMemoryMmap,
        queues: &mut [&mut Queue],
    ) -> Result<Signals, QueueFault>;
}
