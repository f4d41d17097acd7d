//! Networks of pods that a guest is on: which addresses belong to members, and which lead elsewhere. Pure.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use crate::segments::{SEGMENTS_MAX, Segment};

/// Number of a network's slot.
pub(super) type Slot = u8;

/// Networks of the guest by slot.
#[derive(Debug, Default)]
pub(super) struct Segments([Option<Segment>; SEGMENTS_MAX]);

/// Owner of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AddressOwner {
    /// The address belongs to a member of this network.
    Member(Slot),
    /// The address stands for all members of a network.
    Broadcast,
    /// The address is of none of the networks, or belongs to the uplink.
    Elsewhere,
}

impl Segments {
    pub(super) fn connect(&mut self, slot: Slot, segment: Segment) {
        self.0[usize::from(slot)] = Some(segment);
    }

    pub(super) fn disconnect(&mut self, slot: Slot) -> Option<Segment> {
        self.0[usize::from(slot)].take()
    }

    /// First network, for traffic that belongs to no network in particular.
    pub(super) fn first(&self) -> Option<Slot> {
        Some(self.iter().next()?.0)
    }

    /// Next network after `slot`.
    pub(super) fn after(&self, slot: Slot) -> Option<Slot> {
        self.iter().map(|(next, _)| next).find(|next| *next > slot)
    }

    /// Whether the guest has `address` on any of the networks.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.iter().any(|(_, segment)| segment.addresses.contains(&address))
    }

    /// Whether the guest has `address` on this network.
    pub(super) fn has_on(&self, slot: Slot, address: IpAddr) -> bool {
        let segment = self.0[usize::from(slot)].as_ref();
        segment.is_some_and(|segment| segment.addresses.contains(&address))
    }

    /// Owner of `address`.
    pub(super) fn place(&self, address: IpAddr) -> AddressOwner {
        // An IPv4-mapped IPv6 address would otherwise be one of the host's network.
        let address = address.to_canonical();
        match self.of(address) {
            None if is_link_local(address) => self.first().map_or(AddressOwner::Elsewhere, AddressOwner::Member),
            Some((_, segment)) if segment.networks.iter().any(|network| is_broadcast(network, address)) => {
                AddressOwner::Broadcast
            }
            Some((slot, segment)) if !segment.gateways.contains(&address) => AddressOwner::Member(slot),
            _ => AddressOwner::Elsewhere,
        }
    }

    /// Whether `address` is the uplink's on any of the networks.
    pub(super) fn has_gateway(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.iter().any(|(_, segment)| segment.gateways.contains(&address))
    }

    /// Network on which to ask for the hardware address of `address`.
    pub(super) fn link_of(&self, address: IpAddr) -> Option<Slot> {
        let of = self.of(address.to_canonical());
        of.map(|(slot, _)| slot).or_else(|| self.first())
    }

    /// Network whose link has this address.
    fn of(&self, address: IpAddr) -> Option<(Slot, &Segment)> {
        self.iter()
            .find(|(_, segment)| segment.networks.iter().any(|network| network.contains(&address)))
    }

    fn iter(&self) -> impl Iterator<Item = (Slot, &Segment)> {
        let numbered = (0..).zip(&self.0);
        numbered.filter_map(|(slot, segment)| Some((slot, segment.as_ref()?)))
    }
}

/// Whether an address is a host's link-local one. It does not determine the network: it belongs to the first one.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if Ipv6Addr::is_unicast_link_local(&address))
}

/// Whether `address` is a network's broadcast address, or the old one with only zeros (RFC 1122, section 3.2.1.3). A
/// link of two hosts has neither (RFC 3021).
fn is_broadcast(network: &IpNet, address: IpAddr) -> bool {
    match (network, address) {
        (IpNet::V4(network), IpAddr::V4(address)) => {
            network.prefix_len() <= 30 && (address == network.broadcast() || address == network.network())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(networks: &[&str]) -> Segment {
        Segment {
            addresses: vec![[10, 89, 0, 2].into()],
            networks: networks.iter().map(|text| text.parse().expect("a network")).collect(),
            gateways: ["10.89.0.1", "fd00:89::1"]
                .map(|text| text.parse().expect("an address"))
                .to_vec(),
        }
    }

    fn places(networks: &[&str], addresses: &[&str]) -> Vec<AddressOwner> {
        let mut segments = Segments::default();
        segments.connect(3, segment(networks));
        let place = |text: &&str| segments.place(text.parse().expect("an address"));
        addresses.iter().map(place).collect()
    }

    #[test]
    fn members_have_the_addresses_of_the_link_but_the_gateways() {
        let networks = ["10.89.0.0/24", "fd00:89::/64"];
        let members = ["10.89.0.2", "10.89.0.254", "fd00:89::2", "fe80::2", "::ffff:10.89.0.2"];
        assert_eq!(places(&networks, &members), [AddressOwner::Member(3); 5]);
        let gateways = ["10.89.0.1", "fd00:89::1", "::ffff:10.89.0.1"];
        assert_eq!(places(&networks, &gateways), [AddressOwner::Elsewhere; 3]);
        let others = [
            "10.89.1.2",
            "fd00:90::2",
            "1.1.1.1",
            "224.0.0.1",
            "255.255.255.255",
            "ff02::1",
        ];
        assert_eq!(places(&networks, &others), [AddressOwner::Elsewhere; 6]);
    }

    #[test]
    fn a_networks_first_and_last_address_are_everybodys() {
        let ends = ["10.89.0.0", "10.89.0.3", "::ffff:10.89.0.3"];
        assert_eq!(places(&["10.89.0.0/30"], &ends), [AddressOwner::Broadcast; 3]);
        assert_eq!(
            places(&["10.89.0.2/31"], &["10.89.0.2", "10.89.0.3"]),
            [AddressOwner::Member(3); 2]
        );
        assert_eq!(places(&["fd00:89::/64"], &["fd00:89::"]), [AddressOwner::Member(3)]);
    }

    #[test]
    fn each_network_has_its_own_addresses_until_it_goes() {
        let mut segments = Segments::default();
        let at = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(
            (segments.first(), segments.place(at("fe80::2"))),
            (None, AddressOwner::Elsewhere)
        );
        segments.connect(5, segment(&["10.89.0.0/24"]));
        segments.connect(1, segment(&["10.90.0.0/24"]));
        assert_eq!(segments.place(at("10.89.0.9")), AddressOwner::Member(5));
        assert_eq!(segments.place(at("10.90.0.9")), AddressOwner::Member(1));
        assert_eq!(segments.place(at("fe80::2")), AddressOwner::Member(1));
        assert_eq!(
            (segments.first(), segments.after(1), segments.after(5)),
            (Some(1), Some(5), None)
        );
        assert_eq!(
            (segments.link_of(at("10.89.0.1")), segments.link_of(at("1.1.1.1"))),
            (Some(5), Some(1))
        );
        assert!(segments.disconnect(1).is_some() && segments.disconnect(1).is_none());
        assert_eq!(segments.place(at("10.90.0.9")), AddressOwner::Elsewhere);
        assert_eq!(segments.place(at("fe80::2")), AddressOwner::Member(5));
    }
}
