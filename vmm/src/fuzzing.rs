//! Device transports driven by bytes, for fuzzing.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use crate::virtio::device::{Cause, Device};
use crate::virtio::mmio::Transport;
use crate::warnings::Warnings;

/// Device behind its registers (virtio-mmio), as vCPU threads and the event loop see it.
#[derive(Debug)]
pub struct MmioDevice {
    transport: Transport,
    memory: GuestMemoryMmap,
}

impl MmioDevice {
    /// Makes a device that no driver has touched.
    ///
    /// # Panics
    /// If no eventfd can be made.
    #[must_use]
    pub fn new(device: Box<dyn Device>, memory: GuestMemoryMmap) -> Self {
        let pending_status = Arc::new(EventFd::new(libc::EFD_NONBLOCK).expect("an eventfd"));
        let transport = Transport::new("fuzz".to_owned(), device, pending_status, Arc::new(Warnings::new()));
        Self {
            transport: transport.expect("a transport"),
            memory,
        }
    }

    /// Reads `bytes` bytes of the window as a guest, at most 8.
    pub fn read(&self, offset: u64, bytes: usize) {
        self.transport.read(offset, &mut [0; 8][..bytes.min(8)]);
    }

    /// Reads a register as a guest.
    #[must_use]
    pub fn register(&self, offset: u64) -> u32 {
        let mut word = [0; 4];
        self.transport.read(offset, &mut word);
        u32::from_le_bytes(word)
    }

    /// Writes to the window as a guest.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        self.transport.write(offset, bytes);
    }

    /// Does the event loop's turn: applies the status that the driver has set, then lets the device work.
    pub fn process(&self, cause: Cause) {
        self.transport.apply_pending_status(&self.memory);
        self.transport.process(cause, &self.memory);
    }
}

/// Serves `device` over vhost-user until the other end of `socket` is closed, or breaks the protocol.
pub fn serve_vhost_user(device: Box<dyn Device>, socket: UnixStream) {
    crate::vhost_user::serve_one(device, socket);
}
