//! Where a frame of a member's goes: looked at alone, and decided by who is a member. Pure.

use std::net::IpAddr;

use etherparse::icmpv6::TYPE_NEIGHBOR_SOLICITATION;
use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, ArpPacketSlice, EtherType, Icmpv6Slice, LinkSlice, NetSlice, PacketBuilder,
    SlicedPacket, TransportSlice,
};

use super::members::Members;
use super::names;
use crate::virtio::net::{
    DNS_PORT, Ends, Mac, NEIGHBOR_ADVERTISEMENT, ON_LINK_HOPS, ROUTER_SOLICITATION, ROUTERS_V4, ROUTERS_V6, answer_udp,
    target,
};

/// The way out of the network, which each member has behind its own device: nobody is there, but its addresses are.
#[derive(Debug, Clone)]
pub(super) struct Gateway {
    pub(super) mac: Mac,
    pub(super) addresses: Vec<IpAddr>,
}

/// What becomes of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Forward {
    /// It is this member's, whatever hardware it was sent to.
    To(Mac),
    /// Its sender is told this.
    Answer(Vec<u8>),
    /// It is the sender's again: a question for a name that no member has.
    Back,
    Nowhere,
}

/// Decides about a frame of the member `from`.
pub(super) fn forward(frame: &[u8], from: Mac, members: &Members, gateway: &Gateway) -> Forward {
    decide(frame, from, members, gateway).unwrap_or(Forward::Nowhere)
}

fn decide(frame: &[u8], from: Mac, members: &Members, gateway: &Gateway) -> Option<Forward> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let Some(LinkSlice::Ethernet2(link)) = &packet.link else {
        return None;
    };
    if link.source() != from || !packet.link_exts.is_empty() {
        return None;
    }
    let (ends, sender, receiver) = match packet.net.as_ref()? {
        NetSlice::Arp(arp) => return resolve_v4(arp, from, members, gateway),
        NetSlice::Ipv4(ip) => (
            Ends::V4 {
                from: ip.header().source(),
                to: ip.header().destination(),
            },
            IpAddr::V4(ip.header().source_addr()),
            IpAddr::V4(ip.header().destination_addr()),
        ),
        NetSlice::Ipv6(ip) => (
            Ends::V6 {
                from: ip.header().source(),
                to: ip.header().destination(),
            },
            IpAddr::V6(ip.header().source_addr()),
            IpAddr::V6(ip.header().destination_addr()),
        ),
    };
    // What is answered here goes to its sender, by whatever address that is known on another network of its.
    if let Some(TransportSlice::Icmpv6(icmp)) = &packet.transport
        && icmp.type_u8() == TYPE_NEIGHBOR_SOLICITATION
    {
        return resolve_v6(icmp, from, sender, members, gateway);
    }
    if gateway.addresses.contains(&receiver) {
        let Some(TransportSlice::Udp(udp)) = &packet.transport else {
            return None;
        };
        return (udp.destination_port() == DNS_PORT).then(|| {
            let answer = names::answer(udp.payload(), members);
            let ports = (udp.source_port(), DNS_PORT);
            answer
                .and_then(|answer| answer_udp(frame, ends, ports, &answer))
                .map_or(Forward::Back, Forward::Answer)
        });
    }
    if !members.is_at(from, sender) || packet.transport.as_ref().is_some_and(is_routers) {
        return None;
    }
    // Its sender may still know the hardware of who had the address before.
    let to = members.at(receiver)?;
    let is_for_one = link.destination()[0] & 1 == 0 && link.destination() != gateway.mac;
    (to != from && is_for_one).then_some(Forward::To(to))
}

/// Decides about a frame on a network with two members, `web` and `db`, and requires that it is decided well. For fuzzing.
#[cfg(fuzzing)]
pub fn forward_between_two(frame: &[u8]) {
    use super::membership::Join;
    let mut members = Members::new(8);
    for (last, name) in [(2, "web"), (3, "db")] {
        let mac = [2, 0, 0, 0, 0, last];
        let addresses = vec![
            IpAddr::from([100, 96, 0, last]),
            IpAddr::from([0xfd63, 0, 0, 0, 0, 0, 0, u16::from(last)]),
        ];
        let names = vec![name.to_owned()];
        let added = members.add(Join { mac, addresses, names });
        assert!(added.is_ok(), "two are not too many");
    }
    let gateway = Gateway {
        mac: [2, 0, 0, 0, 0, 1],
        addresses: vec![[100, 96, 0, 1].into()],
    };
    match forward(frame, [2, 0, 0, 0, 0, 2], &members, &gateway) {
        Forward::To(to) => assert_eq!(to, [2, 0, 0, 0, 0, 3], "there is nobody else"),
        Forward::Answer(answer) => assert_eq!(answer.get(..6), frame.get(6..12), "answers go to who asked"),
        Forward::Back | Forward::Nowhere => {}
    }
}

/// What only a router says, or a neighbour of itself, which nobody needs to hear: all is known here.
fn is_routers(transport: &TransportSlice<'_>) -> bool {
    match transport {
        TransportSlice::Icmpv4(icmp) => ROUTERS_V4.contains(&icmp.type_u8()),
        TransportSlice::Icmpv6(icmp) => {
            let kind = icmp.type_u8();
            ROUTERS_V6.contains(&kind) || [ROUTER_SOLICITATION, NEIGHBOR_ADVERTISEMENT].contains(&kind)
        }
        _ => false,
    }
}

/// Who is at an address.
fn owner(address: IpAddr, members: &Members, gateway: &Gateway) -> Option<Mac> {
    if gateway.addresses.contains(&address) {
        Some(gateway.mac)
    } else {
        members.at(address)
    }
}

fn resolve_v4(arp: &ArpPacketSlice<'_>, from: Mac, members: &Members, gateway: &Gateway) -> Option<Forward> {
    let is_usual = arp.hw_addr_type() == ArpHardwareId::ETHERNET && arp.proto_addr_type() == EtherType::IPV4;
    if !is_usual || arp.operation() != ArpOperation::REQUEST {
        return None;
    }
    let sender = <[u8; 4]>::try_from(arp.sender_protocol_addr()).ok()?;
    let target = <[u8; 4]>::try_from(arp.target_protocol_addr()).ok()?;
    let owner = owner(target.into(), members, gateway).filter(|owner| *owner != from)?;
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REPLY,
        &owner,
        &target,
        &from,
        &sender,
    );
    let mut answer = Vec::new();
    let frame = PacketBuilder::ethernet2(owner, from).arp(packet.ok()?);
    frame.write_to_vec(&mut answer).ok()?;
    Some(Forward::Answer(answer))
}

/// Answers a neighbour solicitation (RFC 4861, section 7.2.4), but one from no address, which only asks whether the
/// address is free: it is.
fn resolve_v6(
    icmp: &Icmpv6Slice<'_>,
    from: Mac,
    sender: IpAddr,
    members: &Members,
    gateway: &Gateway,
) -> Option<Forward> {
    /// Solicited, and to take the place of what was known before.
    const FLAGS: [u8; 4] = [0x60, 0, 0, 0];
    /// The option that tells of the target's hardware address, 8 bytes long.
    const TARGET_LINK_LAYER: [u8; 2] = [2, 1];
    let IpAddr::V6(sender) = sender else {
        return None;
    };
    if sender.is_unspecified() {
        return None;
    }
    let target = target(icmp)?;
    let owner = owner(target.into(), members, gateway).filter(|owner| *owner != from)?;
    let payload = [&target.octets()[..], &TARGET_LINK_LAYER, &owner].concat();
    let mut answer = Vec::new();
    PacketBuilder::ethernet2(owner, from)
        .ipv6(target.octets(), sender.octets(), ON_LINK_HOPS)
        .icmpv6_raw(NEIGHBOR_ADVERTISEMENT, 0, FLAGS)
        .write_to_vec(&mut answer, &payload)
        .ok()?;
    Some(Forward::Answer(answer))
}

#[cfg(test)]
mod tests;
