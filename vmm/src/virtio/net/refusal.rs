//! What a guest hears of a packet that may not leave: without an answer its programs would wait for minutes.

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::icmpv6::DestUnreachableCode;
use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder};

use super::{ETHERNET_BYTES, Mac};

/// Hops left to an answer, which has none to go.
const HOPS: u8 = 64;
/// Bytes of the refused packet that are told back: its IP header and enough of what follows to know it by (RFC 792 wants
/// 8 bytes of it).
const QUOTED_BYTES: usize = 128;

/// Addresses of a packet and the hardware that it was sent to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ends {
    V4 { from: [u8; 4], to: [u8; 4] },
    V6 { from: [u8; 16], to: [u8; 16] },
}

/// The frame that says "prohibited" (ICMP type 3 code 13, ICMPv6 type 1 code 1) of `frame`, in the name of whom it was
/// sent to.
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

/// The frame that answers a UDP packet with `payload`.
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

/// Whom a frame was sent to, and who sent it.
fn hardware(frame: &[u8]) -> Option<(Mac, Mac)> {
    let (to, from) = (frame.first_chunk::<6>()?, frame.get(6..)?.first_chunk::<6>()?);
    Some((*to, *from))
}
