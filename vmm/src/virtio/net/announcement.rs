//! Frames that tell a guest's link where it is, in its name and before it has said anything: what comes for it is sent to
//! everybody until then, and such a packet is none for Linux' TCP; or, of IPv6, to an address that passt made up.

use std::net::{IpAddr, Ipv6Addr};

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, Icmpv6Type, PacketBuilder};

use super::Mac;
use super::discovery::{NEIGHBOR_ADVERTISEMENT, ON_LINK_HOPS, link_local};

/// All hosts of the link, and the hardware address that they hear (RFC 2464, section 7).
const EVERYBODY_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const EVERYBODY_V6_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];
/// Target link-layer address, and its length in units of eight bytes (RFC 4861, section 4.6.1).
const TARGET_HARDWARE: [u8; 2] = [2, 1];
/// Whatever was known before is no more (RFC 4861, section 4.4: the override flag).
const OVERRIDE: [u8; 4] = [0x20, 0, 0, 0];

/// Those of a guest with these addresses.
pub(super) fn frames(mac: Mac, addresses: &[IpAddr]) -> Vec<Vec<u8>> {
    let v4 = addresses.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(address.octets()),
        IpAddr::V6(_) => None,
    });
    let has_v6 = addresses.iter().any(IpAddr::is_ipv6);
    let v4 = v4.and_then(|own| arp(mac, own));
    v4.into_iter().chain(has_v6.then(|| advertisement(mac))).collect()
}

/// A gratuitous ARP request (RFC 5227, section 3).
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

/// An unsolicited neighbour advertisement of the address that the guest has on its link by itself (RFC 4861, section
/// 7.2.6).
fn advertisement(mac: Mac) -> Vec<u8> {
    let own = link_local(mac).octets();
    let told = Icmpv6Type::Unknown {
        type_u8: NEIGHBOR_ADVERTISEMENT,
        code_u8: 0,
        bytes5to8: OVERRIDE,
    };
    let mut frame = Vec::new();
    // The same.
    let _ = PacketBuilder::ethernet2(mac, EVERYBODY_V6_MAC)
        .ipv6(own, EVERYBODY_V6.octets(), ON_LINK_HOPS)
        .icmpv6(told)
        .write_to_vec(&mut frame, &[&own[..], &TARGET_HARDWARE, &mac].concat());
    frame
}

#[cfg(test)]
mod tests {
    use super::super::guard::{Guard, Verdict};
    use super::super::links::Way;
    use super::*;
    use crate::egress::Egress;

    #[test]
    fn what_is_said_is_what_the_guest_might_say() {
        let mac = [2, 0, 0, 0, 0, 2];
        let addresses: [IpAddr; 2] = [[100, 96, 0, 2].into(), "fd63::2".parse().expect("an address")];
        let mut guard = Guard::new(mac, [100, 96, 0, 1].into());
        guard.open(addresses.to_vec(), Egress::default());
        for (addresses, count) in [(&addresses[..], 2), (&addresses[..1], 1), (&[], 0)] {
            let frames = frames(mac, addresses);
            assert_eq!(frames.len(), count);
            for frame in frames {
                let verdict = guard.examine(&frame, std::time::Instant::now());
                assert_eq!(verdict, Verdict::Pass(Way::Uplink));
            }
        }
        assert_eq!(guard.counters.total(), 0);
    }
}
