//! Attacks on the machine's own disks, memory, ports and console.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};

use super::{Verdict, all_blocked, one_call};
use crate::sys::{self, Arg};

/// Minors tried for each block driver: virtio-blk names 26 disks of 16 partitions.
const MINORS: i64 = 64;

/// Makes a node and opens it: the node may be made (docker grants MKNOD), the device must not answer.
fn open_node(kind: libc::mode_t, major: u32, minor: u32, write: bool) -> io::Result<fs::File> {
    let path = format!("/tmp/node-{major}-{minor}");
    let device = i64::try_from(libc::makedev(major, minor)).expect("small numbers");
    let name = sys::c_string(&path);
    let made = sys::call(
        libc::SYS_mknod,
        vec![Arg::In(&name), Arg::Int(i64::from(kind | 0o600)), Arg::Int(device)],
    );
    let opened = made.and_then(|_| OpenOptions::new().read(true).write(write).open(&path));
    let _ = fs::remove_file(&path);
    opened
}

/// Returns the major numbers of block drivers in `/proc/devices`.
fn block_majors() -> Vec<u32> {
    let text = fs::read_to_string("/proc/devices").unwrap_or_default();
    let block = text
        .split_once("Block devices:")
        .map(|(_, block)| block)
        .unwrap_or_default();
    block
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .collect()
}

/// Returns the numbers of disks in sysfs, and every number around them.
fn disk_numbers() -> Vec<(u32, u32)> {
    let parse = |text: String| {
        let (major, minor) = text.trim().split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    let listed = fs::read_dir("/sys/class/block").into_iter().flatten().flatten();
    let listed = listed.filter_map(|entry| parse(fs::read_to_string(entry.path().join("dev")).ok()?));
    let mut numbers: Vec<(u32, u32)> = listed.collect();
    let minors = 0..u32::try_from(MINORS).expect("small");
    numbers.extend(
        block_majors()
            .into_iter()
            .flat_map(|major| minors.clone().map(move |minor| (major, minor))),
    );
    numbers
}

/// Opens any disk for reading: the agent's, the rootfs under the overlay, the scratch disk with its upper folder.
pub(crate) fn open_block_devices() -> Verdict {
    all_blocked(disk_numbers().into_iter().map(|(major, minor)| {
        let what = format!("block device {major}:{minor}");
        one_call(&what, open_node(libc::S_IFBLK, major, minor, false).and_then(read_some))
    }))
}

fn read_some(mut file: fs::File) -> io::Result<usize> {
    let mut block = [0; 512];
    match file.read(&mut block)? {
        0 => Err(io::Error::other("empty")),
        count => Ok(count),
    }
}

/// Writes to the image's disk, which is read-only on the host's side: no guest, however privileged, changes the host's
/// file.
pub(crate) fn write_rootfs_disk() -> Verdict {
    // EROFS, Documentation/filesystems/erofs: the magic E0F5E1E2 at byte 1024.
    let is_rootfs = |disk: &mut fs::File| {
        let mut magic = [0; 4];
        disk.seek(SeekFrom::Start(1024))
            .and_then(|_| disk.read_exact(&mut magic))
            .is_ok()
            && u32::from_le_bytes(magic) == 0xE0F5_E1E2
    };
    all_blocked(disk_numbers().into_iter().map(|(major, minor)| {
        let what = format!("write to rootfs disk {major}:{minor}");
        let Ok(mut disk) = open_node(libc::S_IFBLK, major, minor, false) else {
            return Verdict::Blocked(format!("{major}:{minor} does not open"));
        };
        if !is_rootfs(&mut disk) {
            return Verdict::Blocked(format!("{major}:{minor} is no rootfs"));
        }
        make_writable(&disk);
        one_call(
            &what,
            open_node(libc::S_IFBLK, major, minor, true).and_then(overwrite_last_block),
        )
    }))
}

/// Removes the read-only mark, BLKROSET with 0: the guest may remove its own mark.
fn make_writable(disk: &fs::File) {
    use std::os::fd::AsRawFd;
    let zero = 0_i32.to_ne_bytes();
    let _ = sys::call(
        libc::SYS_ioctl,
        vec![Arg::Int(i64::from(disk.as_raw_fd())), Arg::Int(0x125d), Arg::In(&zero)],
    );
}

fn overwrite_last_block(mut disk: fs::File) -> io::Result<()> {
    let end = disk.seek(SeekFrom::End(0))?;
    disk.seek(SeekFrom::Start(end - 4096))?;
    disk.write_all(&[0xA5; 4096])?;
    disk.sync_all()
}

/// Opens `/dev/mem`, `/dev/kmem`, `/dev/port`, `/dev/kmsg`.
pub(crate) fn open_memory_devices() -> Verdict {
    all_blocked([1, 2, 4, 11].map(|minor| {
        one_call(
            &format!("character device 1:{minor}"),
            open_node(libc::S_IFCHR, 1, minor, true),
        )
    }))
}

/// Opens the machine's console: anything written there would appear in the host's log of the guest.
pub(crate) fn open_console() -> Verdict {
    all_blocked([(4, 64), (4, 0), (229, 0), (10, 1)].map(|(major, minor)| {
        one_call(
            &format!("character device {major}:{minor}"),
            open_node(libc::S_IFCHR, major, minor, true),
        )
    }))
}

/// Accesses ports of the machine: the reset of the i8042, the UART.
pub(crate) fn io_ports() -> Verdict {
    all_blocked([
        one_call("iopl", sys::call(libc::SYS_iopl, vec![Arg::Int(3)])),
        one_call(
            "ioperm",
            sys::call(libc::SYS_ioperm, vec![Arg::Int(0x60), Arg::Int(8), Arg::Int(1)]),
        ),
    ])
}

/// Uses a file of the container as swap.
pub(crate) fn swap_on() -> Verdict {
    let path = sys::c_string("/tmp/swap");
    let _ = fs::write("/tmp/swap", vec![0; 1 << 16]);
    one_call("swapon", sys::call(libc::SYS_swapon, vec![Arg::In(&path), Arg::Int(0)]))
}
