//! Event loop: the one thread that serves all devices. It waits for notifications, backends, and the end of the
//! machine.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use crate::status::MachineExit;
use crate::virtio::device::Cause;
use crate::virtio::mmio::Transport;

/// Reason why the loop cannot start.
#[derive(Debug, thiserror::Error)]
pub enum EventLoopError {
    /// The epoll instance cannot be made.
    #[error("cannot make an epoll instance")]
    Epoll(#[source] std::io::Error),
    /// An fd cannot be added to the epoll instance.
    #[error("cannot wait for {what}")]
    Watch {
        /// Name of what the fd stands for.
        what: &'static str,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// An eventfd cannot be made.
    #[error("cannot make an eventfd")]
    EventFd(#[source] std::io::Error),
}

/// Exit of the machine, recorded by the first vCPU that reports one.
#[derive(Debug)]
pub(crate) struct Ending {
    exit: Mutex<Option<MachineExit>>,
    event: EventFd,
}

impl Ending {
    pub(crate) fn new() -> Result<Self, EventLoopError> {
        Ok(Self {
            exit: Mutex::new(None),
            event: event()?,
        })
    }

    /// Ends the machine; later calls are ignored.
    pub(crate) fn notify(&self, exit: MachineExit) {
        self.exit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(exit);
        // The counter cannot overflow: each vCPU notifies once.
        let _ = self.event.write(1);
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    fn take(&self) -> Option<MachineExit> {
        self.exit.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Makes an eventfd that is never waited for by reading.
pub(crate) fn event() -> Result<EventFd, EventLoopError> {
    EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(EventLoopError::EventFd)
}

/// Source of an event, as the 64 bits that epoll stores for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Ending,
    Supervisor,
    PendingStatus,
    Backend { device: u32 },
    Queue { device: u32, queue: u8 },
}

impl Token {
    fn to_bits(self) -> u64 {
        match self {
            Self::Ending => 0,
            Self::Supervisor => 1,
            Self::PendingStatus => 2,
            Self::Backend { device } => 3 | u64::from(device) << 32,
            Self::Queue { device, queue } => 4 | u64::from(queue) << 8 | u64::from(device) << 32,
        }
    }

    fn from_bits(bits: u64) -> Option<Self> {
        let device = (bits >> 32) as u32;
        match bits & 0xff {
            0 => Some(Self::Ending),
            1 => Some(Self::Supervisor),
            2 => Some(Self::PendingStatus),
            3 => Some(Self::Backend { device }),
            4 => Some(Self::Queue {
                device,
                queue: (bits >> 8) as u8,
            }),
            _ => None,
        }
    }
}

/// Device as the loop serves it.
#[derive(Debug)]
struct Served {
    transport: Arc<Transport>,
    /// Notifications, one for each queue; KVM raises one when the guest notifies the queue.
    notifications: Vec<EventFd>,
    backend: Option<RawFd>,
    /// Whether epoll waits for the backend: only while the device runs, or an early byte would keep the loop spinning.
    backend_watched: bool,
}

/// Event loop, ready to run.
#[derive(Debug)]
pub(crate) struct EventLoop {
    epoll: Epoll,
    memory: GuestMemoryMmap,
    ending: Arc<Ending>,
    pending_status: Arc<EventFd>,
    served: Vec<Served>,
}

impl EventLoop {
    /// Makes a loop that ends when `ending` is notified or the other end of `supervisor` is closed.
    pub(crate) fn new(
        memory: GuestMemoryMmap,
        ending: Arc<Ending>,
        pending_status: Arc<EventFd>,
        supervisor: RawFd,
    ) -> Result<Self, EventLoopError> {
        let epoll = Epoll::new().map_err(EventLoopError::Epoll)?;
        let event_loop = Self {
            epoll,
            memory,
            ending,
            pending_status,
            served: Vec::new(),
        };
        event_loop.watch(event_loop.ending.raw_fd(), EventSet::IN, Token::Ending, "the end")?;
        event_loop.watch(
            event_loop.pending_status.as_raw_fd(),
            EventSet::IN,
            Token::PendingStatus,
            "drivers",
        )?;
        // Errors and hang-ups are always reported; a pipe's write end has no other events.
        event_loop.watch(supervisor, EventSet::READ_HANG_UP, Token::Supervisor, "the supervisor")?;
        Ok(event_loop)
    }

    /// Adds `transport` to what the loop serves, notified by `notifications`.
    pub(crate) fn serve(
        &mut self,
        transport: Arc<Transport>,
        notifications: Vec<EventFd>,
    ) -> Result<(), EventLoopError> {
        let device = self.served.len() as u32;
        for (queue, event) in notifications.iter().enumerate() {
            let token = Token::Queue {
                device,
                queue: queue as u8,
            };
            self.watch(event.as_raw_fd(), EventSet::IN, token, "a queue")?;
        }
        let backend = transport.backend_fd();
        self.served.push(Served {
            transport,
            notifications,
            backend,
            backend_watched: false,
        });
        Ok(())
    }

    /// Numbers of the fds that this thread writes to, for its filter.
    pub(crate) fn interrupt_fds(&self) -> Vec<RawFd> {
        self.served
            .iter()
            .map(|served| served.transport.interrupt_line().as_raw_fd())
            .collect()
    }

    /// Serves the devices until the machine ends.
    pub(crate) fn run(mut self) -> MachineExit {
        let exit = self.serve_until_the_end();
        self.served.iter().for_each(|served| served.transport.report());
        exit
    }

    fn serve_until_the_end(&mut self) -> MachineExit {
        let mut events = [EpollEvent::default(); 32];
        loop {
            let ready = match self.epoll.wait(-1, &mut events) {
                Ok(ready) => ready,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    return MachineExit::RunFailed {
                        errno: error.raw_os_error().unwrap_or(0),
                    };
                }
            };
            for event in &events[..ready] {
                match Token::from_bits(event.data()) {
                    Some(Token::Ending) => {
                        if let Some(exit) = self.ending.take() {
                            return exit;
                        }
                    }
                    Some(Token::Supervisor) => return MachineExit::SupervisorGone,
                    Some(Token::PendingStatus) => {
                        drain(&self.pending_status);
                        (0..self.served.len()).for_each(|device| self.apply_pending_status(device));
                    }
                    Some(Token::Backend { device }) => self.process(device as usize, Cause::Backend),
                    Some(Token::Queue { device, queue }) => {
                        drain(&self.served[device as usize].notifications[usize::from(queue)]);
                        self.process(device as usize, Cause::Queue(usize::from(queue)));
                    }
                    None => {}
                }
            }
        }
    }

    fn process(&mut self, device: usize, cause: Cause) {
        // The notification may be older than a reset, or newer than a start, that the device does not know of yet.
        self.apply_pending_status(device);
        self.served[device].transport.process(cause, &self.memory);
        self.watch_backend(device);
    }

    fn apply_pending_status(&mut self, device: usize) {
        self.served[device].transport.apply_pending_status(&self.memory);
        self.watch_backend(device);
    }

    fn watch_backend(&mut self, device: usize) {
        let served = &mut self.served[device];
        let Some(fd) = served.backend else { return };
        let wanted = served.transport.is_running();
        if wanted == served.backend_watched {
            return;
        }
        let operation = if wanted {
            ControlOperation::Add
        } else {
            ControlOperation::Delete
        };
        let token = Token::Backend { device: device as u32 };
        // A backend that cannot be waited for gets no events, but the machine continues; the next change tries again.
        if self
            .epoll
            .ctl(operation, fd, EpollEvent::new(EventSet::IN, token.to_bits()))
            .is_ok()
        {
            served.backend_watched = wanted;
        }
    }

    fn watch(&self, fd: RawFd, events: EventSet, token: Token, what: &'static str) -> Result<(), EventLoopError> {
        let event = EpollEvent::new(events, token.to_bits());
        self.epoll
            .ctl(ControlOperation::Add, fd, event)
            .map_err(|source| EventLoopError::Watch { what, source })
    }
}

/// Reads `event` empty. Nothing to read is fine: another event may have been handled together with this one.
fn drain(event: &EventFd) {
    let _ = event.read();
}

#[cfg(test)]
mod tests {
    use super::Token;

    #[test]
    fn tokens_survive_epoll() {
        let tokens = [
            Token::Ending,
            Token::Supervisor,
            Token::PendingStatus,
            Token::Backend { device: 18 },
            Token::Queue { device: 18, queue: 255 },
        ];
        for token in tokens {
            assert_eq!(Token::from_bits(token.to_bits()), Some(token));
        }
        assert_eq!(Token::from_bits(5), None);
    }
}
