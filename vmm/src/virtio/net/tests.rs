//! Network device between a driver and a network, both of which the test plays.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv,
    sendmsg, socketpair,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::header::HEADER_BYTES;
use super::{FRAME_BYTES_MAX, NetDevice};
use crate::egress::{Egress, Ports, Protocol, Rule, Target};
use crate::segments::{Change, DONE, Published, REFUSED, Segment, Uplink};
use crate::virtio::device::{Cause, Device, Signals};
use crate::virtio::test_driver::{TestQueue, memory, process};

mod segments;

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 2];
const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OWN_V4: [u8; 4] = [100, 96, 0, 2];
const RESOLVER_V4: [u8; 4] = [100, 96, 0, 1];
const MEMBER_V4: [u8; 4] = [100, 96, 0, 9];
const PUBLIC_V4: [u8; 4] = [203, 0, 113, 5];
const MERGES: u64 = 1 << 15;
const BUFFERS: u64 = TestQueue::FREE + 0x10_0000;

struct Bench {
    device: NetDevice,
    supervisor: OwnedFd,
    /// Other end of the uplink.
    network: UnixStream,
    memory: GuestMemoryMmap,
    receive: TestQueue,
    transmit: TestQueue,
}

/// Device that is connected to nothing, and the supervisor's end of its control socket.
fn device(bytes_per_second: Option<NonZeroU64>) -> (NetDevice, OwnedFd) {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    let (supervisor, control) = socketpair(AddressFamily::UNIX, kind, flags, None).expect("sockets");
    let mut device = NetDevice::new(OWN, RESOLVER_V4.into(), control, bytes_per_second).expect("a device");
    device.activate(MERGES);
    (device, supervisor)
}

/// Network that the guest has `own` on, as .2 of 256.
fn segment(own: [u8; 4]) -> Segment {
    let [a, b, c, _] = own;
    Segment {
        addresses: vec![own.into()],
        networks: vec![format!("{a}.{b}.{c}.0/24").parse().expect("a network")],
        gateways: vec![[a, b, c, 1].into()],
    }
}

fn sockets() -> (UnixStream, UnixStream) {
    let (ours, network) = UnixStream::pair().expect("sockets");
    network
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("a socket");
    (ours, network)
}

impl Bench {
    fn new() -> Self {
        Self::with(device(None)).with_uplink()
    }

    /// Makes a bench with a rate limit in each direction.
    fn limited(bytes_per_second: u64) -> Self {
        Self::with(device(NonZeroU64::new(bytes_per_second))).with_uplink()
    }

    fn with_uplink(mut self) -> Self {
        self.network = self.open();
        self.see_announcement();
        self
    }

    /// Opens the uplink to the public internet, and publishes the port of [`frame`]; returns the other end.
    fn open(&mut self) -> UnixStream {
        let (ours, network) = sockets();
        let egress = Egress {
            rules: vec![Rule {
                target: Target::Public,
                ports: None,
                protocol: None,
            }],
            ..Egress::default()
        };
        let open = Change::Open(Uplink {
            hardware: GATEWAY,
            addresses: vec![OWN_V4.into()],
            egress,
            published: vec![Published {
                protocol: Protocol::Udp,
                ports: Ports { first: 1, last: 1 },
            }],
            ..Uplink::default()
        });
        assert_eq!(self.ask(&open, &[ours.as_fd()]), DONE);
        network
    }

    /// Makes a bench that is also on a segment; returns the segment's end.
    fn on_segment() -> (Self, UnixStream) {
        let mut bench = Self::new();
        let switch = bench.connect(0, OWN_V4);
        (bench, switch)
    }

    /// Connects the guest to one more segment; returns the segment's end.
    fn connect(&mut self, slot: u8, own: [u8; 4]) -> UnixStream {
        let (ours, switch) = sockets();
        let segment = segment(own);
        assert_eq!(self.ask(&Change::Connect { slot, segment }, &[ours.as_fd()]), DONE);
        switch
    }

    /// Requests a change; returns the answer.
    fn ask(&mut self, change: &Change, fds: &[BorrowedFd<'_>]) -> u8 {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        let message = change.encode();
        sendmsg(
            &self.supervisor,
            &[IoSlice::new(&message)],
            &mut ancillary,
            SendFlags::empty(),
        )
        .expect("room");
        assert!(self.is_called());
        self.process(Cause::Backend);
        let mut word = [0xff];
        recv(&self.supervisor, &mut word, RecvFlags::DONTWAIT).expect("an answer");
        word[0]
    }

    fn with((device, supervisor): (NetDevice, OwnedFd)) -> Self {
        let (_, network) = sockets();
        Self {
            device,
            supervisor,
            network,
            memory: memory(),
            receive: TestQueue::new(0),
            transmit: TestQueue::new(1),
        }
    }

    fn see_announcement(&mut self) {
        let announcement = self.sent();
        assert_eq!(
            (&announcement[..6], &announcement[28..32]),
            (&[0xff; 6][..], &OWN_V4[..])
        );
    }

    fn process(&mut self, cause: Cause) -> Signals {
        let queues = &mut [&mut self.receive, &mut self.transmit];
        process(&mut self.device, cause, &self.memory, queues).expect("good queues")
    }

    /// Makes the guest send `bytes` after an empty header.
    fn send(&mut self, bytes: &[u8]) {
        let whole = [&[0; HEADER_BYTES], bytes].concat();
        let at = GuestAddress(TestQueue::FREE);
        self.memory.write_slice(&whole, at).expect("in memory");
        self.transmit.add(&self.memory, &[(at.0, whole.len() as u32, false)]);
        self.process(Cause::Queue(1));
    }

    /// Next frame that the network has received.
    fn sent(&mut self) -> Vec<u8> {
        read_frame(&mut self.network)
    }

    fn has_sent(&mut self) -> bool {
        has_more(&mut self.network)
    }

    /// Whether the device requests to be processed.
    fn is_called(&self) -> bool {
        self.is_called_within(0)
    }

    /// Whether the device requests to be processed within this number of seconds.
    fn is_called_within(&self, seconds: i64) -> bool {
        let backend = self.device.backend_fd().expect("an epoll instance");
        let event = rustix::event::PollFd::from_borrowed_fd(backend, rustix::event::PollFlags::IN);
        let time = rustix::event::Timespec {
            tv_sec: seconds,
            tv_nsec: 0,
        };
        rustix::event::poll(&mut [event], Some(&time)) == Ok(1)
    }

    fn arrive(&mut self, frame: &[u8]) {
        write_frame(&mut self.network, frame);
    }

    /// Offers room for `count` frames in the guest's queue.
    fn offer(&mut self, count: u64) {
        for index in 0..count {
            self.receive
                .add(&self.memory, &[(BUFFERS + index * 0x1000, 1500, true)]);
        }
    }

    fn read(&self, address: u64, bytes: usize) -> Vec<u8> {
        let mut read = vec![0; bytes];
        self.memory
            .read_slice(&mut read, GuestAddress(address))
            .expect("in memory");
        read
    }
}

fn read_frame(network: &mut UnixStream) -> Vec<u8> {
    let mut length = [0; 4];
    network.read_exact(&mut length).expect("a length");
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    network.read_exact(&mut frame).expect("a frame");
    frame
}

fn has_more(network: &mut UnixStream) -> bool {
    network.set_nonblocking(true).expect("a socket");
    let read = network.read(&mut [0]);
    network.set_nonblocking(false).expect("a socket");
    read.is_ok()
}

fn write_frame(network: &mut UnixStream, frame: &[u8]) {
    let length = (frame.len() as u32).to_be_bytes();
    network.write_all(&[&length[..], frame].concat()).expect("room");
}

fn frame(payload: &[u8]) -> Vec<u8> {
    frame_to(PUBLIC_V4, 2, payload)
}

fn frame_to(to: [u8; 4], port: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ethernet2(OWN, GATEWAY).ipv4(OWN_V4, to, 64).udp(1, port);
    builder.write_to_vec(&mut bytes, payload).expect("a frame");
    bytes
}

#[test]
fn frames_go_out_whole_and_in_order() {
    let mut bench = Bench::new();
    for payload in [&b"one"[..], &[7; 60000], b"three"] {
        bench.send(&frame(payload));
        assert_eq!(bench.sent(), frame(payload));
    }
    assert_eq!(bench.transmit.used(&bench.memory).len(), 3);
    assert_eq!(bench.device.counters().total(), 0);
}

#[test]
fn what_is_no_frame_goes_nowhere_and_its_chain_comes_back() {
    let mut bench = Bench::new();
    for bytes in [0, 13, FRAME_BYTES_MAX + 1] {
        bench.send(&vec![0; bytes]);
    }
    bench.transmit.add(&bench.memory, &[(u64::MAX - 5, 100, false)]);
    bench.transmit.add(&bench.memory, &[(TestQueue::FREE, 5, false)]);
    bench.process(Cause::Queue(1));
    assert_eq!(bench.transmit.used(&bench.memory).len(), 5);
    assert_eq!(bench.device.counters().malformed, 5);
    assert!(!bench.has_sent());
}

#[test]
fn a_long_frame_fills_several_chains_that_are_used_at_once() {
    let mut bench = Bench::new();
    let long: Vec<u8> = (0..4000_u32).map(|index| index as u8).collect();
    bench.arrive(&long);
    for index in 0..4 {
        bench
            .receive
            .add(&bench.memory, &[(BUFFERS + index * 0x1000, 1500, true)]);
    }
    assert!(bench.process(Cause::Backend).any());
    let used = bench.receive.used(&bench.memory);
    let bytes: Vec<u32> = used.iter().map(|used| used.1).collect();
    assert_eq!(bytes, [1500, 1500, 1012]);
    assert_eq!(bench.read(BUFFERS + 10, 2), [3, 0], "the number of buffers");
    let parts = [
        bench.read(BUFFERS + 12, 1488),
        bench.read(BUFFERS + 0x1000, 1500),
        bench.read(BUFFERS + 0x2000, 1012),
    ];
    assert_eq!(parts.concat(), long);
}

#[test]
fn a_frame_waits_until_there_is_room_for_all_of_it() {
    let mut bench = Bench::new();
    bench.arrive(&[9; 2000]);
    bench.receive.add(&bench.memory, &[(BUFFERS, 1500, true)]);
    assert!(!bench.process(Cause::Backend).any());
    assert!(bench.receive.used(&bench.memory).is_empty());
    bench.receive.add(&bench.memory, &[(BUFFERS + 0x1000, 1500, true)]);
    assert!(bench.process(Cause::Queue(0)).any());
    assert_eq!(bench.receive.used(&bench.memory).len(), 2);
}

#[test]
fn chains_that_never_suffice_cost_the_frame_only() {
    let mut bench = Bench::new();
    bench.device.activate(0);
    bench.arrive(&[9; 2000]);
    bench.arrive(&[8; 100]);
    bench.receive.add(&bench.memory, &[(BUFFERS, 1500, true)]);
    bench.process(Cause::Backend);
    assert_eq!(bench.receive.used(&bench.memory), [(0, 112)]);
    assert_eq!(bench.device.counters().dropped, 1);
}

#[test]
fn a_refusal_comes_back() {
    let mut bench = Bench::new();
    bench.receive.add(&bench.memory, &[(BUFFERS, 1500, true)]);
    let mut denied = frame(b"x");
    denied[30..34].copy_from_slice(&[127, 0, 0, 1]);
    bench.send(&denied);
    assert!(!bench.has_sent());
    assert_eq!(bench.receive.used(&bench.memory).len(), 1);
    assert_eq!(bench.read(BUFFERS + 12 + 34, 2), [3, 13]);
}

#[test]
fn a_network_that_does_not_take_anything_holds_the_guest_up_and_nothing_grows() {
    let mut bench = Bench::new();
    let mut sent = 0;
    let payload = [5; 60000];
    while bench.transmit.used(&bench.memory).len() == 1 || sent == 0 {
        bench.send(&frame(&payload));
        sent += 1;
        assert!(sent < 1000, "the socket takes everything");
    }
    let taken = sent - 1;
    for _ in 0..taken {
        assert_eq!(bench.sent(), frame(&payload));
        bench.process(Cause::Backend);
    }
    assert_eq!(bench.transmit.used(&bench.memory).len(), 1, "what was held up went on");
    assert_eq!(bench.sent(), frame(&payload));
}

#[test]
fn a_network_that_is_gone_or_talks_nonsense_is_not_waited_for() {
    for nonsense in [&b""[..], &[0, 0, 0, 2, 1, 1], &[0xff; 8], &[0, 1, 0, 14]] {
        let mut bench = Bench::new();
        bench.network.write_all(nonsense).expect("room");
        bench.network.shutdown(std::net::Shutdown::Write).expect("a socket");
        bench.receive.add(&bench.memory, &[(BUFFERS, 1500, true)]);
        for _ in 0..3 {
            bench.process(Cause::Backend);
        }
        assert!(!bench.is_called(), "{nonsense:?}");
        bench.send(&frame(b"x"));
        assert!(bench.receive.used(&bench.memory).is_empty());
    }
}

/// Rate in bytes per second, at which a frame of [`LIMITED_BYTES`] takes some hundred milliseconds.
const LIMITED_RATE: u64 = 256 << 10;
const LIMITED_BYTES: usize = 60_000;
/// Number of frames in a burst: twice the longest frame's bytes, and what one of them takes too early.
const BURST_FRAMES: usize = 3;
/// Minimum time in which six frames pass: the last one finds the bucket not empty.
const SIX_FRAMES: Duration =
    Duration::from_millis((5 * LIMITED_BYTES - 2 * FRAME_BYTES_MAX) as u64 * 1000 / LIMITED_RATE);

/// Processes the device whenever it requests so, until six frames have passed; returns how many passed in each turn
/// that had any.
fn turns_of_six(bench: &mut Bench, mut went: impl FnMut(&mut Bench) -> usize) -> Vec<usize> {
    let begun = Instant::now();
    let (mut turns, mut useless) = (Vec::new(), 0);
    while turns.iter().sum::<usize>() < 6 {
        assert!(bench.is_called_within(10), "it is never woken: {turns:?}");
        bench.process(Cause::Backend);
        match went(bench) {
            0 => useless += 1,
            count => turns.push(count),
        }
    }
    assert!(begun.elapsed() >= SIX_FRAMES, "{:?}", begun.elapsed());
    // A frame may come in parts, but the device must not request turns again and again.
    assert!(useless < 100, "{useless} turns for nothing");
    turns
}

#[test]
fn a_rate_holds_up_what_the_guest_sends() {
    let mut bench = Bench::limited(LIMITED_RATE);
    let frames: Vec<Vec<u8>> = (0..6).map(|index| frame(&[index; LIMITED_BYTES - 42])).collect();
    for (index, frame) in frames.iter().enumerate() {
        let at = TestQueue::FREE + index as u64 * 0x10000;
        let whole = [&[0; HEADER_BYTES], &frame[..]].concat();
        bench.memory.write_slice(&whole, GuestAddress(at)).expect("in memory");
        bench.transmit.add(&bench.memory, &[(at, whole.len() as u32, false)]);
    }
    // The network has a frame to send, so that the device is processed.
    bench.arrive(&[1; 60]);
    let mut sent = Vec::new();
    let turns = turns_of_six(&mut bench, |bench| {
        let used = bench.transmit.used(&bench.memory).len();
        sent.extend((0..used).map(|_| bench.sent()));
        assert!(!bench.has_sent());
        used
    });
    assert_eq!(turns[0], BURST_FRAMES);
    assert_eq!(sent, frames);
    assert_eq!(bench.device.counters().total(), 0);
}

#[test]
fn a_rate_holds_up_what_the_guest_receives() {
    let mut bench = Bench::limited(LIMITED_RATE);
    let mut network = bench.network.try_clone().expect("a socket");
    let writer =
        std::thread::spawn(move || (0..6).for_each(|index| write_frame(&mut network, &[index; LIMITED_BYTES])));
    for index in 0..6 {
        bench
            .receive
            .add(&bench.memory, &[(BUFFERS + index * 0x10000, 0x10000, true)]);
    }
    let mut received = Vec::new();
    turns_of_six(&mut bench, |bench| {
        let used = bench.receive.used(&bench.memory);
        received.extend(used.iter().map(|(head, bytes)| (u64::from(*head), *bytes as usize)));
        used.len()
    });
    writer.join().expect("all written");
    for (index, whole) in received.into_iter().enumerate() {
        assert_eq!(whole, (index as u64, HEADER_BYTES + LIMITED_BYTES));
        let bytes = bench.read(BUFFERS + index as u64 * 0x10000 + HEADER_BYTES as u64, LIMITED_BYTES);
        assert_eq!(bytes, [index as u8; LIMITED_BYTES]);
    }
}

#[test]
fn a_held_up_device_is_called_by_its_timer_only() {
    let mut bench = Bench::limited(1 << 10);
    bench.offer(3);
    for _ in 0..BURST_FRAMES {
        bench.send(&frame(&[5; LIMITED_BYTES - 42]));
        bench.sent();
    }
    bench.send(&frame(b"held up"));
    bench.arrive(&[1; 60]);
    assert_eq!(bench.transmit.used(&bench.memory).len(), BURST_FRAMES);
    // Received frames are read off the socket, and delivered to the guest.
    assert!(bench.is_called());
    bench.process(Cause::Backend);
    assert_eq!(bench.receive.used(&bench.memory).len(), 1);
    assert!(!bench.is_called());
    assert!(!bench.has_sent());
}
