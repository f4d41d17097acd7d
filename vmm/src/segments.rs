//! Where a machine's frames may go to: networks of pods, the uplink, and what of it its host's addresses close. It
//! changes while the machine runs, and this is how a supervisor says so.
//!
//! A machine has one network device, with one uplink and as many places on networks as [`SEGMENTS_MAX`]: none of them
//! leads anywhere before it is said. One message a change, on a `SOCK_SEQPACKET` UNIX socket: JSON, with the stream of
//! the frames beside it when there is one. It is answered by one byte: [`DONE`] or [`REFUSED`].

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::egress::{Egress, Ports, Protocol};

pub use crate::disk_slots::{DONE, REFUSED};

/// Places for segments.
pub const SEGMENTS_MAX: usize = 16;
/// Bytes of the longest message: some hundred rules and some thousand addresses. Linux' sockets take more at once.
pub(crate) const MESSAGE_BYTES_MAX: usize = 128 << 10;

/// A change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// The machine is on this one too, by an empty place. A connected UNIX stream socket comes beside this; its other
    /// end is the network's switch, which takes and gives frames, each after its length. What it gives back of the
    /// guest's are questions for names that no member has.
    Connect {
        /// The place, from 0.
        slot: u8,
        /// The network.
        segment: Segment,
    },
    /// The machine is on this one no more.
    Disconnect {
        /// The place.
        slot: u8,
    },
    /// The uplink leads somewhere, which it did not. A connected UNIX stream socket comes beside this; its other end
    /// carries frames everywhere (passt), each after its length.
    Open(Uplink),
    /// The uplink leads nowhere any more, and what it was remembered for is forgotten.
    Close,
    /// The host has these addresses now ([`crate::egress::Egress::host`]).
    Host {
        /// All of them.
        addresses: Vec<IpAddr>,
    },
}

/// The uplink of a machine, and who may use it for what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uplink {
    /// Hardware address of the other end. The device answers ARP and neighbor discovery with it.
    pub hardware: [u8; 6],
    /// Addresses of the guest that the uplink is open to; no packet leaves by it with another.
    pub addresses: Vec<IpAddr>,
    /// Destinations that the guest may begin to speak to.
    pub egress: Egress,
    /// Ports of the guest that others may begin to speak to through the uplink.
    pub published: Vec<Published>,
    /// Address by which the guest knows the host's loopback, where the other end does not translate it back in answers
    /// over UDP: the device sends them to 127.0.0.1.
    pub loopback_alias: Option<Ipv4Addr>,
}

/// Ports of a machine that others may begin to speak to through its uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// Protocol of the ports.
    pub protocol: Protocol,
    /// Ports of the guest.
    pub ports: Ports,
}

/// A network of pods, as one of its members sees it: a link on which every member may speak to every other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// The member's own addresses.
    pub addresses: Vec<IpAddr>,
    /// The addresses of the link: of IPv4, IPv6, or both. None of them is spoken to through the uplink.
    pub networks: Vec<IpNet>,
    /// Those of them that no member has: they are the uplink's.
    pub gateways: Vec<IpAddr>,
}

impl Change {
    /// As it is sent.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Numbers and addresses always have a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What was sent; `None` for bytes that are no change, or name a place that is not there.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let change = serde_json::from_slice(bytes).ok()?;
        match &change {
            Self::Connect { slot, .. } | Self::Disconnect { slot } if usize::from(*slot) >= SEGMENTS_MAX => None,
            _ => Some(change),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_survive_the_socket_and_other_bytes_are_none() {
        let segment = Segment {
            addresses: vec![[10, 89, 0, 2].into()],
            networks: vec!["10.89.0.0/24".parse().expect("a network")],
            gateways: vec![[10, 89, 0, 1].into()],
        };
        let changes = [
            Change::Connect { slot: 15, segment },
            Change::Disconnect { slot: 0 },
            Change::Open(Uplink {
                addresses: vec![[100, 96, 0, 2].into()],
                published: vec![Published {
                    protocol: Protocol::Tcp,
                    ports: Ports { first: 80, last: 81 },
                }],
                ..Uplink::default()
            }),
            Change::Close,
            Change::Host {
                addresses: vec![[192, 0, 2, 1].into()],
            },
        ];
        for change in changes {
            assert_eq!(Change::decode(&change.encode()), Some(change));
        }
        assert_eq!(Change::decode(&Change::Disconnect { slot: 16 }.encode()), None);
        for bytes in [
            &b""[..],
            b"{}",
            br#"{"disconnect":{"slot":-1}}"#,
            br#"{"disconnect":{"slot":1,"x":1}}"#,
        ] {
            assert_eq!(Change::decode(bytes), None);
        }
    }
}
