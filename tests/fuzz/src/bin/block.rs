//! Requests of a guest to a disk, of one file or of two.
#![no_main]

use std::fs::File;

use capsid_fuzz::Bytes;
use capsid_vmm::virtio::block::{BlockDevice, Disk};
use capsid_vmm::virtio::device::{Cause, Device as _};
use capsid_vmm::virtio::test_driver::{self, TestQueue, process};
use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

/// Length of each file.
const FILE_BYTES: u64 = 64 << 10;

fn file() -> File {
    let file = memfd_create("disk", MemfdFlags::CLOEXEC).expect("memory");
    ftruncate(&file, FILE_BYTES).expect("memory");
    file.into()
}

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = Bytes(bytes);
    let readonly = bytes.byte() & 1 == 1;
    let files: Vec<File> = (0..=usize::from(readonly)).map(|_| file()).collect();
    let kept: Vec<File> = files.iter().map(|file| file.try_clone().expect("an fd")).collect();
    let disk = Disk::new(files, readonly).expect("a disk");
    let mut device = BlockDevice::new(disk, "serial", false);
    device.activate(device.features());
    let memory = test_driver::memory();
    let mut queue = TestQueue::new(0);
    while !bytes.is_empty() {
        // A header is any data at the first part of the chain: often one that the device knows.
        let kind = bytes.byte();
        let mut header = [0; 16];
        header[0] = kind % 16;
        header[8..10].copy_from_slice(bytes.take(2).get(..2).unwrap_or(&[0, 0]));
        if kind & 0x80 == 0 {
            test_driver::write(&memory, &header, TestQueue::FREE);
            let mut parts = vec![(TestQueue::FREE, 16, false)];
            parts.extend(bytes.parts());
            queue.add(&memory, &parts);
        } else {
            queue.add(&memory, &bytes.parts());
        }
        if process(&mut device, Cause::Queue(0), &memory, &mut [&mut queue]).is_err() {
            break;
        }
        queue.used(&memory);
    }
    // Whatever the request was: no file has grown.
    assert!(
        kept.iter()
            .all(|file| file.metadata().expect("open").len() == FILE_BYTES)
    );
});
