//! Answers to a guest about packets that may not leave: without an answer its programs would wait for minutes.

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::icmpv6::DestUnreachableCode;
use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder};

use super::{ETHERNET_BYTES, Mac};

/// Hop limit of an answer, which has no hop to pass.
const HOPS: u8 = 64;
/// Number of bytes of the refused packet that the answer quotes: its IP header and enough of what follows to identify
/// it (RFC 792 requires 8 bytes of it).
const QUOTED_BYTES: usize = 128;

/// Addresses of a packet.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ends {
    V4 { from: [u8; 4], to: [u8; 4] },
    V6 { from: [u8; 16], to: [u8; 16] },
}

/// Frame that answers `frame` with "prohibited" (ICMP type 3 code 13, ICMPv6 type 1 code 1), in the name of the
/// destination.
pub(super) fn prohibited(frame: &[u8], ends: Ends) -> Option<Vec<u8>> {
    let (gateway, guest) = hardware(frame)?;
    let packet = frame.get(ETHERNET_BYTES..)?;
    let quoted = &packet[..packet.len().min(QUOTED_BYTES)];
    let ethernet = PacketBuilder::ethernet2(gateway, guest);
    let mut answer = Vec::new();
    let written = match ends {
        Ends::V4 { from, to } => ethernet
            .ipv4(to, from, HOPS)
            .icmpv4(Icmpv4Type::DestinationUnreachable(
                DestUnreachableHeader::FilterProhibited,
            ))
            .write_to_vec(&mut answer, quoted),
        Ends::V6 { from, to } => ethernet
            .ipv6(to, from, HOPS)
            .icmpv6(Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Prohibited))
            .write_to_vec(&mut answer, quoted),
    };
    written.ok().map(|_| answer)
}

/// Frame that answers a UDP packet with `payload`.
pub(crate) fn answer(frame: &[u8], ends: Ends, (from_port, to_port): (u16, u16), payload: &[u8]) -> Option<Vec<u8>> {
    let (gateway, guest) = hardware(frame)?;
    let ethernet = PacketBuilder::ethernet2(gateway, guest);
    let udp = match ends {
        Ends::V4 { from, to } => ethernet.ipv4(to, from, HOPS),
        Ends::V6 { from, to } => ethernet.ipv6(to, from, HOPS),
    };
    let mut answer = Vec::new();
    let written = udp.udp(to_port, from_port).write_to_vec(&mut answer, payload);
    written.ok().map(|_| answer)
}

/// Hardware addresses of a frame: destination and sender.
fn hardware(frame: &[u8]) -> Option<(Mac, Mac)> {
    let (to, from) = (frame.first_chunk::<6>()?, frame.get(6..)?.first_chunk::<6>()?);
    Some((*to, *from))
}
