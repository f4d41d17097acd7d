//! What a supervisor hands to `capsid-vmm`: numbers and already open file descriptors, never paths.

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
}

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
    /// The socket device.
    pub vsock: VsockConfig,
    /// Where [`crate::Status`] is written, one JSON object a line.
    pub status_fd: FdNumber,
}

/// Devices for another VMM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VhostUserConfig {
    /// Disks, each served on a connected socket of its own.
    pub disks: Vec<VhostUserDisk>,
    /// The socket device and the connected socket it is served on.
    pub vsock: VhostUserVsock,
    /// Where [`crate::Status`] is written, one JSON object a line.
    pub status_fd: FdNumber,
}

/// A disk and the socket it is served on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VhostUserDisk {
    /// Listening or connected UNIX stream socket: see `vhost_user.rs`.
    pub socket_fd: FdNumber,
    /// The disk.
    pub disk: DiskConfig,
}

/// The socket device and the socket it is served on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VhostUserVsock {
    /// Listening or connected UNIX stream socket: see `vhost_user.rs`.
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
