//! Config that a supervisor passes to `capsid-vmm`: numbers and already open file descriptors, never paths. Only the
//! config of an emulator, which is a program of the host's, has paths: those of the files that it consists of.

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Number of an inherited file descriptor.
pub type FdNumber = i32;

/// Config of one `capsid-vmm` process: `capsid-vmm --config-fd N` reads it as JSON from fd N.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Config {
    /// Runs a machine on KVM.
    Machine(MachineConfig),
    /// Serves devices to another VMM over vhost-user.
    VhostUser(VhostUserConfig),
    /// Carries frames between the machines of one network.
    Switch(SwitchConfig),
    /// Becomes another VMM, confined.
    Emulator(EmulatorConfig),
}

/// Maximum number of vCPUs of a machine: what the MP table has room for, and what APIC ids of 8 bits number with ease.
pub const VCPUS_MAX: u8 = 32;
/// Minimum memory in MiB: kernel and initramfs have to fit.
pub const MEMORY_MIB_MIN: u32 = 32;
/// Maximum memory in MiB: 1 TiB.
pub const MEMORY_MIB_MAX: u32 = 1 << 20;
/// Maximum number of disks and shares together: each device needs an interrupt line of its own, and sockets, entropy,
/// balloon and network take one each.
pub const DISKS_MAX: usize = 15;

/// Config of a machine on KVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig {
    /// Open file of `/dev/kvm`.
    pub kvm_fd: FdNumber,
    /// Number of virtual CPUs, 1 to 32.
    pub vcpus: u8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// ELF kernel with a PVH note.
    pub kernel_fd: FdNumber,
    /// Initramfs: a cpio archive, possibly compressed.
    pub initramfs_fd: FdNumber,
    /// Kernel command line without the devices, which the VMM appends.
    pub command_line: String,
    /// Disks, in attach order.
    pub disks: Vec<DiskConfig>,
    /// Device for disks that are hot-plugged while the machine runs.
    pub disk_slots: Option<DiskSlotsConfig>,
    /// Folders that file servers serve, in attach order.
    #[serde(default)]
    pub shares: Vec<ShareConfig>,
    /// Network device, if the machine has one.
    #[serde(default)]
    pub net: Option<NetConfig>,
    /// Socket device.
    pub vsock: VsockConfig,
    /// Fd to which [`crate::Status`] is written, one JSON object per line.
    pub status_fd: FdNumber,
}

/// Config of a file system device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareConfig {
    /// Tag by which the guest mounts the device: 1 to 36 bytes.
    pub tag: String,
    /// Connected UNIX stream socket; the other end belongs to a file server, which speaks vhost-user.
    pub socket_fd: FdNumber,
}

/// Config of the network device: see [`crate::virtio::net`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetConfig {
    /// Hardware address of the guest; no frame leaves with another one.
    pub mac: [u8; 6],
    /// Address of the resolver that the guest asks for names, at UDP port 53.
    pub resolver: IpAddr,
    /// Socket on which the supervisor sends what the device is connected to: see [`crate::segments`].
    pub control_fd: FdNumber,
    /// Maximum bytes of frames per second, in each direction; unlimited if absent.
    #[serde(default)]
    pub bytes_per_second: Option<NonZeroU64>,
}

/// Config of the link between the machines of one network: see [`crate::switch`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchConfig {
    /// Listening UNIX `SOCK_SEQPACKET` socket to which supervisors connect.
    pub listener_fd: FdNumber,
    /// File that supervisors lock while they join.
    pub lock_fd: FdNumber,
    /// Hardware address of the uplink that each machine has behind its own device.
    pub gateway_mac: [u8; 6],
    /// Addresses of the uplink.
    pub gateways: Vec<IpAddr>,
}

/// Config of another VMM: see [`crate::emulator`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmulatorConfig {
    /// Absolute path of the file that is executed, in the emulator's root.
    pub executable: PathBuf,
    /// Files of the emulator's root, complete.
    pub files: Vec<EmulatorFile>,
    /// Words of the emulator's command line, without the first.
    pub arguments: Vec<String>,
    /// Complete environment of the emulator, as `NAME=value`.
    pub environment: Vec<String>,
    /// Number of vCPUs, each of which is a thread.
    pub vcpus: u8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Fds that the emulator inherits open, besides stderr.
    pub fds: Vec<FdNumber>,
    /// Fds that the emulator inherits and opens again as `/fd/N`.
    pub reopened_fds: Vec<FdNumber>,
    /// Whether the emulator's `capsid_jail::Confinement` is written to stdout before it starts; stdout then stays open.
    #[serde(default)]
    pub reports: bool,
}

/// File of an emulator's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmulatorFile {
    /// Path on the host.
    pub source: PathBuf,
    /// Absolute path in the root.
    pub name: PathBuf,
}

/// Config of devices for another VMM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VhostUserConfig {
    /// Disks, each served on a connected socket of its own.
    pub disks: Vec<VhostUserDisk>,
    /// Device for disks that are hot-plugged while the machine runs.
    pub disk_slots: Option<VhostUserDiskSlots>,
    /// Network device and the socket it is served on, if there is one.
    #[serde(default)]
    pub net: Option<VhostUserNet>,
    /// Socket device and the connected socket it is served on.
    pub vsock: VhostUserVsock,
    /// Fd to which [`crate::Status`] is written, one JSON object per line.
    pub status_fd: FdNumber,
}

/// Disk and the socket it is served on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VhostUserDisk {
    /// Connected UNIX stream socket; the other end is QEMU's (`-chardev socket,fd=`).
    pub socket_fd: FdNumber,
    /// Config of the disk.
    pub disk: DiskConfig,
}

/// Disk slots and the socket that they are served on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VhostUserDiskSlots {
    /// Connected UNIX stream socket; the other end is QEMU's (`-chardev socket,fd=`).
    pub socket_fd: FdNumber,
    /// Config of the disk slots.
    pub device: DiskSlotsConfig,
}

/// Network device and the socket it is served on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VhostUserNet {
    /// Listening UNIX stream socket to which QEMU connects: for its network QEMU accepts no connected socket.
    pub listener_fd: FdNumber,
    /// Config of the network device.
    pub device: NetConfig,
}

/// Socket device and the socket it is served on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VhostUserVsock {
    /// Connected UNIX stream socket; the other end is QEMU's (`-chardev socket,fd=`).
    pub socket_fd: FdNumber,
    /// Config of the socket device.
    pub device: VsockConfig,
}

/// Disk made of several host files, one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// Serial that the guest reads from `/sys/block/*/serial`; at most 20 bytes of ASCII.
    pub serial: String,
    /// Whether writes, discards and write-zeroes are refused, whatever the guest negotiates.
    pub readonly: bool,
    /// Whether flushes are answered without syncing: for scratch disks that are deleted with the pod.
    pub ignore_flush: bool,
    /// Fds of the files, in disk order. A file's length is rounded up to 4096 bytes; bytes past its end read as zero. A
    /// writable disk has exactly one file.
    pub extent_fds: Vec<FdNumber>,
}

/// Config of a block device whose disks are plugged and unplugged at run time: see [`crate::disk_slots`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSlotsConfig {
    /// Serial that the guest reads from `/sys/block/*/serial`; at most 20 bytes of ASCII.
    pub serial: String,
    /// `SOCK_SEQPACKET` UNIX socket on which the supervisor plugs and unplugs disks. It stays open for as long as the
    /// machine runs.
    pub control_fd: FdNumber,
}

/// Config of the socket device.
///
/// Streams are opened by the host only: the supervisor sends one message on `control_fd` (a `SOCK_SEQPACKET` UNIX
/// socket) per stream: the guest port (`u32`, little endian) with one connected stream socket as `SCM_RIGHTS`. The
/// device connects to the guest's port and pumps bytes between the two; a refused connection closes the socket.
/// The guest may connect once, to `session_port`, which is wired to `session_fd`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockConfig {
    /// Context id of the guest, 3 or more.
    pub guest_cid: u32,
    /// Port on the host that the guest may connect to, once; the only one.
    pub session_port: u32,
    /// Connected stream socket: the supervisor's end of the session.
    pub session_fd: FdNumber,
    /// Socket on which the supervisor requests streams.
    pub control_fd: FdNumber,
}

/// Reason why a config is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The number of vCPUs is not 1 to [`VCPUS_MAX`].
    #[error("{vcpus} vCPUs: a machine has 1 to {VCPUS_MAX}")]
    Vcpus {
        /// Number of vCPUs that was requested.
        vcpus: u8,
    },
    /// The memory is not [`MEMORY_MIB_MIN`] to [`MEMORY_MIB_MAX`].
    #[error("{mib} MiB: a machine has {MEMORY_MIB_MIN} to {MEMORY_MIB_MAX} MiB of memory")]
    Memory {
        /// Memory in MiB that was requested.
        mib: u32,
    },
    /// The number of disks and shares is more than [`DISKS_MAX`].
    #[error("{count} disks and shares: a machine has at most {DISKS_MAX}")]
    Disks {
        /// Number of disks and shares that was requested.
        count: usize,
    },
    /// The kernel command line has control characters, which would end or split it, or other characters outside
    /// printable ASCII.
    #[error("the kernel command line has characters other than printable ASCII")]
    CommandLine,
}

impl MachineConfig {
    /// Refuses configs that no machine can have.
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

    /// Numbers of all fds that the machine inherits.
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
    /// Numbers of all fds that the devices inherit.
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
