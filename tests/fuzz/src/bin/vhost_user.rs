//! Messages that QEMU, or an attacker who controls it, sends to our devices over vhost-user.
#![no_main]

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use capsid_fuzz::Bytes;
use capsid_vmm::fuzzing::serve_vhost_user;
use capsid_vmm::virtio::block::{BlockDevice, Disk};
use capsid_vmm::virtio::device::Device;
use capsid_vmm::virtio::rng::RngDevice;
use libfuzzer_sys::fuzz_target;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

const MEMORY_BYTES: u64 = 1 << 20;
/// Address at which the other side claims to have the guest's memory.
const FRONTEND: u64 = 0x7000_0000_0000;
/// Maximum messages of a run: their answers fit in a socket's buffer, which nobody empties.
const MESSAGES_MAX: usize = 200;
const FDS_MAX: usize = 9;

fn memory_file(bytes: u64) -> OwnedFd {
    let file = memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("memory");
    ftruncate(&file, bytes).expect("memory");
    file
}

fn device(kind: u8) -> Box<dyn Device> {
    if kind & 1 == 1 {
        return Box::new(RngDevice::new());
    }
    let disk = Disk::new(vec![memory_file(64 << 10).into()], kind & 2 == 2).expect("a disk");
    Box::new(BlockDevice::new(disk, "serial", false))
}

/// Chooses the number of a queue, mostly an existing one.
fn queue(bytes: &mut Bytes<'_>) -> u64 {
    match bytes.byte() {
        odd @ 0xf0.. => u64::from(odd) << 3 | bytes.number::<4>(),
        _ => 0,
    }
}

/// Chooses an address of the other side, mostly in the memory it shares.
fn address(bytes: &mut Bytes<'_>) -> u64 {
    match bytes.byte() {
        0xf0.. => bytes.number::<8>(),
        near => FRONTEND + (u64::from(near) << 8),
    }
}

fn words32(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| (*word as u32).to_le_bytes()).collect()
}

fn words64(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn regions(bytes: &mut Bytes<'_>, count: u64) -> Vec<u8> {
    let mut body = words32(&[count, 0]);
    for index in 0..count.min(FDS_MAX as u64) {
        let plain = bytes.byte() < 0xe0;
        let region = if plain {
            [index * MEMORY_BYTES, MEMORY_BYTES, FRONTEND + index * MEMORY_BYTES, 0]
        } else {
            [
                bytes.number::<8>(),
                bytes.number::<4>(),
                address(bytes),
                bytes.number::<4>(),
            ]
        };
        body.extend(words64(&region));
    }
    body
}

/// Builds a request and its body (the vhost-user protocol, "Front-end message types").
fn message(bytes: &mut Bytes<'_>) -> (u32, Vec<u8>) {
    let request = u32::from(bytes.byte() % 46);
    let body = match request {
        5 => {
            let count = 1 + u64::from(bytes.byte() % 3);
            regions(bytes, count)
        }
        // Features, and other requests with one number.
        2 | 16 | 15 | 7 => words64(&[bytes.number::<8>()]),
        8 => {
            let size = if bytes.byte() < 0xf0 { 64 } else { bytes.number::<4>() };
            words32(&[queue(bytes), size])
        }
        9 => {
            let queue = queue(bytes);
            let places = [address(bytes), address(bytes), address(bytes), 0];
            [words32(&[queue, 0]), words64(&places)].concat()
        }
        10 | 11 | 18 => words32(&[queue(bytes), u64::from(bytes.byte() & 3)]),
        12..=14 => words64(&[queue(bytes) & 0xff | u64::from(bytes.byte() & 1) << 8]),
        24 | 25 => {
            let size = bytes.number::<1>();
            let body = words32(&[bytes.number::<1>(), size, 0]);
            [body, vec![0; size as usize]].concat()
        }
        _ => bytes.take(request as usize).to_vec(),
    };
    (request, body)
}

fn send(socket: &UnixStream, header_and_body: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(9))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    let _ = sendmsg(
        socket,
        &[IoSlice::new(header_and_body)],
        &mut ancillary,
        SendFlags::DONTWAIT,
    );
}

/// Sends the first messages of QEMU, so that most runs reach the rings.
fn begin(socket: &UnixStream, memory: BorrowedFd<'_>) {
    let plain = |request: u32, body: Vec<u8>, fds: &[BorrowedFd<'_>]| {
        let header = words32(&[u64::from(request), 1, body.len() as u64]);
        send(socket, &[header, body].concat(), fds);
    };
    plain(3, Vec::new(), &[]);
    plain(1, Vec::new(), &[]);
    plain(15, Vec::new(), &[]);
    plain(16, words64(&[0x9 | 1 << 9]), &[]);
    plain(2, words64(&[1 << 32 | 1 << 30]), &[]);
    let region = [words32(&[1, 0]), words64(&[0, MEMORY_BYTES, FRONTEND, 0])].concat();
    plain(5, region, &[memory]);
}

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = Bytes(bytes);
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    let kind = bytes.byte();
    let memory = memory_file(MEMORY_BYTES);
    // A ring and what it points to, whatever request the input begins with.
    let content = bytes.take(usize::from(kind >> 2) * 16);
    for place in [0, 0x1000, 0x2000] {
        let _ = rustix::io::pwrite(&memory, content, place);
    }
    let event = eventfd(1, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).expect("an eventfd");
    if bytes.byte() < 0xe0 {
        begin(&ours, memory.as_fd());
    }
    for _ in 0..MESSAGES_MAX {
        if bytes.is_empty() {
            break;
        }
        let (request, body) = message(&mut bytes);
        let odd = bytes.byte();
        let (version, size) = match odd {
            0xf0.. => (bytes.number::<4>(), bytes.number::<4>()),
            _ => (1 | u64::from(odd & 1) << 3, body.len() as u64),
        };
        let header = words32(&[u64::from(request), version, size]);
        let wanted = match request {
            5 => body.first().map_or(0, |count| usize::from(*count)),
            12..=14 => usize::from(odd & 2 == 0),
            _ => usize::from(odd & 0x1e == 0x1e),
        };
        let fd = if request == 5 { memory.as_fd() } else { event.as_fd() };
        send(&ours, &[header, body].concat(), &vec![fd; wanted.min(FDS_MAX)]);
    }
    let _ = ours.shutdown(Shutdown::Write);
    serve_vhost_user(device(kind), theirs);
});
