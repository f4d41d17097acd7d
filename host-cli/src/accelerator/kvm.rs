//! Capsid's own VMM on KVM.

use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;

use capsid_vmm::config::{
    Config, DISKS_MAX, DiskConfig, DiskSlotsConfig, MachineConfig, NetConfig, ShareConfig, VsockConfig,
};
use capsid_vmm::{MachineExit, Status};
use rustix::fs::MemfdFlags;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::sync::oneshot;

use super::StartError;
use super::{Accelerator, Disk, MachineParts, Nic};
use crate::install_paths;
use crate::process::{HandedFiles, ended, spawn};
use crate::process::{MachineEnd, RunningMachine};

/// Context id of the guest. Every pod has a VMM of its own, so all can use the first free id.
pub(crate) const GUEST_CID: u32 = 3;

/// Kernel command line of a machine on KVM. `reboot=k panic=-1`: a panic resets at once, through the i8042 that the VMM
/// watches. `rcu_expedited`: creating and removing cgroups and mounts waits for grace periods, which last some ticks
/// each unless the kernel interrupts the few vCPUs instead.
const COMMAND_LINE: &str = "console=ttyS0 loglevel=5 reboot=k panic=-1 tsc=reliable no_timer_check noreplace-smp \
                            8250.nr_uarts=1 random.trust_cpu=on cryptomgr.notests \
                            rcupdate.rcu_expedited=1";

/// Most bytes in one status line: the console tail is 64 KiB, and JSON may escape each byte to six.
const STATUS_BYTES_MAX: usize = 512 << 10;

/// Accelerator that runs machines on KVM.
#[derive(Debug)]
pub(crate) struct Kvm;

impl Accelerator for Kvm {
    fn name(&self) -> &'static str {
        "kvm"
    }

    fn disks_max(&self, _has_network: bool) -> usize {
        DISKS_MAX
    }

    fn start(&self, parts: MachineParts) -> Result<RunningMachine, StartError> {
        let kvm = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .map_err(|source| StartError::Open {
                what: "/dev/kvm",
                source,
            })?;
        let (status_sender, status) = pipe::pipe().map_err(StartError::Socket)?;
        let mut files = HandedFiles::default();
        let config = Config::Machine(MachineConfig {
            kvm_fd: files.add(kvm),
            vcpus: parts.size.vcpus,
            memory_mib: parts.size.memory_mib,
            kernel_fd: files.add(parts.kernel),
            initramfs_fd: files.add(parts.initramfs),
            command_line: COMMAND_LINE.into(),
            disks: parts
                .disks
                .into_iter()
                .map(|disk| disk_config(disk, &mut files))
                .collect(),
            disk_slots: parts.disk_slots.map(|control| disk_slots_config(control, &mut files)),
            shares: parts
                .shares
                .into_iter()
                .map(|share| ShareConfig {
                    tag: share.tag,
                    socket_fd: files.add(share.socket),
                })
                .collect(),
            net: parts.nic.map(|nic| net_config(nic, &mut files)),
            vsock: vsock_config(parts.session, parts.control, &mut files),
            status_fd: files.add(status_sender.into_blocking_fd().map_err(StartError::Socket)?),
        });
        let config_fd = files.add(config_file(&config)?);
        let arguments = ["--config-fd".into(), config_fd.to_string()];
        let child = spawn(&install_paths::vmm()?, &arguments, files, Stdio::null())?;
        let (end_sender, end) = oneshot::channel();
        let (kill, killed) = oneshot::channel();
        tokio::task::spawn_local(async move {
            // The supervisor may have ended already: then nobody needs the result.
            let _ = end_sender.send(watch(child, status, killed).await);
        });
        Ok(RunningMachine { end, kill })
    }
}

/// Returns a disk's configuration, and adds its files to those that are passed on.
pub(super) fn disk_config(disk: Disk, files: &mut HandedFiles) -> DiskConfig {
    DiskConfig {
        serial: disk.serial,
        readonly: disk.readonly,
        ignore_flush: !disk.is_durable,
        extent_fds: disk.files.into_iter().map(|file| files.add(file)).collect(),
    }
}

/// Returns the configuration of the disk slots.
pub(super) fn disk_slots_config(control: OwnedFd, files: &mut HandedFiles) -> DiskSlotsConfig {
    DiskSlotsConfig {
        serial: capsid_protocol::spec::DISK_SLOTS_SERIAL.into(),
        control_fd: files.add(control),
    }
}

/// Returns the configuration of the network device.
pub(super) fn net_config(nic: Nic, files: &mut HandedFiles) -> NetConfig {
    NetConfig {
        mac: nic.mac,
        resolver: nic.resolver,
        control_fd: files.add(nic.control),
        bytes_per_second: nic.bytes_per_second,
    }
}

/// Returns the configuration of the socket device.
pub(super) fn vsock_config(session: OwnedFd, control: OwnedFd, files: &mut HandedFiles) -> VsockConfig {
    VsockConfig {
        guest_cid: GUEST_CID,
        session_port: capsid_protocol::SESSION_PORT,
        session_fd: files.add(session),
        control_fd: files.add(control),
    }
}

/// Writes the configuration to a memory file that is read from its start.
pub(crate) fn config_file(config: &Config) -> Result<File, StartError> {
    let json = serde_json::to_vec(config).map_err(|e| StartError::Config(e.into()))?;
    let write = || {
        let mut file = File::from(rustix::fs::memfd_create("capsid-config", MemfdFlags::CLOEXEC)?);
        file.write_all(&json)?;
        file.rewind()?;
        Ok(file)
    };
    write().map_err(StartError::Config)
}

/// Waits until the machine has ended by itself or has to be killed.
async fn watch(mut child: Child, status: pipe::Receiver, killed: oneshot::Receiver<()>) -> MachineEnd {
    let mut said = None;
    let end = tokio::select! {
        () = async { said = last_status(status).await } => None,
        _ = killed => Some(MachineEnd { reason: "ended".into(), killed: false, console: String::new() }),
    };
    if let Some(end) = end {
        // Failing to kill means that the process has already ended.
        let _ = child.kill().await;
        return end;
    }
    let exit = child.wait().await;
    match said {
        Some(Status::Exited { exit, console, .. }) => MachineEnd {
            reason: exit_reason(&exit),
            killed: false,
            console,
        },
        Some(Status::Failed { message, .. }) => MachineEnd {
            reason: message,
            killed: false,
            console: String::new(),
        },
        _ => ended("the VMM", exit, String::new()),
    }
}

/// Reads status lines until the VMM closes its end; returns the last valid one.
pub(super) async fn last_status(status: pipe::Receiver) -> Option<Status> {
    let mut reader = BufReader::new(status);
    let mut last = None;
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = tokio::io::AsyncReadExt::take(&mut reader, STATUS_BYTES_MAX as u64);
        match limited.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return last,
            Ok(_) => last = serde_json::from_slice(&line).ok().or(last),
        }
    }
}

/// Describes a machine's end in words that a user can act on.
fn exit_reason(exit: &MachineExit) -> String {
    match exit {
        MachineExit::Reset => "the guest turned the machine off".into(),
        MachineExit::GuestPanic => "the guest kernel panicked".into(),
        MachineExit::TripleFault => "a vCPU shut down by a triple fault".into(),
        MachineExit::KvmInternalError { suberror } => {
            format!(
                "KVM could not go on (internal error, suberror {suberror}): is this host's KVM real? see `capsid doctor`"
            )
        }
        MachineExit::EntryFailed { hardware_reason } => {
            format!("KVM could not enter the guest (hardware reason {hardware_reason:#x})")
        }
        MachineExit::UnknownExit { exit_reason } => format!("a vCPU exited for an unknown reason ({exit_reason})"),
        MachineExit::RunFailed { errno } => {
            format!("KVM_RUN failed: {}", std::io::Error::from_raw_os_error(*errno))
        }
        MachineExit::SupervisorGone => "the supervisor was gone".into(),
    }
}
