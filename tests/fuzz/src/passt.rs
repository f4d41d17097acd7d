//! Reading of frames by passt: a parser that is as lenient as the most lenient of passt's versions, and shares nothing
//! with the packet filter's.

use std::net::IpAddr;

/// Packet that passt carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reading {
    /// Number of the protocol: of TCP, UDP, or one of the ICMPs.
    pub protocol: u8,
    /// Source address.
    pub from: IpAddr,
    /// Destination address.
    pub to: IpAddr,
    /// Source port; for an echo, its identifier.
    pub from_port: u16,
    /// Destination port; 0 for an echo.
    pub to_port: u16,
    /// Place of the transport header in the frame.
    pub place: usize,
    /// True for a segment that opens a connection, any datagram, and a request for an echo.
    pub begins: bool,
}

const ETHERNET_BYTES: usize = 14;
/// Numbers that passt takes for extension headers: its `IPV6_NH_OPT`.
const EXTENSION_HEADERS: [u8; 11] = [0, 43, 44, 50, 51, 60, 135, 139, 140, 253, 254];

/// Parses a guest's frame like passt; `None` for a frame that passt carries nowhere.
#[must_use]
pub fn read(frame: &[u8]) -> Option<Reading> {
    match frame.get(12..ETHERNET_BYTES)? {
        [8, 0] => read_v4(frame),
        [0x86, 0xdd] => read_v6(frame),
        _ => None,
    }
}

/// Parses an IPv4 packet: like passt, it treats fragments as whole packets and ignores lengths.
fn read_v4(frame: &[u8]) -> Option<Reading> {
    let header = frame.get(ETHERNET_BYTES..ETHERNET_BYTES + 20)?;
    let place = ETHERNET_BYTES + usize::from(header[0] & 0x0f) * 4;
    let address = |at: usize| Some(IpAddr::from(*header.get(at..)?.first_chunk::<4>()?));
    transport(frame, header[9], place, (address(12)?, address(16)?))
}

/// Parses an IPv6 packet like `ipv6_l4hdr()`: every extension header is as long as its second byte says, and the last
/// one is not skipped.
fn read_v6(frame: &[u8]) -> Option<Reading> {
    let header = frame.get(ETHERNET_BYTES..ETHERNET_BYTES + 40)?;
    let address = |at: usize| Some(IpAddr::from(*header.get(at..)?.first_chunk::<16>()?));
    let (mut place, mut next) = (ETHERNET_BYTES + 40, header[6]);
    if EXTENSION_HEADERS.contains(&next) {
        loop {
            let [following, length] = *frame.get(place..)?.first_chunk::<2>()?;
            next = following;
            if !EXTENSION_HEADERS.contains(&next) {
                break;
            }
            place += (usize::from(length) + 1) * 8;
        }
    }
    transport(frame, next, place, (address(8)?, address(24)?))
}

fn transport(frame: &[u8], protocol: u8, place: usize, (from, to): (IpAddr, IpAddr)) -> Option<Reading> {
    let start = frame.get(place..)?.first_chunk::<8>()?;
    let number = |at: usize| u16::from_be_bytes([start[at], start[at + 1]]);
    let (from_port, to_port, begins) = match protocol {
        6 => {
            let flags = *frame.get(place + 13)?;
            (number(0), number(2), flags & 0x12 == 2)
        }
        17 => (number(0), number(2), true),
        1 if matches!(start[0], 0 | 8) => (number(4), 0, start[0] == 8),
        58 if matches!(start[0], 128 | 129) => (number(4), 0, start[0] == 128),
        _ => return None,
    };
    Some(Reading {
        protocol,
        from,
        to,
        from_port,
        to_port,
        place,
        begins,
    })
}
