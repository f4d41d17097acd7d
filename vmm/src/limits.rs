//! Limits on what a guest can make this process hold or do at once, each with its reason.

/// Maximum number of pieces of host memory that one descriptor chain may touch: `IOV_MAX` of Linux, so that one call
/// moves them all.
pub(crate) const CHAIN_SLICES_MAX: usize = 1024;

/// Maximum bytes of data in one block request. More would let one request occupy the device for long.
pub(crate) const BLOCK_REQUEST_BYTES_MAX: usize = 1 << 20;

/// Maximum bytes in one data descriptor of a block request. With [`BLOCK_SEGMENTS_MAX`] descriptors this makes
/// [`BLOCK_REQUEST_BYTES_MAX`]. 64 single pages are twice Linux' read-ahead.
pub(crate) const BLOCK_SEGMENT_BYTES_MAX: u32 = 16 << 10;

/// Maximum number of data descriptors of a block request; see [`BLOCK_SEGMENT_BYTES_MAX`].
pub(crate) const BLOCK_SEGMENTS_MAX: u32 = 64;

const _: () = assert!(BLOCK_SEGMENT_BYTES_MAX as usize * BLOCK_SEGMENTS_MAX as usize == BLOCK_REQUEST_BYTES_MAX);

/// Maximum sectors in one discard or write-zeroes segment: 128 MiB. Punching a hole is quick, but not free: ext4 and
/// xfs free one extent after the other.
pub(crate) const BLOCK_DISCARD_SECTORS_MAX: u32 = 1 << 18;

/// Maximum segments in one discard or write-zeroes request: one page of them, as in QEMU's and Linux' own devices.
pub(crate) const BLOCK_DISCARD_SEGMENTS_MAX: u32 = 16;

/// Maximum number of host files in one disk: a page of rootfs layers and their metadata; image layers end at 128.
pub(crate) const DISK_EXTENTS_MAX: usize = 256;

/// Maximum number of fds for the files of disks in slots: 128 containers, each with one file and an image of 30 layers.
/// A disk that exceeds this is refused when it is plugged in.
pub(crate) const DISK_SLOTS_FDS_MAX: u64 = 4096;

/// Maximum random bytes in one request: Linux asks for 32 to 64 bytes; this bounds the time in `getrandom`.
pub(crate) const RNG_REQUEST_BYTES_MAX: usize = 64 << 10;

/// Maximum number of concurrent streams through one socket device: the number that Firecracker runs in production.
pub(crate) const VSOCK_CONNECTIONS_MAX: usize = 1023;

/// Maximum bytes of one stream that are buffered for a slow host reader; also the credit given to the guest.
pub(crate) const VSOCK_BUFFER_BYTES: usize = 64 << 10;

/// Maximum payload of one socket packet in bytes: Linux' `VIRTIO_VSOCK_MAX_PKT_BUF_SIZE`.
pub(crate) const VSOCK_PACKET_BYTES_MAX: usize = 64 << 10;

/// Maximum number of resets waiting for room in the guest's receive queue. The guest causes them; more are dropped and
/// counted.
pub(crate) const VSOCK_RESETS_MAX: usize = 256;

/// Time limit in milliseconds for the guest to accept a stream, or to confirm that one is closed.
pub(crate) const VSOCK_ANSWER_TIMEOUT_MS: u64 = 2000;

/// Maximum number of packets handled for one notification before the other devices get their turn. The device then
/// requests another turn by itself.
pub(crate) const VSOCK_PACKETS_PER_TURN: usize = 1024;

/// Maximum number of frames handled for one notification, in each direction, before the other devices get their turn.
pub(crate) const NET_FRAMES_PER_TURN: usize = 256;

/// Maximum number of chains that one received frame may fill: the longest frame fills 45 of those of 1.5 KiB that Linux
/// offers at first.
pub(crate) const NET_CHAINS_PER_FRAME_MAX: usize = 64;

/// Maximum number of answers made in place of the network that wait for room in the guest's receive queue; more are
/// dropped.
pub(crate) const NET_ANSWERS_MAX: usize = 64;

/// Maximum number of conversations kept at once that others began, or names opened: some 100 bytes each.
pub(crate) const NET_FLOWS_MAX: usize = 8192;

/// Maximum number of addresses of names kept at once.
pub(crate) const NET_NAME_ADDRESSES_MAX: usize = 1024;

/// Maximum number of questions for names that wait for their answer.
pub(crate) const NET_NAMES_ASKED_MAX: usize = 256;

/// Maximum number of members of one network: pods of one user on one machine, of which some thousand fit into the
/// largest.
pub(crate) const SWITCH_MEMBERS_MAX: usize = 1000;

/// Maximum bytes of one member carried before the others get their turn.
pub(crate) const SWITCH_BYTES_PER_TURN: usize = 512 << 10;

/// Maximum number of connected supervisors that have not sent their request yet.
pub(crate) const SWITCH_KNOCKING_MAX: usize = 32;

/// Number of bytes of serial output that are kept: enough for a whole boot log and an oops.
pub(crate) const CONSOLE_BYTES: usize = 64 << 10;

/// Maximum log lines per second that a guest can cause; more are only counted, so that it cannot fill the host's disk.
pub(crate) const WARNINGS_PER_SECOND: u32 = 10;

/// Maximum length of a config in bytes. A config is a few KiB; the supervisor is trusted, but a wrong fd may be
/// endless.
pub(crate) const CONFIG_BYTES: u64 = 1 << 20;

/// Free space in bytes on the host's disk that guests' writes leave: Capsid's state and logs need some.
pub const ROOM_KEPT_BYTES: u64 = 8 << 20;

/// Divisor for the free space that guests' writes leave on a small disk: this fraction of the disk.
pub const ROOM_KEPT_PART: u64 = 64;
