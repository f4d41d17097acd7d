//! A member's port: the stream of its frames, and the socket that keeps it a member.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use vmm_sys_util::epoll::Epoll;

use crate::virtio::net::Stream;

/// Bytes of frames that wait for a member that is slow; what comes on top of them is lost, as on any switch.
const OUTBOX_BYTES: usize = 1 << 20;

/// It.
#[derive(Debug)]
pub(super) struct Port {
    control: OwnedFd,
    frames: Stream,
    event: u64,
}

impl Port {
    /// Waits on `epoll` with `event` for frames.
    pub(super) fn new(control: OwnedFd, frames: OwnedFd, epoll: &Epoll, event: u64) -> io::Result<Self> {
        Ok(Self {
            control,
            frames: Stream::with_outbox(frames, epoll, event, OUTBOX_BYTES)?,
            event,
        })
    }

    /// Gives the member a frame, if there is room.
    pub(super) fn give(&mut self, frame: &[u8]) {
        if self.frames.is_full() {
            return;
        }
        self.frames.append(frame);
    }

    /// The member's next frame.
    pub(super) fn next(&mut self) -> Option<&[u8]> {
        if self.frames.front().is_none() {
            self.frames.receive();
        }
        self.frames.front()
    }

    /// The frame last given is done with.
    pub(super) fn skip(&mut self) {
        self.frames.skip();
    }

    /// Sends what it was given, and waits for what matters now.
    pub(super) fn settle(&mut self, epoll: &Epoll) {
        self.frames.flush();
        self.frames.watch(epoll, self.event);
    }

    pub(super) fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}
