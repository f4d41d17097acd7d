//! The network device (virtio 1.3, section 5.1): frames between a guest and what carries them further.
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
//! A guest is nobody but itself: frames with another hardware or network address, and frames outside of the closed
//! grammar of [`frame`], end here, and are counted. ARP and neighbor discovery never reach the uplink: the device
//! answers them. Headers are written anew before a frame leaves. Where it may go to through the uplink is
//! [`crate::egress`]'s to say; on a segment, the link of a network of pods, every member may speak to every other. A
//! guest is on as many segments as its supervisor says, while it runs: the network address tells which one is meant.
//! Questions for names go to the segments first, one after the other, whose switches give those back that are for no
//! member's name: they are judged then, and go to the uplink.
//!
//! What comes from the uplink opens a way back only where it begins a conversation with a published port, or goes on
//! with one that the rules permitted.
//!
//! Where a rate limits it, frames of the guest wait in its transmit queue, and frames for it in the streams.

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

/// Bytes of the longest frame: an Ethernet header and the most that an IP packet can have (MTU 65520 and its header
/// fit).
pub const FRAME_BYTES_MAX: usize = 14 + 65535;
/// Bytes of an Ethernet header.
const ETHERNET_BYTES: usize = 14;

/// A hardware address.
pub type Mac = [u8; 6];
