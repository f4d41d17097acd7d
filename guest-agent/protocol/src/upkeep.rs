//! Upkeep of a guest: heartbeat, clock, free space.

use prost::Message;

/// Keeps part of disks free, for which the host has no room: programs get `ENOSPC` before their data is accepted, not
/// an error of a write that they have forgotten. Has no answer.
#[derive(Clone, PartialEq, Message)]
pub struct KeepFree {
    /// Parts to keep free; each replaces the earlier part of the same disk.
    #[prost(message, repeated, tag = "1")]
    pub disks: Vec<FreePart>,
}

/// Part of a disk to keep free.
#[derive(Clone, PartialEq, Message)]
pub struct FreePart {
    /// Serial of the disk, as specs name it.
    #[prost(string, tag = "1")]
    pub serial: String,
    /// Number of bytes to keep free.
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
}

/// Requests a [`Pong`], and sets or corrects the guest's wall clock before it. The agent answers at once, whatever
/// requests it is busy with.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Ping {
    /// Host's wall clock when it sent the ping, nanoseconds since 1970.
    #[prost(uint64, tag = "1")]
    pub host_clock_ns: u64,
    /// Nanoseconds to add to the guest's wall clock.
    #[prost(sint64, tag = "2")]
    pub correction_ns: i64,
    /// True for the first ping of a session, before any container runs: sets the guest's wall clock to `host_clock_ns`.
    #[prost(bool, tag = "3")]
    pub is_first: bool,
}

/// Reports that the agent is alive.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Pong {
    /// Host's wall clock in the [`Ping`].
    #[prost(uint64, tag = "1")]
    pub host_clock_ns: u64,
    /// Guest's wall clock after the correction, nanoseconds since 1970.
    #[prost(uint64, tag = "2")]
    pub guest_clock_ns: u64,
}
