//! Port of a member: the stream of its frames, and the socket that keeps it a member.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmm_sys_util::epoll::Epoll;

use crate::virtio::net::{Mac, Stream};

/// Maximum bytes of frames that wait for a slow member; any more frames are lost, as on any switch.
const OUTBOX_BYTES: usize = 1 << 20;

/// Port of a member.
#[derive(Debug)]
pub(super) struct Port {
    control: OwnedFd,
    frames: Stream,
    event: u64,
}

impl Port {
    /// Makes a port whose frames `epoll` reports with `event`.
    pub(super) fn new(control: OwnedFd, frames: OwnedFd, epoll: &Epoll, event: u64) -> io::Result<Self> {
        Ok(Self {
            control,
            frames: Stream::with_outbox(frames, epoll, event, OUTBOX_BYTES)?,
            event,
        })
    }

    /// Gives the member a frame of another member, if there is room. Some room is left for [`Self::reply`], so that
    /// others cannot use up all of it.
    pub(super) fn give(&mut self, mac: Mac, frame: &[u8]) {
        if self.frames.has_no_room_for(2) {
            return;
        }
        match frame.split_first_chunk::<6>() {
            Some((to, rest)) if *to != mac => self.frames.append(&[&mac[..], rest].concat()),
            _ => self.frames.append(frame),
        }
    }

    /// Gives the member a frame of the switch itself, if there is room.
    pub(super) fn reply(&mut self, frame: &[u8]) {
        if !self.frames.is_full() {
            self.frames.append(frame);
        }
    }

    /// Sends frames that were given before.
    pub(super) fn flush(&mut self) {
        self.frames.flush();
    }

    /// Whether the member's supervisor has hung up, or has sent a message.
    pub(super) fn speaks(&self) -> bool {
        let mut state = [PollFd::from_borrowed_fd(self.control.as_fd(), PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut state, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// Next frame of the member.
    pub(super) fn next(&mut self) -> Option<&[u8]> {
        if self.frames.front().is_none() {
            self.frames.receive();
        }
        self.frames.front()
    }

    /// Discards the frame that was returned last.
    pub(super) fn skip(&mut self) {
        self.frames.skip();
    }

    /// Sends the frames that were given, and waits for the events that matter now.
    pub(super) fn flush_and_watch(&mut self, epoll: &Epoll) {
        self.frames.flush();
        self.frames.watch(epoll, self.event);
    }

    pub(super) fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}
