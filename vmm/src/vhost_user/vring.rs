//! Queue and the fds that QEMU provides for it.

use std::fs::File;
use std::io::Write;

use virtio_queue::{Queue, QueueT};

/// Maximum queue size: QEMU's virtio-mmio offers queues of `VIRTQUEUE_MAX_SIZE` to the guest, whatever the device's own
/// size is.
const SIZE_MAX: u16 = 1024;

/// Queue with its fds and its state.
#[derive(Debug)]
pub(super) struct Vring {
    pub(super) queue: Queue,
    /// Fd that is readable when the guest has notified the queue.
    pub(super) kick: Option<File>,
    /// Fd that interrupts the guest; none while its driver polls.
    pub(super) call: Option<File>,
    /// Whether QEMU has started the ring, and has not taken it back.
    pub(super) started: bool,
    /// Whether the device may use the ring while it is started.
    pub(super) enabled: bool,
    /// Whether the loop waits for `kick`.
    pub(super) watched: bool,
    /// Whether the ring was started since the device worked last: there may be chains without a notification.
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
