//! QEMU's microvm machine under TCG, for hosts without usable KVM. Our devices are served to it over vhost-user by
//! the same program that runs machines on KVM, so that each device has one implementation. QEMU's authors do not
//! call TCG a security boundary (docs/system/security.rst): the caller warns.

use std::net::Shutdown;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use capsid_vmm::Status;
use capsid_vmm::config::{Config, VhostUserConfig, VhostUserDisk, VhostUserVsock};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::sync::oneshot;

use super::kvm::{config_file, disk_config, last_status, vsock_config};
use super::process::{HandedFiles, StartError, ended, spawn};
use super::{Accelerator, MachineEnd, MachineParts, RunningMachine};
use crate::console;
use crate::parts::{self, PartError};

/// What the kernel is told. `reboot=t`: QEMU's microvm has no i8042; a triple fault ends it (`-no-reboot`).
const COMMAND_LINE: &str = "console=ttyS0 quiet reboot=t panic=-1 tsc=reliable no_timer_check 8250.nr_uarts=1 \
                            random.trust_cpu=on cryptomgr.notests";

/// The socket of the vsock device, and of disk n.
const VSOCK_SOCKET: &str = "vsock.sock";

/// How long the device process may take to say why, after QEMU has ended.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Runs machines in QEMU.
#[derive(Debug)]
pub(crate) struct Emulate {
    qemu: PathBuf,
}

impl Emulate {
    /// Looks for QEMU.
    pub(crate) fn find() -> Result<Self, PartError> {
        Ok(Self { qemu: parts::qemu()? })
    }
}

impl Accelerator for Emulate {
    fn name(&self) -> &'static str {
        "emulate"
    }

    fn start(&self, parts: MachineParts) -> Result<RunningMachine, StartError> {
        let (our_console, qemu_console) = std::os::unix::net::UnixStream::pair().map_err(StartError::Socket)?;
        our_console.shutdown(Shutdown::Write).map_err(StartError::Socket)?;
        our_console.set_nonblocking(true).map_err(StartError::Socket)?;
        let our_console = UnixStream::from_std(our_console).map_err(StartError::Socket)?;
        let mut files = HandedFiles::default();
        let arguments = arguments(
            &parts,
            files.add(parts.kernel.try_clone().map_err(StartError::Socket)?),
            files.add(parts.initramfs.try_clone().map_err(StartError::Socket)?),
            files.add(qemu_console),
        );
        let (devices, status) = start_devices(parts)?;
        let qemu = spawn(&self.qemu, &arguments, files, Stdio::inherit())?;
        let (end_sender, end) = oneshot::channel();
        let (kill, killed) = oneshot::channel();
        tokio::task::spawn_local(async move {
            // The supervisor may be gone already: then nobody needs to know.
            let _ = end_sender.send(watch(qemu, devices, status, our_console, killed).await);
        });
        Ok(RunningMachine { end, kill })
    }
}

/// Starts the process that serves our devices. Its sockets listen before anybody can connect.
fn start_devices(parts: MachineParts) -> Result<(Child, pipe::Receiver), StartError> {
    let (status_sender, status) = pipe::pipe().map_err(StartError::Socket)?;
    let mut files = HandedFiles::default();
    let mut disks = Vec::new();
    for (index, disk) in parts.disks.into_iter().enumerate() {
        let socket_fd = files.add(listen(&disk_socket(&parts.folder, index))?);
        disks.push(VhostUserDisk {
            socket_fd,
            disk: disk_config(disk, &mut files),
        });
    }
    let config = Config::VhostUser(VhostUserConfig {
        disks,
        vsock: VhostUserVsock {
            socket_fd: files.add(listen(&parts.folder.join(VSOCK_SOCKET))?),
            device: vsock_config(parts.session, parts.control, &mut files),
        },
        status_fd: files.add(status_sender.into_blocking_fd().map_err(StartError::Socket)?),
    });
    let config_fd = files.add(config_file(&config)?);
    let arguments = ["--config-fd".into(), config_fd.to_string()];
    Ok((spawn(&parts::vmm()?, &arguments, files, Stdio::inherit())?, status))
}

fn listen(path: &Path) -> Result<UnixListener, StartError> {
    UnixListener::bind(path).map_err(StartError::Socket)
}

fn disk_socket(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("disk{index}.sock"))
}

/// QEMU's command line: the microvm machine with every default device off.
fn arguments(parts: &MachineParts, kernel_fd: i32, initramfs_fd: i32, console_fd: i32) -> Vec<String> {
    let memory = parts.size.memory_mib;
    let mut words: Vec<String> = [
        "-M",
        // With ACPI on, QEMU tells of devices in its tables and not on the command line, and this kernel has no ACPI.
        // The RTC stays: without one the guest waits a full second for it. The PIT calibrates the guest's timers.
        "microvm,x-option-roms=off,acpi=off,pit=on,pic=on,rtc=on,isa-serial=on,memory-backend=memory",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        // vhost-user back ends refuse virtio 0.9.
        "-global",
        "virtio-mmio.force-legacy=false",
        "-device",
        "virtio-rng-device",
    ]
    .map(String::from)
    .to_vec();
    let mut add = |flag: &str, value: String| words.extend([flag.to_string(), value]);
    add("-smp", parts.size.vcpus.to_string());
    add("-m", format!("{memory}M"));
    add(
        "-object",
        format!("memory-backend-memfd,id=memory,size={memory}M,share=on"),
    );
    add("-kernel", format!("/proc/self/fd/{kernel_fd}"));
    add("-initrd", format!("/proc/self/fd/{initramfs_fd}"));
    add("-append", COMMAND_LINE.into());
    add("-chardev", format!("socket,id=console,fd={console_fd}"));
    add("-serial", "chardev:console".into());
    add(
        "-chardev",
        format!("socket,id=vsock,path={}", parts.folder.join(VSOCK_SOCKET).display()),
    );
    add("-device", "vhost-user-vsock-device,chardev=vsock".into());
    for index in 0..parts.disks.len() {
        add(
            "-chardev",
            format!(
                "socket,id=disk{index},path={}",
                disk_socket(&parts.folder, index).display()
            ),
        );
        add("-device", format!("vhost-user-blk-device,chardev=disk{index}"));
    }
    words
}

/// Waits until either process has ended, or the machine is to be killed.
async fn watch(
    mut qemu: Child,
    mut devices: Child,
    status: pipe::Receiver,
    console: UnixStream,
    killed: oneshot::Receiver<()>,
) -> MachineEnd {
    let console = tokio::task::spawn_local(console::collect(console));
    let mut last_words = tokio::task::spawn_local(last_status(status));
    let (program, exit) = tokio::select! {
        exit = qemu.wait() => ("QEMU", Some(exit)),
        exit = devices.wait() => ("the device process", Some(exit)),
        _ = killed => ("", None),
    };
    // Failing to kill means that it has ended.
    let _ = qemu.kill().await;
    let Some(exit) = exit else {
        let _ = devices.kill().await;
        return MachineEnd {
            reason: "ended".into(),
            killed: false,
            console: String::new(),
        };
    };
    let said = tokio::time::timeout(LAST_WORDS, &mut last_words).await;
    let _ = devices.kill().await;
    let console = console.await.unwrap_or_default();
    if let Ok(Ok(Some(Status::Failed { message, .. }))) = said {
        return MachineEnd {
            reason: message,
            killed: false,
            console,
        };
    }
    let clean = exit.as_ref().is_ok_and(|status| status.success());
    if console::tells_panic(&console) {
        return MachineEnd {
            reason: "the guest kernel panicked".into(),
            killed: false,
            console,
        };
    }
    if clean && program == "QEMU" {
        return MachineEnd {
            reason: "the guest turned the machine off".into(),
            killed: false,
            console,
        };
    }
    ended(program, exit, console)
}
