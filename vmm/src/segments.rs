//! Network connections of a machine: networks of pods, the uplink, and the host's addresses, which close part of the
//! uplink. They change while the machine runs, by messages of the supervisor.
//!
//! A machine has one network device, with one uplink and [`SEGMENTS_MAX`] slots for networks: none of them is connected
//! at first. Each change is one message on a `SOCK_SEQPACKET` UNIX socket: JSON, with the stream of the frames beside
//! it when there is one. It is answered by one byte: [`DONE`] or [`REFUSED`].

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::egress::{Egress, Ports, Protocol};

pub use crate::disk_slots::{DONE, REFUSED};

/// Number of slots for segments.
pub const SEGMENTS_MAX: usize = 16;
/// Maximum length of a message in bytes: some hundred rules and some thousand addresses. Linux' sockets take more at
/// once.
pub(crate) const MESSAGE_BYTES_MAX: usize = 128 << 10;

/// Change of a machine's network connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// Connects the machine to a further network, in an empty slot. A connected UNIX stream socket comes beside the
    /// message; its other end is the network's switch, which takes and returns frames, each after its length. Frames of
    /// the guest that the switch returns are questions for names that no member has.
    Connect {
        /// Number of the slot, from 0.
        slot: u8,
        /// Network to connect to.
        segment: Segment,
    },
    /// Disconnects the machine from a network.
    Disconnect {
        /// Number of the slot.
        slot: u8,
    },
    /// Connects the uplink, which was not connected. A connected UNIX stream socket comes beside the message; its other
    /// end carries frames everywhere (passt), each after its length.
    Open(Uplink),
    /// Disconnects the uplink, and forgets what was remembered for it.
    Close,
    /// Replaces the addresses of the host ([`crate::egress::Egress::host`]).
    Host {
        /// Addresses of the host, complete.
        addresses: Vec<IpAddr>,
    },
}

/// Uplink of a machine, and what may pass through it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uplink {
    /// Hardware address of the other end. The device answers ARP and neighbor discovery with it.
    pub hardware: [u8; 6],
    /// Addresses of the guest that the uplink is open to; no packet leaves by it with another.
    pub addresses: Vec<IpAddr>,
    /// Destinations to which the guest may start a conversation.
    pub egress: Egress,
    /// Ports of the guest to which others may start a conversation through the uplink.
    pub published: Vec<Published>,
    /// Address by which the guest knows the host's loopback, if the other end does not translate it back in answers
    /// over UDP: the device sends such answers to 127.0.0.1.
    pub loopback_alias: Option<Ipv4Addr>,
}

/// Ports of a machine to which others may start a conversation through its uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// Protocol of the ports.
    pub protocol: Protocol,
    /// Ports of the guest.
    pub ports: Ports,
}

/// Network of pods, as one of its members sees it: a link on which every member may speak to every other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Addresses of the member itself.
    pub addresses: Vec<IpAddr>,
    /// Address ranges of the link: of IPv4, IPv6, or both. None of their addresses is reached through the uplink.
    pub networks: Vec<IpNet>,
    /// Addresses in these ranges that no member has: they belong to the uplink.
    pub gateways: Vec<IpAddr>,
}

impl Change {
    /// Encodes the change as a message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Numbers and addresses always have a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Decodes a message; `None` for bytes that are no change, or that name a slot that does not exist.
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
