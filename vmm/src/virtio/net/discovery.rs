//! Neighbour discovery (RFC 4861): how hosts of a link tell each other of their hardware.

use std::net::Ipv6Addr;

use etherparse::Icmpv6Slice;

use super::Mac;

/// Neighbour discovery comes from the same link (RFC 4861, section 7.1).
pub(crate) const ON_LINK_HOPS: u8 = 255;
/// Router solicitation, neighbour solicitation and advertisement (RFC 4861): what a host says. Router advertisements and
/// redirects are a router's.
pub(crate) const HOST_DISCOVERY: [u8; 3] = [ROUTER_SOLICITATION, 135, NEIGHBOR_ADVERTISEMENT];
pub(crate) const ROUTER_SOLICITATION: u8 = 133;
pub(crate) const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// Bytes of any such message before the address that it is about, or its options.
const HEADER_BYTES: usize = 8;

/// The address that a host has on its link by itself (RFC 4291, appendix A).
pub(crate) fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    let interface = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    Ipv6Addr::from_bits(0xfe80_u128 << 112 | u128::from(u64::from_be_bytes(interface)))
}

/// Whom a neighbour's message is about.
pub(crate) fn target(icmp: &Icmpv6Slice<'_>) -> Option<Ipv6Addr> {
    let target = icmp.slice().get(HEADER_BYTES..)?.first_chunk::<16>()?;
    Some(Ipv6Addr::from(*target))
}

/// Whether no option of a discovery message tells of another hardware address (RFC 4861, section 4.6).
pub(crate) fn names_hardware(icmp: &Icmpv6Slice<'_>, mac: Mac) -> bool {
    // In the others an address comes first.
    let body = if icmp.type_u8() == ROUTER_SOLICITATION { 0 } else { 16 };
    let Some(mut options) = icmp.slice().get(HEADER_BYTES + body..) else {
        return false;
    };
    while let [kind, units, ..] = options {
        let bytes = usize::from(*units) * 8;
        let Some((option, rest)) = options.split_at_checked(bytes).filter(|_| bytes > 0) else {
            return false;
        };
        // Source and target link-layer address.
        if matches!(kind, 1 | 2) && option.get(2..8) != Some(&mac) {
            return false;
        }
        options = rest;
    }
    options.is_empty()
}
