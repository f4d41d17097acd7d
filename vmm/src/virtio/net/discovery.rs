//! Resolution of hardware addresses on a link: ARP (RFC 826) and neighbor discovery (RFC 4861).
//!
//! No message of either crosses a link: the device answers the guest's questions, or the switch does so on a segment,
//! and what the guest announces is known already.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};

use super::Mac;
use super::frame::FrameError;

/// Hop limit of neighbor discovery, which proves that a message comes from the same link (RFC 4861, section 7.1).
pub(super) const ON_LINK_HOPS: u8 = 255;
/// Message types: router solicitation, router advertisement, neighbor solicitation and advertisement, redirect. Router
/// advertisements and redirects are not sent by hosts, and are [`super::transport::Transport::Routing`].
const ROUTER_SOLICITATION: u8 = 133;
const NEIGHBOR_SOLICITATION: u8 = 135;
pub(super) const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// Length in bytes of any such message before its target or its options.
const HEADER_BYTES: usize = 8;
/// Flag of an advertisement that answers a solicitation.
const SOLICITED: u8 = 0x40;
/// Flags of an answer: solicited, and replacing what was known before (RFC 4861, section 4.4).
const ANSWER_FLAGS: [u8; 4] = [SOLICITED | 0x20, 0, 0, 0];
/// Option types of the sender's and of the target's hardware address, each one unit of eight bytes long.
const SOURCE_HARDWARE: u8 = 1;
const TARGET_HARDWARE: u8 = 2;
/// Multicast addresses of all nodes and of all routers of the link.
pub(super) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// Length in bytes of an ARP message about IPv4 over Ethernet.
const ARP_BYTES: usize = 28;
/// Kinds in an ARP message: Ethernet, IPv4, and the lengths of their addresses.
const ARP_KINDS: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// ARP message about IPv4 over Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arp {
    /// Whether the message is a question; otherwise it is an answer.
    pub(crate) is_request: bool,
    pub(crate) hardware: Mac,
    pub(crate) sender: Ipv4Addr,
    pub(crate) target: Ipv4Addr,
}

/// Neighbor discovery message that a host may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Discovery {
    pub(crate) kind: DiscoveryKind,
    pub(crate) from: Ipv6Addr,
    /// Hardware address in the options, if there is one.
    pub(crate) hardware: Option<Mac>,
}

/// Kind of a neighbor discovery message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiscoveryKind {
    /// Question for routers.
    Routers,
    /// Question for the hardware address of `target`; without a sender's address, whether `target` is taken.
    Solicitation { target: Ipv6Addr },
    /// Answer about `target`.
    Advertisement { target: Ipv6Addr },
}

/// Question for a neighbor's hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Question {
    /// Hardware address of the host that asks.
    pub(crate) hardware: Mac,
    /// Network addresses of the host that asks and of the host that is asked for.
    pub(crate) ends: QuestionEnds,
}

/// Network addresses of the host that asks and of the host that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QuestionEnds {
    V4 { sender: Ipv4Addr, target: Ipv4Addr },
    V6 { sender: Ipv6Addr, target: Ipv6Addr },
}

impl Arp {
    /// Parses what follows the Ethernet header of a frame to the hardware address `to`; also returns its length.
    pub(super) fn parse(bytes: &[u8], to: Mac) -> Result<(Self, usize), FrameError> {
        let message = bytes.first_chunk::<ARP_BYTES>().ok_or(FrameError::Malformed)?;
        let [k0, k1, k2, k3, k4, k5, 0, operation @ (1 | 2), rest @ ..] = *message else {
            return Err(FrameError::Malformed);
        };
        let is_for_one_or_all = to[0] & 1 == 0 || to == [0xff; 6];
        if [k0, k1, k2, k3, k4, k5] != ARP_KINDS || !is_for_one_or_all {
            return Err(FrameError::Malformed);
        }
        let [h0, h1, h2, h3, h4, h5, s3, s2, s1, s0, _, _, _, _, _, _, t3, t2, t1, t0] = rest;
        let arp = Self {
            is_request: operation == 1,
            hardware: [h0, h1, h2, h3, h4, h5],
            sender: Ipv4Addr::new(s3, s2, s1, s0),
            target: Ipv4Addr::new(t3, t2, t1, t0),
        };
        Ok((arp, ARP_BYTES))
    }

    /// Question to be answered, if the message is one.
    pub(crate) fn question(&self) -> Option<Question> {
        self.is_request.then_some(Question {
            hardware: self.hardware,
            ends: QuestionEnds::V4 {
                sender: self.sender,
                target: self.target,
            },
        })
    }
}

impl Discovery {
    /// Whether an ICMPv6 message is a neighbor discovery message that a host may send.
    pub(super) fn is(message: &[u8]) -> bool {
        let kinds = [ROUTER_SOLICITATION, NEIGHBOR_SOLICITATION, NEIGHBOR_ADVERTISEMENT];
        message.first().is_some_and(|kind| kinds.contains(kind))
    }

    /// Parses a neighbor discovery message, and checks it as RFC 4861 requires of a receiver (sections 6.1.1 and 7.1).
    pub(super) fn parse(
        message: &[u8],
        (from, to): (Ipv6Addr, Ipv6Addr),
        hops: u8,
        hardware: Mac,
    ) -> Result<Self, FrameError> {
        let (header, body) = message
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or(FrameError::Malformed)?;
        let [kind, code, _, _, flags, ..] = *header;
        if code != 0 || hops != ON_LINK_HOPS || hardware_mismatches(to, hardware) {
            return Err(FrameError::Malformed);
        }
        let (kind, options, is_addressed) = if kind == ROUTER_SOLICITATION {
            (DiscoveryKind::Routers, body, to == ALL_ROUTERS)
        } else {
            let (target, options) = body.split_first_chunk::<16>().ok_or(FrameError::Malformed)?;
            let target = Ipv6Addr::from(*target);
            if target.is_multicast() || target.is_unspecified() {
                return Err(FrameError::Malformed);
            }
            match kind {
                NEIGHBOR_SOLICITATION => {
                    let is_asked = to == target && !from.is_unspecified();
                    let is_addressed = is_asked || to == solicited_node(target);
                    (DiscoveryKind::Solicitation { target }, options, is_addressed)
                }
                _ => {
                    let is_for_all = to == ALL_NODES && flags & SOLICITED == 0;
                    let is_addressed = is_for_all || !to.is_multicast() && !to.is_unspecified();
                    (DiscoveryKind::Advertisement { target }, options, is_addressed)
                }
            }
        };
        let named = named_hardware(options)?;
        // A host without an address does not name its hardware either, and has nothing to answer with.
        let is_nobodys = from.is_unspecified();
        let may_be_nobodys = named.is_none() && !matches!(kind, DiscoveryKind::Advertisement { .. });
        if !is_addressed || is_nobodys && !may_be_nobodys || from.is_multicast() {
            return Err(FrameError::Malformed);
        }
        Ok(Self {
            kind,
            from,
            hardware: named,
        })
    }

    /// Question to be answered, if the message is one: only the owner of an address answers whether it is taken.
    /// `hardware` is the hardware address of the host that asks.
    pub(crate) fn question(&self, hardware: Mac) -> Option<Question> {
        match self.kind {
            DiscoveryKind::Solicitation { target } if !self.from.is_unspecified() => Some(Question {
                hardware,
                ends: QuestionEnds::V6 {
                    sender: self.from,
                    target,
                },
            }),
            _ => None,
        }
    }
}

impl Question {
    /// Network address that the question asks for.
    pub(crate) fn target(&self) -> IpAddr {
        match self.ends {
            QuestionEnds::V4 { target, .. } => target.into(),
            QuestionEnds::V6 { target, .. } => target.into(),
        }
    }

    /// Frame that answers that the target is at `owner`.
    pub(crate) fn answer(&self, owner: Mac) -> Option<Vec<u8>> {
        let ethernet = PacketBuilder::ethernet2(owner, self.hardware);
        let mut answer = Vec::new();
        match self.ends {
            QuestionEnds::V4 { sender, target } => {
                let packet = ArpPacket::new(
                    ArpHardwareId::ETHERNET,
                    EtherType::IPV4,
                    ArpOperation::REPLY,
                    &owner,
                    &target.octets(),
                    &self.hardware,
                    &sender.octets(),
                );
                ethernet.arp(packet.ok()?).write_to_vec(&mut answer).ok()?;
            }
            QuestionEnds::V6 { sender, target } => {
                let payload = [&target.octets()[..], &[TARGET_HARDWARE, 1], &owner].concat();
                ethernet
                    .ipv6(target.octets(), sender.octets(), ON_LINK_HOPS)
                    .icmpv6_raw(NEIGHBOR_ADVERTISEMENT, 0, ANSWER_FLAGS)
                    .write_to_vec(&mut answer, &payload)
                    .ok()?;
            }
        }
        Some(answer)
    }
}

/// Link-local address that a host derives from its hardware address (RFC 4291, appendix A).
pub(crate) fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    let interface = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    Ipv6Addr::from_bits(0xfe80_u128 << 112 | u128::from(u64::from_be_bytes(interface)))
}

/// Multicast address of all hosts that might have `target` (RFC 4291, section 2.7.1).
fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    const PREFIX: u128 = 0xff02_0000_0000_0000_0000_0001_ff00_0000;
    Ipv6Addr::from_bits(PREFIX | target.to_bits() & 0x00ff_ffff)
}

/// Hardware address of a multicast address (RFC 2464, section 7).
pub(super) fn multicast_hardware(to: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = to.octets();
    [0x33, 0x33, a, b, c, d]
}

/// Whether a message to `to` was sent to a hardware address that does not belong to `to`.
fn hardware_mismatches(to: Ipv6Addr, hardware: Mac) -> bool {
    if to.is_multicast() {
        hardware != multicast_hardware(to)
    } else {
        hardware[0] & 1 != 0
    }
}

/// Hardware address in `options`, which must fill the message and name at most one.
fn named_hardware(mut options: &[u8]) -> Result<Option<Mac>, FrameError> {
    let mut named = None;
    while let [kind, units, ..] = options {
        let bytes = usize::from(*units) * 8;
        let (option, rest) = options
            .split_at_checked(bytes)
            .filter(|_| bytes > 0)
            .ok_or(FrameError::Malformed)?;
        if [SOURCE_HARDWARE, TARGET_HARDWARE].contains(kind) {
            let mac = option[2..].first_chunk().filter(|_| bytes == 8).copied();
            let mac = mac.ok_or(FrameError::Malformed)?;
            if named.replace(mac).is_some_and(|before| before != mac) {
                return Err(FrameError::Malformed);
            }
        }
        options = rest;
    }
    if options.is_empty() {
        Ok(named)
    } else {
        Err(FrameError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 2];
    const SENDER: &str = "fd63::2";
    const TARGET: &str = "fd63::1:2:3";

    fn v6(text: &str) -> Ipv6Addr {
        text.parse().expect("an address")
    }

    fn message(kind: u8, flags: u8, target: &str, options: &[u8]) -> Vec<u8> {
        [&[kind, 0, 0, 0, flags, 0, 0, 0][..], &v6(target).octets(), options].concat()
    }

    fn parse(message: &[u8], from: &str, to: &str) -> Result<Discovery, FrameError> {
        let to = v6(to);
        let hardware = if to.is_multicast() { multicast_hardware(to) } else { MAC };
        Discovery::parse(message, (v6(from), to), ON_LINK_HOPS, hardware)
    }

    #[test]
    fn a_solicitation_is_sent_where_it_may_be() {
        const OPTION: [u8; 8] = [1, 1, 2, 0, 0, 0, 0, 2];
        let good = message(NEIGHBOR_SOLICITATION, 0, TARGET, &OPTION);
        for to in ["ff02::1:ff02:3", TARGET] {
            let found = parse(&good, SENDER, to).expect("a solicitation");
            assert_eq!((found.hardware, found.from), (Some(MAC), v6(SENDER)));
            assert_eq!(
                found.question(MAC).map(|question| question.target()),
                Some(v6(TARGET).into())
            );
        }
        for to in ["ff02::1", "ff02::1:ff02:4", "fd63::1", "::1", "2001:db8::1"] {
            assert_eq!(parse(&good, SENDER, to), Err(FrameError::Malformed), "{to}");
        }
        // A probe whether an address is taken has neither a sender's address nor hardware.
        let probe = message(NEIGHBOR_SOLICITATION, 0, TARGET, &[14, 1, 0, 0, 0, 0, 0, 0]);
        let found = parse(&probe, "::", "ff02::1:ff02:3").expect("a probe");
        assert_eq!((found.hardware, found.question(MAC)), (None, None));
        assert!(parse(&probe, "::", TARGET).is_err() && parse(&good, "::", "ff02::1:ff02:3").is_err());
    }

    #[test]
    fn messages_are_whole_and_of_the_link() {
        let to = (v6(SENDER), v6(TARGET));
        let good = message(NEIGHBOR_SOLICITATION, 0, TARGET, &[]);
        assert!(Discovery::parse(&good, to, ON_LINK_HOPS, MAC).is_ok());
        assert!(Discovery::parse(&good, to, 254, MAC).is_err());
        assert!(Discovery::parse(&good, to, ON_LINK_HOPS, [0xff; 6]).is_err());
        assert!(Discovery::parse(&good[..23], to, ON_LINK_HOPS, MAC).is_err());
        let mut coded = good;
        coded[1] = 1;
        assert!(Discovery::parse(&coded, to, ON_LINK_HOPS, MAC).is_err());
        for options in [
            &[1][..],
            &[1, 0],
            &[1, 2, 2, 0, 0, 0, 0, 2],
            &[1, 1, 2, 0, 0, 0, 0],
            &[1, 1, 2, 0, 0, 0, 0, 2, 9],
            &[1, 1, 2, 0, 0, 0, 0, 2, 1, 1, 2, 0, 0, 0, 0, 3],
            &[1, 2, 2, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0],
        ] {
            let bad = message(NEIGHBOR_SOLICITATION, 0, TARGET, options);
            assert!(parse(&bad, SENDER, TARGET).is_err(), "{options:?}");
        }
        for target in ["::", "ff02::1"] {
            let bad = message(NEIGHBOR_SOLICITATION, 0, target, &[]);
            assert!(parse(&bad, SENDER, target).is_err(), "{target}");
        }
    }

    #[test]
    fn advertisements_and_questions_for_routers_are_sent_where_they_may_be() {
        let reported = |flags, from, to| parse(&message(NEIGHBOR_ADVERTISEMENT, flags, SENDER, &[]), from, to).is_ok();
        assert!(reported(0, SENDER, "ff02::1") && reported(SOLICITED, SENDER, TARGET));
        assert!(
            !reported(SOLICITED, SENDER, "ff02::1") && !reported(0, SENDER, "ff02::2") && !reported(0, "::", "ff02::1")
        );
        let asked = |from, to| parse(&[ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0], from, to).is_ok();
        assert!(asked(SENDER, "ff02::2") && asked("::", "ff02::2"));
        assert!(!asked(SENDER, "ff02::1") && !asked(SENDER, TARGET));
    }

    #[test]
    fn arp_is_about_ipv4_over_ethernet() {
        let message = |kinds: [u8; 6], operation: u8| {
            let ends = [[2, 0, 0, 0, 0, 2, 10, 0, 0, 2], [0, 0, 0, 0, 0, 0, 10, 0, 0, 1]].concat();
            [&kinds[..], &[0, operation], &ends, &[0; 18]].concat()
        };
        let (found, bytes) = Arp::parse(&message(ARP_KINDS, 1), [0xff; 6]).expect("a request");
        assert_eq!((found.hardware, bytes), (MAC, ARP_BYTES));
        assert_eq!(
            (found.sender, found.target),
            ([10, 0, 0, 2].into(), [10, 0, 0, 1].into())
        );
        let answer = found
            .question()
            .and_then(|question| question.answer([2, 0, 0, 0, 0, 9]));
        let answer = answer.expect("an answer");
        assert_eq!(answer[20..32], [0, 2, 2, 0, 0, 0, 0, 9, 10, 0, 0, 1]);
        let reply = Arp::parse(&message(ARP_KINDS, 2), MAC).expect("a reply");
        assert_eq!(reply.0.question(), None);
        for (kinds, operation, to) in [
            ([0, 1, 8, 0, 6, 16], 1, MAC),
            ([0, 6, 8, 0, 6, 4], 1, MAC),
            ([0, 1, 0x86, 0xdd, 6, 4], 1, MAC),
            (ARP_KINDS, 0, MAC),
            (ARP_KINDS, 3, MAC),
            (ARP_KINDS, 1, [1, 0, 0x5e, 0, 0, 1]),
        ] {
            assert!(
                Arp::parse(&message(kinds, operation), to).is_err(),
                "{kinds:?} {operation}"
            );
        }
        assert!(Arp::parse(&message(ARP_KINDS, 1)[..27], MAC).is_err());
    }
}
