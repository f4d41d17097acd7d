//! QEMU's microvm machine under TCG, for hosts without usable KVM. Capsid's devices are served to it over vhost-user by
//! the same program that runs machines on KVM, so that each device has one implementation. QEMU's authors do not call
//! TCG a security boundary (docs/system/security.rst): the caller warns, and QEMU runs in a jail like that of Capsid's
//! own VMM (`capsid_vmm::emulator`), or not at all.

use std::fs::{File, Permissions};
use std::io::{self, Seek};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use capsid_vmm::Status;
use capsid_vmm::config::{
    Config, EmulatorConfig, MEMORY_MIB_MIN, VhostUserConfig, VhostUserDisk, VhostUserDiskSlots, VhostUserNet,
    VhostUserVsock,
};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::StartError;
use super::frequency::Reading;
use super::kvm::{config_file, disk_config, disk_slots_config, last_status, net_config, vsock_config};
use super::program;
use super::{Accelerator, Disk, MachineParts, Nic, Share};
use crate::console;
use crate::ephemeral_socket;
use crate::install_paths::{self, PartError};
use crate::model::{MachineSize, mac_words};
use crate::process::{HandedFiles, collect_complaints, ended, last_complaint, spawn};
use crate::process::{MachineEnd, RunningMachine};

/// Kernel command line of an emulated machine. `reboot=t`: QEMU's microvm has no i8042; a triple fault ends it
/// (`-no-reboot`). `noapictimer`: under emulation, the kernel calibrates the APIC's timer for a quarter of a second and
/// then mostly finds it unfit, since the emulator does not run evenly; the PIT serves from the beginning instead.
/// `clearcpuid`: QEMU 7.2 computes the flags after `cmpxchg16b` from state that it has not written back yet
/// (`target/i386/tcg/translate.c`: no `gen_update_cc_op` before the helper), and an interrupt at that moment keeps a
/// part of a pointer as flags, virtual-8086 mode among them: a double fault on return, about once in some hundred
/// starts. The kernel does without the instruction; programs still find it. `swiotlb`: see [`BOUNCED`]; 2048 slots are
/// 4 MiB, room for a disk's read-ahead. The rest as under KVM.
const COMMAND_LINE: &str = "console=ttyS0 loglevel=5 reboot=t panic=-1 tsc=reliable no_timer_check noapictimer \
                            noreplace-smp 8250.nr_uarts=1 random.trust_cpu=on cryptomgr.notests \
                            rcupdate.rcu_expedited=1 swiotlb=2048,force clearcpuid=cx16";

/// Option for devices whose bytes may become programs: disks and shares. QEMU's translations of code do not notice when
/// another process writes to guest memory: a page that held one program's code and is read anew with another's would go
/// on running the first. With this option the guest makes devices write to bounce buffers (`swiotlb`) and copies from
/// there itself, which QEMU notices.
const BOUNCED: &str = "iommu_platform=on";

/// Number of virtio-mmio transports of the microvm machine: 8 without ACPI. More would need a second IO-APIC, which
/// only ACPI can describe to a guest (hw/i386/microvm.c, 7.2 to 10).
const TRANSPORTS: usize = 8;
/// Number of transports for other devices: sockets and the balloon.
const OTHER_DEVICES: usize = 2;

/// Time limit for the device process to report its reason after QEMU has ended.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Name of the QEMU accelerator.
pub(crate) const EMULATE: &str = "emulate";

/// Accelerator that runs machines in QEMU.
#[derive(Debug)]
pub(crate) struct Emulate {
    qemu: PathBuf,
    /// First reading of the cycle counter; the start of a machine takes the second.
    counter: Reading,
}

impl Emulate {
    /// Finds QEMU on this host.
    pub(crate) fn find() -> Result<Self, PartError> {
        Ok(Self {
            qemu: install_paths::qemu()?,
            counter: Reading::take(),
        })
    }
}

impl Accelerator for Emulate {
    fn name(&self) -> &'static str {
        EMULATE
    }

    fn disks_max(&self, has_network: bool) -> usize {
        TRANSPORTS - OTHER_DEVICES - usize::from(has_network)
    }

    fn start(&self, parts: MachineParts) -> Result<RunningMachine, StartError> {
        let (our_console, qemu_console) = StdStream::pair().map_err(StartError::Socket)?;
        // Never written to, but not shut down either: QEMU treats a shutdown as a hang-up and drops the guest's output.
        our_console.set_nonblocking(true).map_err(StartError::Socket)?;
        let our_console = UnixStream::from_std(our_console).map_err(StartError::Socket)?;
        let mut files = HandedFiles::default();
        let reopened_fds = vec![
            files.add(readable_by_all(parts.kernel).map_err(StartError::Kernel)?),
            files.add(parts.initramfs),
        ];
        let mut arguments = machine_arguments(
            parts.size,
            &reopened_fds,
            files.add(qemu_console),
            &command_line(self.counter.khz_since()),
        );
        let mut sockets = Sockets::connect(
            parts.disks.len(),
            parts.disk_slots.is_some(),
            &mut files,
            &mut arguments,
        )?;
        if let Some(nic) = &parts.nic {
            sockets.net = Some(connect_nic(nic, &parts.folder, &mut files, &mut arguments)?);
        }
        connect_shares(parts.shares, &mut files, &mut arguments);
        let (devices, status) = start_devices(
            parts.disks,
            parts.disk_slots,
            parts.nic,
            (parts.session, parts.control),
            sockets,
        )?;
        let mut qemu = self.start_qemu(parts.size, arguments, reopened_fds, files)?;
        // QEMU's messages explain a failure and are not the user's output: they are reported with the machine's end, or
        // not at all.
        let complaints = tokio::task::spawn_local(collect_complaints(qemu.stderr.take()));
        let (end_sender, end) = oneshot::channel();
        let (kill, killed) = oneshot::channel();
        tokio::task::spawn_local(async move {
            // The supervisor may have ended already: then nobody needs the result.
            let _ = end_sender.send(watch(qemu, devices, status, our_console, complaints, killed).await);
        });
        Ok(RunningMachine { end, kill })
    }
}

impl Emulate {
    /// Starts QEMU in its jail.
    fn start_qemu(
        &self,
        size: MachineSize,
        arguments: Vec<String>,
        reopened_fds: Vec<i32>,
        mut files: HandedFiles,
    ) -> Result<Child, StartError> {
        let program = program::find(&self.qemu).map_err(StartError::Emulator)?;
        let mut fds = files.numbers();
        fds.retain(|number| !reopened_fds.contains(number));
        let config = Config::Emulator(EmulatorConfig {
            executable: program::EXECUTABLE.into(),
            files: program.files,
            arguments,
            environment: program.environment,
            vcpus: size.vcpus,
            memory_mib: size.memory_mib,
            fds,
            reopened_fds,
            reports: false,
        });
        let config_fd = files.add(config_file(&config)?);
        let words = ["--config-fd".into(), config_fd.to_string()];
        Ok(spawn(&install_paths::vmm()?, &words, files, Stdio::piped())?)
    }
}

/// Returns the command that confines the QEMU at `qemu`, reports the layers of the jail, and makes QEMU print its
/// version.
pub(crate) fn reporting_qemu(qemu: &Path) -> Result<Command, StartError> {
    let program = program::find(qemu).map_err(StartError::Emulator)?;
    let config = Config::Emulator(EmulatorConfig {
        executable: program::EXECUTABLE.into(),
        files: program.files,
        arguments: vec!["--version".into()],
        environment: program.environment,
        vcpus: 1,
        memory_mib: MEMORY_MIB_MIN,
        fds: Vec::new(),
        reopened_fds: Vec::new(),
        reports: true,
    });
    let mut files = HandedFiles::default();
    let config_fd = files.add(config_file(&config)?);
    let mut command = Command::new(install_paths::vmm()?);
    command
        .args(["--config-fd", &config_fd.to_string()])
        .stdin(Stdio::null());
    files.hand_to(&mut command)?;
    Ok(command)
}

/// Returns the file itself, or a copy in memory when only its owner may read it: when Capsid runs as root, QEMU is
/// another user and reopens the file.
fn readable_by_all(mut file: File) -> io::Result<File> {
    const OTHERS_READ: u32 = 0o004;
    if !rustix::process::geteuid().is_root() || file.metadata()?.mode() & OTHERS_READ != 0 {
        return Ok(file);
    }
    let mut copy = File::from(rustix::fs::memfd_create(
        "capsid-kernel",
        rustix::fs::MemfdFlags::CLOEXEC,
    )?);
    file.rewind()?;
    io::copy(&mut file, &mut copy)?;
    Ok(copy)
}

/// Device process's ends of the sockets whose other ends QEMU has.
#[derive(Debug)]
struct Sockets {
    vsock: StdStream,
    disks: Vec<StdStream>,
    disk_slots: Option<StdStream>,
    /// Listener that QEMU connects to.
    net: Option<UnixListener>,
}

impl Sockets {
    /// Creates a connected pair for each device and adds QEMU's ends to its arguments.
    fn connect(
        disks: usize,
        has_disk_slots: bool,
        files: &mut HandedFiles,
        arguments: &mut Vec<String>,
    ) -> Result<Self, StartError> {
        let mut connect = |name: &str, device: &str| {
            let (ours, theirs) = StdStream::pair().map_err(StartError::Socket)?;
            let fd = files.add(theirs);
            arguments.extend(["-chardev".into(), format!("socket,id={name},fd={fd}")]);
            arguments.extend(["-device".into(), format!("{device},chardev={name}")]);
            Ok::<_, StartError>(ours)
        };
        let disk = format!("vhost-user-blk,{BOUNCED}");
        Ok(Self {
            vsock: connect("vsock", "vhost-user-vsock-device")?,
            disks: (0..disks)
                .map(|index| connect(&format!("disk{index}"), &disk))
                .collect::<Result<_, _>>()?,
            disk_slots: has_disk_slots.then(|| connect("disk-slots", &disk)).transpose()?,
            net: None,
        })
    }
}

/// Adds the network device to QEMU's arguments and returns its listener. The device is Capsid's except for its hardware
/// address. Not [`BOUNCED`]: it writes frames, whose bytes the guest's kernel copies before they become anybody's code.
/// For this kind of device alone QEMU accepts no connection, but wants to connect itself (net/vhost-user.c requires a
/// socket that can pass descriptors, and char-socket.c does not recognize that ability in a socket that was passed to
/// it).
fn connect_nic(
    nic: &Nic,
    folder: &Path,
    files: &mut HandedFiles,
    arguments: &mut Vec<String>,
) -> Result<UnixListener, StartError> {
    let (listener, file) = ephemeral_socket::listener(folder).map_err(StartError::Socket)?;
    // When Capsid runs as root, QEMU is another user. Nobody else can reach a socket without a name.
    let everybody = Permissions::from_mode(0o666);
    std::fs::set_permissions(format!("/proc/self/fd/{}", file.as_raw_fd()), everybody).map_err(StartError::Socket)?;
    let fd = files.add(file);
    let mac = mac_words(nic.mac);
    arguments.extend(["-chardev".into(), format!("socket,id=nic,path=/fd/{fd}")]);
    arguments.extend(["-netdev".into(), "vhost-user,id=net,chardev=nic".into()]);
    arguments.extend(["-device".into(), format!("virtio-net-device,netdev=net,mac={mac}")]);
    Ok(listener)
}

/// Adds the sockets of the file servers to QEMU's arguments.
fn connect_shares(shares: Vec<Share>, files: &mut HandedFiles, arguments: &mut Vec<String>) {
    for (index, share) in shares.into_iter().enumerate() {
        let fd = files.add(share.socket);
        let tag = share.tag;
        arguments.extend(["-chardev".into(), format!("socket,id=share{index},fd={fd}")]);
        arguments.extend([
            "-device".into(),
            format!("vhost-user-fs-device,{BOUNCED},chardev=share{index},tag={tag},queue-size=1024"),
        ]);
    }
}

/// Returns the kernel's command line, with the cycle counter's frequency where it is known.
fn command_line(tsc_khz: Option<u64>) -> String {
    match tsc_khz {
        Some(khz) => format!("{COMMAND_LINE} tsc_early_khz={khz}"),
        None => COMMAND_LINE.into(),
    }
}

/// Starts the process that serves Capsid's devices.
fn start_devices(
    disks: Vec<Disk>,
    disk_slots: Option<OwnedFd>,
    nic: Option<Nic>,
    (session, control): (OwnedFd, OwnedFd),
    sockets: Sockets,
) -> Result<(Child, pipe::Receiver), StartError> {
    let (status_sender, status) = pipe::pipe().map_err(StartError::Socket)?;
    let mut files = HandedFiles::default();
    let config = Config::VhostUser(VhostUserConfig {
        disks: disks
            .into_iter()
            .zip(sockets.disks)
            .map(|(disk, socket)| VhostUserDisk {
                socket_fd: files.add(socket),
                disk: disk_config(disk, &mut files),
            })
            .collect(),
        disk_slots: disk_slots
            .zip(sockets.disk_slots)
            .map(|(control, socket)| VhostUserDiskSlots {
                socket_fd: files.add(socket),
                device: disk_slots_config(control, &mut files),
            }),
        net: nic.zip(sockets.net).map(|(nic, listener)| VhostUserNet {
            listener_fd: files.add(listener),
            device: net_config(nic, &mut files),
        }),
        vsock: VhostUserVsock {
            socket_fd: files.add(sockets.vsock),
            device: vsock_config(session, control, &mut files),
        },
        status_fd: files.add(status_sender.into_blocking_fd().map_err(StartError::Socket)?),
    });
    let config_fd = files.add(config_file(&config)?);
    let arguments = ["--config-fd".into(), config_fd.to_string()];
    Ok((spawn(&install_paths::vmm()?, &arguments, files, Stdio::null())?, status))
}

/// Returns QEMU's command line without Capsid's devices: the microvm machine with every default device off.
fn machine_arguments(size: MachineSize, reopened_fds: &[i32], console_fd: i32, command_line: &str) -> Vec<String> {
    let memory = size.memory_mib;
    // With ACPI on, QEMU describes devices in its tables and not on the command line, and this kernel has no ACPI. The
    // RTC stays: without one the guest waits a full second for it. The PIT calibrates the guest's timers.
    let machine = "microvm,x-option-roms=off,acpi=off,pit=on,pic=on,rtc=on,isa-serial=on,memory-backend=memory";
    let options = [
        ("-M", machine.to_string()),
        ("-accel", "tcg,thread=multi".into()),
        ("-cpu", "max".into()),
        ("-smp", size.vcpus.to_string()),
        ("-m", format!("{memory}M")),
        (
            "-object",
            format!("memory-backend-memfd,id=memory,size={memory}M,share=on"),
        ),
        (
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".into(),
        ),
        // The firmware is in the root that QEMU gets.
        ("-L", "/".into()),
        // vhost-user back ends refuse virtio 0.9.
        ("-global", "virtio-mmio.force-legacy=false".into()),
        ("-append", command_line.into()),
        ("-display", "none".into()),
        ("-chardev", format!("socket,id=console,fd={console_fd}")),
        ("-serial", "chardev:console".into()),
        // Pages that the guest has freed go back to the host. There is no entropy device as under KVM, which would take
        // another transport: the emulated processor's RDRAND gives the host's random bytes.
        ("-device", "virtio-balloon-device,free-page-reporting=on".into()),
    ];
    let mut words: Vec<String> = ["-nodefaults", "-no-user-config", "-no-reboot"]
        .map(String::from)
        .to_vec();
    words.extend(options.into_iter().flat_map(|(flag, value)| [flag.to_string(), value]));
    // In the order of the descriptors.
    for (flag, fd) in ["-kernel", "-initrd"].into_iter().zip(reopened_fds) {
        words.extend([flag.into(), format!("/fd/{fd}")]);
    }
    words
}

/// Waits until either process has ended, or the machine is to be killed.
async fn watch(
    mut qemu: Child,
    mut devices: Child,
    status: pipe::Receiver,
    console: UnixStream,
    complaints: JoinHandle<String>,
    killed: oneshot::Receiver<()>,
) -> MachineEnd {
    let console = tokio::task::spawn_local(console::collect(console));
    let mut last_words = tokio::task::spawn_local(last_status(status));
    let (program, exit) = tokio::select! {
        exit = qemu.wait() => ("QEMU", Some(exit)),
        exit = devices.wait() => {
            // The devices end without error once QEMU has hung up: QEMU's own end is near, and explains more.
            let hung_up = exit.as_ref().is_ok_and(ExitStatus::success);
            match tokio::time::timeout(LAST_WORDS, qemu.wait()).await {
                Ok(exit) if hung_up => ("QEMU", Some(exit)),
                _ => ("the device process", Some(exit)),
            }
        }
        _ = killed => ("", None),
    };
    // Failing to kill means that the process has already ended.
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
    let mut end = ended(program, exit, console);
    let complaints = complaints.await.unwrap_or_default();
    if let Some(words) = last_complaint(&complaints, |_| true) {
        end.reason = format!("{}: {words}", end.reason);
    }
    end
}
