//! Closed grammar of frames. A frame that does not follow it is dropped: a parser behind this one, such as passt's,
//! might read it differently.
//!
//! | layer | accepted | everything else |
//! |---|---|---|
//! | Ethernet | untagged; ARP, IPv4, IPv6 | malformed |
//! | ARP | a request or a reply about IPv4 over Ethernet | malformed |
//! | IPv4 | no options, whole, with hops left; bytes behind the packet are cut off | malformed, a fragment |
//! | IPv6 | no extension header, with hops left, no IPv4-mapped address; bytes behind the packet are cut off | malformed, a fragment |
//! | transport | see [`super::transport`] | malformed; other protocols stay opaque |
//! | neighbor discovery | see [`super::discovery`] | malformed |
//!
//! [`serialize`] rewrites what the grammar leaves open: after it, each byte of a header has been checked, has been
//! written here, or is opaque to every parser (traffic class, flow label, identification).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::discovery::{Arp, Discovery};
use super::header::checksum;
use super::refusal::Ends;
use super::transport::{ICMP_V6, Transport};
use super::{ETHERNET_BYTES, Mac};

/// EtherType numbers.
const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// Length in bytes of the only IPv4 header that is accepted: one without options.
const IPV4_BYTES: usize = 20;
/// Length of an IPv6 header in bytes.
const IPV6_BYTES: usize = 40;
/// Number of IPv6's fragment header.
const FRAGMENT_HEADER: u8 = 44;
/// Numbers of IPv6's extension headers (IANA, "IPv6 Extension Header Types"), including "no next header" and ESP, whose
/// content another parser may examine.
const EXTENSION_HEADERS: [u8; 12] = [0, 43, 44, 50, 51, 59, 60, 135, 139, 140, 253, 254];
/// Number of the authentication header, which is an extension header in IPv4 packets too.
const AUTHENTICATION_HEADER: u8 = 51;

/// Reason why a frame is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameError {
    /// The frame is outside of the grammar.
    Malformed,
    /// The frame holds a fragment of a packet.
    Fragment,
}

/// Accepted frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    /// Destination of the Ethernet header.
    pub(crate) to: Mac,
    /// Source of the Ethernet header.
    pub(crate) from: Mac,
    /// Length of the frame without the bytes behind its packet.
    pub(crate) bytes: usize,
    /// Content of the frame.
    pub(crate) body: Body<'a>,
}

/// Content of an accepted frame.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Body<'a> {
    /// Question for an IPv4 neighbor's hardware address, or its answer.
    Arp(Arp),
    /// Question for an IPv6 neighbor's hardware address, or its answer, or a question for routers.
    Discovery(Discovery),
    /// Any other IP packet.
    Packet(Packet<'a>),
}

/// IP packet and its transport.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packet<'a> {
    pub(crate) ends: Ends,
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) transport: Transport<'a>,
}

/// Parses a frame according to the grammar.
pub(crate) fn parse(frame: &[u8]) -> Result<Frame<'_>, FrameError> {
    let (header, rest) = frame
        .split_first_chunk::<ETHERNET_BYTES>()
        .ok_or(FrameError::Malformed)?;
    let [to @ .., _, _, _, _, _, _, kind_high, kind_low] = *header;
    let [.., a, b, c, d, e, f, _, _] = *header;
    let from = [a, b, c, d, e, f];
    let (body, bytes) = match u16::from_be_bytes([kind_high, kind_low]) {
        ARP => Arp::parse(rest, to).map(|(arp, bytes)| (Body::Arp(arp), bytes))?,
        IPV4 => parse_v4(rest)?,
        IPV6 => parse_v6(rest, to)?,
        _ => return Err(FrameError::Malformed),
    };
    Ok(Frame {
        to,
        from,
        bytes: ETHERNET_BYTES + bytes,
        body,
    })
}

/// Parses an IPv4 packet; also returns its length.
fn parse_v4(bytes: &[u8]) -> Result<(Body<'_>, usize), FrameError> {
    let header = bytes.first_chunk::<IPV4_BYTES>().ok_or(FrameError::Malformed)?;
    let [version, _, l1, l0, _, _, flags, offset, hops, protocol, _, _, ends @ ..] = *header;
    let length = usize::from(u16::from_be_bytes([l1, l0]));
    // Version 4, five words of header.
    if version != 0x45 || hops == 0 || protocol == AUTHENTICATION_HEADER {
        return Err(FrameError::Malformed);
    }
    // "Don't fragment" is the only flag that may be set.
    if flags & 0x3f != 0 || offset != 0 {
        return Err(FrameError::Fragment);
    }
    if flags & 0x80 != 0 {
        return Err(FrameError::Malformed);
    }
    let payload = bytes.get(IPV4_BYTES..length).ok_or(FrameError::Malformed)?;
    let [f3, f2, f1, f0, t3, t2, t1, t0] = ends;
    let (from, to) = ([f3, f2, f1, f0], [t3, t2, t1, t0]);
    let packet = Packet {
        ends: Ends::V4 { from, to },
        from: Ipv4Addr::from(from).into(),
        to: Ipv4Addr::from(to).into(),
        transport: Transport::parse_v4(protocol, payload)?,
    };
    Ok((Body::Packet(packet), length))
}

/// Parses an IPv6 packet that was sent to the hardware address `hardware`; also returns its length.
fn parse_v6(bytes: &[u8], hardware: Mac) -> Result<(Body<'_>, usize), FrameError> {
    let (header, rest) = bytes.split_first_chunk::<IPV6_BYTES>().ok_or(FrameError::Malformed)?;
    let [version, _, _, _, l1, l0, next, hops, ends @ ..] = *header;
    let payload_bytes = usize::from(u16::from_be_bytes([l1, l0]));
    if next == FRAGMENT_HEADER {
        return Err(FrameError::Fragment);
    }
    if version >> 4 != 6 || hops == 0 || EXTENSION_HEADERS.contains(&next) {
        return Err(FrameError::Malformed);
    }
    let payload = rest.get(..payload_bytes).ok_or(FrameError::Malformed)?;
    let (from, to) = ends.split_at(16);
    let address = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).map_err(|_| FrameError::Malformed);
    let (from, to) = (address(from)?, address(to)?);
    let (from_v6, to_v6) = (Ipv6Addr::from(from), Ipv6Addr::from(to));
    // Such an address never appears on a link (RFC 6890, table 20); a socket would treat it as IPv4.
    if from_v6.to_ipv4_mapped().or(to_v6.to_ipv4_mapped()).is_some() {
        return Err(FrameError::Malformed);
    }
    let length = IPV6_BYTES + payload_bytes;
    if next == ICMP_V6 && Discovery::is(payload) {
        let discovery = Discovery::parse(payload, (from_v6, to_v6), hops, hardware)?;
        return Ok((Body::Discovery(discovery), length));
    }
    let packet = Packet {
        ends: Ends::V6 { from, to },
        from: from_v6.into(),
        to: to_v6.into(),
        transport: Transport::parse_v6(next, payload)?,
    };
    Ok((Body::Packet(packet), length))
}

/// Rewrites an accepted frame, `bytes` long: bytes behind its packet are cut off, and an IPv4 header gets the checksum
/// that its other fields require.
pub(super) fn serialize(frame: &mut Vec<u8>, bytes: usize) {
    frame.truncate(bytes);
    if let Some((header, _)) = ipv4_mut(frame) {
        write_v4_checksum(header);
    }
}

/// Rewrites the headers of an accepted packet for the uplink: to the uplink's hardware address, and without TCP's
/// urgent pointer, which implementations interpret differently (RFC 6093) and which passt carries for none.
pub(super) fn serialize_for_uplink(frame: &mut Vec<u8>, bytes: usize, hardware: Mac) {
    serialize(frame, bytes);
    if let Some(to) = frame.first_chunk_mut::<6>() {
        *to = hardware;
    }
    if let Some(segment) = tcp_mut(frame) {
        Transport::clear_urgent(segment);
    }
}

/// Replaces the destination of an accepted IPv4 packet of UDP.
pub(super) fn redirect_udp_v4(frame: &mut [u8], to: Ipv4Addr) {
    /// Offsets in the IPv4 header, and in that of UDP.
    const DESTINATION: usize = 16;
    const UDP_CHECKSUM: usize = 6;
    let Some((header, payload)) = ipv4_mut(frame) else {
        return;
    };
    let Some(destination) = header[DESTINATION..].first_chunk_mut::<4>() else {
        return;
    };
    let before = std::mem::replace(destination, to.octets());
    write_v4_checksum(header);
    if let Some(sum) = payload.get_mut(UDP_CHECKSUM..).and_then(<[u8]>::first_chunk_mut::<2>)
        // A packet without a checksum stays without one (RFC 768).
        && *sum != [0; 2]
    {
        *sum = super::header::replaced(*sum, &before, &to.octets());
    }
}

fn write_v4_checksum(header: &mut [u8; IPV4_BYTES]) {
    header[10..12].fill(0);
    let sum = checksum(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Splits an accepted IPv4 packet into header and payload.
fn ipv4_mut(frame: &mut [u8]) -> Option<(&mut [u8; IPV4_BYTES], &mut [u8])> {
    let is_v4 = frame.get(12..ETHERNET_BYTES) == Some(&IPV4.to_be_bytes());
    frame
        .get_mut(ETHERNET_BYTES..)
        .filter(|_| is_v4)?
        .split_first_chunk_mut()
}

/// Finds the TCP segment in an accepted packet.
fn tcp_mut(frame: &mut [u8]) -> Option<&mut [u8]> {
    const TCP: u8 = 6;
    let (protocol, start) = match frame.get(12..ETHERNET_BYTES)? {
        kind if kind == IPV4.to_be_bytes() => (frame.get(23)?, ETHERNET_BYTES + IPV4_BYTES),
        kind if kind == IPV6.to_be_bytes() => (frame.get(20)?, ETHERNET_BYTES + IPV6_BYTES),
        _ => return None,
    };
    let is_tcp = *protocol == TCP;
    frame.get_mut(start..).filter(|_| is_tcp)
}
