//! Settings of the network device, as plain values.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use capsid_protocol::spec::{Address, Network};

use super::NetworkError;
use crate::limits::ENTRIES_MAX;

/// One setting of the device. Later kinds need the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Setting {
    /// Address of the device, and the length of its link's prefix.
    Address { address: IpAddr, prefix_bits: u8 },
    /// Route to an address on the link, whatever the prefixes are.
    LinkRoute(Route),
    /// Default route, through a gateway.
    DefaultRoute(Route),
}

/// Route through the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Route {
    /// Neighbor that the route leads to, or through.
    pub(super) by: IpAddr,
    /// Source address of packets that take the route: of several, the peer may know only one.
    pub(super) source: Option<IpAddr>,
}

/// Formats a setting for an error.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { address, prefix_bits } => write!(f, "the network address {address}/{prefix_bits}"),
            Self::LinkRoute(route) => write!(f, "the route to {}", route.by),
            Self::DefaultRoute(route) => write!(f, "the default route by {}", route.by),
        }
    }
}

/// Returns the wanted settings of the device, in the order in which they are made.
pub(super) fn wanted(network: &Network) -> Result<Vec<Setting>, NetworkError> {
    if network.addresses.len().max(network.resolvers.len()) > ENTRIES_MAX {
        return Err(NetworkError::TooMany);
    }
    let addresses: Option<Vec<_>> = network.addresses.iter().map(parse).collect();
    let resolvers: Option<Vec<_>> = network.resolvers.iter().map(|bytes| ip(bytes)).collect();
    let (addresses, resolvers) = addresses.zip(resolvers).ok_or(NetworkError::Address)?;
    let own = addresses
        .iter()
        .map(|&(address, prefix_bits, _)| Setting::Address { address, prefix_bits });
    // Without an address of its kind no resolver can be asked.
    let first_like = |other: IpAddr| addresses.iter().find(|(own, ..)| own.is_ipv4() == other.is_ipv4());
    let neighbours = resolvers.into_iter().filter_map(|by| {
        let source = Some(first_like(by)?.0);
        Some(Setting::LinkRoute(Route { by, source }))
    });
    let by_gateway = |is_v4: bool| {
        let mut ways = addresses.iter().filter_map(|&(own, _, gateway)| Some((own, gateway?)));
        let (own, by) = ways.find(|(own, _)| own.is_ipv4() == is_v4)?;
        Some(Setting::DefaultRoute(Route { by, source: Some(own) }))
    };
    let defaults = [by_gateway(true), by_gateway(false)].into_iter().flatten();
    let mut seen = BTreeSet::new();
    let all = own.chain(neighbours).chain(defaults);
    Ok(all.filter(|setting| seen.insert(*setting)).collect())
}

/// Returns the `present` settings to remove, the last first, so that no setting outlives what it needs.
pub(super) fn unwanted(present: &[Setting], wanted: &[Setting]) -> Vec<Setting> {
    let goes = |setting: &&Setting| !wanted.contains(setting) && !setting.is_own_of_link();
    present.iter().rev().filter(goes).copied().collect()
}

/// Returns the `wanted` settings to add.
pub(super) fn missing(present: &[Setting], wanted: &[Setting]) -> Vec<Setting> {
    let is_missing = |setting: &&Setting| !present.contains(setting);
    wanted.iter().filter(is_missing).copied().collect()
}

impl Setting {
    /// Whether the setting is the IPv6 address that the kernel itself gives each link.
    fn is_own_of_link(&self) -> bool {
        matches!(self, Self::Address { address: IpAddr::V6(address), .. } if address.is_unicast_link_local())
    }
}

/// Whether any setting is an IPv6 address.
pub(super) fn speaks_v6(settings: &[Setting]) -> bool {
    let is_v6 = |setting: &Setting| matches!(setting, Setting::Address { address, .. } if address.is_ipv6());
    settings.iter().any(is_v6)
}

/// Parses the address, the length of the prefix, and the gateway if there is one; of one kind.
fn parse(address: &Address) -> Option<(IpAddr, u8, Option<IpAddr>)> {
    let own = ip(&address.address)?;
    let gateway = match &address.gateway[..] {
        [] => None,
        bytes => Some(ip(bytes)?),
    };
    let bits_max = address.address.len() as u32 * 8;
    let is_same_kind = gateway.is_none_or(|gateway| gateway.is_ipv4() == own.is_ipv4());
    let is_good = is_same_kind && address.prefix_bits <= bits_max;
    is_good.then_some((own, address.prefix_bits as u8, gateway))
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|bytes| IpAddr::V4(Ipv4Addr::from(bytes)));
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|bytes| IpAddr::V6(Ipv6Addr::from(bytes))))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(address: &str, prefix_bits: u32, gateway: &str) -> Address {
        Address {
            address: bytes(address),
            prefix_bits,
            gateway: bytes(gateway),
        }
    }

    /// Returns the bytes of an address; none for text that is not an address.
    fn bytes(address: &str) -> Vec<u8> {
        match address.parse() {
            Ok(IpAddr::V4(address)) => address.octets().to_vec(),
            Ok(IpAddr::V6(address)) => address.octets().to_vec(),
            Err(_) => Vec::new(),
        }
    }

    fn network(addresses: Vec<Address>, resolvers: &[&str]) -> Network {
        Network {
            addresses,
            mtu: 1500,
            resolvers: resolvers.iter().map(|address| bytes(address)).collect(),
        }
    }

    /// Formats settings as errors do, one per line.
    fn said(settings: &[Setting]) -> String {
        let lines: Vec<String> = settings.iter().map(Setting::to_string).collect();
        lines.join("\n")
    }

    #[test]
    fn addresses_come_first_and_the_way_to_everywhere_last() {
        let addresses = vec![
            address("10.89.0.2", 24, ""),
            address("10.90.0.2", 24, "10.90.0.1"),
            address("fd12::2", 64, "fd12::1"),
            address("10.91.0.2", 24, "10.91.0.1"),
            address("10.89.0.2", 24, ""),
        ];
        let wanted = wanted(&network(addresses, &["169.254.7.7", "fe80::7"])).unwrap();
        let expected = "the network address 10.89.0.2/24\n\
            the network address 10.90.0.2/24\n\
            the network address fd12::2/64\n\
            the network address 10.91.0.2/24\n\
            the route to 169.254.7.7\n\
            the route to fe80::7\n\
            the default route by 10.90.0.1\n\
            the default route by fd12::1";
        assert_eq!(said(&wanted), expected);
        assert!(speaks_v6(&wanted));
    }

    #[test]
    fn a_resolver_is_asked_by_an_address_of_its_kind() {
        let addresses = vec![address("10.89.0.2", 24, "")];
        let only_v4 = wanted(&network(addresses, &["169.254.7.7", "fe80::7"])).unwrap();
        assert_eq!(
            said(&only_v4),
            "the network address 10.89.0.2/24\nthe route to 169.254.7.7"
        );
        assert!(!speaks_v6(&only_v4));
        let addresses = vec![address("10.89.0.2", 24, ""), address("10.90.0.2", 24, "10.90.0.1")];
        let two = wanted(&network(addresses, &["169.254.7.7"])).unwrap();
        let route = |by: &str, source: &str| Route {
            by: by.parse().unwrap(),
            source: Some(source.parse().unwrap()),
        };
        assert_eq!(
            two[2..],
            [
                Setting::LinkRoute(route("169.254.7.7", "10.89.0.2")),
                Setting::DefaultRoute(route("10.90.0.1", "10.90.0.2"))
            ]
        );
        assert_eq!(wanted(&network(Vec::new(), &["169.254.7.7"])).unwrap(), []);
    }

    #[test]
    fn only_what_differs_changes() {
        let own = |own: &str, prefix_bits| Setting::Address {
            address: own.parse().unwrap(),
            prefix_bits,
        };
        let route = |by: &str| Route {
            by: by.parse().unwrap(),
            source: None,
        };
        let default = |gateway: &str| Setting::DefaultRoute(route(gateway));
        let resolver = |resolver: &str| Setting::LinkRoute(route(resolver));
        let present = [
            own("10.89.0.2", 24),
            own("10.90.0.2", 24),
            own("fe80::1", 64),
            own("fd12::2", 64),
            resolver("169.254.7.7"),
            resolver("fe80::7"),
            default("10.89.0.1"),
        ];
        let wanted = [
            own("10.90.0.2", 16),
            own("10.91.0.2", 24),
            own("10.89.0.2", 24),
            resolver("169.254.7.7"),
            resolver("169.254.7.8"),
            default("10.91.0.1"),
        ];
        assert_eq!(
            said(&unwanted(&present, &wanted)),
            "the default route by 10.89.0.1\nthe route to fe80::7\nthe network address fd12::2/64\n\
            the network address 10.90.0.2/24"
        );
        assert_eq!(
            said(&missing(&present, &wanted)),
            "the network address 10.90.0.2/16\nthe network address 10.91.0.2/24\nthe route to 169.254.7.8\n\
            the default route by 10.91.0.1"
        );
        for same in [&present[..], &wanted[..]] {
            assert_eq!((unwanted(same, same), missing(same, same)), (Vec::new(), Vec::new()));
        }
        assert_eq!(unwanted(&present[2..3], &[]), []);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let bad = Network {
            resolvers: vec![vec![1, 2, 3]],
            ..Network::default()
        };
        assert!(matches!(wanted(&bad), Err(NetworkError::Address)));
        let many = network(vec![address("10.89.0.2", 24, ""); ENTRIES_MAX + 1], &[]);
        assert!(matches!(wanted(&many), Err(NetworkError::TooMany)));
    }

    #[test]
    fn a_link_may_be_without_a_gateway() {
        let parse = |address: &[u8], prefix_bits, gateway: &[u8]| {
            parse(&Address {
                address: address.into(),
                prefix_bits,
                gateway: gateway.into(),
            })
        };
        let own = IpAddr::from([10, 89, 0, 2]);
        let gateway = IpAddr::from([10, 89, 0, 1]);
        assert_eq!(
            parse(&[10, 89, 0, 2], 24, &[10, 89, 0, 1]),
            Some((own, 24, Some(gateway)))
        );
        assert_eq!(parse(&[10, 89, 0, 2], 24, &[]), Some((own, 24, None)));
        assert_eq!(parse(&[10, 89, 0, 2], 33, &[]), None);
        assert_eq!(parse(&[10, 89, 0, 2], 24, &[0; 16]), None);
        assert_eq!(parse(&[10, 89, 0], 24, &[]), None);
    }
}
