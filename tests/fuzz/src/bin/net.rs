//! The frames that a guest sends, and those that come for it, under rules that look at all there is to look at.
#![no_main]

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use capsid_fuzz::Bytes;
use capsid_fuzz::frame::{GATEWAY, OWN, OWN_V4, OWN_V6, RESOLVER_V4, frame};
use capsid_vmm::egress::{Egress, Rule, Target};
use capsid_vmm::segments::{Change, Segment};
use capsid_vmm::virtio::device::{Cause, Device as _};
use capsid_vmm::virtio::net::NetDevice;
use capsid_vmm::virtio::test_driver::{self, TestQueue, process};
use libfuzzer_sys::fuzz_target;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv,
    sendmsg, socketpair,
};

/// Where the guest receives.
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

/// The networks of pods that the guest is on, at times.
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

/// Has the guest be on one of them, or not any more.
fn rewire(supervisor: &OwnedFd, slot: u8, socket: Option<&UnixStream>) {
    let change = match socket {
        Some(_) => Change::Connect {
            slot,
            segment: segments()[usize::from(slot & 1)].clone(),
        },
        None => Change::Disconnect { slot },
    };
    tell(supervisor, &change, socket);
}

/// Has the uplink lead out, or not any more.
fn lead_out(supervisor: &OwnedFd, socket: Option<&UnixStream>) {
    let change = match socket {
        Some(_) => Change::Open {
            addresses: vec![OWN_V4.into(), OWN_V6.into()],
            egress: egress(),
        },
        None => Change::Close,
    };
    tell(supervisor, &change, socket);
}

fn tell(supervisor: &OwnedFd, change: &Change, socket: Option<&UnixStream>) {
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
    if links & 3 != 1 {
        lead_out(&supervisor, Some(&uplink));
    }
    if links & 3 != 0 {
        rewire(&supervisor, 0, Some(&socket));
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
            1 => {
                let frame = frame(&mut bytes, GATEWAY, OWN);
                let length = (frame.len() as u32).to_be_bytes();
                let _ = network.write(&[&length[..], &frame].concat());
            }
            2 => {
                let raw: Vec<u8> = (0..bytes.byte()).map(|_| bytes.byte()).collect();
                let _ = network.write(&raw);
            }
            3 => drop(network.read(&mut [0; 4096])),
            4 => drop(switch.read(&mut [0; 4096])),
            8 => {
                let how = bytes.byte();
                rewire(&supervisor, how & 3, (how & 4 != 0).then_some(&socket));
                if how & 8 != 0 {
                    lead_out(&supervisor, (how & 16 != 0).then_some(&uplink));
                }
                let _ = recv(&supervisor, &mut [0; 8], RecvFlags::DONTWAIT);
            }
            // Also what the guest has asked, given back.
            5..=7 => {
                let from = if bytes.byte() & 1 == 0 { OWN } else { GATEWAY };
                let frame = frame(&mut bytes, from, OWN);
                let length = (frame.len() as u32).to_be_bytes();
                let _ = switch.write(&[&length[..], &frame].concat());
            }
            _ => {
                let mut header = [0; 12];
                let odd = bytes.byte();
                if odd & 3 == 3 {
                    header[0] = odd >> 7;
                    header[1] = bytes.byte();
                    header[6] = bytes.byte();
                    header[8] = bytes.byte();
                }
                let whole = [&header[..], &frame(&mut bytes, OWN, GATEWAY)].concat();
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
        queues[1].used(&memory);
        for _ in queues[0].used(&memory) {
            let buffer = BUFFERS + received % 16 * BUFFER_BYTES;
            queues[0].add(&memory, &[(buffer, BUFFER_BYTES as u32, true)]);
            received += 1;
        }
    }
});
