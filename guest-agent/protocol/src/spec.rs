//! A container spec: what to run, complete. No default is left for the agent to apply, except what only the image's
//! own files can tell (user and group names), which must be read inside the guest.

use prost::{Enumeration, Message, Oneof};

/// What to run.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerSpec {
    /// Container id: 64 lower-case hexadecimal digits.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The disks its root is made of. A scratch disk that a container ran on before is used as it was left.
    #[prost(message, required, tag = "2")]
    pub root: Root,
    /// Program and arguments, `args[0]` looked up in the container's `PATH`. Byte strings: not always UTF-8.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub args: Vec<Vec<u8>>,
    /// Environment, `NAME=value` each.
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub env: Vec<Vec<u8>>,
    /// Working directory, absolute; made when missing.
    #[prost(string, tag = "5")]
    pub cwd: String,
    /// `user[:group]`, names or numbers, resolved from the image's own files; empty is root.
    #[prost(string, tag = "6")]
    pub user: String,
    /// Host name, and the `uts` namespace's node name.
    #[prost(string, tag = "7")]
    pub hostname: String,
    /// A terminal instead of three pipes, with its first size.
    #[prost(message, optional, tag = "8")]
    pub terminal: Option<TerminalSize>,
    /// Whether a stdin stream will come; without it stdin is `/dev/null`. With a terminal: whether input comes.
    #[prost(bool, tag = "9")]
    pub stdin: bool,
    /// What is mounted over the root, in order.
    #[prost(message, repeated, tag = "10")]
    pub mounts: Vec<Mount>,
    /// Device nodes made in `/dev`.
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
    /// Sets `no_new_privs`.
    #[prost(bool, tag = "16")]
    pub no_new_privs: bool,
    /// Seccomp program: `struct sock_filter`s as they lie in memory (8 bytes each); empty is unconfined.
    #[prost(bytes = "vec", tag = "17")]
    pub seccomp: Vec<u8>,
    /// Resource limits.
    #[prost(message, repeated, tag = "18")]
    pub rlimits: Vec<Rlimit>,
    /// Kernel parameters, `net.ipv4.ip_forward` style names. The machine is the container's or its pod's own, so that
    /// all of them may be set.
    #[prost(message, repeated, tag = "19")]
    pub sysctls: Vec<Sysctl>,
    /// Runs the program under a small init of the agent that reaps orphans and forwards signals (`--init`).
    #[prost(bool, tag = "20")]
    pub init: bool,
    /// Supplementary groups (`--group-add`), names or numbers.
    #[prost(string, repeated, tag = "21")]
    pub additional_groups: Vec<String>,
    /// Files written into the root before start (`/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf`), bind-mounted
    /// from the agent's own tmpfs so that the image is not changed.
    #[prost(message, repeated, tag = "22")]
    pub files: Vec<File>,
    /// Every device of the guest has a node and is usable (`--privileged`); else only those of `devices` and
    /// `guest_devices`, and the pseudo terminals.
    #[prost(bool, tag = "23")]
    pub all_devices: bool,
    /// Makes this a process that joins the running container of this id, instead of a container of its own (`exec`).
    /// Then only `id` (its own), `args`, `env`, `cwd` (not made when missing), `user`, `additional_groups`, `terminal`,
    /// `stdin`, `capabilities`, `no_new_privs`, `seccomp` and `rlimits` are used; cgroup and device rules are the
    /// container's. Every message that names a container may name its id.
    #[prost(string, optional, tag = "24")]
    pub join: Option<String>,
    /// The machine ends with this container and its disks are thrown away: its end is told before they are unmounted.
    #[prost(bool, tag = "25")]
    pub discards_disks: bool,
    /// Devices of the guest's own, made under the names that the guest's kernel gives them (`--device`).
    #[prost(message, repeated, tag = "26")]
    pub guest_devices: Vec<GuestDevice>,
    /// Disks in the machine's slots that the rest of the spec names by [`slot_serial`]: they were plugged in before.
    #[prost(message, repeated, tag = "30")]
    pub slots: Vec<Slot>,
    /// Shares namespaces with the other containers that say so.
    #[prost(message, optional, tag = "31")]
    pub pod: Option<Pod>,
    /// The network device's addresses; without it the container has its loopback alone. Of a pod's containers it is the
    /// first one's that counts, as with [`ContainerSpec::pod`].
    #[prost(message, optional, tag = "32")]
    pub network: Option<Network>,
    /// What the agent itself does in the container, in place of a program: `args`, `env`, `cwd`, `user` and what
    /// confines a program are not used then. It reads from its stdin and writes to its stdout what its kind says; its
    /// stderr is words for people, and its exit code is 0 when it was done.
    #[prost(message, optional, tag = "40")]
    pub task: Option<Task>,
}

/// Serial of the one block device whose parts are the machine's disk slots.
pub const DISK_SLOTS_SERIAL: &str = "capsid-disk-slots";

/// Bytes of a slot; slot n begins at n times that.
pub const SLOT_BYTES: u64 = 1 << 40;

/// The serial that a spec names the disk in a slot by.
#[must_use]
pub fn slot_serial(slot: u32) -> String {
    format!("capsid-slot-{slot}")
}

/// A disk in one of the machine's slots. The agent makes a partition of it and removes that when no container uses it
/// any more: then the host may take it out.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Slot {
    /// 1 to 255.
    #[prost(uint32, tag = "1")]
    pub slot: u32,
    /// Its length: whole sectors.
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
    /// It cannot be written.
    #[prost(bool, tag = "3")]
    pub readonly: bool,
}

/// What the containers of a pod have together: the namespaces of network, ipc (with `/dev/shm`) and uts. The first
/// container makes them, with its host name and kernel parameters; the others' are not used. They stay until the
/// machine ends.
#[derive(Clone, PartialEq, Message)]
pub struct Pod {
    /// The pid namespace as well.
    #[prost(bool, tag = "1")]
    pub shares_pids: bool,
    /// Size of `/dev/shm`.
    #[prost(uint64, tag = "2")]
    pub shm_bytes: u64,
    /// Of all containers together.
    #[prost(message, required, tag = "3")]
    pub limits: Limits,
}

/// How the machine's one network device is set up: it is named `eth0`, and is in the container's, or the pod's, network
/// namespace from then on.
#[derive(Clone, PartialEq, Message)]
pub struct Network {
    /// Its addresses, one for each network and kind that it is on; none is a device that is on no network.
    #[prost(message, repeated, tag = "1")]
    pub addresses: Vec<Address>,
    /// Bytes of the longest packet, 1280 to 65535.
    #[prost(uint32, tag = "2")]
    pub mtu: u32,
    /// Addresses on the device's link, whatever the prefixes are, where names are asked for: each gets a route of its
    /// own. 4 or 16 bytes, in network order; one of a kind that the device has no address of is not used.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub resolvers: Vec<Vec<u8>>,
}

/// An address, and the way from its link to everywhere, if there is one.
#[derive(Clone, PartialEq, Message)]
pub struct Address {
    /// 4 or 16 bytes, in network order.
    #[prost(bytes = "vec", tag = "1")]
    pub address: Vec<u8>,
    /// Length of the link's prefix.
    #[prost(uint32, tag = "2")]
    pub prefix_bits: u32,
    /// On the link; as long as the address. Empty is none: the link leads nowhere else. Of several addresses of a kind,
    /// the first one's that is not empty is the way to everywhere.
    #[prost(bytes = "vec", tag = "3")]
    pub gateway: Vec<u8>,
}

/// Work of the agent's own, with the container's folders as the container sees them.
#[derive(Clone, PartialEq, Message)]
pub struct Task {
    /// Which; absent is newer than this build.
    #[prost(oneof = "task::Kind", tags = "1, 2, 3, 4, 5")]
    pub kind: Option<task::Kind>,
}

/// The kinds of [`Task`].
pub mod task {
    use super::*;

    /// What is done.
    #[derive(Clone, PartialEq, Oneof)]
    pub enum Kind {
        /// Files of the container become a tar archive on stdout.
        #[prost(message, tag = "1")]
        Pack(super::Pack),
        /// A tar archive on stdin becomes files of the container.
        #[prost(message, tag = "2")]
        Unpack(super::Unpack),
        /// The whole root, without what is mounted over it, becomes a tar archive on stdout.
        #[prost(message, tag = "3")]
        Export(super::Unit),
        /// What differs from the image, on stdout: `A`, `C` or `D`, then the path, then a zero byte, each. The paths of
        /// `root`'s disks alone are looked at.
        #[prost(message, tag = "4")]
        Compare(super::Unit),
        /// Nothing more: the container's mounts are made, which prepares new volumes.
        #[prost(message, tag = "5")]
        Mount(super::Unit),
    }
}

/// Packs files of a container.
#[derive(Clone, PartialEq, Message)]
pub struct Pack {
    /// Path in the container. With a trailing `/` or `/.` it must be a folder, and the archive's names begin with `.`;
    /// else they begin with the path's last component.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// A link at the path itself is followed.
    #[prost(bool, tag = "2")]
    pub follow: bool,
}

/// Unpacks files into a container.
#[derive(Clone, PartialEq, Message)]
pub struct Unpack {
    /// Path in the container: docker's rules for what is there, and for a trailing `/`, hold.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// First component of every name in the archive, which is the name of what is copied; empty where only the content
    /// of a folder is copied.
    #[prost(bytes = "vec", tag = "2")]
    pub top: Vec<u8>,
    /// What is copied is a folder.
    #[prost(bool, tag = "3")]
    pub is_folder: bool,
    /// The archive is somebody else's: its names are taken as they are, and the path must be a folder.
    #[prost(bool, tag = "4")]
    pub is_foreign: bool,
    /// Owners as the archive says; else root.
    #[prost(bool, tag = "5")]
    pub keep_owners: bool,
}

/// The disks a container's root is made of, by virtio-blk serial (`/sys/block/*/serial`): attach order is nobody's
/// contract.
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

/// A terminal's size in characters.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct TerminalSize {
    /// Lines.
    #[prost(uint32, tag = "1")]
    pub rows: u32,
    /// Characters a line.
    #[prost(uint32, tag = "2")]
    pub columns: u32,
}

/// One mount over the root.
#[derive(Clone, PartialEq, Message)]
pub struct Mount {
    /// Absolute path in the container, made when missing, resolved beneath the root.
    #[prost(string, tag = "1")]
    pub target: String,
    /// What is mounted there.
    #[prost(oneof = "mount::Source", tags = "2, 3, 4, 5, 6, 7, 8, 9, 20")]
    pub source: Option<mount::Source>,
    /// No writing.
    #[prost(bool, tag = "10")]
    pub readonly: bool,
    /// No program is executed from it.
    #[prost(bool, tag = "11")]
    pub noexec: bool,
    /// Set-user-id bits do nothing in it.
    #[prost(bool, tag = "12")]
    pub nosuid: bool,
    /// Device nodes do nothing in it.
    #[prost(bool, tag = "13")]
    pub nodev: bool,
}

/// The sources of [`Mount`].
pub mod mount {
    use super::*;

    /// What is mounted.
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
        /// A fresh devpts instance.
        #[prost(message, tag = "5")]
        Devpts(super::Unit),
        /// POSIX message queues of the container's ipc namespace.
        #[prost(message, tag = "6")]
        Mqueue(super::Unit),
        /// Memory.
        #[prost(message, tag = "7")]
        Tmpfs(super::Tmpfs),
        /// A disk of its own.
        #[prost(message, tag = "8")]
        Volume(super::Volume),
        /// The memory that the containers of a pod share: [`super::Pod`].
        #[prost(message, tag = "20")]
        PodShm(super::Unit),
        /// A folder or file of the host's.
        #[prost(message, tag = "9")]
        Share(super::Share),
    }
}

/// A source without parameters.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Unit {}

/// A filesystem in memory.
#[derive(Clone, PartialEq, Message)]
pub struct Tmpfs {
    /// Size in bytes; 0 is the kernel's default, half of memory.
    #[prost(uint64, tag = "1")]
    pub size_bytes: u64,
    /// Mode of its root folder.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    /// Owner of its root folder.
    #[prost(uint32, tag = "3")]
    pub uid: u32,
    /// Group of its root folder.
    #[prost(uint32, tag = "4")]
    pub gid: u32,
    /// The image's files at the target are copied into it first.
    #[prost(bool, tag = "5")]
    pub populate: bool,
}

/// An ext4 disk that outlives the container. It is unmounted, with everything written, before the container is
/// reported as stopped, unless another container of the pod has it too. Its empty `lost+found` is removed: programs
/// refuse data folders that are not empty. Device nodes do nothing in it, whatever [`Mount::nodev`] says.
#[derive(Clone, PartialEq, Message)]
pub struct Volume {
    /// The disk's virtio-blk serial.
    #[prost(string, tag = "1")]
    pub serial: String,
    /// While the disk is empty, the image's files at the target are copied into it first, with the target's own mode
    /// and owner. A copy that was cut off is made again from the start.
    #[prost(bool, tag = "2")]
    pub populate: bool,
}

/// The name of a shared file in the root folder of its virtio-fs device: such a device has nothing else.
pub const SHARED_FILE: &str = "file";

/// A folder or file of the host's, served by a virtio-fs device.
#[derive(Clone, PartialEq, Message)]
pub struct Share {
    /// The device's tag: at most 36 bytes (virtio 1.3, section 5.11.4).
    #[prost(string, tag = "1")]
    pub tag: String,
    /// It is one file, [`SHARED_FILE`]; the mount's target is a file then.
    #[prost(bool, tag = "2")]
    pub is_file: bool,
}

/// A device node.
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
    /// Refuses to be opened for reading.
    #[prost(bool, tag = "6")]
    pub no_read: bool,
    /// Refuses to be opened for writing.
    #[prost(bool, tag = "7")]
    pub no_write: bool,
}

/// A device of the guest that a container has.
#[derive(Clone, PartialEq, Message)]
pub struct GuestDevice {
    /// Absolute path of the node, or of a folder of nodes, in the guest's `/dev`.
    #[prost(string, tag = "1")]
    pub source: String,
    /// Absolute path in the container.
    #[prost(string, tag = "2")]
    pub target: String,
    /// Refuses to be opened for reading.
    #[prost(bool, tag = "3")]
    pub no_read: bool,
    /// Refuses to be opened for writing.
    #[prost(bool, tag = "4")]
    pub no_write: bool,
}

/// The type of a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum DeviceType {
    /// Character device.
    Character = 0,
    /// Block device.
    Block = 1,
}

/// cgroup v2 limits; an absent one is not set. `u64::MAX` is unlimited, to take one away.
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

/// A small file made for the container.
#[derive(Clone, PartialEq, Message)]
pub struct File {
    /// Absolute path in the container.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Its bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub content: Vec<u8>,
    /// Permission bits.
    #[prost(uint32, tag = "3")]
    pub mode: u32,
}
