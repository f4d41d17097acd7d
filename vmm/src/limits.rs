//! What a guest can make this process hold or do at once, each with its reason.

/// Pieces of host memory that one descriptor chain may touch: `IOV_MAX` of Linux, so that one call moves them all.
pub(crate) const CHAIN_SLICES_MAX: usize = 1024;

/// Bytes of data in one block request. More would let one request hold the device for long.
pub(crate) const BLOCK_REQUEST_BYTES_MAX: usize = 1 << 20;

/// Bytes in one data descriptor of a block request, and how many there may be: together they make
/// [`BLOCK_REQUEST_BYTES_MAX`]. 64 single pages are twice Linux' read-ahead.
pub(crate) const BLOCK_SEGMENT_BYTES_MAX: u32 = 16 << 10;

/// See [`BLOCK_SEGMENT_BYTES_MAX`].
pub(crate) const BLOCK_SEGMENTS_MAX: u32 = 64;

const _: () = assert!(BLOCK_SEGMENT_BYTES_MAX as usize * BLOCK_SEGMENTS_MAX as usize == BLOCK_REQUEST_BYTES_MAX);

/// Sectors in one discard or write-zeroes segment: 128 MiB. Punching a hole is quick, but not free: ext4 and xfs free
/// one extent after the other.
pub(crate) const BLOCK_DISCARD_SECTORS_MAX: u32 = 1 << 18;

/// Segments in one discard or write-zeroes request: one page of them, as in QEMU's and Linux' own devices.
pub(crate) const BLOCK_DISCARD_SEGMENTS_MAX: u32 = 16;

/// Host files in one disk: a page of rootfs layers and their metadata; image layers end at 128.
pub(crate) const DISK_EXTENTS_MAX: usize = 256;

/// Fds for the the files of disks in slots: 128 containers of one file and of an image with 30 layers each. More than
/// that is refused where it is put in.
pub(crate) const DISK_SLOTS_FDS_MAX: u64 = 4096;

/// Random bytes in one request: Linux asks for 32 to 64 bytes; this bounds the time in `getrandom`.
pub(crate) const RNG_REQUEST_BYTES_MAX: usize = 64 << 10;

/// Streams at once through one socket device: the number that Firecracker runs in production.
pub(crate) const VSOCK_CONNECTIONS_MAX: usize = 1023;

/// Bytes of one stream kept for a host reader that is slow; also the credit given to the guest.
pub(crate) const VSOCK_BUFFER_BYTES: usize = 64 << 10;

/// Payload of one socket packet: Linux' `VIRTIO_VSOCK_MAX_PKT_BUF_SIZE`.
pub(crate) const VSOCK_PACKET_BYTES_MAX: usize = 64 << 10;

/// Resets waiting for room in the guest's receive queue. The guest causes them; more are dropped and counted.
pub(crate) const VSOCK_RESETS_MAX: usize = 256;

/// How long the guest may take to accept a stream, or to confirm that one is closed, in milliseconds.
pub(crate) const VSOCK_ANSWER_TIMEOUT_MS: u64 = 2000;

/// Packets handled for one notification before the other devices get their turn. The device comes back by itself.
pub(crate) const VSOCK_PACKETS_PER_TURN: usize = 1024;

/// Frames handled for one notification, each way, before the other devices get their turn.
pub(crate) const NET_FRAMES_PER_TURN: usize = 256;

/// Chains that one received frame may fill: the longest fills 45 of those that Linux offers at first, of 1.5 KiB.
pub(crate) const NET_CHAINS_PER_FRAME_MAX: usize = 64;

/// Answers in the network's place that wait for room in the guest's receive queue; more are dropped.
pub(crate) const NET_ANSWERS_MAX: usize = 64;

/// Conversations that others began, or names opened, kept at once: some 100 bytes each.
pub(crate) const NET_FLOWS_MAX: usize = 8192;

/// Addresses of names kept at once.
pub(crate) const NET_NAME_ADDRESSES_MAX: usize = 1024;

/// Questions for names that wait for their answer.
pub(crate) const NET_NAMES_ASKED_MAX: usize = 256;

/// Members of one network: pods of one user on one machine, of which some thousand fit into the largest.
pub(crate) const SWITCH_MEMBERS_MAX: usize = 1000;

/// Bytes of one member carried before the others get their turn.
pub(crate) const SWITCH_BYTES_PER_TURN: usize = 512 << 10;

/// Supervisors at once that have connected and not yet said what they want.
pub(crate) const SWITCH_KNOCKING_MAX: usize = 32;

/// Bytes of serial output that are kept: enough for a whole boot log and an oops.
pub(crate) const CONSOLE_BYTES: usize = 64 << 10;

/// Log lines a second that a guest can cause; more are counted only, so that it cannot fill the host's disk.
pub(crate) const WARNINGS_PER_SECOND: u32 = 10;

/// A config is a few KiB; the supervisor is trusted, but a wrong fd may be endless.
pub(crate) const CONFIG_BYTES: u64 = 1 << 20;

/// Free space of the host's disk that guests' writes leave: Capsid's state and logs need some.
pub const ROOM_KEPT_BYTES: u64 = 8 << 20;

/// The same on a small disk: this part of it.
pub const ROOM_KEPT_PART: u64 = 64;
