//! The device between a driver and a network, both of which are the test's.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use etherparse::PacketBuilder;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::header::HEADER_BYTES;
use super::{FRAME_BYTES_MAX, NetDevice};
use crate::egress::{Egress, Rule, Target};
use crate::virtio::device::{Cause, Device, Signals};
use crate::virtio::test_driver::{TestQueue, memory, process};

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OWN_V4: [u8; 4] = [100, 96, 0, 2];
const PUBLIC_V4: [u8; 4] = [203, 0, 113, 5];
const MERGES: u64 = 1 << 15;
const BUFFERS: u64 = TestQueue::FREE + 0x10_0000;

struct Bench {
    device: NetDevice,
    network: UnixStream,
    memory: GuestMemoryMmap,
    receive: TestQueue,
    transmit: TestQueue,
}

impl Bench {
    fn new() -> Self {
        let (ours, network) = UnixStream::pair().expect("sockets");
        network
            .set_read_timeout(Some(Duration::from_secs(5)))
            .expect("a socket");
        let egress = Egress {
            rules: vec![Rule {
                target: Target::Public,
                ports: None,
                protocol: None,
            }],
            ..Egress::default()
        };
        let mut device = NetDevice::new(OWN, vec![OWN_V4.into()], egress, ours.into()).expect("a device");
        device.activate(MERGES);
        let mut bench = Self {
            device,
            network,
            memory: memory(),
            receive: TestQueue::new(0),
            transmit: TestQueue::new(1),
        };
        let announcement = bench.sent();
        assert_eq!(
            (&announcement[..6], &announcement[28..32]),
            (&[0xff; 6][..], &OWN_V4[..])
        );
        bench
    }

    fn process(&mut self, cause: Cause) -> Signals {
        let queues = &mut [&mut self.receive, &mut self.transmit];
        process(&mut self.device, cause, &self.memory, queues).expect("good queues")
    }

    /// Has the guest send `bytes` after an empty header.
    fn send(&mut self, bytes: &[u8]) {
        let whole = [&[0; HEADER_BYTES], bytes].concat();
        let at = GuestAddress(TestQueue::FREE);
        self.memory.write_slice(&whole, at).expect("in memory");
        self.transmit.add(&self.memory, &[(at.0, whole.len() as u32, false)]);
        self.process(Cause::Queue(1));
    }

    /// What the network has got.
    fn sent(&mut self) -> Vec<u8> {
        let mut length = [0; 4];
        self.network.read_exact(&mut length).expect("a length");
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.network.read_exact(&mut frame).expect("a frame");
        frame
    }

    fn has_sent(&mut self) -> bool {
        self.network.set_nonblocking(true).expect("a socket");
        let read = self.network.read(&mut [0]);
        self.network.set_nonblocking(false).expect("a socket");
        read.is_ok()
    }

    fn arrive(&mut self, frame: &[u8]) {
        let length = (frame.len() as u32).to_be_bytes();
        self.network.write_all(&[&length[..], frame].concat()).expect("room");
    }

    fn read(&self, address: u64, bytes: usize) -> Vec<u8> {
        let mut read = vec![0; bytes];
        self.memory
            .read_slice(&mut read, GuestAddress(address))
            .expect("in memory");
        read
    }
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ethernet2(OWN, [2, 0, 0, 0, 0, 1])
        .ipv4(OWN_V4, PUBLIC_V4, 64)
        .udp(1, 2);
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
        let waiting = rustix::event::PollFd::from_borrowed_fd(
            bench.device.backend_fd().expect("an epoll instance"),
            rustix::event::PollFlags::IN,
        );
        let time = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut [waiting], Some(&time)), Ok(0), "{nonsense:?}");
        bench.send(&frame(b"x"));
        assert!(bench.receive.used(&bench.memory).is_empty());
    }
}
