//! Frames that a member of a network sends.
#![no_main]

use capsid_fuzz::Bytes;
use capsid_fuzz::frame::{GATEWAY, OWN, frame};
use capsid_vmm::switch::forward_between_two;
use libfuzzer_sys::fuzz_target;

const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 3];

fuzz_target!(|bytes: &[u8]| {
    forward_between_two(bytes);
    let mut bytes = Bytes(bytes);
    while !bytes.is_empty() {
        let to = if bytes.byte() % 2 == 0 { GATEWAY } else { OTHER };
        forward_between_two(&frame(&mut bytes, OWN, to));
    }
});
