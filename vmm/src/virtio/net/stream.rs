//! Stream that carries frames further: a stream socket to a process like passt, or to a network's switch, on which each
//! frame follows its length (`u32`, big endian; passt(1), and QEMU's `-netdev stream`).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::{ETHERNET_BYTES, FRAME_BYTES_MAX};

/// Size of a length in bytes.
const LENGTH_BYTES: usize = 4;
/// Size of the longest frame and its length in bytes.
const MESSAGE_BYTES_MAX: usize = LENGTH_BYTES + FRAME_BYTES_MAX;
/// Maximum bytes for the other end that are collected before it must read some.
const OUTBOX_BYTES: usize = 2 * MESSAGE_BYTES_MAX;
/// Maximum bytes from the other end that wait for room in the guest. passt drops what its socket has no room for, and a
/// connection then pauses for two seconds; so received frames are read off the socket even while the guest is slow.
const INBOX_BYTES: usize = 16 * MESSAGE_BYTES_MAX;

/// One end of a frame stream.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: OwnedFd,
    /// Events of the socket for which epoll waits.
    interest: EventSet,
    /// Bytes for the other end, of which `sent` have been sent.
    outbox: Vec<u8>,
    outbox_bytes: usize,
    sent: usize,
    /// Bytes from the other end, from `taken` to `filled`. Pages that were never used take no memory.
    inbox: Box<[u8]>,
    taken: usize,
    filled: usize,
    /// Whether the other end is gone, or sends invalid data: the supervisor knows why, and ends the machine.
    is_lost: bool,
}

impl Stream {
    /// Makes a stream whose events `epoll` reports with `event`.
    pub(crate) fn new(socket: OwnedFd, epoll: &Epoll, event: u64) -> io::Result<Self> {
        Self::with_outbox(socket, epoll, event, OUTBOX_BYTES)
    }

    /// Makes a stream that collects up to `outbox_bytes` for the other end before it is full.
    pub(crate) fn with_outbox(socket: OwnedFd, epoll: &Epoll, event: u64, outbox_bytes: usize) -> io::Result<Self> {
        let interest = EventSet::IN;
        epoll.ctl(
            ControlOperation::Add,
            socket.as_raw_fd(),
            EpollEvent::new(interest, event),
        )?;
        Ok(Self {
            socket,
            interest,
            outbox: Vec::with_capacity(OUTBOX_BYTES),
            outbox_bytes,
            sent: 0,
            inbox: vec![0; INBOX_BYTES].into_boxed_slice(),
            taken: 0,
            filled: 0,
            is_lost: false,
        })
    }

    /// Whether the other end has to read something first. A lost end never will: the stream is not full then.
    pub(crate) fn is_full(&self) -> bool {
        self.has_no_room_for(1)
    }

    /// Whether there is no room for this many frames of maximum length.
    pub(crate) fn has_no_room_for(&self, frames: usize) -> bool {
        !self.is_lost && self.outbox.len() + frames * MESSAGE_BYTES_MAX > self.outbox_bytes
    }

    /// Appends a frame to what the next [`Self::flush`] sends.
    pub(crate) fn append(&mut self, frame: &[u8]) {
        if self.is_lost {
            return;
        }
        self.outbox.extend((frame.len() as u32).to_be_bytes());
        self.outbox.extend_from_slice(frame);
    }

    /// Sends what was appended, as much as the other end accepts.
    pub(crate) fn flush(&mut self) {
        while self.sent < self.outbox.len() && !self.is_lost {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match send(&self.socket, &self.outbox[self.sent..], flags) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => self.lose(),
            }
        }
        self.outbox.drain(..self.sent);
        self.sent = 0;
    }

    /// Next frame that was received, if it is complete.
    pub(crate) fn front(&self) -> Option<&[u8]> {
        let start = self.taken + LENGTH_BYTES;
        self.inbox.get(start..self.filled)?.get(..self.next_bytes()?)
    }

    /// Discards the frame in front.
    pub(crate) fn skip(&mut self) {
        if let Some(bytes) = self.next_bytes() {
            self.taken += LENGTH_BYTES + bytes;
        }
        self.check_length();
    }

    /// Waits on `epoll` for the events that matter now.
    pub(crate) fn watch(&mut self, epoll: &Epoll, event: u64) {
        let mut interest = EventSet::empty();
        if self.has_space() && !self.is_lost {
            interest |= EventSet::IN;
        }
        if !self.outbox.is_empty() && !self.is_lost {
            interest |= EventSet::OUT;
        }
        if interest == self.interest {
            return;
        }
        // Hang-ups are reported without being requested, again and again: a lost end is removed from epoll.
        let operation = match (self.interest.is_empty(), interest.is_empty()) {
            (true, _) => ControlOperation::Add,
            (false, true) => ControlOperation::Delete,
            (false, false) => ControlOperation::Modify,
        };
        let changed = epoll.ctl(operation, self.socket.as_raw_fd(), EpollEvent::new(interest, event));
        if changed.is_ok() {
            self.interest = interest;
        }
    }

    fn next_bytes(&self) -> Option<usize> {
        let length = self.inbox.get(self.taken..self.filled)?.first_chunk::<LENGTH_BYTES>()?;
        Some(u32::from_be_bytes(*length) as usize)
    }

    /// Whether the longest frame fits into the inbox.
    fn has_space(&self) -> bool {
        self.filled - self.taken <= INBOX_BYTES - MESSAGE_BYTES_MAX
    }

    /// Reads what the socket has, as far as there is space.
    pub(crate) fn receive(&mut self) {
        while self.has_space() && !self.is_lost && self.receive_once() {}
        self.check_length();
    }

    /// Marks the other end as lost if the next bytes are no frame.
    fn check_length(&mut self) {
        let is_frame = |bytes: usize| (ETHERNET_BYTES..=FRAME_BYTES_MAX).contains(&bytes);
        if self.next_bytes().is_some_and(|bytes| !is_frame(bytes)) {
            self.lose();
        }
    }

    /// Reads once from the socket; returns whether there may be more.
    fn receive_once(&mut self) -> bool {
        if self.taken == self.filled || self.inbox.len() - self.filled < MESSAGE_BYTES_MAX {
            self.inbox.copy_within(self.taken..self.filled, 0);
            self.filled -= self.taken;
            self.taken = 0;
        }
        match recv(&self.socket, &mut self.inbox[self.filled..], RecvFlags::DONTWAIT) {
            Ok((count @ 1.., _)) => {
                self.filled += count;
                return true;
            }
            Err(Errno::INTR) => return true,
            Err(Errno::AGAIN) => {}
            // Frames received before the end still belong to the guest.
            Ok(_) | Err(_) => self.is_lost = true,
        }
        false
    }

    fn lose(&mut self) {
        self.is_lost = true;
        self.outbox.clear();
        self.sent = 0;
        self.taken = 0;
        self.filled = 0;
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
