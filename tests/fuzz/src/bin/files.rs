//! Requests of a guest for files of the host (FUSE over a ring that is the guest's as well).
#![no_main]

use capsid_fs::fuzzing::{Bench, RING, RING_SIZE};
use capsid_fuzz::Bytes;
use libfuzzer_sys::fuzz_target;

/// Guest memory address of requests, and of the room for answers.
const REQUESTS: u64 = 0x1_0000;
const ANSWERS: u64 = 0x10_0000;
const HEADER_BYTES: usize = 40;
/// File names with special cases.
const NAMES: [&[u8]; 6] = [b".\0", b"..\0", b"a\0", b"a/../b\0", b"name\0other\0", b"unended"];

/// Builds a request (`struct fuse_in_header`, then what belongs to its kind).
fn request(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let kind = bytes.byte();
    let opcode = if kind < 0xf8 {
        u32::from(kind % 52)
    } else {
        bytes.number::<4>() as u32
    };
    let mut body = Vec::new();
    let parts = bytes.byte() % 8;
    for _ in 0..parts {
        match bytes.byte() % 4 {
            0 => body.extend(NAMES[usize::from(bytes.byte() % 6)]),
            1 => body.extend(bytes.number::<2>().to_le_bytes()),
            2 => body.extend((bytes.number::<4>() as u32).to_le_bytes()),
            _ => {
                let count = usize::from(bytes.byte() % 80);
                body.extend(bytes.take(count));
            }
        }
    }
    let said = bytes.byte();
    let length = if said < 0xf0 {
        (HEADER_BYTES + body.len()) as u32
    } else {
        bytes.number::<4>() as u32
    };
    let mut whole = Vec::with_capacity(HEADER_BYTES + body.len());
    whole.extend(length.to_le_bytes());
    whole.extend(opcode.to_le_bytes());
    whole.extend(7_u64.to_le_bytes());
    whole.extend(u64::from(said & 3).to_le_bytes());
    whole.extend([0; 16]);
    whole.extend(body);
    whole
}

/// Builds the request for protocol 7.38, which Linux sends first.
fn init() -> Vec<u8> {
    let mut whole = Vec::new();
    whole.extend(104_u32.to_le_bytes());
    whole.extend(26_u32.to_le_bytes());
    whole.extend([0; 32]);
    for word in [7_u32, 38, 1 << 20, u32::MAX, u32::MAX] {
        whole.extend(word.to_le_bytes());
    }
    whole.resize(104, 0);
    whole
}

struct Ring<'a> {
    bench: &'a Bench,
    descriptors: u16,
    available: u16,
}

impl Ring<'_> {
    fn descriptor(&mut self, address: u64, bytes: u32, flags: u16) {
        let slot = self.descriptors % RING_SIZE;
        self.descriptors = self.descriptors.wrapping_add(1);
        let next = self.descriptors % RING_SIZE;
        let raw = [
            &address.to_le_bytes()[..],
            &bytes.to_le_bytes(),
            &flags.to_le_bytes(),
            &next.to_le_bytes(),
        ];
        self.bench.write(RING[0] + u64::from(slot) * 16, &raw.concat());
    }

    fn offer(&mut self, head: u16) {
        let entry = RING[1] + 4 + u64::from(self.available % RING_SIZE) * 2;
        self.bench.write(entry, &head.to_le_bytes());
        self.available = self.available.wrapping_add(1);
        self.bench.write(RING[1] + 2, &self.available.to_le_bytes());
    }

    /// Sends a request in one or two parts, with room for its answer.
    fn ask(&mut self, request: &[u8], split: usize, room: u32) {
        self.bench.write(REQUESTS, request);
        let head = self.descriptors % RING_SIZE;
        let split = split.min(request.len());
        if split > 0 {
            self.descriptor(REQUESTS, split as u32, 1);
        }
        self.descriptor(REQUESTS + split as u64, (request.len() - split) as u32, 1);
        self.descriptor(ANSWERS, room, 2);
        self.offer(head);
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = Bytes(bytes);
    let first = bytes.byte();
    let bench = Bench::new(first & 1 == 1);
    let mut ring = Ring {
        bench: &bench,
        descriptors: 0,
        available: 0,
    };
    if first < 0xf0 {
        ring.ask(&init(), 0, 4096);
        assert!(bench.serve());
    }
    while !bytes.is_empty() {
        match bytes.byte() % 16 {
            // A ring of any shape.
            0 => {
                let place = RING[usize::from(bytes.byte() % 3)] + bytes.number::<2>() % 0x400;
                let count = usize::from(bytes.byte() % 32);
                bench.write(place, bytes.take(count));
            }
            1 => {
                let head = bytes.byte();
                for part in bytes.parts() {
                    ring.descriptor(part.0, part.1, u16::from(part.2) << 1 | u16::from(head & 1));
                }
                ring.offer(u16::from(head));
            }
            how => {
                let request = request(&mut bytes);
                let split = if how & 1 == 1 { usize::from(bytes.byte()) } else { 0 };
                let room = if how & 6 == 6 {
                    bytes.number::<2>() as u32
                } else {
                    65536
                };
                ring.ask(&request, split, room);
            }
        }
        if !bench.serve() {
            return;
        }
    }
});
