//! A driver that writes registers in any order and rings of any shape (virtio-mmio), for each device.
#![no_main]

use std::os::unix::net::UnixStream;

use capsid_fuzz::Bytes;
use capsid_vmm::fuzzing::MmioDevice;
use capsid_vmm::virtio::balloon::BalloonDevice;
use capsid_vmm::virtio::block::{BlockDevice, Disk};
use capsid_vmm::virtio::device::{Cause, Device};
use capsid_vmm::virtio::net::NetDevice;
use capsid_vmm::virtio::rng::RngDevice;
use capsid_vmm::virtio::test_driver::{self, MEMORY_BYTES};
use capsid_vmm::virtio::vsock::VsockDevice;
use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

const STATUS: u64 = 0x70;
const INTERRUPT_STATUS: u64 = 0x60;
/// Registers that matter, so that most writes are to one of them.
const REGISTERS: [u64; 16] = [
    0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0xac,
];
/// Device status values that a driver may have set.
const STATUSES: [u32; 7] = [0, 1, 3, 0xb, 0xf, 0x4f, 0x80];
const DISK_BYTES: u64 = 64 << 10;

/// Creates the device, with the descriptors that hold its host side.
fn device(kind: u8) -> (Box<dyn Device>, Vec<std::os::fd::OwnedFd>) {
    let (kind_of_socket, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
    let pair = || socketpair(AddressFamily::UNIX, kind_of_socket, flags, None).expect("sockets");
    match kind % 5 {
        0 => {
            let file = memfd_create("disk", MemfdFlags::CLOEXEC).expect("memory");
            ftruncate(&file, DISK_BYTES).expect("memory");
            let disk = Disk::new(vec![file.into()], kind & 8 == 8).expect("a disk");
            (Box::new(BlockDevice::new(disk, "serial", false)), Vec::new())
        }
        1 => (Box::new(RngDevice::new()), Vec::new()),
        2 => {
            let (ours, theirs) = UnixStream::pair().expect("sockets");
            let (control, device_control) = pair();
            let vsock = VsockDevice::new(7, 1024, theirs.into(), device_control).expect("a device");
            (Box::new(vsock), vec![ours.into(), control])
        }
        3 => {
            let (supervisor, control) = pair();
            let resolver = std::net::IpAddr::from([10, 0, 0, 1]);
            let net = NetDevice::new([2, 0, 0, 0, 0, 1], resolver, control, None).expect("a device");
            (Box::new(net), vec![supervisor])
        }
        _ => (Box::new(BalloonDevice::new()), Vec::new()),
    }
}

fn write(device: &MmioDevice, register: u64, value: u32) {
    device.write(register, &value.to_le_bytes());
}

/// Performs the steps of a well-behaved driver up to the state `far`, with queues of `size`.
fn start(device: &MmioDevice, queues: u8, size: u32, far: u8) {
    for status in [0, 1, 3] {
        write(device, STATUS, status);
    }
    // VERSION_1 alone.
    for (select, features) in [(0, 0), (1, 1)] {
        write(device, 0x24, select);
        write(device, 0x20, features);
    }
    write(device, STATUS, 0xb);
    for queue in 0..u32::from(queues) {
        let base = 0x1000 + queue * 0x4000;
        for (register, value) in [(0x30, queue), (0x38, size), (0x80, base), (0x90, base + 0x2000)] {
            write(device, register, value);
        }
        write(device, 0xa0, base + 0x3000);
        write(device, 0x44, 1);
    }
    if far & 1 == 0 {
        write(device, STATUS, 0xf);
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = Bytes(bytes);
    let (device, _host) = device(bytes.byte());
    let memory = test_driver::memory();
    let device = MmioDevice::new(device, memory.clone());
    while !bytes.is_empty() {
        match bytes.byte() % 12 {
            0 => {
                let (queues, far) = (bytes.byte() % 4, bytes.byte());
                start(&device, queues, 1 << (far >> 1 & 7), far);
            }
            1 => {
                let offset = bytes.number::<2>() & 0xfff;
                let count = usize::from(bytes.byte() % 9);
                device.write(offset, bytes.take(count));
            }
            2 => device.read(bytes.number::<2>(), usize::from(bytes.byte() % 9)),
            3 => write(&device, STATUS, STATUSES[usize::from(bytes.byte() % 7)]),
            4 | 5 => {
                let register = REGISTERS[usize::from(bytes.byte() % 16)];
                write(&device, register, bytes.number::<4>() as u32);
            }
            // Descriptors and rings: any content, at their places or beside them.
            6..=8 => {
                let address = 0x1000 + bytes.number::<2>() % 0x1_0000;
                let count = usize::from(bytes.byte() % 64);
                test_driver::write(&memory, bytes.take(count), address.min(MEMORY_BYTES - 64));
            }
            // One more chain, or thousands.
            9 => {
                let base = 0x3000 + u64::from(bytes.byte() % 4) * 0x4000;
                let index = bytes.number::<2>() as u16;
                test_driver::write(&memory, &index.to_le_bytes(), base + 2);
            }
            10 => device.process(Cause::Backend),
            _ => device.process(Cause::Queue(usize::from(bytes.byte() % 5))),
        }
    }
    // Only known bits, and no interrupt that does not exist.
    assert_eq!(device.register(STATUS) & !0xcf, 0);
    assert_eq!(device.register(INTERRUPT_STATUS) & !3, 0);
});
