//! Packets that a guest sends, while the host opens streams and writes to them.
#![no_main]

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use capsid_fuzz::Bytes;
use capsid_vmm::virtio::device::{Cause, Device as _};
use capsid_vmm::virtio::test_driver::{self, TestQueue, process};
use capsid_vmm::virtio::vsock::VsockDevice;
use libfuzzer_sys::fuzz_target;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg, socketpair,
};

const GUEST: u32 = 7;
const HOST: u32 = 2;
const SESSION_PORT: u32 = 1024;
const HEADER_BYTES: usize = 44;
/// Guest memory address of the receive buffers.
const BUFFERS: u64 = 1 << 20;

/// Builds a header (virtio 1.3, section 5.10.6) that the device mostly cannot refuse at its first field.
fn header(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    let odd = bytes.byte();
    let guest = if odd & 7 == 7 {
        bytes.number::<8>()
    } else {
        u64::from(GUEST)
    };
    header.extend(guest.to_le_bytes());
    header.extend(u64::from(HOST).to_le_bytes());
    // Ports of the session, of a stream that the host opened, or any.
    let port = |bytes: &mut Bytes<'_>| match bytes.byte() % 4 {
        0 => SESSION_PORT,
        1 => 5000,
        2 => 1 << 30 | u32::from(bytes.byte()),
        _ => bytes.number::<4>() as u32,
    };
    header.extend(port(bytes).to_le_bytes());
    header.extend(port(bytes).to_le_bytes());
    header.extend((bytes.number::<2>() as u32).to_le_bytes());
    header.extend(1_u16.to_le_bytes());
    header.extend(u16::from(bytes.byte() % 10).to_le_bytes());
    header.extend(u32::from(bytes.byte() % 4).to_le_bytes());
    header.extend((bytes.number::<4>() as u32).to_le_bytes());
    header.extend((bytes.number::<4>() as u32).to_le_bytes());
    header
}

/// Asks the device for a stream to the guest's port 5000. Returns the host's end.
fn open(control: &impl AsFd) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    let fds = [theirs.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let port = 5000_u32.to_le_bytes();
    let _ = sendmsg(control, &[IoSlice::new(&port)], &mut ancillary, SendFlags::DONTWAIT);
    ours.set_nonblocking(true).expect("settable");
    ours
}

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = Bytes(bytes);
    let (mut session, device_session) = UnixStream::pair().expect("sockets");
    session.set_nonblocking(true).expect("settable");
    let (control, device_control) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("sockets");
    let mut device = VsockDevice::new(GUEST, SESSION_PORT, device_session.into(), device_control).expect("a device");
    device.activate(device.features());
    let memory = test_driver::memory();
    let mut queues: Vec<TestQueue> = (0..3).map(TestQueue::new).collect();
    for index in 0..8 {
        queues[0].add(&memory, &[(BUFFERS + index * 4096, 4096, true)]);
    }
    let mut streams = Vec::new();
    let mut received = 8_u64;
    while !bytes.is_empty() {
        let step = bytes.byte();
        match step % 8 {
            0 if streams.len() < 4 => streams.push(open(&control)),
            1 => drop(streams.pop()),
            2 => {
                let _ = session.write(&[7; 300]);
                let _ = streams.last_mut().map(|stream| stream.write(&[7; 9000]));
            }
            3 => {
                let mut sink = [0; 4096];
                let _ = session.read(&mut sink);
                let _ = streams.last_mut().map(|stream| stream.read(&mut sink));
            }
            4 => drop(queues[1].add(&memory, &bytes.parts())),
            _ => {
                let header = header(&mut bytes);
                test_driver::write(&memory, &header, TestQueue::FREE);
                let payload = u32::from_le_bytes(header[24..28].try_into().expect("four"));
                let mut parts = vec![(TestQueue::FREE, HEADER_BYTES as u32, false)];
                parts.extend((payload > 0).then_some((TestQueue::FREE + 64, payload, false)));
                queues[1].add(&memory, &parts);
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
            queues[0].add(&memory, &[(BUFFERS + received % 8 * 4096, 4096, true)]);
            received += 1;
        }
    }
});
