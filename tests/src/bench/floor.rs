//! The floor under every start: QEMU's microvm booting the same kernel, with the same options and as much memory as a
//! pod has, and an initramfs of one program that ends it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use capsid_tests::environment::{part, patience};

/// Machine that only starts and ends.
#[derive(Debug)]
pub(crate) struct Floor {
    initramfs: PathBuf,
    accelerator: &'static str,
    /// Kernel command line, without the argument for its first process.
    command_line: String,
}

/// Default memory of a pod, MiB.
const MEMORY_MIB: &str = "1024";

/// Kernel command line of Capsid under KVM, except `reboot`: this machine has no keyboard controller.
pub(crate) const KVM_COMMAND_LINE: &str = "console=ttyS0 quiet reboot=t panic=-1 tsc=reliable no_timer_check \
                                           noreplace-smp 8250.nr_uarts=1 random.trust_cpu=on cryptomgr.notests \
                                           rcupdate.rcu_expedited=1";

impl Floor {
    /// Prepares the machine for an accelerator of QEMU and kernel options; files are written to `folder`.
    pub(crate) fn new(folder: &Path, accelerator: &'static str, command_line: String) -> Self {
        let initramfs = folder.join("floor.cpio");
        fs::write(
            &initramfs,
            archive(&[("init", 0o100_755, &fs::read(part("capsid-probe")).unwrap())]),
        )
        .unwrap();
        Self {
            initramfs,
            accelerator,
            command_line,
        }
    }

    /// Measures the time from process start to process end.
    pub(crate) fn whole(&self) -> Duration {
        let started = Instant::now();
        let mut child = self.start("power-off", Stdio::null());
        let status = capsid_tests::invocation::wait_until(&mut child, started + patience(60));
        assert!(
            status.is_some_and(|status| status.success()),
            "the bare machine did not end: {status:?}"
        );
        started.elapsed()
    }

    /// Measures the time from process start to the first output of the guest's first process.
    pub(crate) fn until_first_process(&self) -> Duration {
        let started = Instant::now();
        let mut child = self.start("announce", Stdio::piped());
        let console = BufReader::new(child.stdout.take().unwrap());
        let announced = console
            .lines()
            .map_while(Result::ok)
            .any(|line| line.contains("announced"));
        let took = started.elapsed();
        assert!(announced, "the bare machine said nothing");
        child.wait().unwrap();
        took
    }

    fn start(&self, word: &str, console: Stdio) -> Child {
        let line = format!("{} rdinit=/init -- {word}", self.command_line);
        let mut command = bare_machine(self.accelerator, &self.initramfs, &line);
        command.stdout(console).stderr(Stdio::inherit());
        command.spawn().expect("qemu-system-x86 is installed")
    }
}

/// Builds the command of QEMU's microvm with Capsid's kernel and this initramfs.
pub(crate) fn bare_machine(accelerator: &str, initramfs: &Path, line: &str) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args([
            "-M",
            "microvm,x-option-roms=off,pit=on,pic=on,rtc=on,isa-serial=on,acpi=off",
            "-no-user-config",
            "-nodefaults",
        ])
        .args([
            "-display",
            "none",
            "-no-reboot",
            "-m",
            MEMORY_MIB,
            "-smp",
            "1",
            "-serial",
            "stdio",
        ])
        .args(["-accel", accelerator])
        .args(["-cpu", if accelerator == "kvm" { "host" } else { "max" }])
        .arg("-kernel")
        .arg(part("vmlinux"))
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", line])
        .stdin(Stdio::null());
    command
}

/// Builds a cpio archive (Documentation/driver-api/early-userspace/buffer-format.rst, "newc") of these files, with
/// their modes.
pub(crate) fn archive(files: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, mode, content) in files {
        append(&mut archive, name, *mode, content);
    }
    append(&mut archive, "TRAILER!!!", 0, &[]);
    archive
}

fn append(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let size = u32::try_from(content.len()).unwrap();
    let name_size = u32::try_from(name.len() + 1).unwrap();
    // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
    let fields = [1, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
    archive.extend(b"070701");
    fields
        .iter()
        .for_each(|field| archive.extend(format!("{field:08x}").bytes()));
    archive.extend(name.bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}
