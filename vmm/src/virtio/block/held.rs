//! Writes that the host has no room for. They are not answered but held, and retried until there is room: an error
//! would be too late for the program that wrote, whose data the guest's kernel has accepted, and would lose them
//! silently. All other requests are served meanwhile. QEMU does the same (`werror=enospc`), with the whole machine
//! stopped.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::virtio::chain::Descriptors;
use crate::virtio::sys::epoll_fd;

/// Maximum length of the device's queue.
const QUEUE_SIZE_MAX: usize = super::QUEUE_SIZES[0] as usize;
/// Time between two retries.
const RETRY_EVERY: Duration = Duration::from_millis(250);

/// Held requests of a device, and the timer that wakes the device for them.
#[derive(Debug)]
pub(super) struct Held {
    requests: Vec<Descriptors>,
    /// Timer of the retries. Without one (no descriptor was free), a write without room fails.
    timer: Option<OwnedFd>,
    /// Epoll instance that is readable with the timer or the device's other fd.
    both: Option<Epoll>,
}

impl Held {
    /// Makes an empty list. The device also waits for `other`. For a device that cannot be written, nothing is ever
    /// held.
    pub(super) fn new(other: Option<BorrowedFd<'_>>, is_writable: bool) -> Self {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = is_writable.then(|| timerfd_create(TimerfdClockId::Monotonic, flags));
        let timer = timer.and_then(Result::ok);
        let both = other.zip(timer.as_ref()).and_then(|(other, timer)| {
            let epoll = Epoll::new().ok()?;
            for fd in [other.as_raw_fd(), timer.as_raw_fd()] {
                let event = EpollEvent::new(EventSet::IN, 0);
                epoll.ctl(ControlOperation::Add, fd, event).ok()?;
            }
            Some(epoll)
        });
        let timer = timer.filter(|_| other.is_none() || both.is_some());
        Self {
            requests: Vec::new(),
            timer,
            both,
        }
    }

    /// Fd for which the device waits.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.both {
            Some(epoll) => Some(epoll_fd(epoll)),
            None => self.timer.as_ref().map(AsFd::as_fd),
        }
    }

    /// Whether to hold a request that failed with `error`. A driver has no more requests than its queue is long; a
    /// driver that makes a chain available again before it is answered is hostile, and would make this process hold any
    /// number.
    pub(super) fn takes(&self, error: &io::Error) -> bool {
        let is_no_room = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        is_no_room && self.timer.is_some() && self.requests.len() < QUEUE_SIZE_MAX
    }

    /// Holds a request until the next try.
    pub(super) fn push(&mut self, request: Descriptors) {
        if self.requests.is_empty() {
            self.arm();
        }
        self.requests.push(request);
    }

    /// Takes the requests for another try, oldest first.
    pub(super) fn take(&mut self) -> Vec<Descriptors> {
        if let Some(timer) = &self.timer {
            // Fails if the timer has not expired.
            let _ = rustix::io::read(timer, &mut [0; 8]);
        }
        std::mem::take(&mut self.requests)
    }

    /// Forgets all requests, because the driver has.
    pub(super) fn clear(&mut self) {
        self.requests.clear();
    }

    fn arm(&self) {
        let Some(timer) = &self.timer else { return };
        let time = |duration: Duration| Timespec {
            tv_sec: duration.as_secs() as i64,
            tv_nsec: i64::from(duration.subsec_nanos()),
        };
        let once = Itimerspec {
            it_interval: time(Duration::ZERO),
            it_value: time(RETRY_EVERY),
        };
        // Fails only for an invalid time.
        let _ = timerfd_settime(timer, TimerfdTimerFlags::empty(), &once);
    }
}
