//! Loop of one device: QEMU's requests, the guest's notifications, the device's host side.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vhost::vhost_user::{BackendReqHandler, Error};
use vmm_sys_util::epoll::{ControlOperation, EpollEvent, EventSet};

use super::backend::{BACKEND_EVENT, Backend, FIRST_QUEUE_EVENT, REQUEST_EVENT};
use crate::virtio::device::{Cause, Device};

const EVENTS_PER_WAIT: usize = 16;

/// Reason why a device is not served any more.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Epoll failed.
    #[error("cannot wait for events")]
    Wait(#[source] io::Error),
    /// A request is invalid, or an answer cannot be sent.
    #[error("the other VMM breaks the vhost-user protocol")]
    Request(#[source] Error),
}

/// Device that is ready to be served to QEMU.
pub(super) struct Server {
    backend: Arc<Mutex<Backend>>,
    requests: BackendReqHandler<Mutex<Backend>>,
}

impl Server {
    /// Prepares to serve `device` on `socket`, whose other end is QEMU's.
    pub(super) fn new(device: Box<dyn Device>, socket: UnixStream) -> Result<Self, ServerError> {
        let backend = Backend::new(device).map_err(ServerError::Wait)?;
        let event = EpollEvent::new(EventSet::IN | EventSet::READ_HANG_UP, REQUEST_EVENT);
        let added = backend.epoll().ctl(ControlOperation::Add, socket.as_raw_fd(), event);
        added.map_err(ServerError::Wait)?;
        let backend = Arc::new(Mutex::new(backend));
        let requests = BackendReqHandler::from_stream(socket, backend.clone());
        Ok(Self { backend, requests })
    }

    /// Serves the device until QEMU is gone.
    pub(super) fn run(mut self) -> Result<(), ServerError> {
        let mut events = [EpollEvent::default(); EVENTS_PER_WAIT];
        loop {
            let count = match self.backend().epoll().wait(-1, &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ServerError::Wait(error)),
            };
            for event in &events[..count] {
                match event.data() {
                    REQUEST_EVENT => match self.requests.handle_request() {
                        Ok(()) => self.backend().process_fresh(),
                        // QEMU enables the rings of a network before it sets any feature (`vhost_net_start` in
                        // hw/net/vhost_net.c), which the protocol crate does not accept.
                        Err(Error::InactiveFeature(_)) => self.backend().enable(),
                        // Closed before or within a message: QEMU has ended, one way or another.
                        Err(Error::Disconnected | Error::PartialMessage | Error::SocketBroken(_)) => return Ok(()),
                        Err(error) => return Err(ServerError::Request(error)),
                    },
                    BACKEND_EVENT => self.backend().process(Cause::Backend),
                    queue => self
                        .backend()
                        .process(Cause::Queue((queue - FIRST_QUEUE_EVENT) as usize)),
                }
            }
        }
    }

    /// Locks the backend. Only this thread takes the lock; the protocol crate requires one.
    fn backend(&self) -> MutexGuard<'_, Backend> {
        self.backend.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
