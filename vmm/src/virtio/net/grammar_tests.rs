//! Table of frames: protocol, destination, extension header, fragment and direction, under each kind of policy. The
//! expected result is computed by a few lines of its own, not by the code under test.

use std::net::IpAddr;
use std::time::Instant;

use super::frame::{self, FrameError};
use super::header::checksum;
use super::packet_filter::PacketFilter;
use super::packet_filter_tests::{
    GATEWAY, GATEWAY_V6, LINK_V6, Look, METADATA_V4, OWN, OWN_V4, OWN_V6, PRIVATE_V4, PUBLIC_V4, PUBLIC_V6,
    RESOLVER_V4, UPLINK, uplink,
};
use crate::egress::{Egress, Ports, Protocol, Rule, Target};

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const AH: u8 = 51;
const FRAGMENT: u8 = 44;

/// Ports of every transport here: one that is not published, and one that a rule opens.
const FROM: u16 = 4000;
const TO: u16 = 443;

/// Policies of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Public,
    None,
    /// Everything is open, as networks.
    Everywhere,
    /// Networks of [`PRIVATE_V4`], [`PRIVATE_V6`] and their neighbors are open, for every protocol.
    Networks,
    /// Everything is open, at one port of TCP.
    Port,
}

const PRIVATE_V6: [u8; 16] = [0xfd, 0x99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];

impl Policy {
    fn filter(self) -> PacketFilter {
        let network = |text: &str| Target::Network(text.parse().expect("a network"));
        let rule = |target, ports, protocol| Rule {
            target,
            ports,
            protocol,
        };
        let any = |target| rule(target, None, None);
        let port = Some(Ports { first: TO, last: TO });
        let all = || ["0.0.0.0/0", "::/0"].map(network);
        let rules = match self {
            Self::Public => vec![any(Target::Public)],
            Self::None => Vec::new(),
            Self::Everywhere => all().map(any).to_vec(),
            Self::Networks => ["192.168.0.0/16", "fd99::/16"].map(network).map(any).to_vec(),
            Self::Port => all().map(|target| rule(target, port, Some(Protocol::Tcp))).to_vec(),
        };
        let mut filter = PacketFilter::new(OWN, RESOLVER_V4.into());
        filter.open(uplink(Egress {
            rules,
            host: Vec::new(),
            closed: vec![RESOLVER_V4.into(), IpAddr::from(GATEWAY_V6)],
        }));
        filter
    }

    /// Whether an ordinary packet of this protocol may start a conversation with such a destination.
    fn opens(self, protocol: u8, class: Class) -> bool {
        let is_carried = [TCP, UDP, 1, 58].contains(&protocol);
        is_carried
            && match self {
                Self::Public => class == Class::Public,
                Self::None => false,
                Self::Everywhere => [Class::Public, Class::Private].contains(&class),
                Self::Networks => class == Class::Private,
                Self::Port => protocol == TCP && [Class::Public, Class::Private].contains(&class),
            }
    }
}

/// Classes of destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Public,
    Private,
    /// Destinations that no rule opens.
    Closed,
}

fn destinations() -> Vec<(Class, IpAddr)> {
    let parsed = |class: Class, addresses: &[&str]| -> Vec<_> {
        let parse = |text: &&str| (class, text.parse().expect("an address"));
        addresses.iter().map(parse).collect()
    };
    [
        vec![
            (Class::Public, PUBLIC_V4.into()),
            (Class::Public, PUBLIC_V6.into()),
            (Class::Private, PRIVATE_V4.into()),
            (Class::Private, PRIVATE_V6.into()),
            (Class::Closed, METADATA_V4.into()),
            (Class::Closed, RESOLVER_V4.into()),
            (Class::Closed, GATEWAY_V6.into()),
        ],
        parsed(
            Class::Closed,
            &[
                "127.0.0.1",
                "169.254.169.254",
                "224.0.0.251",
                "255.255.255.255",
                "0.0.0.0",
                "::1",
                "::",
                "fe80::1",
                "ff02::1",
                "fd00:ec2::254",
                "::ffff:203.0.113.5",
                "64:ff9b::127.0.0.1",
                "2002:7f00:1::1",
            ],
        ),
    ]
    .concat()
}

/// First packet of a transport: checksums are left out, because nothing checks them here.
fn transport(protocol: u8) -> Vec<u8> {
    let ports = [FROM.to_be_bytes(), TO.to_be_bytes()].concat();
    match protocol {
        TCP => [&ports[..], &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 3, 0xe8, 0, 0, 0, 0]].concat(),
        UDP => [&ports[..], &[0, 12, 0, 0], b"data"].concat(),
        1 => vec![8, 0, 0, 0, 0, 7, 0, 1],
        58 => vec![128, 0, 0, 0, 0, 7, 0, 1],
        _ => [&ports[..], &[0; 28]].concat(),
    }
}

fn ethernet((from, to): ([u8; 6], [u8; 6]), kind: u16, packet: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), packet].concat()
}

/// IPv4 packet with these flags and offset, and these options.
fn ipv4(ends: ([u8; 4], [u8; 4]), protocol: u8, fragment: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let header_bytes = 20 + options.len();
    let length = ((header_bytes + payload.len()) as u16).to_be_bytes();
    let [f1, f0] = fragment.to_be_bytes();
    let version = 0x40 | (header_bytes / 4) as u8;
    let mut header = [
        &[version, 0][..],
        &length,
        &[0, 1, f1, f0, 64, protocol, 0, 0],
        &ends.0,
        &ends.1,
        options,
    ]
    .concat();
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    [&header[..], payload].concat()
}

fn ipv6(ends: ([u8; 16], [u8; 16]), next: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0][..], &length, &[next, 64], &ends.0, &ends.1, payload].concat()
}

/// Chains of extension headers before a transport: the first number, and their bytes.
fn chains(protocol: u8) -> Vec<(u8, Vec<u8>)> {
    let header = |next| vec![next, 0, 1, 4, 0, 0, 0, 0];
    let mut chains: Vec<(u8, Vec<u8>)> = [0, 43, 60, 135, 139, 140, 253, 254]
        .map(|number| (number, header(protocol)))
        .to_vec();
    chains.extend([
        // Unfragmented although it has a fragment header, the same with a length where others read one, the first of
        // two pieces.
        (FRAGMENT, vec![protocol, 0, 0, 0, 0, 0, 0, 7]),
        (FRAGMENT, vec![protocol, 5, 0, 0, 0, 0, 0, 7]),
        (FRAGMENT, vec![protocol, 0, 0, 1, 0, 0, 0, 7]),
        (
            AH,
            vec![
                protocol, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            ],
        ),
        (50, vec![0, 0, 0, 1, 0, 0, 0, 1]),
        (59, Vec::new()),
        (0, [header(FRAGMENT), vec![protocol, 0, 0, 0, 0, 0, 0, 7]].concat()),
    ]);
    chains
}

/// Frames of one cell of the table: the first is ordinary, and none of the others follows the grammar.
fn frames(protocol: u8, (from, to): ([u8; 6], [u8; 6]), ends: (IpAddr, IpAddr)) -> Vec<Vec<u8>> {
    let payload = transport(protocol);
    match ends {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            let ends = (source.octets(), target.octets());
            let packets = [
                ipv4(ends, protocol, 0x4000, &[], &payload),
                // More fragments, a last one, the reserved flag, options, a router alert, an authentication header.
                ipv4(ends, protocol, 0x2000, &[], &payload),
                ipv4(ends, protocol, 1, &[], &payload),
                ipv4(ends, protocol, 0x8000, &[], &payload),
                ipv4(ends, protocol, 0, &[1, 1, 1, 0], &payload),
                ipv4(ends, protocol, 0, &[0x94, 4, 0, 0], &payload),
                ipv4(ends, AH, 0, &[], &[&[protocol, 4][..], &[0; 22], &payload].concat()),
            ];
            packets.map(|packet| ethernet((from, to), 0x0800, &packet)).to_vec()
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            let ends = (source.octets(), target.octets());
            let mut packets = vec![ipv6(ends, protocol, &payload)];
            for (next, chain) in chains(protocol) {
                packets.push(ipv6(ends, next, &[&chain[..], &payload].concat()));
            }
            packets
                .iter()
                .map(|packet| ethernet((from, to), 0x86dd, packet))
                .collect()
        }
        _ => Vec::new(),
    }
}

fn protocols(address: IpAddr) -> [u8; 4] {
    [TCP, UDP, SCTP, if address.is_ipv4() { 1 } else { 58 }]
}

fn own(address: IpAddr) -> IpAddr {
    if address.is_ipv4() {
        OWN_V4.into()
    } else {
        OWN_V6.into()
    }
}

#[test]
fn only_ordinary_packets_go_where_the_policy_opens() {
    let now = Instant::now();
    let policies = [
        Policy::Public,
        Policy::None,
        Policy::Everywhere,
        Policy::Networks,
        Policy::Port,
    ];
    let mut passed = 0;
    for policy in policies {
        for (class, to) in destinations() {
            for protocol in protocols(to) {
                let mut filter = policy.filter();
                for (index, frame) in frames(protocol, (OWN, GATEWAY), (own(to), to)).iter().enumerate() {
                    let expected = index == 0 && policy.opens(protocol, class);
                    let is_passed = filter.look(frame, now) == UPLINK;
                    assert_eq!(
                        is_passed, expected,
                        "{policy:?} {protocol} to {to}, frame {index}: {frame:02x?}"
                    );
                    passed += usize::from(is_passed);
                }
            }
        }
    }
    // TCP, UDP and echo to each address, and TCP alone in the end.
    assert_eq!(passed, 2 * 3 + 4 * 3 + 2 * 3 + 4);
}

#[test]
fn what_comes_opens_a_way_back_only_to_a_published_port() {
    let now = Instant::now();
    for policy in [Policy::Public, Policy::None, Policy::Networks, Policy::Port] {
        for (class, peer) in destinations() {
            for protocol in protocols(peer) {
                let answer = &frames(protocol, (OWN, GATEWAY), (own(peer), peer))[0];
                for arrived in frames(protocol, (GATEWAY, OWN), (peer, own(peer))) {
                    // To FROM's counterpart, which is not published, whatever the frame looks like.
                    let mut filter = policy.filter();
                    filter.note(&arrived, now);
                    let expected = policy.opens(protocol, class);
                    assert_eq!(
                        filter.look(answer, now) == UPLINK,
                        expected,
                        "{policy:?} {protocol} of {peer}"
                    );
                }
            }
        }
    }
    // To a published port, with both versions of IP, only if the frame is ordinary.
    for peer in [IpAddr::from(PRIVATE_V4), PRIVATE_V6.into()] {
        let published = |frame: &[u8], place: usize| {
            let mut frame = frame.to_vec();
            frame[place..place + 2].copy_from_slice(&80_u16.to_be_bytes());
            frame
        };
        let transport = if peer.is_ipv4() { 34 } else { 54 };
        let arrived = frames(UDP, (GATEWAY, OWN), (peer, own(peer)));
        for (index, arrived) in arrived.iter().enumerate() {
            let mut filter = Policy::None.filter();
            filter.note(&published(arrived, transport + 2), now);
            let mut answer = published(&frames(UDP, (OWN, GATEWAY), (own(peer), peer))[0], transport);
            answer[transport + 2..transport + 4].copy_from_slice(&FROM.to_be_bytes());
            assert_eq!(
                filter.look(&answer, now) == UPLINK,
                index == 0,
                "frame {index} of {peer}"
            );
        }
    }
}

/// Neighbor solicitation behind extension headers that passt reads as `protocol`: passt's walk takes the fragment
/// header's reserved byte for a length and does not step over the last header, which therefore is the transport's first
/// byte.
fn two_faced(protocol: u8, to: [u8; 16]) -> Vec<u8> {
    let hidden = match protocol {
        TCP => vec![
            TCP, 7, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 3, 0xe8, 0, 0, 0, 0, 0, 0, 0, 0,
        ],
        _ => vec![
            UDP, 7, 1, 0xbb, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ],
    };
    let fragment = [60, 5, 0, 0, 0, 0, 0, 7];
    let options = [58, 0, 1, 4, 0, 0, 0, 0];
    let solicitation = [
        &[135, 0, 0, 0, 0, 0, 0, 0][..],
        &GATEWAY_V6,
        &[14, 4, 0, 0, 0, 0, 0, 0],
        &hidden,
    ]
    .concat();
    let mut packet = ipv6(
        (OWN_V6, to),
        FRAGMENT,
        &[&fragment[..], &options, &solicitation].concat(),
    );
    packet[7] = 255;
    ethernet((OWN, GATEWAY), 0x86dd, &packet)
}

#[test]
fn a_solicitation_with_another_face_goes_nowhere() {
    let now = Instant::now();
    for protocol in [TCP, UDP] {
        for to in [GATEWAY_V6, PUBLIC_V6, PRIVATE_V6, LINK_V6] {
            let frame = two_faced(protocol, to);
            for policy in [Policy::Public, Policy::None, Policy::Everywhere] {
                let mut filter = policy.filter();
                assert_ne!(filter.look(&frame, now), UPLINK, "{policy:?}");
                assert_eq!(filter.counters.fragments, 1);
            }
        }
    }
}

#[test]
fn headers_are_written_anew() {
    let now = Instant::now();
    let ends = (OWN_V4, PUBLIC_V4);
    let ordinary = ethernet((OWN, GATEWAY), 0x0800, &ipv4(ends, UDP, 0, &[], &transport(UDP)));
    let mut odd = ordinary.clone();
    // To another hardware address, with a wrong checksum, and with bytes behind the packet.
    odd[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    odd[24..26].copy_from_slice(&[0xab, 0xcd]);
    odd.extend([7; 30]);
    assert_eq!(Policy::Public.filter().examine(&mut odd, now), UPLINK);
    assert_eq!(odd, ordinary);
    let ordinary = ethernet((OWN, GATEWAY), 0x86dd, &ipv6((OWN_V6, PUBLIC_V6), UDP, &transport(UDP)));
    let mut odd = [&ordinary[..], &[7; 30]].concat();
    assert_eq!(Policy::Public.filter().examine(&mut odd, now), UPLINK);
    assert_eq!(odd, ordinary);
    // The urgent pointer, with its flag or without.
    for (flags, pointer) in [(0x22, 9), (0x02, 9), (0x22, 0)] {
        let mut segment = transport(TCP);
        let expected = ethernet((OWN, GATEWAY), 0x0800, &ipv4(ends, TCP, 0, &[], &segment));
        (segment[13], segment[19]) = (flags, pointer);
        let mut frame = ethernet((OWN, GATEWAY), 0x0800, &ipv4(ends, TCP, 0, &[], &segment));
        assert_eq!(Policy::Public.filter().examine(&mut frame, now), UPLINK);
        assert_eq!((frame[47], &frame[52..54]), (expected[47], &[0, 0][..]));
    }
}

#[test]
fn lengths_that_disagree_are_malformed() {
    let v4 = ethernet(
        (OWN, GATEWAY),
        0x0800,
        &ipv4((OWN_V4, PUBLIC_V4), UDP, 0, &[], &transport(UDP)),
    );
    let v6 = ethernet((OWN, GATEWAY), 0x86dd, &ipv6((OWN_V6, PUBLIC_V6), UDP, &transport(UDP)));
    // Total length, header length, hops; payload length, version, hops; UDP's length.
    for (frame, place, values) in [
        (&v4, 17, &[0, 19, 20, 27, 31, 33, 255][..]),
        (&v4, 14, &[0x44, 0x46, 0x65, 0x05]),
        (&v4, 22, &[0]),
        (&v6, 19, &[0, 7, 11, 13, 255]),
        (&v6, 14, &[0x40, 0x70]),
        (&v6, 21, &[0]),
        (&v4, 39, &[0, 7, 11, 13]),
        (&v6, 59, &[0, 7, 11, 13]),
    ] {
        for value in values {
            let mut changed = frame.clone();
            changed[place] = *value;
            assert_eq!(
                frame::parse(&changed).err(),
                Some(FrameError::Malformed),
                "{place}: {value}"
            );
        }
    }
    for frame in [v4, v6] {
        for bytes in 0..frame.len() {
            assert!(frame::parse(&frame[..bytes]).is_err(), "{bytes} bytes");
        }
    }
}
