//! Frames that announce a guest's location on its link, sent in its name before it has sent anything. Until then,
//! packets for it are sent to everybody, and Linux' TCP accepts no such packet; or, with IPv6, they are sent to an
//! address that passt made up.

use std::net::IpAddr;

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, Icmpv6Type, PacketBuilder};

use super::Mac;
use super::discovery::{ALL_NODES, NEIGHBOR_ADVERTISEMENT, ON_LINK_HOPS, link_local, multicast_hardware};

/// Option type of the target link-layer address, and its length in units of eight bytes (RFC 4861, section 4.6.1).
const TARGET_HARDWARE: [u8; 2] = [2, 1];
/// Override flag: the advertisement replaces whatever was known before (RFC 4861, section 4.4).
const OVERRIDE: [u8; 4] = [0x20, 0, 0, 0];

/// Announcement frames of a guest with these addresses.
pub(super) fn frames(mac: Mac, addresses: &[IpAddr]) -> Vec<Vec<u8>> {
    let v4 = addresses.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(address.octets()),
        IpAddr::V6(_) => None,
    });
    let has_v6 = addresses.iter().any(IpAddr::is_ipv6);
    let v4 = v4.and_then(|own| arp(mac, own));
    v4.into_iter().chain(has_v6.then(|| advertisement(mac))).collect()
}

/// Frame of a gratuitous ARP request (RFC 5227, section 3).
fn arp(mac: Mac, own: [u8; 4]) -> Option<Vec<u8>> {
    let (hardware, kind) = (ArpHardwareId::ETHERNET, EtherType::IPV4);
    let packet = ArpPacket::new(hardware, kind, ArpOperation::REQUEST, &mac, &own, &[0; 6], &own).ok()?;
    let mut frame = Vec::new();
    // Writing to memory does not fail.
    let _ = PacketBuilder::ethernet2(mac, [0xff; 6])
        .arp(packet)
        .write_to_vec(&mut frame);
    Some(frame)
}

/// Frame of an unsolicited neighbor advertisement for the guest's link-local address (RFC 4861, section 7.2.6).
fn advertisement(mac: Mac) -> Vec<u8> {
    let own = link_local(mac).octets();
    let advertised = Icmpv6Type::Unknown {
        type_u8: NEIGHBOR_ADVERTISEMENT,
        code_u8: 0,
        bytes5to8: OVERRIDE,
    };
    let mut frame = Vec::new();
    // Writing to memory does not fail.
    let _ = PacketBuilder::ethernet2(mac, multicast_hardware(ALL_NODES))
        .ipv6(own, ALL_NODES.octets(), ON_LINK_HOPS)
        .icmpv6(advertised)
        .write_to_vec(&mut frame, &[&own[..], &TARGET_HARDWARE, &mac].concat());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::net::discovery::DiscoveryKind;
    use crate::virtio::net::frame::{Body, parse};

    #[test]
    fn a_guest_is_announced_by_an_address_of_each_kind() {
        let mac = [2, 0, 0, 0, 0, 2];
        let addresses: [IpAddr; 2] = [[100, 96, 0, 2].into(), "fd63::2".parse().expect("an address")];
        for (addresses, count) in [(&addresses[..], 2), (&addresses[..1], 1), (&[], 0)] {
            let frames = frames(mac, addresses);
            assert_eq!(frames.len(), count);
            for frame in frames {
                let parsed = parse(&frame).expect("a frame of the grammar");
                assert_eq!((parsed.from, parsed.bytes), (mac, frame.len()));
                match parsed.body {
                    Body::Arp(arp) => assert_eq!((arp.sender, arp.target), ([100, 96, 0, 2].into(), arp.sender)),
                    Body::Discovery(advertised) => {
                        let target = link_local(mac);
                        assert_eq!(advertised.kind, DiscoveryKind::Advertisement { target });
                        assert_eq!(advertised.hardware, Some(mac));
                    }
                    Body::Packet(packet) => panic!("{packet:?}"),
                }
            }
        }
    }
}
