//! Transports of devices, driven by bytes, for fuzzing.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use crate::virtio::device::{Cause, Device};
use crate::virtio::mmio::Transport;
use crate::warnings::Warnings;

/// A device behind its registers (virtio-mmio), as vCPU threads and the event loop see it.
#[derive(Debug)]
pub struct MmioDevice {
    transport: Transport,
    memory: GuestMemoryMmap,
}

impl MmioDevice {
    /// A device that no driver has touched.
    ///
    /// # Panics
    /// Without an eventfd.
    #[must_use]
    pub fn new(device: Box<dyn Device>, memory: GuestMemoryMmap) -> Self {
        let pending_status = Arc::new(EventFd::new(libc::EFD_NONBLOCK).expect("an eventfd"));
        let transport = Transport::new("fuzz".to_owned(), device, pending_status, Arc::new(Warnings::new()));
        Self {
            transport: transport.expect("a transport"),
            memory,
        }
    }

    /// A guest reads `bytes` bytes of the window, at most 8.
    pub fn read(&self, offset: u64, bytes: usize) {
        self.transport.read(offset, &mut [0; 8][..bytes.min(8)]);
    }

    /// A guest reads a register.
    #[must_use]
    pub fn register(&self, offset: u64) -> u32 {
        let mut word = [0; 4];
        self.transport.read(offset, &mut word);
        u32::from_le_bytes(word)
    }

    /// A guest writes to the window.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        self.transport.write(offset, bytes);
    }

    /// The event loop's turn: what the driver has decided, then the device's work.
    pub fn process(&self, cause: Cause) {
        self.transport.apply_pending_status(&self.memory);
        self.transport.process(cause, &self.memory);
    }
}

/// Serves `device` over vhost-user until the other end of `socket` is closed, or breaks the protocol.
pub fn serve_vhost_user(device: Box<dyn Device>, socket: UnixStream) {
    crate::vhost_user::serve_one(device, socket);
}
