//! What a supervisor hands to `capsid-vmm`: numbers and already open file descriptors, never paths. Only an emulator,
//! which is a program of the host's, has paths: those of the files that it consists of.

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Number of an inherited file descriptor.
pub type FdNumber = i32;

/// The work of one `capsid-vmm` process: `capsid-vmm --config-fd N` reads it as JSON from fd N.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Config {
    /// Run a machine on KVM.
    Machine(MachineConfig),
    /// Serve devices to another VMM over vhost-user.
    VhostUser(VhostUserConfig),
    /// Carry frames between the machines of one network.
    Switch(SwitchConfig),
    /// Become another VMM, confined.
    Emulator(EmulatorConfig),
}

/// Most vCPUs of a machine: what the MP table has room for, and what APIC ids of 8 bits number with ease.
pub const VCPUS_MAX: u8 = 32;
/// Least memory: kernel and initramfs have to fit.
pub const MEMORY_MIB_MIN: u32 = 32;
/// Most memory: 1 TiB.
pub const MEMORY_MIB_MAX: u32 = 1 << 20;
/// Most disks and shares: each device needs an interrupt line of its own, of which sockets, entropy, balloon and
/// network have one each.
pub const DISKS_MAX: usize = 15;

/// A machine on KVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig {
    /// `/dev/kvm`.
    pub kvm_fd: FdNumber,
    /// Virtual CPUs, 1 to 32.
    pub vcpus: u8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// ELF kernel with a PVH note.
    pub kernel_fd: FdNumber,
    /// Initramfs: a cpio archive, maybe compressed.
    pub initramfs_fd: FdNumber,
    /// Kernel command line without the devices, which the VMM appends.
    pub command_line: String,
    /// Disks, in attach order.
    pub disks: Vec<DiskConfig>,
    /// Room for disks that come while the machine runs.
    pub disk_slots: Option<DiskSlotsConfig>,
    /// Folders that file servers serve, in attach order.
    #[serde(default)]
    pub shares: Vec<ShareConfig>,
    /// The network device, if it has one.
    #[serde(default)]
    pub net: Option<NetConfig>,
    /// The socket device.
    pub vsock: VsockConfig,
    /// Where [`crate::Status`] is written, one JSON object a line.
    pub status_fd: FdNumber,
}

/// A file system device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareConfig {
    /// What the guest mounts it by: 1 to 36 bytes.
    pub tag: String,
    /// A connected UNIX stream socket; the other end is a file server's, which speaks vhost-user.
    pub socket_fd: FdNumber,
}

/// The network device: see [`crate::virtio::net`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetConfig {
    /// The guest's hardware address; no frame leaves with another.
    pub mac: [u8; 6],
    /// Where the guest asks for names, at UDP port 53.
    pub resolver: IpAddr,
    /// Where the supervisor says what the device is connected to: see [`crate::segments`].
    pub control_fd: FdNumber,
    /// Most bytes of frames a second, each way; all that come without it.
    #[serde(default)]
    pub bytes_per_second: Option<NonZeroU64>,
}

/// The link between the machines of one network: see [`crate::switch`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchConfig {
    /// A listening UNIX `SOCK_SEQPACKET` socket: supervisors connect to it.
    pub listener_fd: FdNumber,
    /// The file that is locked by those who join.
    pub lock_fd: FdNumber,
    /// Hardware address of the uplink that each machine has behind its own device.
    pub gateway_mac: [u8; 6],
    /// Its addresses.
    pub gateways: Vec<IpAddr>,
}

/// Another VMM: see [`crate::emulator`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmulatorConfig {
    /// Absolute name of the file that is executed, in its own root.
    pub executable: PathBuf,
    /// All files of its root.
    pub files: Vec<EmulatorFile>,
    /// Words of its command line, without the first.
    pub arguments: Vec<String>,
    /// All of its environment, as `NAME=value`.
    pub environment: Vec<String>,
    /// Number of vCPUs, each a thread.
    pub vcpus: u8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// What it finds open besides stderr.
    pub fds: Vec<FdNumber>,
    /// The same, for what it opens again as `/fd/N`.
    pub reopened_fds: Vec<FdNumber>,
    /// Its `capsid_jail::Confinement` is written to stdout before it starts, and stdout stays open.
    #[serde(default)]
    pub reports: bool,
}

/// A file of an emulator's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmulatorFile {
    /// Path on the host.
    pub source: PathBuf,
    /// Absolute name in the root.
    pub name: PathBuf,
}

/// Devices for another VMM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VhostUserConfig {
    /// Disks, each served on a connected socket of its own.
    pub disks: Vec<VhostUserDisk>,
    /// Room for disks that come while the machine runs.
    pub disk_slots: Option<VhostUserDiskSlots>,
    /// The network device, if there is one, and the socket it is served on.
    #[serde(default)]
    pub net: Option<VhostUserNet>,
    /// The socket device and the connected socket it is served on.
    pub vsock: VhostUserVsock,
    /// Where [`crate::Status`] is written, one JSON object a line.
    pub status_fd: FdNumber,
}

/// A disk and the socket it is served on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VhostUserDisk {
    /// A connected UNIX stream socket; the other end is QEMU's (`-chardev socket,fd=`).
    pub socket_fd: FdNumber,
    /// The disk.
    pub disk: DiskConfig,
}

/// Disk slots and the socket that they are served on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VhostUserDiskSlots {
    /// A connected UNIX stream socket; the other end is QEMU's (`-chardev socket,fd=`).
    pub socket_fd: FdNumber,
    /// The disk slots.
    pub device: DiskSlotsConfig,
}

/// The network device and the socket it is served on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VhostUserNet {
    /// A listening UNIX stream socket, to which QEMU connects: for its network it takes no connection.
    pub listener_fd: FdNumber,
    /// The device.
    pub device: NetConfig,
}

/// The socket device and the socket it is served on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VhostUserVsock {
    /// A connected UNIX stream socket; the other end is QEMU's (`-chardev socket,fd=`).
    pub socket_fd: FdNumber,
    /// The device.
    pub device: VsockConfig,
}

/// One disk made of several host files, one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// What the guest reads from `/sys/block/*/serial`; at most 20 bytes of ASCII.
    pub serial: String,
    /// Refuses writes, discards and write-zeroes, whatever the guest negotiates.
    pub readonly: bool,
    /// Answers flushes without syncing: for scratch disks that die with the pod.
    pub ignore_flush: bool,
    /// The files, in disk order. A file's length is rounded up to 4096 bytes; bytes past its end read as zero.
    /// A writable disk has exactly one.
    pub extent_fds: Vec<FdNumber>,
}

/// A block device whose disks come and go: see [`crate::disk_slots`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSlotsConfig {
    /// What the guest reads from `/sys/block/*/serial`; at most 20 bytes of ASCII.
    pub serial: String,
    /// Where the supervisor puts disks in and takes them out, a `SOCK_SEQPACKET` UNIX socket. It stays open for as long
    /// as the machine runs.
    pub control_fd: FdNumber,
}

/// The socket device.
///
/// Streams are opened by the host only: the supervisor sends one message on `control_fd` (a `SOCK_SEQPACKET` UNIX
/// socket) per stream: the guest port (`u32`, little endian) with one connected stream socket as `SCM_RIGHTS`. The
/// device connects to the guest's port and pumps bytes between the two; a refused connection closes the socket.
/// The guest may connect once, to `session_port`, which is wired to `session_fd`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockConfig {
    /// The guest's context id, 3 or more.
    pub guest_cid: u32,
    /// The one port on the host that the guest may connect to, once.
    pub session_port: u32,
    /// A connected stream socket: the supervisor's end of the session.
    pub session_fd: FdNumber,
    /// Where the supervisor asks for streams.
    pub control_fd: FdNumber,
}

/// Why a config is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not 1 to [`VCPUS_MAX`].
    #[error("{vcpus} vCPUs: a machine has 1 to {VCPUS_MAX}")]
    Vcpus {
        /// What was asked for.
        vcpus: u8,
    },
    /// Not [`MEMORY_MIB_MIN`] to [`MEMORY_MIB_MAX`].
    #[error("{mib} MiB: a machine has {MEMORY_MIB_MIN} to {MEMORY_MIB_MAX} MiB of memory")]
    Memory {
        /// What was asked for.
        mib: u32,
    },
    /// More than [`DISKS_MAX`].
    #[error("{count} disks and shares: a machine has at most {DISKS_MAX}")]
    Disks {
        /// What was asked for.
        count: usize,
    },
    /// Control characters would end or split the line.
    #[error("the kernel command line has characters other than printable ASCII")]
    CommandLine,
}

impl MachineConfig {
    /// Refuses what no machine can be.
    ///
    /// # Errors
    /// [`ConfigError`] names the field.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !(1..=VCPUS_MAX).contains(&self.vcpus) {
            return Err(ConfigError::Vcpus { vcpus: self.vcpus });
        }
        if !(MEMORY_MIB_MIN..=MEMORY_MIB_MAX).contains(&self.memory_mib) {
            return Err(ConfigError::Memory { mib: self.memory_mib });
        }
        let count = self.disks.len() + usize::from(self.disk_slots.is_some()) + self.shares.len();
        if count > DISKS_MAX {
            return Err(ConfigError::Disks { count });
        }
        if !self.command_line.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(ConfigError::CommandLine);
        }
        Ok(())
    }

    /// Numbers of all fds that the machine is given.
    #[must_use]
    pub fn fds(&self) -> Vec<FdNumber> {
        let mut fds = vec![self.kvm_fd, self.kernel_fd, self.initramfs_fd, self.status_fd];
        fds.extend([self.vsock.session_fd, self.vsock.control_fd]);
        fds.extend(self.disks.iter().flat_map(|disk| &disk.extent_fds));
        fds.extend(self.disk_slots.iter().map(|disk_slots| disk_slots.control_fd));
        fds.extend(self.shares.iter().map(|share| share.socket_fd));
        fds.extend(self.net.iter().map(|net| net.control_fd));
        fds
    }
}

impl VhostUserConfig {
    /// Numbers of all fds that the devices are given.
    #[must_use]
    pub fn fds(&self) -> Vec<FdNumber> {
        let mut fds = vec![self.status_fd, self.vsock.socket_fd];
        fds.extend([self.vsock.device.session_fd, self.vsock.device.control_fd]);
        for disk in &self.disks {
            fds.push(disk.socket_fd);
            fds.extend(&disk.disk.extent_fds);
        }
        if let Some(disk_slots) = &self.disk_slots {
            fds.extend([disk_slots.socket_fd, disk_slots.device.control_fd]);
        }
        if let Some(net) = &self.net {
            fds.extend([net.listener_fd, net.device.control_fd]);
        }
        fds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> MachineConfig {
        MachineConfig {
            kvm_fd: 3,
            vcpus: 1,
            memory_mib: 64,
            kernel_fd: 4,
            initramfs_fd: 5,
            command_line: "console=ttyS0".to_owned(),
            disks: vec![DiskConfig {
                serial: String::new(),
                readonly: true,
                ignore_flush: false,
                extent_fds: vec![9, 10],
            }],
            disk_slots: Some(DiskSlotsConfig {
                serial: "disk slots".to_owned(),
                control_fd: 11,
            }),
            shares: Vec::new(),
            net: Some(NetConfig {
                mac: [2, 0, 0, 0, 0, 1],
                resolver: [100, 96, 0, 1].into(),
                control_fd: 12,
                bytes_per_second: None,
            }),
            vsock: VsockConfig {
                guest_cid: 3,
                session_port: 1,
                session_fd: 6,
                control_fd: 7,
            },
            status_fd: 8,
        }
    }

    #[test]
    fn every_fd_is_listed() {
        let mut fds = config().fds();
        fds.sort_unstable();
        assert_eq!(fds, [3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    }

    #[test]
    fn impossible_machines_are_refused() {
        assert_eq!(config().check(), Ok(()));
        assert_eq!(
            MachineConfig { vcpus: 33, ..config() }.check(),
            Err(ConfigError::Vcpus { vcpus: 33 })
        );
        assert_eq!(
            MachineConfig {
                memory_mib: 8,
                ..config()
            }
            .check(),
            Err(ConfigError::Memory { mib: 8 })
        );
        let split = MachineConfig {
            command_line: "quiet\ninit=/x".to_owned(),
            ..config()
        };
        assert_eq!(split.check(), Err(ConfigError::CommandLine));
    }
}
