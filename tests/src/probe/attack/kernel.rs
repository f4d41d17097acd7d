//! Attacks on the guest's kernel: modules, clocks, parameters, logs, and the calls that have been its weak spots.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use super::{Verdict, all_blocked, one_call};
use crate::sys::{self, Arg};

pub(crate) fn load_module() -> Verdict {
    let image = [0_u8; 64];
    let options = sys::c_string("");
    let exe = File::open("/proc/self/exe").expect("own program");
    let descriptor = Arg::Int(i64::from(exe.as_raw_fd()));
    // EPERM or ENOSYS is a refusal; ENOEXEC would mean that the kernel looked at the module.
    all_blocked([
        refused(
            "init_module",
            sys::call(
                libc::SYS_init_module,
                vec![Arg::In(&image), Arg::Int(64), Arg::In(&options)],
            ),
        ),
        refused(
            "finit_module",
            sys::call(libc::SYS_finit_module, vec![descriptor, Arg::In(&options), Arg::Int(0)]),
        ),
        refused(
            "delete_module",
            sys::call(libc::SYS_delete_module, vec![Arg::In(&options), Arg::Int(0)]),
        ),
    ])
}

/// Blocked only if the caller is refused, not the arguments.
fn refused(what: &str, result: io::Result<i64>) -> Verdict {
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS | libc::EACCES)) => {
            Verdict::Blocked(format!("{what}: {error}"))
        }
        Err(error) => Verdict::Succeeded(format!("{what} got as far as: {error}")),
        Ok(value) => Verdict::Succeeded(format!("{what} returned {value}")),
    }
}

pub(crate) fn kexec() -> Verdict {
    let nothing = [0_u8; 8];
    let load = vec![Arg::Int(0), Arg::Int(0), Arg::In(&nothing), Arg::Int(0)];
    let line = sys::c_string("");
    let load_file = vec![Arg::Int(0), Arg::Int(-1), Arg::Int(1), Arg::In(&line), Arg::Int(0)];
    all_blocked([
        refused("kexec_load", sys::call(libc::SYS_kexec_load, load)),
        refused("kexec_file_load", sys::call(libc::SYS_kexec_file_load, load_file)),
    ])
}

/// Calls `LINUX_REBOOT_CMD_CAD_OFF`, the harmless command: whoever may do it may do them all.
pub(crate) fn reboot() -> Verdict {
    let arguments = [0xfee1_dead_u32, 672_274_793, 0].map(|word| Arg::Int(i64::from(word)));
    refused("reboot", sys::call(libc::SYS_reboot, arguments.into()))
}

pub(crate) fn bpf() -> Verdict {
    // BPF_MAP_CREATE of an array: type 2, key 4 bytes, value 4 bytes, 1 entry.
    let attributes: Vec<u8> = [2_u32, 4, 4, 1]
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .chain([0; 112])
        .collect();
    refused(
        "bpf",
        sys::call(libc::SYS_bpf, vec![Arg::Int(0), Arg::In(&attributes), Arg::Int(128)]),
    )
}

pub(crate) fn perf_events() -> Verdict {
    // PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK of every process on processor 0.
    let mut attributes = vec![0_u8; 128];
    attributes[..4].copy_from_slice(&1_u32.to_ne_bytes());
    attributes[4..8].copy_from_slice(&128_u32.to_ne_bytes());
    let arguments = vec![
        Arg::In(&attributes),
        Arg::Int(-1),
        Arg::Int(0),
        Arg::Int(-1),
        Arg::Int(0),
    ];
    refused("perf_event_open", sys::call(libc::SYS_perf_event_open, arguments))
}

pub(crate) fn userfaultfd() -> Verdict {
    refused("userfaultfd", sys::call(libc::SYS_userfaultfd, vec![Arg::Int(0)]))
}

pub(crate) fn keyrings() -> Verdict {
    let (kind, name) = (sys::c_string("user"), sys::c_string("capsid"));
    let add = vec![Arg::In(&kind), Arg::In(&name), Arg::In(b"x"), Arg::Int(1), Arg::Int(-3)];
    all_blocked([
        refused("add_key", sys::call(libc::SYS_add_key, add)),
        // KEYCTL_GET_KEYRING_ID of the session keyring.
        refused(
            "keyctl",
            sys::call(libc::SYS_keyctl, vec![Arg::Int(0), Arg::Int(-3), Arg::Int(1)]),
        ),
    ])
}

pub(crate) fn kernel_log() -> Verdict {
    let mut buffer = vec![0; 4096];
    // SYSLOG_ACTION_READ_ALL
    let arguments = vec![Arg::Int(3), Arg::Out(&mut buffer), Arg::Int(4096)];
    all_blocked([
        refused("syslog", sys::call(libc::SYS_syslog, arguments)),
        one_call("/proc/kmsg", read_first("/proc/kmsg")),
        one_call("/dev/kmsg", File::open("/dev/kmsg")),
    ])
}

fn read_first(path: &str) -> io::Result<usize> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    match file.read(&mut [0; 64])? {
        0 => Err(io::Error::other("empty")),
        count => Ok(count),
    }
}

pub(crate) fn set_clock() -> Verdict {
    let time = [0_u8; 16];
    all_blocked([
        refused(
            "clock_settime",
            sys::call(libc::SYS_clock_settime, vec![Arg::Int(0), Arg::In(&time)]),
        ),
        refused(
            "settimeofday",
            sys::call(libc::SYS_settimeofday, vec![Arg::In(&time), Arg::Int(0)]),
        ),
    ])
}

pub(crate) fn process_accounting() -> Verdict {
    let path = sys::c_string("/tmp/accounting");
    let _ = fs::write("/tmp/accounting", "");
    refused("acct", sys::call(libc::SYS_acct, vec![Arg::In(&path)]))
}

/// Writes back the value that it read: a success changes nothing, and is still a success.
fn write_back(path: &str) -> Verdict {
    let value = fs::read(path).unwrap_or_else(|_| b"1\n".to_vec());
    one_call(
        path,
        OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|mut file| file.write_all(&value)),
    )
}

pub(crate) fn write_kernel_parameters() -> Verdict {
    let paths = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/panic",
        "/proc/sys/kernel/pid_max",
        "/proc/sys/kernel/randomize_va_space",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sys/vm/panic_on_oom",
        "/proc/sys/fs/file-max",
        "/proc/sys/fs/suid_dumpable",
        "/proc/sys/kernel/kptr_restrict",
        "/proc/irq/default_smp_affinity",
        "/proc/bus/input/devices",
    ];
    all_blocked(paths.map(write_back))
}

/// Opens every file of sysfs for writing: not one may open.
pub(crate) fn write_sysfs() -> Verdict {
    let mut attempts = vec![write_back("/sys/kernel/uevent_helper"), write_back("/sys/power/state")];
    for_each_file(Path::new("/sys"), 0, &mut |path| {
        let what = path.display().to_string();
        attempts.push(one_call(&what, OpenOptions::new().write(true).open(path)));
    });
    all_blocked(attempts)
}

fn for_each_file(folder: &Path, depth: usize, visit: &mut dyn FnMut(&Path)) {
    // sysfs is deep and repeats itself through links, which are not followed.
    if depth > 6 {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => for_each_file(&entry.path(), depth + 1, visit),
            Ok(kind) if kind.is_file() => visit(&entry.path()),
            _ => {}
        }
    }
}

/// Only opens the file: a sysrq that works would be noticed by nobody but the reader of the console.
pub(crate) fn sysrq() -> Verdict {
    one_call(
        "/proc/sysrq-trigger",
        OpenOptions::new().write(true).open("/proc/sysrq-trigger"),
    )
}
