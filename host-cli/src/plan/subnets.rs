//! Subnets of user-defined networks: which are possible, which is chosen, and which addresses pods get. Also pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::cli::NetworkCreateArgs;
use crate::model::{Network, Subnet, SubnetError, is_host_address};
use crate::network::own_networks;

/// Pools for subnets that nobody named, as first byte and range of second bytes: podman's, then docker's where the host
/// has routes to all of podman's.
const POOLS: [(u8, std::ops::RangeInclusive<u8>); 3] = [(10, 89..=99), (172, 20..=31), (192, 168..=168)];
const POOL_PREFIX: u8 = 24;
/// Valid prefix lengths of IPv4, and below of IPv6: a gateway and a pod must have room.
const PREFIXES_V4: std::ops::RangeInclusive<u8> = 8..=30;
const PREFIXES_V6: std::ops::RangeInclusive<u8> = 16..=126;
/// First byte of a unique-local network (RFC 4193) of IPv6.
const UNIQUE_LOCAL: u8 = 0xfd;
const UNIQUE_LOCAL_PREFIX: u8 = 64;

/// Returns the subnets of a new network with that id: those that flags name, or free ones, which neither other networks
/// nor the host's routes use.
pub(crate) fn subnets(
    args: &NetworkCreateArgs,
    id: &str,
    others: &[Network],
    host: &[IpNet],
) -> Result<Vec<Subnet>, SubnetError> {
    let mut networks: Vec<IpNet> = args.subnet.iter().map(|text| parse(text)).collect::<Result<_, _>>()?;
    let mut gateways = gateways(args, &networks)?;
    let has = |networks: &[IpNet], is_v4| networks.iter().any(|network| network.addr().is_ipv4() == is_v4);
    if networks.is_empty() || (args.ipv6 && !has(&networks, true)) {
        networks.push(from_pool(others, host)?);
    }
    if args.ipv6 && !has(&networks, false) {
        networks.push(unique_local(id).into());
    }
    networks.sort_by_key(|network| network.addr().is_ipv6());
    if networks
        .windows(2)
        .any(|two| two[0].addr().is_ipv4() == two[1].addr().is_ipv4())
    {
        return Err(SubnetError::TwoOfOneKind);
    }
    networks.iter().try_for_each(|network| check_overlap(network, others))?;
    let made = networks.into_iter().map(|network| subnet(network, &mut gateways));
    let made: Vec<Subnet> = made.collect::<Result<_, _>>()?;
    match gateways.first() {
        Some(left) => Err(SubnetError::GatewayOutside(*left)),
        None => Ok(made),
    }
}

fn parse(text: &str) -> Result<IpNet, SubnetError> {
    let network: IpNet = text.parse().map_err(|_| SubnetError::Subnet(text.into()))?;
    if network.trunc() != network {
        return Err(SubnetError::HostBits(text.into(), network.trunc()));
    }
    let prefixes = match network {
        IpNet::V4(_) => PREFIXES_V4,
        IpNet::V6(_) => PREFIXES_V6,
    };
    if !prefixes.contains(&network.prefix_len()) {
        return Err(SubnetError::Prefix {
            subnet: network,
            first: *prefixes.start(),
            last: *prefixes.end(),
        });
    }
    if closed().iter().any(|block| overlap(block, &network)) {
        return Err(SubnetError::Closed(network));
    }
    match own_networks().into_iter().find(|own| overlap(own, &network)) {
        Some(own) => Err(SubnetError::Own(network, own)),
        None => Ok(network),
    }
}

/// Returns the addresses with another meaning, which no `--egress` opens either: this host, loopback, link-local,
/// multicast and reserved ones, a cloud's metadata.
fn closed() -> [IpNet; 8] {
    let v4 = |a, b, prefix| Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), prefix).into();
    let v6 = |first, prefix| Ipv6Net::new_assert(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0), prefix).into();
    [
        v4(0, 0, 8),
        v4(127, 0, 8),
        v4(169, 254, 16),
        v4(224, 0, 3),
        v6(0, 8),
        v6(0xfe80, 10),
        v6(0xff00, 8),
        Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128).into(),
    ]
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

fn check_overlap(subnet: &IpNet, others: &[Network]) -> Result<(), SubnetError> {
    let known = others
        .iter()
        .flat_map(|other| other.config.subnets.iter().map(move |own| (other, own.network)));
    match known.into_iter().find(|(_, known)| overlap(known, subnet)) {
        None => Ok(()),
        Some((other, known)) => Err(SubnetError::Overlap {
            subnet: *subnet,
            other: known,
            name: other.name.clone(),
        }),
    }
}

/// Returns the first free subnet of the pools.
fn from_pool(others: &[Network], host: &[IpNet]) -> Result<IpNet, SubnetError> {
    let is_free =
        |network: &IpNet| check_overlap(network, others).is_ok() && !host.iter().any(|known| overlap(known, network));
    let network =
        |first, second, third| Ipv4Net::new_assert(Ipv4Addr::new(first, second, third, 0), POOL_PREFIX).into();
    let halves = POOLS
        .into_iter()
        .flat_map(|(first, seconds)| seconds.map(move |second| (first, second)));
    halves
        .flat_map(|(first, second)| (0..=u8::MAX).map(move |third| network(first, second, third)))
        .find(is_free)
        .ok_or(SubnetError::PoolUsedUp)
}

/// Computes a subnet by RFC 4193: 40 random bits, here taken from the id, and the first of its 16-bit subnets.
fn unique_local(id: &str) -> Ipv6Net {
    let random = u64::from_str_radix(id.get(..10).unwrap_or_default(), 16).unwrap_or(1);
    let high = (u64::from(UNIQUE_LOCAL) << 56) | (random << 16);
    let address = Ipv6Addr::from_bits(u128::from(high) << 64);
    Ipv6Net::new_assert(address, UNIQUE_LOCAL_PREFIX)
}

/// Parses the flags' gateways, each in a subnet that flags name: in an automatic subnet, a gateway would fit only by
/// chance.
fn gateways(args: &NetworkCreateArgs, networks: &[IpNet]) -> Result<Vec<IpAddr>, SubnetError> {
    let parse = |text: &String| {
        let gateway: IpAddr = text.parse().map_err(|_| SubnetError::Gateway(text.clone()))?;
        match networks.iter().any(|network| network.contains(&gateway)) {
            true => Ok(gateway),
            false => Err(SubnetError::GatewayOutside(gateway)),
        }
    };
    args.gateway.iter().map(parse).collect()
}

/// Creates a subnet with the wanted gateway, which is removed from the list, or with the first address.
fn subnet(network: IpNet, gateways: &mut Vec<IpAddr>) -> Result<Subnet, SubnetError> {
    let wanted = gateways.iter().position(|gateway| network.contains(gateway));
    let gateway = match wanted.map(|at| gateways.remove(at)) {
        Some(gateway) if is_host_address(&network, gateway) => gateway,
        Some(gateway) => return Err(SubnetError::GatewayUnusable(gateway, network)),
        None => next(network.network()),
    };
    Ok(Subnet { network, gateway })
}

fn next(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits().saturating_add(1)).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits().saturating_add(1)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NetworkSpec, free_address};

    fn network(name: &str, subnet: &str) -> Network {
        let network: IpNet = subnet.parse().unwrap();
        Network {
            id: String::new(),
            name: name.into(),
            created_ns: 0,
            config: NetworkSpec {
                subnets: vec![Subnet {
                    network,
                    gateway: next(network.network()),
                }],
                internal: false,
                labels: Vec::new(),
            },
        }
    }

    fn choose(flags: (&[&str], &[&str], bool), others: &[Network], host: &[IpNet]) -> Result<Vec<String>, SubnetError> {
        let words = |flags: &[&str]| flags.iter().map(|&flag| flag.into()).collect();
        let args = NetworkCreateArgs {
            subnet: words(flags.0),
            gateway: words(flags.1),
            ipv6: flags.2,
            ..NetworkCreateArgs::default()
        };
        let made = subnets(&args, &"0123456789abcdef".repeat(4), others, host)?;
        Ok(made
            .iter()
            .map(|made| format!("{} {}", made.network, made.gateway))
            .collect())
    }

    #[test]
    fn the_first_subnet_that_nobody_has_is_chosen() {
        assert_eq!(choose((&[], &[], false), &[], &[]).unwrap(), ["10.89.0.0/24 10.89.0.1"]);
        let others = [network("a", "10.89.0.0/24"), network("b", "10.89.1.128/25")];
        let host = ["10.89.2.7/32".parse().unwrap(), "fd00::/8".parse().unwrap()];
        assert_eq!(
            choose((&[], &[], false), &others, &host).unwrap(),
            ["10.89.3.0/24 10.89.3.1"]
        );
        let host = ["10.89.0.0/16".parse().unwrap()];
        assert_eq!(
            choose((&[], &[], false), &[], &host).unwrap(),
            ["10.90.0.0/24 10.90.0.1"]
        );
        let host = |networks: &[&str]| {
            networks
                .iter()
                .map(|text| text.parse().unwrap())
                .collect::<Vec<IpNet>>()
        };
        let company = choose((&[], &[], false), &[], &host(&["10.0.0.0/8"])).unwrap();
        assert!(company[0].starts_with("172.20.0.0/24"), "{company:?}");
        let all = host(&["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]);
        assert_eq!(choose((&[], &[], false), &[], &all), Err(SubnetError::PoolUsedUp));
        assert_eq!(
            choose((&[], &[], true), &[], &[]).unwrap(),
            ["10.89.0.0/24 10.89.0.1", "fd01:2345:6789::/64 fd01:2345:6789::1"]
        );
    }

    #[test]
    fn subnets_that_are_named_are_taken() {
        assert_eq!(
            choose((&["fd12::/64", "10.5.0.0/16"], &["10.5.0.254"], false), &[], &[]).unwrap(),
            ["10.5.0.0/16 10.5.0.254", "fd12::/64 fd12::1"]
        );
        assert_eq!(
            choose((&["fd12::/64"], &[], false), &[], &[]).unwrap(),
            ["fd12::/64 fd12::1"]
        );
        assert_eq!(choose((&["fd12::/64"], &[], true), &[], &[]).unwrap().len(), 2);
        assert_eq!(
            choose((&["192.168.9.4/30"], &[], false), &[], &[]).unwrap(),
            ["192.168.9.4/30 192.168.9.5"]
        );
    }

    #[test]
    fn subnets_that_are_impossible_are_refused() {
        let others = [network("web", "10.5.0.0/16")];
        let reported = |subnets: &[&str], gateways: &[&str]| {
            choose((subnets, gateways, false), &others, &[])
                .unwrap_err()
                .to_string()
        };
        for (subnet, words) in [
            ("10.1.2.3", "write a network"),
            ("10.1.2.3/24", "write 10.1.2.0/24"),
            ("10.1.2.0/31", "8 to 30 bits"),
            ("0.0.0.0/0", "8 to 30 bits"),
            ("fd12::/127", "16 to 126 bits"),
            ("10.5.7.0/24", "overlaps with 10.5.0.0/16 of network web"),
            ("10.0.0.0/8", "of network web"),
            ("100.96.0.0/16", "overlaps with 100.96.0.0/30"),
            ("fd63:6170::/32", "on no user-defined network"),
            ("127.0.0.0/24", "loopback"),
            ("169.254.0.0/24", "link-local"),
            ("169.0.0.0/8", "link-local"),
            ("239.0.0.0/24", "multicast"),
            ("fe80::/64", "link-local"),
            ("::/16", "loopback"),
        ] {
            assert!(
                reported(&[subnet], &[]).contains(words),
                "{subnet}: {}",
                reported(&[subnet], &[])
            );
        }
        assert!(reported(&["10.6.0.0/24", "10.7.0.0/24"], &[]).contains("one of IPv4"));
        assert!(reported(&[], &["10.89.0.1"]).contains("in no --subnet"));
        assert!(reported(&["10.6.0.0/24"], &["10.7.0.1"]).contains("in no --subnet"));
        assert!(reported(&["10.6.0.0/24"], &["10.6.0.1", "10.6.0.2"]).contains("in no --subnet"));
        assert!(reported(&["10.6.0.0/24"], &["gate"]).contains("write an address"));
        assert!(reported(&["10.6.0.0/24"], &["10.6.0.0"]).contains("no address of a host's"));
        assert!(reported(&["10.6.0.0/24"], &["10.6.0.255"]).contains("no address of a host's"));
    }

    #[test]
    fn addresses_are_given_from_the_lowest_on() {
        let subnet = |network: &str, gateway: &str| Subnet {
            network: network.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
        };
        let taken: Vec<IpAddr> = vec!["10.5.0.2".parse().unwrap(), "fd12::2".parse().unwrap()];
        let free = |subnet: Subnet| free_address(&subnet, &taken).map(|address| address.to_string());
        assert_eq!(free(subnet("10.5.0.0/24", "10.5.0.1")).unwrap(), "10.5.0.3");
        assert_eq!(free(subnet("10.5.0.0/24", "10.5.0.3")).unwrap(), "10.5.0.1");
        assert_eq!(free(subnet("10.5.0.0/30", "10.5.0.1")), None);
        assert_eq!(free(subnet("fd12::/64", "fd12::1")).unwrap(), "fd12::3");
    }
}
