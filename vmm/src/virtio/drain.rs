//! Processing of a queue until it is empty: notifications are off meanwhile (virtio 1.3, section 2.7.7), and the queue
//! is looked at once more after they are on again.

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;

/// Result of processing the next chain of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// The chain was used.
    Used,
    /// The chain is held, to be used later.
    Held,
    /// The queue is empty.
    Empty,
    /// The device stops here although there may be more: it is processed again without a notification.
    Enough,
}

/// Processes chains by `next` until the queue is empty, or the device stops. Returns whether chains were used.
///
/// # Errors
/// If the queue itself is unusable.
pub(crate) fn drain(
    memory: &GuestMemoryMmap,
    queue: &mut Queue,
    mut next: impl FnMut(&mut Queue) -> Result<Next, virtio_queue::Error>,
) -> Result<bool, virtio_queue::Error> {
    let mut used = false;
    loop {
        queue.disable_notification(memory)?;
        loop {
            match next(queue)? {
                Next::Used => used = true,
                Next::Held => {}
                Next::Empty => break,
                Next::Enough => return Ok(used),
            }
        }
        if !queue.enable_notification(memory)? {
            return Ok(used);
        }
    }
}
