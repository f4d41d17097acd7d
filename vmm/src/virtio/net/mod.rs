//! The network device (virtio 1.3, section 5.1): frames between a guest and what carries them further.
//!
//! ```text
//!  guest ─► transmit queue ─► header (checksums) ─► Guard: whose, where to ─► Stream ─► passt
//!    ▲                                               │ refused: an ICMP answer      │
//!    └── receive queue ◄───── header ◄───────────────┴──────── Guard: notes ◄───────┘
//! ```
//!
//! A guest is nobody but itself: frames with another hardware or network address, of another kind than IPv4, IPv6, ARP
//! and neighbour discovery, and fragments end here, and are counted. Where it may go to is [`crate::egress`]'s to say.

mod device;
mod flows;
mod guard;
#[cfg(test)]
mod guard_tests;
mod header;
mod names;
mod receive_ring;
mod refusal;
mod stream;
#[cfg(test)]
mod tests;

pub use device::{NetDevice, NetError};
pub(crate) use guard::link_local;
pub(crate) use refusal::{Ends, answer as answer_udp};
pub(crate) use stream::Stream;

/// Bytes of the longest frame: an Ethernet header and the most that an IP packet can have (MTU 65520 and its header fit).
pub const FRAME_BYTES_MAX: usize = 14 + 65535;
/// Bytes of an Ethernet header.
const ETHERNET_BYTES: usize = 14;

/// A hardware address.
pub type Mac = [u8; 6];
