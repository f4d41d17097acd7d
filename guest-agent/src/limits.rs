//! Bounds on what hostile bytes can make the agent do, each with its reason.
//!
//! The host is trusted, but its specs are bounded too: they carry text from users and images.

use std::time::Duration;

/// Maximum containers of one pod at a time. Each costs the agent a few threads; pods of people hold fewer than twenty.
pub(crate) const CONTAINERS_MAX: usize = 128;

/// Maximum processes that joined containers of one pod, at a time: as costly as containers, but people script them.
pub(crate) const EXEC_PROCESSES_MAX: usize = 512;

/// Time limit of a container's end for the reports of its exec processes.
pub(crate) const EXEC_PROCESSES_WAIT: Duration = Duration::from_secs(2);

/// Maximum arguments or environment variables. The kernel's own bound is memory (a quarter of the stack limit).
pub(crate) const STRINGS_MAX: usize = 65_536;

/// Maximum entries of one list of a spec: mounts, devices, files, masked paths. Each is a few system calls.
pub(crate) const ENTRIES_MAX: usize = 1_024;

/// Maximum depth of folders in the guest's `/dev`: `net/tun` and `input/by-id` are the deepest of real ones.
pub(crate) const DEVICE_DEPTH_MAX: usize = 4;

/// Maximum bytes of a path, `PATH_MAX` of Linux with its zero byte.
pub(crate) const PATH_BYTES_MAX: usize = 4_095;

/// Maximum bytes of a host name (`HOST_NAME_MAX` of Linux).
pub(crate) const HOSTNAME_BYTES_MAX: usize = 64;

/// Maximum instructions of a seccomp program (`BPF_MAXINSNS` of Linux).
pub(crate) const SECCOMP_INSTRUCTIONS_MAX: usize = 4_096;

/// Maximum bytes of an image's `/etc/passwd` or `/etc/group`. A thousand users take 60 KiB.
pub(crate) const ACCOUNT_FILE_BYTES_MAX: usize = 1 << 20;

/// Maximum number of supplementary groups (`NGROUPS_MAX` of Linux).
pub(crate) const GROUPS_MAX: usize = 65_536;

/// Maximum symbolic links followed in one path (`MAXSYMLINKS` of Linux).
pub(crate) const LINKS_MAX: usize = 40;

/// Bounds of a copy into a populated tmpfs: an image keeps little under `/tmp` or `/run`. One open descriptor per
/// level.
pub(crate) const TMPFS_BOUNDS: Bounds = Bounds {
    entries: 100_000,
    depth: 64,
};

/// Bounds of a copy into a fresh volume: at most what a whole image may hold.
pub(crate) const VOLUME_BOUNDS: Bounds = Bounds {
    entries: 1_000_000,
    depth: 128,
};

/// Maximum bytes of the names, or of one value, of a file's extended attributes (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX` of
/// Linux).
pub(crate) const XATTR_BYTES_MAX: usize = 64 << 10;

/// Time limit for the disks of an ended container to be busy without any write to them: its last process is gone, but
/// io_uring and sockets that hold files are cleaned up behind it, or the host has no room for unwritten data.
pub(crate) const DISK_WAIT: Duration = Duration::from_secs(5);
/// Time limit for all writes to the disks of an ended container: a machine's whole memory, written to a slow disk.
pub(crate) const DISK_WAIT_ALL: Duration = Duration::from_secs(600);

/// Size of the tmpfs for a container's staging folders and small files. A frame holds 4 MiB, so all files of a spec
/// fit, and a container that fills its `/etc/hosts` stops here.
pub(crate) const STAGING_TMPFS: &str = "8m";

/// Bytes that a terminal keeps unread: 64 KiB in its flip buffers (`TTYB_DEFAULT_MEM_LIMIT` of Linux), 4 KiB behind
/// them, and as much again for what is being moved.
pub(crate) const TERMINAL_BUFFER_BYTES: u64 = 136 << 10;

/// Number of retries to open a path that somebody keeps moving.
pub(crate) const OPEN_RETRIES: usize = 64;

/// Maximum signals kept for a container that has not started yet.
pub(crate) const PENDING_SIGNALS_MAX: usize = 64;

/// Time limit of a stream from connection to its hello, and of `Start` for missing streams.
pub(crate) const STREAM_WAIT: Duration = Duration::from_secs(10);

/// Time that `Shutdown` waits for killed containers before the disks are synced without them.
pub(crate) const SHUTDOWN_WAIT: Duration = Duration::from_secs(10);

/// Time for which dialing the host is retried while the vsock device is not there yet.
pub(crate) const DIAL_WAIT: Duration = Duration::from_secs(5);

/// Maximum stream connections whose hello is missing. The host opens three for each container.
pub(crate) const WAITING_STREAMS_MAX: usize = 512;

/// Maximum levels of cgroups below a container's own: runtimes and init systems inside nest fewer than ten.
pub(crate) const CGROUP_DEPTH_MAX: usize = 32;

/// Maximum cgroups below a container's own. Each costs kernel memory that is charged to it, and one removal at its end.
pub(crate) const CGROUP_DESCENDANTS_MAX: usize = 10_000;

/// Time limit for processes to stop: microseconds, unless one waits uninterruptibly for a disk.
pub(crate) const FREEZE_WAIT: Duration = Duration::from_secs(2);

/// Maximum changes of what the host can store that wait: one is sent when the host's free space has changed.
pub(crate) const KEEP_FREE_MAX: usize = 64;

/// Maximum parts of the kernel's answer about the network device, each some forty addresses or routes: a container with
/// the rights to do so makes as many as it likes.
pub(crate) const NETLINK_PARTS_MAX: usize = 256;

/// Maximum bytes reported of the arguments of one process.
pub(crate) const ARGUMENTS_BYTES_MAX: usize = 4_096;

/// Maximum bytes of all arguments reported at once: half of a frame; the rest takes at most 100 bytes per process.
pub(crate) const LISTED_BYTES_MAX: usize = 2 << 20;

/// Time limit to read the arguments of one process: microseconds, unless its memory is served by somebody slow.
pub(crate) const ARGUMENTS_WAIT: Duration = Duration::from_millis(250);

/// Time limit to read the arguments of all processes of a container: far less than the host waits for the answer.
pub(crate) const ARGUMENTS_WAIT_ALL: Duration = Duration::from_secs(5);

/// Maximum threads that read arguments; all but one hang at a process each. Each costs a stack of 256 KiB at most.
pub(crate) const ARGUMENT_READERS_MAX: usize = 8;

/// Time for the last messages to reach the host before the machine is reset.
pub(crate) const LINGER: Duration = Duration::from_millis(200);

/// Maximum open descriptors of a process: `fs.nr_open` of Linux, which is docker's default for containers too.
pub(crate) const DESCRIPTORS_MAX: u64 = 1 << 20;

/// Bytes copied at once between a stream and its pipe: the capacity of a pipe.
pub(crate) const COPY_BYTES: usize = 64 << 10;

/// Bounds on the cost of one copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Maximum number of files of every kind.
    pub(crate) entries: usize,
    /// Maximum number of folder levels.
    pub(crate) depth: usize,
}
