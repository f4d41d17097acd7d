//! Challenges of a registry for credentials, and the decision on who gets them.
#![no_main]

use capsid_image::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(header) = std::str::from_utf8(bytes) {
        fuzzing::challenge(header);
    }
});
