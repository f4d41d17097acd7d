//! Stream: what the guest and the host's socket still owe each other.
//!
//! Bytes for the guest stay in the host's socket until the guest has credit and a receive buffer for them. Bytes for
//! the host are sent at once; what a slow reader does not take waits in a backlog no larger than the credit given.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::net::{RecvFlags, SendFlags, Shutdown};

use super::packet::{Credit, Header, Operation, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, StreamKey};
use crate::limits::{VSOCK_BUFFER_BYTES, VSOCK_PACKET_BYTES_MAX};
use crate::virtio::chain::Buffers;
use crate::virtio::sys;

/// Amount of returned credit at which it is renewed: late enough to cost few packets, early enough that the guest never
/// waits for it while the host reads.
const CREDIT_STEP_BYTES: u32 = VSOCK_BUFFER_BYTES as u32 / 2;

/// Maximum unread bytes that are discarded at the end of a stream: what a socket buffer holds by default
/// (`wmem_default`).
const DISCARDED_BYTES_MAX: usize = 256 << 10;

const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// Phase of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConnectionPhase {
    /// The host has requested the stream; the guest has not been asked yet.
    Wanted,
    /// The guest has been asked, and has to answer before `until`.
    Requested { until: Instant },
    /// The guest has requested the stream and has not been told that it has it.
    Accepted,
    /// Bytes flow, until both ends have reported that they send no more.
    Open,
    /// The host's end is gone; the guest knows, and has to confirm before `until`.
    Closing { until: Instant },
}

/// Next item to be sent to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Sends this packet.
    Packet(Header),
    /// Sends this packet, which the guest has to answer in time.
    Question(Header),
    /// Sends payload from the host's socket, at most `bytes_max` bytes: see [`Connection::receive`].
    Payload { bytes_max: usize },
    /// Sends this packet, and ends the stream.
    Last(Header),
    /// Sends nothing, and ends the stream.
    Over,
    /// Sends nothing at present.
    Nothing,
}

/// Error of a guest that broke the rules of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Violation;

/// Stream between the guest and a socket of the host.
#[derive(Debug)]
pub(super) struct Connection {
    key: StreamKey,
    socket: OwnedFd,
    phase: ConnectionPhase,
    /// Credit of the guest, as it reported last.
    guest_credit: Credit,
    /// Number of bytes sent to the guest, modulo 2^32.
    sent: u32,
    /// Whether the guest has been asked for credit since it last had some.
    credit_requested: bool,
    /// Number of bytes given to the host, modulo 2^32, and how many of them the guest knows of.
    forwarded: u32,
    forwarded_announced: u32,
    credit_due: bool,
    backlog: Backlog,
    /// Shutdown flags that the guest has sent.
    guest_done: u32,
    /// Shutdown flags that were sent to the guest.
    announced_done: u32,
    /// Whether the guest has forgotten the stream.
    guest_gone: bool,
    /// Whether the host's socket may have bytes.
    readable: bool,
    /// Whether the host's socket has ended.
    ended: bool,
    /// Whether nobody reads from the host's socket any more.
    unread: bool,
    /// Whether the host's reader has been notified that nothing follows.
    end_announced: bool,
    /// Whether the stream is in the muxer's list of streams that have something for the guest.
    pub(super) listed: bool,
    /// Whether the epoll instance also reports room in the host's socket.
    pub(super) room_watched: bool,
}

impl Connection {
    /// Makes a stream that the host requests.
    pub(super) fn wanted(key: StreamKey, socket: OwnedFd) -> Self {
        Self::new(key, socket, ConnectionPhase::Wanted)
    }

    /// Makes a stream that the guest has requested, with the guest's credit.
    pub(super) fn accepted(key: StreamKey, socket: OwnedFd, credit: Credit) -> Self {
        Self {
            guest_credit: credit,
            ..Self::new(key, socket, ConnectionPhase::Accepted)
        }
    }

    fn new(key: StreamKey, socket: OwnedFd, phase: ConnectionPhase) -> Self {
        Self {
            key,
            socket,
            phase,
            guest_credit: Credit::default(),
            sent: 0,
            credit_requested: false,
            forwarded: 0,
            forwarded_announced: 0,
            credit_due: false,
            backlog: Backlog::default(),
            guest_done: 0,
            announced_done: 0,
            guest_gone: false,
            readable: true,
            ended: false,
            unread: false,
            end_announced: false,
            listed: false,
            room_watched: false,
        }
    }

    /// Socket of the host.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether the guest does not know of the stream yet.
    pub(super) fn is_unknown_to_guest(&self) -> bool {
        self.phase == ConnectionPhase::Wanted
    }

    /// Whether the guest has missed the time limit for its answer.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        match self.phase {
            ConnectionPhase::Requested { until } | ConnectionPhase::Closing { until } => until <= now,
            _ => false,
        }
    }

    /// Whether bytes wait for room in the host's socket.
    pub(super) fn waits_for_room(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Records events of the host's socket.
    pub(super) fn host_event(&mut self, readable: bool, writable: bool, hung_up: bool) {
        self.readable |= readable || hung_up;
        if hung_up {
            self.reader_is_gone();
        }
        if writable {
            self.flush();
        }
    }

    /// Records that the guest accepts the stream.
    pub(super) fn guest_response(&mut self, credit: Credit) -> Result<(), Violation> {
        let ConnectionPhase::Requested { .. } = self.phase else {
            return Err(Violation);
        };
        self.phase = ConnectionPhase::Open;
        self.guest_update(credit);
        Ok(())
    }

    /// Records the credit in any packet of the guest.
    pub(super) fn guest_update(&mut self, credit: Credit) {
        self.guest_credit = credit;
        if self.guest_room() > 0 {
            self.credit_requested = false;
        }
    }

    /// Records that the guest asks for credit.
    pub(super) fn guest_asks_for_credit(&mut self) {
        self.credit_due = true;
    }

    /// Forwards bytes from the guest to the host's socket.
    pub(super) fn guest_payload(&mut self, mut payload: Buffers<'_>) -> Result<(), Violation> {
        let open = matches!(self.phase, ConnectionPhase::Open | ConnectionPhase::Closing { .. });
        if !open || self.guest_done & SHUTDOWN_SEND != 0 || payload.len() > VSOCK_BUFFER_BYTES - self.backlog.len() {
            return Err(Violation);
        }
        if self.backlog.is_empty() && !self.unread {
            while payload.len() > 0 {
                match sys::send(self.socket.as_fd(), &payload) {
                    Ok(count) => {
                        self.forwarded = self.forwarded.wrapping_add(count as u32);
                        payload.skip(count);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => {
                        self.reader_is_gone();
                        break;
                    }
                }
            }
        }
        if self.unread {
            self.forwarded = self.forwarded.wrapping_add(payload.len() as u32);
        } else {
            self.backlog.append(&payload);
        }
        Ok(())
    }

    /// Records that the guest will not send, or not receive, any more.
    pub(super) fn guest_shutdown(&mut self, flags: u32) -> Result<(), Violation> {
        if matches!(self.phase, ConnectionPhase::Wanted | ConnectionPhase::Requested { .. }) {
            return Err(Violation);
        }
        self.guest_done |= flags & SHUTDOWN_BOTH;
        if self.guest_done & SHUTDOWN_RECEIVE != 0 {
            // The host's writer is notified too. A socket that is gone already causes an error, which does not matter.
            let _ = rustix::net::shutdown(&self.socket, Shutdown::Read);
        }
        self.notify_end();
        Ok(())
    }

    /// Records that the guest has forgotten the stream. Returns whether bytes that it had sent before are still on
    /// their way.
    pub(super) fn guest_reset(&mut self) -> bool {
        self.guest_gone = true;
        self.guest_done & SHUTDOWN_SEND != 0 && !self.backlog.is_empty()
    }

    /// Next item to send; a packet counts as sent when it is returned. `until` is the time by which the guest has to
    /// answer what is sent now.
    pub(super) fn next_turn(&mut self, until: Instant) -> Turn {
        if self.is_over() {
            return match self.guest_gone {
                true => Turn::Over,
                false => Turn::Last(self.header(Operation::Reset, 0)),
            };
        }
        match self.phase {
            ConnectionPhase::Wanted => {
                self.phase = ConnectionPhase::Requested { until };
                return Turn::Question(self.header(Operation::Request, 0));
            }
            ConnectionPhase::Accepted => {
                self.phase = ConnectionPhase::Open;
                return Turn::Packet(self.header(Operation::Response, 0));
            }
            ConnectionPhase::Requested { .. } => return Turn::Nothing,
            ConnectionPhase::Open | ConnectionPhase::Closing { .. } => {}
        }
        if self.guest_gone {
            return Turn::Nothing;
        }
        if self.may_receive() && self.guest_room() > 0 {
            let bytes_max = VSOCK_PACKET_BYTES_MAX.min(self.guest_room() as usize);
            return Turn::Payload { bytes_max };
        }
        if self.unannounced_done() != 0 {
            self.announced_done |= self.unannounced_done();
            let header = self.header(Operation::Shutdown, self.announced_done);
            if self.announced_done != SHUTDOWN_BOTH {
                return Turn::Packet(header);
            }
            self.phase = ConnectionPhase::Closing { until };
            return Turn::Question(header);
        }
        if self.owes_credit() {
            self.credit_due = false;
            return Turn::Packet(self.header(Operation::CreditUpdate, 0));
        }
        if self.may_receive() && !self.credit_requested {
            self.credit_requested = true;
            return Turn::Packet(self.header(Operation::CreditRequest, 0));
        }
        Turn::Nothing
    }

    /// Whether [`Self::next_turn`] has an item to send.
    pub(super) fn has_turn(&self) -> bool {
        if self.is_over() {
            return true;
        }
        match self.phase {
            ConnectionPhase::Wanted | ConnectionPhase::Accepted => true,
            ConnectionPhase::Requested { .. } => false,
            ConnectionPhase::Open | ConnectionPhase::Closing { .. } if self.guest_gone => false,
            ConnectionPhase::Open | ConnectionPhase::Closing { .. } => {
                let room = self.guest_room() > 0 || !self.credit_requested;
                (self.may_receive() && room) || self.unannounced_done() != 0 || self.owes_credit()
            }
        }
    }

    /// Fills `target`, which is no larger than the turn allowed, from the host's socket; returns the number of bytes.
    pub(super) fn receive(&mut self, target: &Buffers<'_>) -> usize {
        loop {
            match sys::receive(self.socket.as_fd(), target) {
                Ok(0) => {
                    self.ended = true;
                    return 0;
                }
                Ok(count) => {
                    self.sent = self.sent.wrapping_add(count as u32);
                    return count;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    return 0;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.ended = true;
                    self.reader_is_gone();
                    return 0;
                }
            }
        }
    }

    /// Makes a packet header for this stream with `payload_bytes` of payload.
    pub(super) fn payload_header(&mut self, payload_bytes: u32) -> Header {
        Header {
            payload_bytes,
            ..self.header(Operation::ReadWrite, 0)
        }
    }

    /// Ends the host's socket without the error that unread bytes would cause at its other end.
    pub(super) fn close(self) {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
        let mut unread = [0; 16 << 10];
        let mut discarded = 0;
        while discarded < DISCARDED_BYTES_MAX {
            match rustix::net::recv(&self.socket, &mut unread[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) | Err(_) => return,
                Ok((count, _)) => discarded += count,
            }
        }
    }

    fn header(&mut self, operation: Operation, flags: u32) -> Header {
        self.forwarded_announced = self.forwarded;
        Header {
            stream: self.key,
            operation,
            flags,
            payload_bytes: 0,
            credit: Credit {
                buffer_bytes: VSOCK_BUFFER_BYTES as u32,
                forwarded: self.forwarded,
            },
        }
    }

    /// Number of bytes that the guest can take now.
    fn guest_room(&self) -> u32 {
        let in_flight = self.sent.wrapping_sub(self.guest_credit.forwarded);
        self.guest_credit.buffer_bytes.saturating_sub(in_flight)
    }

    fn may_receive(&self) -> bool {
        self.readable && !self.ended && self.guest_done & SHUTDOWN_RECEIVE == 0
    }

    fn owes_credit(&self) -> bool {
        let step = self.forwarded.wrapping_sub(self.forwarded_announced) >= CREDIT_STEP_BYTES;
        self.credit_due || (step && self.guest_done & SHUTDOWN_SEND == 0)
    }

    fn unannounced_done(&self) -> u32 {
        let send = if self.ended { SHUTDOWN_SEND } else { 0 };
        let receive = if self.unread { SHUTDOWN_RECEIVE } else { 0 };
        (send | receive) & !self.announced_done
    }

    /// Whether both directions have ended, and everything that the guest sent has arrived.
    fn is_over(&self) -> bool {
        let to_guest_over = self.announced_done & SHUTDOWN_SEND != 0 || self.guest_done & SHUTDOWN_RECEIVE != 0;
        self.guest_done & SHUTDOWN_SEND != 0 && self.backlog.is_empty() && (to_guest_over || self.guest_gone)
    }

    fn reader_is_gone(&mut self) {
        self.unread = true;
        self.forwarded = self.forwarded.wrapping_add(self.backlog.len() as u32);
        self.backlog = Backlog::default();
    }

    fn flush(&mut self) {
        while !self.backlog.is_empty() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.socket, self.backlog.unsent(), flags) {
                Ok(count) => {
                    self.forwarded = self.forwarded.wrapping_add(count as u32);
                    self.backlog.advance(count);
                }
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => self.reader_is_gone(),
            }
        }
        self.notify_end();
    }

    fn notify_end(&mut self) {
        if self.guest_done & SHUTDOWN_SEND != 0 && self.backlog.is_empty() && !self.end_announced {
            self.end_announced = true;
            // A socket that is gone already causes an error, which does not matter.
            let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
        }
    }
}

/// Bytes from the guest that the host's reader has not taken.
#[derive(Debug, Default)]
struct Backlog {
    bytes: Vec<u8>,
    sent: usize,
}

impl Backlog {
    fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    fn append(&mut self, payload: &Buffers<'_>) {
        if payload.len() == 0 {
            return;
        }
        self.bytes.drain(..self.sent);
        self.sent = 0;
        let start = self.bytes.len();
        self.bytes.reserve_exact(payload.len());
        self.bytes.resize(start + payload.len(), 0);
        payload.copy_to(&mut self.bytes[start..]);
    }

    fn advance(&mut self, count: usize) {
        self.sent += count;
        if self.is_empty() {
            *self = Self::default();
        }
    }
}
