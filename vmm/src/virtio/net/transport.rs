//! Transports of a packet, as far as the packet filter needs them.
//!
//! | transport | accepted | everything else |
//! |---|---|---|
//! | TCP | whole header and options, ports other than 0, no reserved bit, flags of a real segment | malformed |
//! | UDP | the length of its header is the packet's, ports other than 0 | malformed |
//! | ICMP, ICMPv6 | a whole header; an echo has code 0 | malformed |
//! | other protocols | opaque | |

use super::frame::FrameError;
use super::header::replaced;

/// Protocol numbers.
const ICMP_V4: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
pub(super) const ICMP_V6: u8 = 58;
/// Lengths in bytes of the headers of UDP and ICMP, and of TCP's without options.
const UDP_BYTES: usize = 8;
const ICMP_BYTES: usize = 8;
const TCP_BYTES: usize = 20;

/// Flags of TCP (RFC 9293, section 3.1).
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const URG: u8 = 32;

/// Types of echo request and echo reply of ICMP, and of ICMPv6.
const ECHO_V4: (u8, u8) = (8, 0);
const ECHO_V6: (u8, u8) = (128, 129);
/// Types of redirect and router advertisement of ICMP (RFC 792, RFC 1256), and of ICMPv6.
const ROUTERS_V4: [u8; 2] = [5, 9];
const ROUTERS_V6: [u8; 2] = [134, 137];

/// Transport of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport<'a> {
    Tcp {
        from: u16,
        to: u16,
        /// Whether the segment opens a connection.
        begins: bool,
    },
    Udp {
        from: u16,
        to: u16,
        payload: &'a [u8],
    },
    Echo {
        id: u16,
        /// Whether the message is a request.
        begins: bool,
    },
    /// Protocol that the uplink does not carry; the sender gets an answer.
    Other,
    /// ICMP message that is no echo; never answered (RFC 1122, section 3.2.2).
    Error,
    /// Message that only routers send; not carried among pods either.
    Routing,
}

impl<'a> Transport<'a> {
    /// Parses the payload of an IPv4 packet.
    pub(super) fn parse_v4(protocol: u8, payload: &'a [u8]) -> Result<Self, FrameError> {
        match protocol {
            ICMP_V4 => parse_icmp(payload, ECHO_V4, ROUTERS_V4),
            _ => Self::parse(protocol, payload),
        }
    }

    /// Parses the payload of an IPv6 packet.
    pub(super) fn parse_v6(protocol: u8, payload: &'a [u8]) -> Result<Self, FrameError> {
        match protocol {
            ICMP_V6 => parse_icmp(payload, ECHO_V6, ROUTERS_V6),
            _ => Self::parse(protocol, payload),
        }
    }

    fn parse(protocol: u8, payload: &'a [u8]) -> Result<Self, FrameError> {
        match protocol {
            TCP => parse_tcp(payload),
            UDP => parse_udp(payload),
            _ => Ok(Self::Other),
        }
    }

    /// Removes the urgent pointer from an accepted TCP segment.
    pub(super) fn clear_urgent(segment: &mut [u8]) {
        let Some(header) = segment.first_chunk_mut::<TCP_BYTES>() else {
            return;
        };
        let [.., offset, flags, _, _, sum1, sum0, urgent1, urgent0] = header;
        let (before, pointer) = ([*offset, *flags], [*urgent1, *urgent0]);
        if *flags & URG == 0 && pointer == [0; 2] {
            return;
        }
        *flags &= !URG;
        (*urgent1, *urgent0) = (0, 0);
        let sum = replaced([*sum1, *sum0], &before, &[*offset, *flags]);
        [*sum1, *sum0] = replaced(sum, &pointer, &[0; 2]);
    }
}

fn parse_tcp(segment: &[u8]) -> Result<Transport<'_>, FrameError> {
    let header = segment.first_chunk::<TCP_BYTES>().ok_or(FrameError::Malformed)?;
    let [f1, f0, t1, t0, _, _, _, _, _, _, _, _, offset, flags, ..] = *header;
    let (from, to) = ports([f1, f0, t1, t0])?;
    let options = segment.get(TCP_BYTES..usize::from(offset >> 4) * 4);
    let is_reserved_clear = offset & 0x0f == 0;
    let is_real = match flags & SYN {
        0 => flags & (ACK | RST) != 0,
        _ => flags & (FIN | RST) == 0,
    };
    if !(is_reserved_clear && is_real && options.is_some_and(has_whole_options)) {
        return Err(FrameError::Malformed);
    }
    let begins = flags & (SYN | ACK) == SYN;
    Ok(Transport::Tcp { from, to, begins })
}

/// Whether each option of TCP ends within the header (RFC 9293, section 3.2).
fn has_whole_options(mut options: &[u8]) -> bool {
    loop {
        options = match options {
            // End of the list, by its marker or by the end of the header.
            [] | [0, ..] => return true,
            [1, rest @ ..] => rest,
            [_, bytes @ 2..=u8::MAX, ..] => match options.get(usize::from(*bytes)..) {
                Some(rest) => rest,
                None => return false,
            },
            _ => return false,
        }
    }
}

fn parse_udp(datagram: &[u8]) -> Result<Transport<'_>, FrameError> {
    let (header, payload) = datagram.split_first_chunk::<UDP_BYTES>().ok_or(FrameError::Malformed)?;
    let [f1, f0, t1, t0, l1, l0, _, _] = *header;
    let (from, to) = ports([f1, f0, t1, t0])?;
    if usize::from(u16::from_be_bytes([l1, l0])) != datagram.len() {
        return Err(FrameError::Malformed);
    }
    Ok(Transport::Udp { from, to, payload })
}

/// Source and destination port; port 0 is invalid.
fn ports([f1, f0, t1, t0]: [u8; 4]) -> Result<(u16, u16), FrameError> {
    match (u16::from_be_bytes([f1, f0]), u16::from_be_bytes([t1, t0])) {
        (0, _) | (_, 0) => Err(FrameError::Malformed),
        ports => Ok(ports),
    }
}

fn parse_icmp(message: &[u8], (request, reply): (u8, u8), routers: [u8; 2]) -> Result<Transport<'_>, FrameError> {
    let header = message.first_chunk::<ICMP_BYTES>().ok_or(FrameError::Malformed)?;
    let [kind, code, _, _, id1, id0, _, _] = *header;
    match (kind, code) {
        (kind, 0) if kind == request || kind == reply => Ok(Transport::Echo {
            id: u16::from_be_bytes([id1, id0]),
            begins: kind == request,
        }),
        (kind, _) if kind == request || kind == reply => Err(FrameError::Malformed),
        (kind, _) if routers.contains(&kind) => Ok(Transport::Routing),
        _ => Ok(Transport::Error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TCP segment with these flags and options.
    fn segment(flags: u8, options: &[u8]) -> Vec<u8> {
        let offset = ((TCP_BYTES + options.len()) as u8 / 4) << 4;
        let mut bytes = vec![
            0x0f, 0xa0, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 0, offset, flags, 3, 0xe8, 0, 0, 0, 0,
        ];
        bytes.extend(options);
        bytes
    }

    #[test]
    fn a_segment_has_flags_of_a_real_one_and_whole_options() {
        let (from, to) = (4000, 443);
        for (flags, begins) in [
            (SYN, true),
            (SYN | ACK, false),
            (ACK, false),
            (ACK | FIN, false),
            (RST, false),
        ] {
            let expected = Ok(Transport::Tcp { from, to, begins });
            assert_eq!(Transport::parse_v4(TCP, &segment(flags, &[])), expected, "{flags}");
        }
        for flags in [0, FIN, URG, SYN | FIN, SYN | RST, SYN | ACK | RST] {
            assert!(Transport::parse_v4(TCP, &segment(flags, &[])).is_err(), "{flags}");
        }
        for options in [&[2, 4, 5, 0xb4][..], &[1, 1, 1, 0], &[0, 9, 9, 9], &[4, 2, 8, 2]] {
            assert!(Transport::parse_v6(TCP, &segment(SYN, options)).is_ok(), "{options:?}");
        }
        for options in [&[2, 5, 5, 0xb4][..], &[2, 0, 0, 0], &[2, 1, 0, 0], &[1, 1, 1, 2]] {
            assert!(Transport::parse_v6(TCP, &segment(SYN, options)).is_err(), "{options:?}");
        }
        for (at, value) in [(12, 0x51), (12, 0x40), (12, 0x60), (3, 0)] {
            let mut bytes = segment(SYN, &[]);
            bytes[at] = value;
            bytes[2] = if at == 3 { 0 } else { 1 };
            assert!(Transport::parse_v4(TCP, &bytes).is_err(), "{at}");
        }
        assert!(Transport::parse_v4(TCP, &segment(SYN, &[])[..19]).is_err());
    }

    #[test]
    fn a_datagram_is_as_long_as_it_says() {
        let good = [0x0f, 0xa0, 0, 53, 0, 9, 0, 0, 7];
        let (from, to, payload) = (4000, 53, &[7][..]);
        assert_eq!(
            Transport::parse_v4(UDP, &good),
            Ok(Transport::Udp { from, to, payload })
        );
        for length in [0, 7, 8, 10] {
            let mut bytes = good;
            bytes[5] = length;
            assert!(Transport::parse_v4(UDP, &bytes).is_err(), "{length}");
        }
        assert!(Transport::parse_v4(UDP, &good[..7]).is_err());
    }

    #[test]
    fn an_echo_has_no_code_and_belongs_to_its_kind_of_network() {
        let echo = |kind, code| [kind, code, 0, 0, 0, 7, 0, 1];
        let (id, begins) = (7, true);
        assert_eq!(
            Transport::parse_v4(ICMP_V4, &echo(8, 0)),
            Ok(Transport::Echo { id, begins })
        );
        assert_eq!(
            Transport::parse_v6(ICMP_V6, &echo(128, 0)),
            Ok(Transport::Echo { id, begins })
        );
        assert!(Transport::parse_v4(ICMP_V4, &echo(8, 1)).is_err());
        assert!(Transport::parse_v4(ICMP_V4, &echo(8, 0)[..7]).is_err());
        assert_eq!(Transport::parse_v4(ICMP_V6, &echo(128, 0)), Ok(Transport::Other));
        assert_eq!(Transport::parse_v6(ICMP_V4, &echo(8, 0)), Ok(Transport::Other));
        assert_eq!(Transport::parse_v4(ICMP_V4, &echo(3, 1)), Ok(Transport::Error));
        assert_eq!(Transport::parse_v6(ICMP_V6, &echo(137, 0)), Ok(Transport::Routing));
    }

    #[test]
    fn the_urgent_pointer_is_taken_out_and_the_checksum_stays_good() {
        let mut bytes = segment(ACK | URG, &[]);
        bytes[18..20].copy_from_slice(&[0, 9]);
        let sum = super::super::header::checksum(&bytes);
        bytes[16..18].copy_from_slice(&sum.to_be_bytes());
        Transport::clear_urgent(&mut bytes);
        assert_eq!((bytes[13], &bytes[18..20]), (ACK, &[0, 0][..]));
        assert_eq!(super::super::header::checksum(&bytes), 0);
        let before = bytes.clone();
        Transport::clear_urgent(&mut bytes);
        assert_eq!(bytes, before);
    }
}
