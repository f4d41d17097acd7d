//! One queue and the fds that QEMU gives for it.

use std::fs::File;
use std::io::Write;

use virtio_queue::{Queue, QueueT};

/// QEMU's virtio-mmio offers queues of `VIRTQUEUE_MAX_SIZE` to the guest, whatever the device's own size is.
const SIZE_MAX: u16 = 1024;

/// The queue.
#[derive(Debug)]
pub(super) struct Vring {
    pub(super) queue: Queue,
    /// Readable when the guest has notified the queue.
    pub(super) kick: Option<File>,
    /// Interrupts the guest; none while its driver polls.
    pub(super) call: Option<File>,
    /// QEMU has started the ring, and has not taken it back.
    pub(super) started: bool,
    /// The device may use the ring while it is started.
    pub(super) enabled: bool,
    /// The loop waits for `kick`.
    pub(super) watched: bool,
    /// Started since the device worked last: there may be chains that no notification tells of.
    pub(super) fresh: bool,
}

impl Vring {
    pub(super) fn new() -> Result<Self, virtio_queue::Error> {
        Ok(Self {
            queue: Queue::new(SIZE_MAX)?,
            kick: None,
            call: None,
            started: false,
            enabled: false,
            watched: false,
            fresh: false,
        })
    }

    /// Interrupts the guest.
    pub(super) fn interrupt(&mut self) {
        if let Some(call) = &mut self.call {
            // A counter that is full means that an interrupt is pending already.
            let _ = call.write(&1_u64.to_ne_bytes());
        }
    }
}
