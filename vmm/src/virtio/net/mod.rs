//! Network device (virtio 1.3, section 5.1): frames between a guest and its links.
//!
//! ```text
//!  guest ─► transmit queue ─► header (checksums) ─► PacketFilter: frame, whose, where to ─┬─► uplink: Stream ─► passt
//!    ▲                            refused, or a question for a neighbor: an answer ┤
//!    │                                                                             └─► each segment: Stream ─► its switch
//!    └── receive queue ◄───── header ◄───── Links: each in its turn ◄── PacketFilter: notes ◄── uplink
//!                                                     ▲
//!                                                     └── PacketFilter: the guest's own, given back? ◄── segments
//! ```
//!
//! A guest has no identity but its own: frames with another hardware or network address, and frames outside of the
//! closed grammar of [`frame`], are dropped here and counted. ARP and neighbor discovery never reach the uplink: the
//! device answers them. Headers are rewritten before a frame leaves. [`crate::egress`] decides which destinations are
//! open through the uplink; on a segment, the link of a network of pods, every member may speak to every other. A guest
//! is on as many segments as its supervisor connects, at run time: the network address selects the segment. Questions
//! for names are sent to the segments first, one after the other, whose switches return those that are for no member's
//! name: these are then judged and sent to the uplink.
//!
//! A packet from the uplink opens a way for answers only if it starts a conversation with a published port, or
//! continues one that the rules permitted.
//!
//! If a rate limit applies, frames of the guest wait in its transmit queue, and frames for it wait in the streams.

mod announcement;
mod device;
mod discovery;
mod flows;
mod frame;
#[cfg(test)]
mod grammar_tests;
mod header;
mod links;
mod names;
mod packet_filter;
#[cfg(test)]
mod packet_filter_tests;
mod rate;
mod receive_ring;
mod refusal;
mod segment;
mod stream;
#[cfg(test)]
mod tests;
mod transport;

pub use device::{NetDevice, NetError};
pub(crate) use discovery::{Question as NeighborQuestion, link_local};
pub(crate) use frame::{Body, parse as parse_frame};
pub(crate) use packet_filter::DNS_PORT;
pub(crate) use refusal::answer as answer_udp;
pub(crate) use stream::Stream;
pub(crate) use transport::Transport;

/// Length of the longest frame in bytes: an Ethernet header and the maximum length of an IP packet (MTU 65520 and its
/// header fit).
pub const FRAME_BYTES_MAX: usize = 14 + 65535;
/// Length of an Ethernet header in bytes.
const ETHERNET_BYTES: usize = 14;

/// Hardware address.
pub type Mac = [u8; 6];
