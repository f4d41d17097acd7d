//! Attacks on files outside of the root, masked files, and forgotten descriptors.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use super::{Verdict, all_blocked, one_call};
use crate::sys::{self, Arg};

/// Returns the identity of the folder at a path: device and inode.
fn identity(path: &str) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Reads docker's masked paths (moby, `oci/defaults.go`): they must be empty or absent.
pub(crate) fn read_masked_files() -> Verdict {
    let files = [
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/proc/sched_debug",
        "/proc/interrupts",
    ];
    let folders = [
        "/proc/acpi",
        "/proc/asound",
        "/proc/scsi",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
        "/sys/devices/system/cpu/cpu0/thermal_throttle",
    ];
    let read = |path: &str| {
        let mut byte = [0];
        match File::open(path)?.read(&mut byte)? {
            0 => Err(io::Error::other("empty")),
            count => Ok(count),
        }
    };
    let list = |path: &str| {
        fs::read_dir(path)?
            .next()
            .ok_or_else(|| io::Error::other("empty"))?
            .map(|entry| entry.file_name())
    };
    let files = files.map(|path| one_call(path, read(path)));
    all_blocked(files.into_iter().chain(folders.map(|path| one_call(path, list(path)))))
}

pub(crate) fn leave_root_by_dotdot() -> Verdict {
    let (root, above) = (identity("/"), identity("/../../../.."));
    if root == above {
        Verdict::Blocked("/.. is /".to_owned())
    } else {
        Verdict::Succeeded(format!("{above:?}"))
    }
}

/// Leaves the root by chroot(2), "This call does not change the current working directory": a folder kept open outside
/// of a new root leads upwards past it, but must not lead past the container's.
pub(crate) fn leave_root_by_chroot() -> Verdict {
    let root = identity("/");
    let _ = fs::create_dir("/tmp/cell");
    let outside = File::open("/").expect("own root");
    if let Err(error) = std::os::unix::fs::chroot("/tmp/cell") {
        return Verdict::Blocked(format!("chroot: {error}"));
    }
    sys::call(libc::SYS_fchdir, vec![Arg::Int(i64::from(outside.as_raw_fd()))]).expect("an open folder");
    for _ in 0..64 {
        let _ = env::set_current_dir("..");
    }
    let reached = identity(".");
    if reached == root {
        Verdict::Blocked("no further up than the container's root".to_owned())
    } else {
        Verdict::Succeeded(format!("a folder above the root: {reached:?}"))
    }
}

/// Leaves the root by procfs: every root and working folder that it shows is the container's own.
pub(crate) fn leave_root_by_proc() -> Verdict {
    let root = identity("/");
    let mut attempts = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = process.path().join("root").display().to_string();
        match identity(&path) {
            Some(reached) if Some(reached) != root => attempts.push(Verdict::Succeeded(path)),
            _ => attempts.push(Verdict::Blocked(path)),
        }
    }
    all_blocked(attempts)
}

/// Opens files by handle ("Shocker"): inode numbers instead of names, resolved beside every mount.
pub(crate) fn open_by_handle() -> Verdict {
    let root = File::open("/").expect("own root");
    let mut attempts = Vec::new();
    for inode in [1_u32, 2, 36, 64, 128] {
        // struct file_handle: 8 bytes of handle, type 1 (FILEID_INO32_GEN), inode and generation.
        let words = [8_u32, 1, inode, 0];
        let handle: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
        let arguments = vec![Arg::Int(i64::from(root.as_raw_fd())), Arg::In(&handle), Arg::Int(0)];
        match sys::call(libc::SYS_open_by_handle_at, arguments) {
            Err(error) if error.raw_os_error() == Some(libc::ESTALE) => {
                attempts.push(Verdict::Succeeded(format!("inode {inode} was looked up: {error}")));
            }
            result => attempts.push(one_call(&format!("inode {inode}"), result)),
        }
    }
    all_blocked(attempts)
}

/// Sets the mark of an incomplete copy of the image's files, which the agent removes: only the agent may set it.
pub(crate) fn mark_volume() -> Verdict {
    let (path, name) = (sys::c_string("/"), sys::c_string("trusted.capsid.filling"));
    let arguments = vec![Arg::In(&path), Arg::In(&name), Arg::In(&[]), Arg::Int(0), Arg::Int(0)];
    one_call("setxattr", sys::call(libc::SYS_setxattr, arguments))
}

/// Looks for inherited descriptors: only the three standard streams come from the agent.
pub(crate) fn inherited_descriptors() -> Verdict {
    let mut attempts = vec![Verdict::Blocked("none beyond the standard streams".to_owned())];
    let own = format!("/proc/{}/fd", std::process::id());
    for entry in fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        let number: i32 = entry.file_name().to_string_lossy().parse().unwrap_or(0);
        let target = fs::read_link(entry.path())
            .map(|path| path.display().to_string())
            .unwrap_or_default();
        // The descriptor of this very listing is gone by the time its name is read, or shows the listing.
        if number > 2 && target != own && !target.is_empty() {
            attempts.push(Verdict::Succeeded(format!("descriptor {number} is {target}")));
        }
    }
    all_blocked(attempts)
}

/// Overwrites the program that set the container up, through procfs (CVE-2019-5736).
pub(crate) fn overwrite_init() -> Verdict {
    all_blocked(["/proc/1/exe", "/proc/self/exe"].map(|path| one_call(path, OpenOptions::new().write(true).open(path))))
}

pub(crate) fn leave_cgroup() -> Verdict {
    let write = |path: &str, text: &str| {
        one_call(
            path,
            OpenOptions::new()
                .write(true)
                .open(path)
                .and_then(|mut file| file.write_all(text.as_bytes())),
        )
    };
    all_blocked([
        write("/sys/fs/cgroup/cgroup.procs", "0"),
        write("/sys/fs/cgroup/../cgroup.procs", "0"),
        write("/sys/fs/cgroup/memory.max", "max"),
        write("/sys/fs/cgroup/pids.max", "max"),
        write("/sys/fs/cgroup/cpu.max", "max"),
        one_call("a child cgroup", fs::create_dir("/sys/fs/cgroup/child")),
    ])
}

/// Uses a cgroup v1 release agent (CVE-2022-0492), which runs any program: there must be no v1 hierarchy to mount or
/// write.
pub(crate) fn release_agent() -> Verdict {
    let _ = fs::create_dir("/tmp/hierarchy");
    let words = ["none", "/tmp/hierarchy", "cgroup", "memory"].map(sys::c_string);
    let arguments = vec![
        Arg::In(&words[0]),
        Arg::In(&words[1]),
        Arg::In(&words[2]),
        Arg::Int(0),
        Arg::In(&words[3]),
    ];
    all_blocked([
        one_call("mount cgroup v1", sys::call(libc::SYS_mount, arguments)),
        one_call(
            "release_agent",
            OpenOptions::new().write(true).open("/sys/fs/cgroup/release_agent"),
        ),
    ])
}
