//! Layer from a registry, on its way to a rootfs.
#![no_main]

use std::fs::File;

use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, memfd_create};

fn memory_file() -> File {
    memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("memory").into()
}

fuzz_target!(|bytes: &[u8]| {
    capsid_image::fuzzing::layer(bytes, memory_file(), memory_file(), &memory_file());
});
