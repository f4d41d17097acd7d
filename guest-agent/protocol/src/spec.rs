//! A complete container spec. No default is left for the agent to apply, except what only the image's own files can
//! answer (user and group names), which must be read inside the guest.

use prost::{Enumeration, Message, Oneof};

/// Complete description of a container. Tags 24 and 40 are retired.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerSpec {
    /// Container id: 64 lower-case hexadecimal digits.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Disks of the container's root. A scratch disk that a container ran on before is used as it was left.
    #[prost(message, required, tag = "2")]
    pub root: Root,
    /// Program and arguments, `args[0]` looked up in the container's `PATH`. Byte strings: not always UTF-8.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub args: Vec<Vec<u8>>,
    /// Environment, `NAME=value` each.
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub env: Vec<Vec<u8>>,
    /// Working directory, absolute; created if missing.
    #[prost(string, tag = "5")]
    pub cwd: String,
    /// `user[:group]`, names or numbers, resolved from the image's own files; empty is root.
    #[prost(string, tag = "6")]
    pub user: String,
    /// Host name, and the `uts` namespace's node name.
    #[prost(string, tag = "7")]
    pub hostname: String,
    /// Terminal with its first size, in place of three pipes.
    #[prost(message, optional, tag = "8")]
    pub terminal: Option<TerminalSize>,
    /// Whether a stdin stream follows; without it stdin is `/dev/null`. With a terminal: whether input follows.
    #[prost(bool, tag = "9")]
    pub stdin: bool,
    /// Mounts over the root, in order.
    #[prost(message, repeated, tag = "10")]
    pub mounts: Vec<Mount>,
    /// Device nodes to make in `/dev`.
    #[prost(message, repeated, tag = "11")]
    pub devices: Vec<Device>,
    /// Paths covered by an empty file or folder; missing ones are skipped.
    #[prost(string, repeated, tag = "12")]
    pub masked_paths: Vec<String>,
    /// Paths remounted read-only; missing ones are skipped.
    #[prost(string, repeated, tag = "13")]
    pub readonly_paths: Vec<String>,
    /// cgroup v2 limits.
    #[prost(message, required, tag = "14")]
    pub limits: Limits,
    /// Capabilities of the bounding, permitted and effective sets: bit n is capability number n.
    #[prost(uint64, tag = "15")]
    pub capabilities: u64,
    /// Whether to set `no_new_privs`.
    #[prost(bool, tag = "16")]
    pub no_new_privs: bool,
    /// Seccomp program: `struct sock_filter`s as they lie in memory (8 bytes each); empty means unconfined.
    #[prost(bytes = "vec", tag = "17")]
    pub seccomp: Vec<u8>,
    /// Resource limits.
    #[prost(message, repeated, tag = "18")]
    pub rlimits: Vec<Rlimit>,
    /// Kernel parameters, `net.ipv4.ip_forward` style names. The machine belongs to the container or its pod alone, so
    /// that all of them may be set.
    #[prost(message, repeated, tag = "19")]
    pub sysctls: Vec<Sysctl>,
    /// Whether the program runs under a small init of the agent that reaps orphans and forwards signals (`--init`).
    #[prost(bool, tag = "20")]
    pub init: bool,
    /// Supplementary groups (`--group-add`), names or numbers.
    #[prost(string, repeated, tag = "21")]
    pub additional_groups: Vec<String>,
    /// Files written into the root before start (`/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf`), bind-mounted from
    /// the agent's own tmpfs so that the image is not changed.
    #[prost(message, repeated, tag = "22")]
    pub files: Vec<File>,
    /// Whether every device of the guest has a node and is usable (`--privileged`); otherwise only those of `devices`
    /// and `guest_devices`, and the pseudo terminals.
    #[prost(bool, tag = "23")]
    pub all_devices: bool,
    /// True when the machine ends with this container and its disks are thrown away: its end is reported before they
    /// are unmounted.
    #[prost(bool, tag = "25")]
    pub discards_disks: bool,
    /// Devices of the guest, under the names that the guest's kernel gives them (`--device`).
    #[prost(message, repeated, tag = "26")]
    pub guest_devices: Vec<GuestDevice>,
    /// Disks in the machine's slots that the rest of the spec names by [`slot_serial`]: they were plugged in before.
    #[prost(message, repeated, tag = "30")]
    pub slots: Vec<Slot>,
    /// Pod whose namespaces the container shares.
    #[prost(message, optional, tag = "31")]
    pub pod: Option<Pod>,
    /// Addresses of the network device; without them the container has its loopback alone. In a pod only the first
    /// container's count, like those of [`ContainerSpec::pod`].
    #[prost(message, optional, tag = "32")]
    pub network: Option<Network>,
}

/// Serial of the one block device whose parts are the machine's disk slots.
pub const DISK_SLOTS_SERIAL: &str = "capsid-disk-slots";

/// Size of a slot in bytes; slot n begins at n times that.
pub const SLOT_BYTES: u64 = 1 << 40;

/// Returns the serial by which a spec names the disk in a slot.
#[must_use]
pub fn slot_serial(slot: u32) -> String {
    format!("capsid-slot-{slot}")
}

/// Disk in one of the machine's slots. The agent makes a partition of it, and removes the partition when no container
/// uses it any more: from then on the host may unplug the disk.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Slot {
    /// Slot number, 1 to 255.
    #[prost(uint32, tag = "1")]
    pub slot: u32,
    /// Length of the disk: whole sectors.
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
    /// Whether the disk is read-only.
    #[prost(bool, tag = "3")]
    pub readonly: bool,
}

/// Shared parts of a pod's containers: the namespaces of network, ipc (with `/dev/shm`) and uts. The first container
/// makes them, with its host name and kernel parameters; those of the others are not used. They stay until the machine
/// ends.
#[derive(Clone, PartialEq, Message)]
pub struct Pod {
    /// Whether the pid namespace is shared as well.
    #[prost(bool, tag = "1")]
    pub shares_pids: bool,
    /// Size of `/dev/shm` in bytes.
    #[prost(uint64, tag = "2")]
    pub shm_bytes: u64,
    /// Limits of all containers together.
    #[prost(message, required, tag = "3")]
    pub limits: Limits,
}

/// Configuration of the machine's one network device. The device is named `eth0` and stays in the network namespace of
/// the container or its pod.
#[derive(Clone, PartialEq, Message)]
pub struct Network {
    /// Addresses of the device, one for each network and kind. A device without any is on no network.
    #[prost(message, repeated, tag = "1")]
    pub addresses: Vec<Address>,
    /// MTU in bytes, 1280 to 65535.
    #[prost(uint32, tag = "2")]
    pub mtu: u32,
    /// Addresses of name servers on the device's link, whatever the prefixes are: each gets a route of its own. 4 or 16
    /// bytes, in network order; a resolver of a kind that the device has no address of is not used.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub resolvers: Vec<Vec<u8>>,
}

/// Address of the device, and the gateway of the default route, if there is one.
#[derive(Clone, PartialEq, Message)]
pub struct Address {
    /// Address: 4 or 16 bytes, in network order.
    #[prost(bytes = "vec", tag = "1")]
    pub address: Vec<u8>,
    /// Length of the link's prefix.
    #[prost(uint32, tag = "2")]
    pub prefix_bits: u32,
    /// Gateway on the link, of the same length as the address. Empty means none: the link leads nowhere else. Of
    /// several addresses of a kind, the first non-empty gateway makes the default route.
    #[prost(bytes = "vec", tag = "3")]
    pub gateway: Vec<u8>,
}

/// Task that the agent itself performs on the container's folders, as the container sees them.
#[derive(Clone, PartialEq, Message)]
pub struct Task {
    /// Kind of the task; absent means newer than this build.
    #[prost(oneof = "task::Kind", tags = "1, 2, 3, 4, 5")]
    pub kind: Option<task::Kind>,
}

/// Kinds of [`Task`].
pub mod task {
    use super::*;

    /// Work that a task does.
    #[derive(Clone, PartialEq, Oneof)]
    pub enum Kind {
        /// Packs files of the container into a tar archive on stdout.
        #[prost(message, tag = "1")]
        Pack(super::Pack),
        /// Unpacks a tar archive on stdin into files of the container.
        #[prost(message, tag = "2")]
        Unpack(super::Unpack),
        /// Packs the whole root, without anything mounted over it, into a tar archive on stdout.
        #[prost(message, tag = "3")]
        Export(super::Unit),
        /// Lists the differences from the image on stdout: for each `A`, `C` or `D`, then the path, then a zero byte.
        /// Only paths on the disks of `root` are compared.
        #[prost(message, tag = "4")]
        Compare(super::Unit),
        /// Does nothing more than make the container's mounts, which prepares new volumes.
        #[prost(message, tag = "5")]
        Mount(super::Unit),
    }
}

/// Packs files of a container.
#[derive(Clone, PartialEq, Message)]
pub struct Pack {
    /// Path in the container. With a trailing `/` or `/.` it must be a folder, and the archive's names begin with `.`;
    /// otherwise they begin with the path's last component.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// Whether a link at the path itself is followed.
    #[prost(bool, tag = "2")]
    pub follow: bool,
}

/// Unpacks files into a container.
#[derive(Clone, PartialEq, Message)]
pub struct Unpack {
    /// Path in the container. Docker's rules apply to existing files there and to a trailing `/`.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// First component of every name in the archive: the name of the copied file or folder. Empty if only the content
    /// of a folder is copied.
    #[prost(bytes = "vec", tag = "2")]
    pub top: Vec<u8>,
    /// Whether a folder is copied.
    #[prost(bool, tag = "3")]
    pub is_folder: bool,
    /// Whether the archive was made by somebody else: its names are taken as they are, and the path must be a folder.
    #[prost(bool, tag = "4")]
    pub is_foreign: bool,
    /// Whether owners are taken from the archive; otherwise the owner is root.
    #[prost(bool, tag = "5")]
    pub keep_owners: bool,
}

/// Disks of a container's root, by virtio-blk serial (`/sys/block/*/serial`): no contract guarantees the attach order.
#[derive(Clone, PartialEq, Message)]
pub struct Root {
    /// Serial of the read-only EROFS disk.
    #[prost(string, tag = "1")]
    pub rootfs_serial: String,
    /// Serial of the ext4 scratch disk that holds the overlay's upper folder.
    #[prost(string, tag = "2")]
    pub scratch_serial: String,
    /// Whether the container may not write to its root (`--read-only`).
    #[prost(bool, tag = "3")]
    pub readonly: bool,
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct TerminalSize {
    /// Number of lines.
    #[prost(uint32, tag = "1")]
    pub rows: u32,
    /// Characters per line.
    #[prost(uint32, tag = "2")]
    pub columns: u32,
}

/// One mount over the root.
#[derive(Clone, PartialEq, Message)]
pub struct Mount {
    /// Absolute path in the container, created if missing, resolved beneath the root.
    #[prost(string, tag = "1")]
    pub target: String,
    /// Source of the mount.
    #[prost(oneof = "mount::Source", tags = "2, 3, 4, 5, 6, 7, 8, 9, 20")]
    pub source: Option<mount::Source>,
    /// Whether the mount is read-only.
    #[prost(bool, tag = "10")]
    pub readonly: bool,
    /// Whether programs cannot be executed from the mount.
    #[prost(bool, tag = "11")]
    pub noexec: bool,
    /// Whether set-user-id bits have no effect in the mount.
    #[prost(bool, tag = "12")]
    pub nosuid: bool,
    /// Whether device nodes have no effect in the mount.
    #[prost(bool, tag = "13")]
    pub nodev: bool,
}

/// Sources of [`Mount`].
pub mod mount {
    use super::*;

    /// Source of a mount.
    #[derive(Clone, PartialEq, Oneof)]
    pub enum Source {
        /// procfs of the container's pid namespace.
        #[prost(message, tag = "2")]
        Proc(super::Unit),
        /// sysfs of the container's net namespace.
        #[prost(message, tag = "3")]
        Sysfs(super::Unit),
        /// cgroup2, rooted at the container's cgroup.
        #[prost(message, tag = "4")]
        Cgroup(super::Unit),
        /// Fresh devpts instance.
        #[prost(message, tag = "5")]
        Devpts(super::Unit),
        /// POSIX message queues of the container's ipc namespace.
        #[prost(message, tag = "6")]
        Mqueue(super::Unit),
        /// Filesystem in memory.
        #[prost(message, tag = "7")]
        Tmpfs(super::Tmpfs),
        /// Disk of its own.
        #[prost(message, tag = "8")]
        Volume(super::Volume),
        /// Memory that the containers of a pod share: [`super::Pod`].
        #[prost(message, tag = "20")]
        PodShm(super::Unit),
        /// Folder or file of the host.
        #[prost(message, tag = "9")]
        Share(super::Share),
    }
}

/// Source without parameters.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Unit {}

/// Filesystem in memory.
#[derive(Clone, PartialEq, Message)]
pub struct Tmpfs {
    /// Size in bytes; 0 is the kernel's default, half of memory.
    #[prost(uint64, tag = "1")]
    pub size_bytes: u64,
    /// Mode of the root folder.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    /// Owner of the root folder.
    #[prost(uint32, tag = "3")]
    pub uid: u32,
    /// Group of the root folder.
    #[prost(uint32, tag = "4")]
    pub gid: u32,
    /// Whether the image's files at the target are copied into the filesystem first.
    #[prost(bool, tag = "5")]
    pub populate: bool,
}

/// Ext4 disk that outlives the container. The agent unmounts it, with everything written, before it reports the
/// container as stopped, unless another container of the pod uses it too. An empty `lost+found` is removed: programs
/// refuse data folders that are not empty. Device nodes have no effect in it, whatever [`Mount::nodev`] says.
#[derive(Clone, PartialEq, Message)]
pub struct Volume {
    /// Virtio-blk serial of the disk.
    #[prost(string, tag = "1")]
    pub serial: String,
    /// Whether the image's files at the target are copied into the disk first, with the target's own mode and owner,
    /// while the disk is empty. An interrupted copy is made again from the start.
    #[prost(bool, tag = "2")]
    pub populate: bool,
}

/// Name of a shared file in the root folder of its virtio-fs device: such a device contains nothing else.
pub const SHARED_FILE: &str = "file";

/// Folder or file of the host, served by a virtio-fs device.
#[derive(Clone, PartialEq, Message)]
pub struct Share {
    /// Tag of the device: at most 36 bytes (virtio 1.3, section 5.11.4).
    #[prost(string, tag = "1")]
    pub tag: String,
    /// True for one file, [`SHARED_FILE`]; the mount's target is a file then.
    #[prost(bool, tag = "2")]
    pub is_file: bool,
}

/// Device node.
#[derive(Clone, PartialEq, Message)]
pub struct Device {
    /// Absolute path in the container.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Block or character device.
    #[prost(enumeration = "DeviceType", tag = "2")]
    pub kind: i32,
    /// Major number.
    #[prost(uint32, tag = "3")]
    pub major: u32,
    /// Minor number.
    #[prost(uint32, tag = "4")]
    pub minor: u32,
    /// Permission bits.
    #[prost(uint32, tag = "5")]
    pub mode: u32,
    /// Whether opening for reading is refused.
    #[prost(bool, tag = "6")]
    pub no_read: bool,
    /// Whether opening for writing is refused.
    #[prost(bool, tag = "7")]
    pub no_write: bool,
}

/// Device of the guest that a container has.
#[derive(Clone, PartialEq, Message)]
pub struct GuestDevice {
    /// Absolute path of the node, or of a folder of nodes, in the guest's `/dev`.
    #[prost(string, tag = "1")]
    pub source: String,
    /// Absolute path in the container.
    #[prost(string, tag = "2")]
    pub target: String,
    /// Whether opening for reading is refused.
    #[prost(bool, tag = "3")]
    pub no_read: bool,
    /// Whether opening for writing is refused.
    #[prost(bool, tag = "4")]
    pub no_write: bool,
}

/// Type of a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum DeviceType {
    /// Character device.
    Character = 0,
    /// Block device.
    Block = 1,
}

/// Limits of cgroup v2; an absent one is not set. `u64::MAX` means unlimited, to remove a limit.
#[derive(Clone, PartialEq, Message)]
pub struct Limits {
    /// `memory.max`, bytes.
    #[prost(uint64, optional, tag = "1")]
    pub memory_max_bytes: Option<u64>,
    /// `memory.swap.max`, bytes.
    #[prost(uint64, optional, tag = "2")]
    pub swap_max_bytes: Option<u64>,
    /// `cpu.max`: microseconds of each 100 000 µs period.
    #[prost(uint64, optional, tag = "3")]
    pub cpu_quota_us: Option<u64>,
    /// `cpuset.cpus`, kernel list syntax (`0-2,4`).
    #[prost(string, optional, tag = "4")]
    pub cpuset_cpus: Option<String>,
    /// `pids.max`.
    #[prost(uint64, optional, tag = "5")]
    pub pids_max: Option<u64>,
    /// `cpu.weight`, 1 to 10 000.
    #[prost(uint64, optional, tag = "6")]
    pub cpu_weight: Option<u64>,
    /// `memory.low`, bytes: what the kernel reclaims only when nothing else is left.
    #[prost(uint64, optional, tag = "7")]
    pub memory_low_bytes: Option<u64>,
}

/// One resource limit.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Rlimit {
    /// `RLIMIT_*` number.
    #[prost(uint32, tag = "1")]
    pub resource: u32,
    /// Soft limit; `u64::MAX` is unlimited.
    #[prost(uint64, tag = "2")]
    pub soft: u64,
    /// Hard limit; `u64::MAX` is unlimited.
    #[prost(uint64, tag = "3")]
    pub hard: u64,
}

/// One kernel parameter.
#[derive(Clone, PartialEq, Message)]
pub struct Sysctl {
    /// Name with dots.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Value as written.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// Small file made for the container.
#[derive(Clone, PartialEq, Message)]
pub struct File {
    /// Absolute path in the container.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Content of the file.
    #[prost(bytes = "vec", tag = "2")]
    pub content: Vec<u8>,
    /// Permission bits.
    #[prost(uint32, tag = "3")]
    pub mode: u32,
}
