//! What of a packet's transport matters to who guards it.

use std::net::IpAddr;

use etherparse::{Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice};

/// Redirect and router advertisement of ICMP (RFC 792, RFC 1256), and of ICMPv6.
pub(crate) const ROUTERS_V4: [u8; 2] = [5, 9];
pub(crate) const ROUTERS_V6: [u8; 2] = [134, 137];

/// It.
#[derive(Debug, Clone, Copy)]
pub(super) enum Transport<'a> {
    Tcp {
        from: u16,
        to: u16,
        begins: bool,
    },
    Udp {
        from: u16,
        to: u16,
        payload: &'a [u8],
    },
    Echo {
        id: u16,
        begins: bool,
    },
    /// Not carried, but to be told so.
    Other,
    /// Not carried either, and never answered: an error of ICMP's (RFC 1122, section 3.2.2).
    Error,
    /// The same, and not even among pods: what only routers say.
    Routing,
}

/// That of a packet.
pub(super) fn carried<'a>(transport: &TransportSlice<'a>) -> Transport<'a> {
    match transport {
        TransportSlice::Tcp(tcp) => Transport::Tcp {
            from: tcp.source_port(),
            to: tcp.destination_port(),
            begins: tcp.syn() && !tcp.ack(),
        },
        TransportSlice::Udp(udp) => Transport::Udp {
            from: udp.source_port(),
            to: udp.destination_port(),
            payload: udp.payload(),
        },
        TransportSlice::Icmpv4(icmp) => echo_v4(icmp),
        TransportSlice::Icmpv6(icmp) => echo_v6(icmp),
        TransportSlice::Igmp(_) => Transport::Other,
    }
}

fn echo_v4<'a>(icmp: &Icmpv4Slice<'_>) -> Transport<'a> {
    match icmp.icmp_type() {
        Icmpv4Type::EchoRequest(echo) => Transport::Echo {
            id: echo.id,
            begins: true,
        },
        Icmpv4Type::EchoReply(echo) => Transport::Echo {
            id: echo.id,
            begins: false,
        },
        _ if ROUTERS_V4.contains(&icmp.type_u8()) => Transport::Routing,
        _ => Transport::Error,
    }
}

fn echo_v6<'a>(icmp: &Icmpv6Slice<'_>) -> Transport<'a> {
    match icmp.icmp_type() {
        Icmpv6Type::EchoRequest(echo) => Transport::Echo {
            id: echo.id,
            begins: true,
        },
        Icmpv6Type::EchoReply(echo) => Transport::Echo {
            id: echo.id,
            begins: false,
        },
        _ if ROUTERS_V6.contains(&icmp.type_u8()) => Transport::Routing,
        _ => Transport::Error,
    }
}

/// Who sent a packet, and what is in it.
pub(super) fn incoming<'a>(packet: &SlicedPacket<'a>) -> Option<(IpAddr, Transport<'a>)> {
    let from = match packet.net.as_ref()? {
        NetSlice::Ipv4(ip) => IpAddr::V4(ip.header().source_addr()),
        NetSlice::Ipv6(ip) => IpAddr::V6(ip.header().source_addr()),
        NetSlice::Arp(_) => return None,
    };
    Some((from, carried(packet.transport.as_ref()?)))
}
