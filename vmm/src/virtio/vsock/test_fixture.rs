//! Guest played by a test: it drives the device's queues and holds the host's ends of the sockets.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg, socketpair,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::packet::{Credit, HEADER_BYTES, HOST_CID, Header, Operation, RawHeader, StreamKey};
use super::{VsockCounters, VsockDevice};
use crate::virtio::device::{Cause, Device};
use crate::virtio::test_driver::{Part, TestQueue, memory, process};

pub(super) const GUEST_CID: u32 = 7;
pub(super) const SESSION_PORT: u32 = 1024;
pub(super) const GUEST_PORT: u32 = 5000;
pub(super) const GUEST_BUFFER: u32 = 256 << 10;

/// Guest addresses at which packets for the device are built, and at which receive buffers lie.
pub(super) const SENT: u64 = TestQueue::FREE;
pub(super) const RECEIVED: u64 = 1 << 20;
pub(super) const BUFFER_BYTES: u64 = 4096;
pub(super) const BUFFERS: u64 = 64;

/// Packet that the guest received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) header: RawHeader,
    pub(super) payload: Vec<u8>,
}

impl Packet {
    pub(super) fn operation(&self) -> Operation {
        Operation::from_wire(self.header.operation).expect("the device knows its operations")
    }
}

pub(super) struct Fixture {
    pub(super) device: VsockDevice,
    pub(super) memory: GuestMemoryMmap,
    pub(super) receive: TestQueue,
    pub(super) transmit: TestQueue,
    pub(super) events: TestQueue,
    /// Address of the receive buffer of each head.
    buffers: Vec<u64>,
    next_buffer: u64,
    pub(super) session: UnixStream,
    pub(super) control: std::os::fd::OwnedFd,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let (session, device_session) = UnixStream::pair().expect("sockets");
        let (control, device_control) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("sockets");
        let device = VsockDevice::new(GUEST_CID, SESSION_PORT, device_session.into(), device_control);
        let mut fixture = Self {
            device: device.expect("a device"),
            memory: memory(),
            receive: TestQueue::new(0),
            transmit: TestQueue::new(1),
            events: TestQueue::new(2),
            buffers: vec![0; 64],
            next_buffer: 0,
            session,
            control,
        };
        fixture.device.activate(fixture.device.features());
        fixture
    }

    pub(super) fn with_buffers(count: u64) -> Self {
        let mut fixture = Self::new();
        fixture.offer_buffers(count);
        fixture
    }

    pub(super) fn offer_buffers(&mut self, count: u64) {
        for _ in 0..count {
            let address = RECEIVED + self.next_buffer % BUFFERS * BUFFER_BYTES;
            self.next_buffer += 1;
            let head = self.receive.add(&self.memory, &[(address, BUFFER_BYTES as u32, true)]);
            self.buffers[usize::from(head)] = address;
        }
    }

    pub(super) fn work(&mut self, cause: Cause) {
        let queues = &mut [&mut self.receive, &mut self.transmit, &mut self.events];
        process(&mut self.device, cause, &self.memory, queues).expect("good queues");
    }

    /// Whether the device requests to be processed.
    pub(super) fn is_readable(&self) -> bool {
        let fd = self.device.backend_fd().expect("it has one");
        let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())).expect("pollable") > 0
    }

    /// Processes the device as long as it requests so.
    pub(super) fn run_to_rest(&mut self) {
        for _ in 0..10_000 {
            if !self.is_readable() {
                return;
            }
            self.work(Cause::Backend);
        }
        panic!("the device does not come to rest");
    }

    /// Sends a packet whose payload lies in pieces of `piece_bytes`.
    pub(super) fn send_in_pieces(&mut self, header: &RawHeader, payload: &[u8], piece_bytes: usize) {
        let mut bytes = encode(header).to_vec();
        bytes.extend(payload);
        self.memory.write_slice(&bytes, GuestAddress(SENT)).expect("in memory");
        let mut parts: Vec<Part> = vec![(SENT, HEADER_BYTES as u32, false)];
        let mut address = SENT + HEADER_BYTES as u64;
        for piece in payload.chunks(piece_bytes) {
            parts.push((address, piece.len() as u32, false));
            address += piece.len() as u64;
        }
        self.transmit.add(&self.memory, &parts);
        self.work(Cause::Queue(1));
        self.transmit.used(&self.memory);
    }

    pub(super) fn send(&mut self, header: &RawHeader, payload: &[u8]) {
        self.send_in_pieces(header, payload, 1 << 20);
    }

    pub(super) fn say(&mut self, stream: StreamKey, operation: u16, flags: u32) {
        self.send(&guest_header(stream, operation, flags, 0), &[]);
    }

    pub(super) fn write(&mut self, stream: StreamKey, payload: &[u8]) {
        self.send(&guest_header(stream, 5, 0, payload.len() as u32), payload);
    }

    /// Packets that the guest has received since the last call, once the device is at rest.
    pub(super) fn packets(&mut self) -> Vec<Packet> {
        self.run_to_rest();
        self.packets_so_far()
    }

    pub(super) fn packets_so_far(&mut self) -> Vec<Packet> {
        let used = self.receive.used(&self.memory);
        let read = |(head, bytes): (u16, u32)| {
            let mut packet = vec![0; bytes as usize];
            self.memory
                .read_slice(&mut packet, GuestAddress(self.buffers[usize::from(head)]))
                .expect("in memory");
            let payload = packet.split_off(HEADER_BYTES);
            let header = RawHeader::decode(&packet.try_into().expect("a header"));
            Packet { header, payload }
        };
        used.into_iter().map(read).collect()
    }

    pub(super) fn operations(&mut self) -> Vec<Operation> {
        self.packets().iter().map(Packet::operation).collect()
    }

    pub(super) fn ask(&self, port: u32, sockets: &[BorrowedFd<'_>]) {
        ask(&self.control, &port.to_le_bytes(), sockets);
    }

    /// Opens a stream from the host that the guest accepts.
    pub(super) fn open(&mut self) -> (StreamKey, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        ours.set_read_timeout(Some(Duration::from_secs(5))).expect("settable");
        self.ask(GUEST_PORT, &[theirs.as_fd()]);
        let packets = self.packets();
        let [request] = packets.as_slice() else {
            panic!("{packets:?}");
        };
        assert_eq!(request.operation(), Operation::Request);
        let stream = key(&request.header);
        self.offer_buffers(1);
        self.say(stream, 2, 0);
        (stream, ours)
    }

    /// Whether bytes of `stream` wait in the device: the host's socket is then full.
    pub(super) fn is_stuffed(&self, stream: StreamKey) -> bool {
        self.device.waits_for_room(stream)
    }

    pub(super) fn counters(&self) -> VsockCounters {
        self.device.counters()
    }
}

pub(super) fn ask(control: impl AsFd, message: &[u8], sockets: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(sockets)));
    }
    sendmsg(control, &[IoSlice::new(message)], &mut ancillary, SendFlags::empty()).expect("sent");
}

pub(super) fn key(header: &RawHeader) -> StreamKey {
    StreamKey {
        host_port: header.source_port,
        guest_port: header.target_port,
    }
}

pub(super) fn guest_header(stream: StreamKey, operation: u16, flags: u32, payload_bytes: u32) -> RawHeader {
    RawHeader {
        source_cid: u64::from(GUEST_CID),
        target_cid: HOST_CID,
        source_port: stream.guest_port,
        target_port: stream.host_port,
        payload_bytes,
        kind: 1,
        operation,
        flags,
        credit: Credit {
            buffer_bytes: GUEST_BUFFER,
            forwarded: 0,
        },
    }
}

/// Encodes a guest's header for the wire: a host's header with the ends exchanged.
pub(super) fn encode(header: &RawHeader) -> [u8; HEADER_BYTES] {
    let host = Header {
        stream: StreamKey {
            host_port: header.source_port,
            guest_port: header.target_port,
        },
        operation: Operation::Request,
        flags: header.flags,
        payload_bytes: header.payload_bytes,
        credit: header.credit,
    };
    let mut bytes = host.encode(header.target_cid);
    bytes[..8].copy_from_slice(&header.source_cid.to_le_bytes());
    bytes[28..30].copy_from_slice(&header.kind.to_le_bytes());
    bytes[30..32].copy_from_slice(&header.operation.to_le_bytes());
    bytes
}

pub(super) fn session_key() -> StreamKey {
    StreamKey {
        host_port: SESSION_PORT,
        guest_port: 40000,
    }
}
