//! Features of the guest's kernel for programs: devices, kernel parameters, programs of 32 bits.

// A surprise in a test is a failed test.
#![allow(clippy::unwrap_used)]

use capsid_tests::Capsid;
use capsid_tests::image::ImageBuilder;
use capsid_tests::layer::Layer;

/// Test in one container: programs run from `/dev` as under docker, parameters are those of servers, and more can be
/// set.
#[test]
fn defaults_are_those_of_a_server() {
    let script = "cp /bin/busybox /dev && /dev/busybox echo runs
        cd /proc/sys; cat vm/max_map_count fs/inotify/max_user_watches vm/overcommit_memory vm/swappiness kernel/pid_max
        ls -d /dev/fuse /dev/net /dev/vda /dev/loop* 2>/dev/null";
    let flags = ["--sysctl", "vm.swappiness=7", "--sysctl", "kernel.pid_max=4242"];
    let outcome = Capsid::with_busybox().run([&flags[..], &["busybox", "sh", "-c", script]].concat());
    assert_eq!(outcome.text(), "runs\n1048576\n524288\n1\n7\n4242");
}

/// Test that the nodes are there and lead to their drivers: a loop device is made and read.
#[test]
fn privileged_has_every_device_of_the_machine() {
    let script = "true <>/dev/fuse && true <>/dev/net/tun && true </dev/loop-control && head -c 0 /dev/vda && echo open
        echo content >/tmp/file && truncate -s 4096 /tmp/file
        device=$(losetup -f) && losetup $device /tmp/file && head -n 1 $device";
    let outcome = Capsid::with_busybox().run(["--privileged", "busybox", "sh", "-c", script]);
    outcome.succeeds().prints("open\ncontent\n");
}

#[test]
fn a_device_of_the_machine_is_given_by_name() {
    let capsid = Capsid::with_busybox();
    // A node that the container makes itself is refused by the rules: 10:237 is loop-control.
    let script = "true <>/dev/fuse && echo fuse; true </dev/vpn/tun && echo read; true >/dev/vpn/tun || echo no writing
        mknod /tmp/loop c 10 237; true </tmp/loop || echo no loop";
    let flags = ["--device", "/dev/fuse", "--device=/dev/net:/dev/vpn:r"];
    capsid
        .run([&flags[..], &["busybox", "sh", "-c", script]].concat())
        .prints("fuse\nread\nno writing\nno loop\n");
    capsid
        .run(["--device", "/dev/kvm", "busybox", "true"])
        .exits(125)
        .complains("the microVM has no device /dev/kvm");
    capsid
        .run(["--device", "/etc/passwd", "busybox", "true"])
        .exits(125)
        .complains("is not below /dev");
}

/// Builds a static ELF of 32 bits, by its bytes: prints `32-bit`; makes a socket of `AF_VSOCK` by i386's own call for
/// it, and prints `refused` if that is EPERM; exits with 0.
fn program_of_32_bits() -> Vec<u8> {
    const CODE: &[u8] = b"\xb8\x04\x00\x00\x00\xbb\x01\x00\x00\x00\xb9\xa1\x80\x04\x08\xba\x07\x00\x00\x00\xcd\x80\
        \xb8\x67\x01\x00\x00\xbb\x28\x00\x00\x00\xb9\x01\x00\x00\x00\x31\xd2\xcd\x80\x83\xf8\xff\x75\x16\
        \xb8\x04\x00\x00\x00\xbb\x01\x00\x00\x00\xb9\xa8\x80\x04\x08\xba\x08\x00\x00\x00\xcd\x80\
        \xb8\x01\x00\x00\x00\x31\xdb\xcd\x80\x33\x32-bit\nrefused\n";
    const BASE: u32 = 0x0804_8000;
    const HEADERS: u32 = 52 + 32;
    let size = HEADERS + u32::try_from(CODE.len()).unwrap();
    // ELFCLASS32, little endian; an executable for EM_386 that starts behind the headers.
    let mut elf = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\x00\x03\x00".to_vec();
    for word in [1, BASE + HEADERS, 52, 0, 0] {
        elf.extend(word.to_le_bytes());
    }
    for half in [52_u16, 32, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    // PT_LOAD of the whole file, readable and executable.
    for word in [1, 0, BASE, BASE, size, size, 5, 4096] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(CODE);
    elf
}

#[test]
fn an_image_of_32_bits_runs_under_the_same_filter() {
    let capsid = Capsid::empty();
    let archive = capsid.folder("tmp").join("i386.tar");
    ImageBuilder::new()
        .layer(Layer::new().program("program", program_of_32_bits()).finish())
        .architecture("386")
        .write_docker_archive(&archive, "i386:latest");
    capsid.load(&archive).succeeds();
    capsid.run(["i386", "/program"]).succeeds().prints("32-bit\nrefused\n");
}
