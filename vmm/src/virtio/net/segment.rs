//! The link of a network of pods: which addresses are its members', and which lead elsewhere. Pure.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// A network of pods, as one of its members sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Addresses of the link.
    pub networks: Vec<IpNet>,
    /// Those of them that no member has: the uplink's, and the resolver's.
    pub gateways: Vec<IpAddr>,
}

/// Whose an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A member's.
    Member,
    /// All members' together.
    Broadcast,
    /// Nobody's on the segment.
    Elsewhere,
}

impl Segment {
    /// Whose `address` is.
    pub(super) fn place(&self, address: IpAddr) -> Place {
        // The same address in IPv6's clothes would be one of the host's network.
        let address = address.to_canonical();
        if self.gateways.contains(&address) {
            return Place::Elsewhere;
        }
        if self.networks.iter().any(|network| is_broadcast(network, address)) {
            return Place::Broadcast;
        }
        let is_link_local = matches!(address, IpAddr::V6(address) if Ipv6Addr::is_unicast_link_local(&address));
        if is_link_local || self.networks.iter().any(|network| network.contains(&address)) {
            return Place::Member;
        }
        Place::Elsewhere
    }
}

/// Whether it is a network's address for everybody, or the old one with only zeros (RFC 1122, section 3.2.1.3). A link
/// of two has neither (RFC 3021).
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

    fn places(networks: &[&str], addresses: &[&str]) -> Vec<Place> {
        let segment = Segment {
            networks: networks.iter().map(|text| text.parse().expect("a network")).collect(),
            gateways: ["10.89.0.1", "fd00:89::1", "fe80::1"]
                .map(|text| text.parse().expect("an address"))
                .to_vec(),
        };
        let place = |text: &&str| segment.place(text.parse().expect("an address"));
        addresses.iter().map(place).collect()
    }

    #[test]
    fn members_have_the_addresses_of_the_link_but_the_gateways() {
        let networks = ["10.89.0.0/24", "fd00:89::/64"];
        let members = ["10.89.0.2", "10.89.0.254", "fd00:89::2", "fe80::2", "::ffff:10.89.0.2"];
        assert_eq!(places(&networks, &members), [Place::Member; 5]);
        let gateways = ["10.89.0.1", "fd00:89::1", "fe80::1", "::ffff:10.89.0.1"];
        assert_eq!(places(&networks, &gateways), [Place::Elsewhere; 4]);
        let others = [
            "10.89.1.2",
            "fd00:90::2",
            "1.1.1.1",
            "224.0.0.1",
            "255.255.255.255",
            "ff02::1",
        ];
        assert_eq!(places(&networks, &others), [Place::Elsewhere; 6]);
    }

    #[test]
    fn a_networks_first_and_last_address_are_everybodys() {
        let ends = ["10.89.0.0", "10.89.0.3", "::ffff:10.89.0.3"];
        assert_eq!(places(&["10.89.0.0/30"], &ends), [Place::Broadcast; 3]);
        assert_eq!(
            places(&["10.89.0.2/31"], &["10.89.0.2", "10.89.0.3"]),
            [Place::Member; 2]
        );
        assert_eq!(places(&["fd00:89::/64"], &["fd00:89::"]), [Place::Member]);
    }
}
