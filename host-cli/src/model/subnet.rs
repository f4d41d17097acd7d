//! Subnets of user-defined networks: arithmetic on their addresses.

use std::net::IpAddr;

use ipnet::IpNet;

use super::user_network::Subnet;

/// Reason why a subnet or an address of it cannot be used.
#[derive(Debug, thiserror::Error, PartialEq)]
pub(crate) enum SubnetError {
    #[error("invalid --subnet {0:?}: write a network as 10.89.0.0/24")]
    Subnet(String),
    #[error("--subnet {0} is an address in a network: write {1}")]
    HostBits(String, IpNet),
    #[error("--subnet {subnet}: write a prefix of {first} to {last} bits")]
    Prefix { subnet: IpNet, first: u8, last: u8 },
    #[error("--subnet {0} has loopback, link-local, multicast or metadata addresses")]
    Closed(IpNet),
    #[error("--subnet {0} overlaps with {1}, which pods have that are on no user-defined network")]
    Own(IpNet, IpNet),
    #[error("--subnet {subnet} overlaps with {other} of network {name}")]
    Overlap { subnet: IpNet, other: IpNet, name: String },
    #[error("two --subnet of one kind: a network has one of IPv4, one of IPv6, or both")]
    TwoOfOneKind,
    #[error("invalid --gateway {0:?}: write an address")]
    Gateway(String),
    #[error("--gateway {0} is in no --subnet that has none yet")]
    GatewayOutside(IpAddr),
    #[error("--gateway {0} is no address of a host's in {1}")]
    GatewayUnusable(IpAddr, IpNet),
    #[error(
        "all of 10.89.0.0 to 10.99.255.255, 172.20.0.0 to 172.31.255.255 and 192.168.0.0/16 is in use by networks of Capsid's \
         or this host's: give one with --subnet"
    )]
    PoolUsedUp,
}

/// Whether the address is in the network, and neither its network address nor its broadcast address.
pub(crate) fn is_host_address(network: &IpNet, address: IpAddr) -> bool {
    network.contains(&address) && address != network.network() && (address.is_ipv6() || address != network.broadcast())
}

/// Returns the lowest address that is neither the gateway's nor taken.
pub(crate) fn free_address(subnet: &Subnet, taken: &[IpAddr]) -> Option<IpAddr> {
    let is_free = |address: &IpAddr| {
        is_host_address(&subnet.network, *address) && *address != subnet.gateway && !taken.contains(address)
    };
    subnet.network.hosts().find(is_free)
}
