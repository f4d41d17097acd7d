//! Frames from and to a guest, under rules that inspect every part of a frame.
#![no_main]

use std::collections::BTreeSet;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use capsid_fuzz::Bytes;
use capsid_fuzz::frame::{GATEWAY, LINK_V6, OWN, OWN_V4, OWN_V6, RESOLVER_V4, answer, frame};
use capsid_fuzz::passt::{self, Reading};
use capsid_vmm::egress::{Egress, Ports, Protocol, Rule, Target, is_special};
use capsid_vmm::segments::{Change, Published, Segment, Uplink};
use capsid_vmm::virtio::device::{Cause, Device as _};
use capsid_vmm::virtio::net::NetDevice;
use capsid_vmm::virtio::test_driver::{self, TestQueue, process};
use libfuzzer_sys::fuzz_target;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv,
    sendmsg, socketpair,
};

/// Only published port.
const PUBLISHED: u16 = 80;

/// Guest memory address of the receive buffers.
const BUFFERS: u64 = 1 << 20;
const BUFFER_BYTES: u64 = 1536;

fn egress() -> Egress {
    let rule = |target| Rule {
        target,
        ports: None,
        protocol: None,
    };
    Egress {
        rules: vec![
            rule(Target::Name("*.test".into())),
            rule(Target::Network("10.0.0.0/8".parse().expect("a network"))),
        ],
        ..Egress::default()
    }
}

fn open_uplink() -> Uplink {
    let published = |protocol| Published {
        protocol,
        ports: Ports {
            first: PUBLISHED,
            last: PUBLISHED,
        },
    };
    Uplink {
        hardware: GATEWAY,
        addresses: vec![OWN_V4.into(), OWN_V6.into()],
        egress: egress(),
        published: [Protocol::Tcp, Protocol::Udp].map(published).to_vec(),
        loopback_alias: Some(RESOLVER_V4.into()),
    }
}

/// Frames of a stream, each after its length.
#[derive(Default)]
struct Frames(Vec<u8>);

impl Frames {
    fn next(&mut self) -> Option<Vec<u8>> {
        let length = u32::from_be_bytes(*self.0.first_chunk::<4>()?) as usize;
        let frame = self.0.get(4..4 + length)?.to_vec();
        self.0.drain(..4 + length);
        Some(frame)
    }

    /// Reads everything that is available.
    fn read(&mut self, socket: &mut UnixStream) {
        let mut bytes = [0; 65536];
        while let Ok(count @ 1..) = socket.read(&mut bytes) {
            self.0.extend_from_slice(&bytes[..count]);
        }
    }
}

/// Model of the frames that may leave, for a reader that parses frames like passt. Permits more than the packet filter
/// where the filter knows more, but nothing that it must not.
#[derive(Default)]
struct Oracle {
    arrived: Frames,
    /// Protocol, the guest's port, peer and its port of connections to the published port.
    begun: BTreeSet<(u8, u16, IpAddr, u16)>,
    /// Whether the resolver has answered, so that names may have any public address.
    has_names: bool,
    announcements: usize,
}

impl Oracle {
    /// Records bytes that arrived from the uplink.
    fn arrive(&mut self, bytes: &[u8]) {
        self.arrived.0.extend_from_slice(bytes);
        while let Some(frame) = self.arrived.next() {
            let Some(reading) = passt::read(&frame) else {
                continue;
            };
            self.has_names |= reading.from == IpAddr::from(RESOLVER_V4) && reading.from_port == 53;
            if reading.begins && reading.to_port == PUBLISHED {
                let Reading {
                    protocol,
                    from,
                    from_port,
                    ..
                } = reading;
                self.begun.insert((protocol, PUBLISHED, from, from_port));
            }
        }
    }

    /// Requires that a frame may leave through the uplink.
    fn check_uplink(&mut self, frame: &[u8]) {
        if is_announcement(frame) {
            self.announcements = self.announcements.checked_sub(1).expect("the guest says who is here");
            return;
        }
        assert_eq!(frame[..12], [GATEWAY, OWN].concat(), "in another's name");
        let reading = passt::read(frame).expect("passt does not carry it");
        assert_eq!(Some(reading.place), plain_place(frame), "{reading:?}: there is more than one reading");
        let own = [OWN_V4.into(), OWN_V6.into(), LINK_V6.into()];
        assert!(own.contains(&reading.from), "{reading:?}: in another's name");
        assert!(self.permits(reading), "{reading:?}: no rule opens it");
    }

    fn permits(&self, reading: Reading) -> bool {
        let Reading {
            protocol,
            to,
            from_port,
            to_port,
            ..
        } = reading;
        let is_ruled = matches!(to, IpAddr::V4(to) if to.octets()[0] == 10);
        let is_question = (protocol, to, to_port) == (17, RESOLVER_V4.into(), 53);
        let peer = if to == IpAddr::V4(Ipv4Addr::LOCALHOST) {
            RESOLVER_V4.into()
        } else {
            to
        };
        is_ruled
            || is_question
            || self.has_names && !is_special(to)
            || self.begun.contains(&(protocol, from_port, peer, to_port))
    }
}

/// Returns the place of the transport header if no other header is in between and the frame is as long as its headers
/// say.
fn plain_place(frame: &[u8]) -> Option<usize> {
    let number = |at: usize| Some(usize::from(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?)));
    match *frame.get(12..15)? {
        [8, 0, 0x45] if number(20)? & 0xbfff == 0 && number(16)? + 14 == frame.len() => Some(34),
        [0x86, 0xdd, version] if version >> 4 == 6 && number(18)? + 54 == frame.len() => Some(54),
        _ => None,
    }
}

/// Whether the frame is an announcement that the device sends when it opens the uplink.
fn is_announcement(frame: &[u8]) -> bool {
    let arp = [&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1][..], &OWN, &OWN_V4, &[0; 6], &OWN_V4].concat();
    let is_for_all = frame.get(54) == Some(&136) && frame.get(38..40) == Some(&[0xff, 2]);
    frame.get(12..) == Some(&arp) || is_for_all && frame.get(62..78) == Some(&LINK_V6) && frame.len() == 86
}

/// Requires that a frame has one reading, like one from a network's switch.
fn check_switch(frame: &[u8]) {
    if frame.get(12..14) == Some(&[8, 6]) {
        return;
    }
    let plain = plain_place(frame).expect("a plain packet");
    if let Some(reading) = passt::read(frame) {
        assert_eq!(reading.place, plain, "{reading:?}");
    }
}

/// Returns the pod networks that the guest is on, at times.
fn segments() -> [Segment; 2] {
    let segment = |addresses: &[IpAddr], networks: &[&str], gateway: [u8; 4]| Segment {
        addresses: addresses.to_vec(),
        networks: networks.iter().map(|text| text.parse().expect("a network")).collect(),
        gateways: vec![IpAddr::from(gateway)],
    };
    [
        segment(
            &[OWN_V4.into(), OWN_V6.into()],
            &["100.96.0.0/24", "fd63::/64"],
            RESOLVER_V4,
        ),
        segment(&[IpAddr::from([10, 90, 0, 2])], &["10.90.0.0/24"], [10, 90, 0, 1]),
    ]
}

/// Connects the guest to a network, or disconnects it.
fn reconnect(supervisor: &OwnedFd, slot: u8, socket: Option<&UnixStream>) {
    let change = match socket {
        Some(_) => Change::Connect {
            slot,
            segment: segments()[usize::from(slot & 1)].clone(),
        },
        None => Change::Disconnect { slot },
    };
    notify(supervisor, &change, socket);
}

/// Opens the uplink, or closes it.
fn lead_out(supervisor: &OwnedFd, socket: Option<&UnixStream>) {
    let change = match socket {
        Some(_) => Change::Open(open_uplink()),
        None => Change::Close,
    };
    notify(supervisor, &change, socket);
}

fn notify(supervisor: &OwnedFd, change: &Change, socket: Option<&UnixStream>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<_> = socket.iter().map(AsFd::as_fd).collect();
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    }
    let _ = sendmsg(
        supervisor,
        &[IoSlice::new(&change.encode())],
        &mut ancillary,
        SendFlags::DONTWAIT,
    );
}

fn sockets() -> (UnixStream, UnixStream) {
    let (network, ours) = UnixStream::pair().expect("sockets");
    network.set_nonblocking(true).expect("settable");
    (network, ours)
}

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = Bytes(bytes);
    let ((mut network, uplink), (mut switch, socket)) = (sockets(), sockets());
    let links = bytes.byte();
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
    let (supervisor, control) = socketpair(AddressFamily::UNIX, kind, flags, None).expect("sockets");
    let mut oracle = Oracle::default();
    let (mut left, mut switched) = (Frames::default(), Frames::default());
    // Otherwise nobody reads the frames, and those that leave are not checked.
    let is_taken = links & 12 != 12;
    if links & 3 != 1 {
        lead_out(&supervisor, Some(&uplink));
        oracle.announcements += 2;
    }
    if links & 3 != 0 {
        reconnect(&supervisor, 0, Some(&socket));
    }
    let mut device = NetDevice::new(OWN, RESOLVER_V4.into(), control, None).expect("a device");
    device.activate(device.features());
    let memory = test_driver::memory();
    let mut queues: Vec<TestQueue> = (0..2).map(TestQueue::new).collect();
    for index in 0..16 {
        queues[0].add(&memory, &[(BUFFERS + index * BUFFER_BYTES, BUFFER_BYTES as u32, true)]);
    }
    let mut received = 0_u64;
    while !bytes.is_empty() {
        match bytes.byte() % 16 {
            0 => drop(queues[1].add(&memory, &bytes.parts())),
            kind @ (1 | 3) => {
                let frame = if kind == 1 {
                    frame(&mut bytes, GATEWAY, OWN)
                } else {
                    answer(&mut bytes)
                };
                let length = (frame.len() as u32).to_be_bytes();
                arrive(&mut network, &mut oracle, &[&length[..], &frame].concat());
            }
            2 => {
                let raw: Vec<u8> = (0..bytes.byte()).map(|_| bytes.byte()).collect();
                arrive(&mut network, &mut oracle, &raw);
            }
            8 => {
                let how = bytes.byte();
                reconnect(&supervisor, how & 3, (how & 4 != 0).then_some(&socket));
                if how & 8 != 0 {
                    lead_out(&supervisor, (how & 16 != 0).then_some(&uplink));
                    oracle.announcements += 2;
                }
                let _ = recv(&supervisor, &mut [0; 8], RecvFlags::DONTWAIT);
            }
            // Includes requests of the guest, sent back.
            4..=7 => {
                let from = if bytes.byte() & 1 == 0 { OWN } else { GATEWAY };
                let frame = frame(&mut bytes, from, OWN);
                let length = (frame.len() as u32).to_be_bytes();
                let _ = switch.write(&[&length[..], &frame].concat());
            }
            _ => {
                let whole = sent(&mut bytes);
                test_driver::write(&memory, &whole, TestQueue::FREE);
                queues[1].add(&memory, &[(TestQueue::FREE, whole.len() as u32, false)]);
            }
        }
        for cause in [Cause::Queue(1), Cause::Backend, Cause::Queue(0)] {
            let mut all: Vec<&mut TestQueue> = queues.iter_mut().collect();
            if process(&mut device, cause, &memory, &mut all).is_err() {
                return;
            }
        }
        if is_taken {
            left.read(&mut network);
            std::iter::from_fn(|| left.next()).for_each(|frame| oracle.check_uplink(&frame));
            switched.read(&mut switch);
            std::iter::from_fn(|| switched.next()).for_each(|frame| check_switch(&frame));
        }
        queues[1].used(&memory);
        for _ in queues[0].used(&memory) {
            let buffer = BUFFERS + received % 16 * BUFFER_BYTES;
            queues[0].add(&memory, &[(buffer, BUFFER_BYTES as u32, true)]);
            received += 1;
        }
    }
});

/// Builds a frame of the guest, behind its header.
fn sent(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let mut header = [0; 12];
    let odd = bytes.byte();
    if odd & 3 == 3 {
        header[0] = odd >> 7;
        header[1] = bytes.byte();
        header[6] = bytes.byte();
        header[8] = bytes.byte();
    }
    [&header[..], &frame(bytes, OWN, GATEWAY)].concat()
}

/// Delivers bytes from the uplink, as many as there is room for.
fn arrive(network: &mut UnixStream, oracle: &mut Oracle, bytes: &[u8]) {
    let written = network.write(bytes).unwrap_or(0);
    oracle.arrive(&bytes[..written]);
}
