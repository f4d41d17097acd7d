//! What is set on the network device, as plain values.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use capsid_protocol::spec::{Address, Network};

use super::NetworkError;
use crate::limits::ENTRIES_MAX;

/// One thing that the device has. Later kinds need the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Setting {
    /// An address, and the length of its link's prefix.
    Address { address: IpAddr, prefix_bits: u8 },
    /// The way to everywhere, by a gateway.
    Default(IpAddr),
}

/// As an error says it.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { address, prefix_bits } => write!(f, "the network address {address}/{prefix_bits}"),
            Self::Default(gateway) => write!(f, "the default route by {gateway}"),
        }
    }
}

/// What the device is to have, in the order of its making.
pub(super) fn wanted(network: &Network) -> Result<Vec<Setting>, NetworkError> {
    if network.addresses.len() > ENTRIES_MAX {
        return Err(NetworkError::TooMany);
    }
    let addresses: Option<Vec<_>> = network.addresses.iter().map(parse).collect();
    let addresses = addresses.ok_or(NetworkError::Address)?;
    let own = addresses
        .iter()
        .map(|&(address, prefix_bits, _)| Setting::Address { address, prefix_bits });
    let gateway = |is_kind: fn(&IpAddr) -> bool| addresses.iter().filter_map(|&(.., gateway)| gateway).find(is_kind);
    let gateways = [gateway(IpAddr::is_ipv4), gateway(IpAddr::is_ipv6)];
    let defaults = gateways.into_iter().flatten().map(Setting::Default);
    let mut seen = BTreeSet::new();
    let all = own.chain(defaults);
    Ok(all.filter(|setting| seen.insert(*setting)).collect())
}

/// Whether any of them is an address of IPv6.
pub(super) fn speaks_v6(settings: &[Setting]) -> bool {
    let is_v6 = |setting: &Setting| matches!(setting, Setting::Address { address, .. } if address.is_ipv6());
    settings.iter().any(is_v6)
}

/// Address, length of the prefix, and the gateway if there is one; of one kind.
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
