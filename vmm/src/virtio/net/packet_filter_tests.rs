//! Frames of a hostile guest, and what the packet filter does with them.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, Icmpv6Type, PacketBuilder, VlanId};

use super::discovery::multicast_hardware;
use super::frame::{Body, parse};
use super::links::Port;
use super::packet_filter::{NetCounters, PacketFilter, Verdict};
use crate::egress::{Egress, Ports, Protocol, Rule, Target};
use crate::segments::{Published, Segment, Uplink};

pub(super) const OWN: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(super) const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(super) const OWN_V4: [u8; 4] = [100, 96, 0, 2];
pub(super) const PUBLIC_V4: [u8; 4] = [203, 0, 113, 5];
pub(super) const PRIVATE_V4: [u8; 4] = [192, 168, 1, 1];
/// Address of Azure's wire server.
pub(super) const METADATA_V4: [u8; 4] = [168, 63, 129, 16];
pub(super) const RESOLVER_V4: [u8; 4] = [100, 96, 0, 1];
pub(super) const OWN_V6: [u8; 16] = [0xfd, 0x63, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
pub(super) const PUBLIC_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
/// Link-local address `link_local(OWN)`.
pub(super) const LINK_V6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 2];

pub(super) const UPLINK: Verdict = Verdict::Pass(Port::Uplink);
const SEGMENT: Verdict = Verdict::Pass(Port::Segment(0));

fn egress(targets: &[Target]) -> Egress {
    let rule = |target: &Target| Rule {
        target: target.clone(),
        ports: None,
        protocol: None,
    };
    Egress {
        rules: targets.iter().map(rule).collect(),
        host: Vec::new(),
        closed: Vec::new(),
    }
}

/// Uplink with two published ports of each protocol.
pub(super) fn uplink(egress: Egress) -> Uplink {
    let published = [Protocol::Tcp, Protocol::Udp].map(|protocol| Published {
        protocol,
        ports: Ports { first: 80, last: 81 },
    });
    Uplink {
        hardware: GATEWAY,
        addresses: vec![IpAddr::from(OWN_V4), IpAddr::from(OWN_V6)],
        egress,
        published: published.to_vec(),
        loopback_alias: None,
    }
}

fn filter(targets: &[Target]) -> PacketFilter {
    let mut filter = PacketFilter::new(OWN, RESOLVER_V4.into());
    filter.open(uplink(egress(targets)));
    filter
}

/// Access to a filter's decision about a frame, without changing the sender's copy.
pub(super) trait Look {
    fn look(&mut self, frame: &[u8], now: Instant) -> Verdict;
    fn look_returned(&mut self, frame: &[u8], slot: u8) -> Verdict;
}

impl Look for PacketFilter {
    fn look(&mut self, frame: &[u8], now: Instant) -> Verdict {
        let mut written = frame.to_vec();
        let verdict = self.examine(&mut written, now);
        if let Verdict::Pass(port) = verdict {
            let parsed = parse(&written).expect("what passes is of the grammar");
            assert_eq!(parsed.bytes, written.len(), "nothing lies behind it");
            let is_packet = matches!(parsed.body, Body::Packet(_));
            assert!(
                port != Port::Uplink || is_packet && parsed.to == GATEWAY,
                "{written:02x?}"
            );
        }
        verdict
    }

    fn look_returned(&mut self, frame: &[u8], slot: u8) -> Verdict {
        self.examine_returned(&mut frame.to_vec(), slot)
    }
}

fn public() -> PacketFilter {
    filter(&[Target::Public])
}

type Ethernet = etherparse::PacketBuilderStep<etherparse::Ethernet2Header>;

fn out() -> Ethernet {
    PacketBuilder::ethernet2(OWN, GATEWAY)
}

fn back() -> Ethernet {
    PacketBuilder::ethernet2(GATEWAY, OWN)
}

macro_rules! frame {
    ($builder:expr, $payload:expr) => {{
        let mut bytes = Vec::new();
        $builder.write_to_vec(&mut bytes, $payload).expect("a frame");
        bytes
    }};
}

// Behind the macro that it uses.
mod segments;

fn udp(from: [u8; 4], to: [u8; 4], port: u16, payload: &[u8]) -> Vec<u8> {
    frame!(out().ipv4(from, to, 64).udp(4000, port), payload)
}

fn is_answered(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Answer(_))
}

#[test]
fn a_guest_speaks_in_its_own_name_only() {
    let (mut filter, now) = (public(), Instant::now());
    let mut pass = |frame: Vec<u8>| filter.look(&frame, now) == UPLINK;
    assert!(pass(udp(OWN_V4, PUBLIC_V4, 443, b"x")));
    assert!(pass(frame!(out().ipv6(OWN_V6, PUBLIC_V6, 64).udp(4000, 443), b"x")));
    assert!(!pass(udp([100, 96, 0, 3], PUBLIC_V4, 443, b"x")));
    assert!(!pass(udp([0; 4], PUBLIC_V4, 443, b"x")));
    assert!(!pass(frame!(out().ipv6(PUBLIC_V6, PUBLIC_V6, 64).udp(4000, 443), b"x")));
    assert!(!pass(frame!(out().ipv6(LINK_V6, PUBLIC_V6, 64).udp(4000, 443), b"x")));
    let foreign = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], GATEWAY);
    assert!(!pass(frame!(foreign.ipv4(OWN_V4, PUBLIC_V4, 64).udp(4000, 443), b"x")));
    assert_eq!(
        filter.counters,
        NetCounters {
            spoofed: 5,
            ..NetCounters::default()
        }
    );
}

#[test]
fn tags_fragments_and_other_kinds_end_here() {
    let (mut filter, now) = (public(), Instant::now());
    let tagged = out()
        .single_vlan(VlanId::ZERO)
        .ipv4(OWN_V4, PUBLIC_V4, 64)
        .udp(4000, 443);
    assert_eq!(filter.look(&frame!(tagged, b"x"), now), Verdict::Drop);
    let mut other = udp(OWN_V4, PUBLIC_V4, 443, b"x");
    // 802.1X, and a length in place of a kind.
    for kind in [[0x88, 0x8e], [0, 40]] {
        other[12..14].copy_from_slice(&kind);
        assert_eq!(filter.look(&other, now), Verdict::Drop);
    }
    let whole = udp(OWN_V4, PUBLIC_V4, 443, &[0; 64]);
    for cut in [0, 13, 14, 20, 33, 40, whole.len() - 1] {
        assert_eq!(filter.look(&whole[..cut], now), Verdict::Drop, "{cut} bytes");
    }
    assert_eq!(filter.counters.malformed, 10);
    // More fragments; an offset.
    for flags in [[0x20, 0], [0, 1]] {
        let mut fragment = whole.clone();
        fragment[20..22].copy_from_slice(&flags);
        assert_eq!(filter.look(&fragment, now), Verdict::Drop);
    }
    // An extension header means the same in IPv6.
    let mut fragment = frame!(out().ipv6(OWN_V6, PUBLIC_V6, 64).udp(4000, 443), &[0; 64]);
    fragment[20] = 44;
    fragment[54..62].copy_from_slice(&[17, 0, 0, 1, 0, 0, 0, 7]);
    assert_eq!(filter.look(&fragment, now), Verdict::Drop);
    assert_eq!(filter.counters.fragments, 3);
}

fn arp(operation: ArpOperation, mac: [u8; 6], address: [u8; 4]) -> Vec<u8> {
    let (hardware, kind) = (ArpHardwareId::ETHERNET, EtherType::IPV4);
    let packet = ArpPacket::new(hardware, kind, operation, &mac, &address, &[0; 6], &RESOLVER_V4);
    let mut frame = Vec::new();
    let builder = out().arp(packet.expect("sizes that fit"));
    builder.write_to_vec(&mut frame).expect("a frame");
    frame
}

#[test]
fn arp_is_answered_here_and_tells_of_nobody_else() {
    let now = Instant::now();
    let say = |operation, mac, address| public().look(&arp(operation, mac, address), now);
    for sender in [OWN_V4, [0; 4]] {
        let Verdict::Answer(answer) = say(ArpOperation::REQUEST, OWN, sender) else {
            panic!("not answered");
        };
        assert_eq!((&answer[..6], &answer[6..12]), (&OWN[..], &GATEWAY[..]));
        assert_eq!(answer[20..22], [0, 2]);
        assert_eq!((&answer[22..28], &answer[28..32]), (&GATEWAY[..], &RESOLVER_V4[..]));
        assert_eq!((&answer[32..38], &answer[38..42]), (&OWN[..], &sender[..]));
    }
    for (operation, mac, address) in [
        (ArpOperation::REPLY, OWN, OWN_V4),
        (ArpOperation::REPLY, OWN, RESOLVER_V4),
        (ArpOperation::REPLY, GATEWAY, OWN_V4),
        (ArpOperation(3), OWN, OWN_V4),
    ] {
        assert_eq!(say(operation, mac, address), Verdict::Drop);
    }
    // The guest's own address is not answered, nor anything when the uplink is closed.
    let mut own = arp(ArpOperation::REQUEST, OWN, OWN_V4);
    own[38..42].copy_from_slice(&OWN_V4);
    assert_eq!(public().look(&own, now), Verdict::Drop);
    let mut closed = public();
    closed.close();
    let request = arp(ArpOperation::REQUEST, OWN, OWN_V4);
    assert_eq!(closed.look(&request, now), Verdict::Drop);
}

/// Neighbor discovery message, about `about` and with a hardware address.
fn discovery(kind: u8, from: [u8; 16], hops: u8, about: [u8; 16], option: [u8; 6]) -> Vec<u8> {
    let mut to = [
        0xff,
        2,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        if kind == 133 { 2 } else { 1 },
    ];
    if kind == 135 {
        to[11..].copy_from_slice(&[1, 0xff, about[13], about[14], about[15]]);
    }
    let body: &[u8] = if kind == 133 { &[] } else { &about };
    let payload = [body, &[1, 1], &option].concat();
    let icmp = Icmpv6Type::Unknown {
        type_u8: kind,
        code_u8: 0,
        bytes5to8: [0; 4],
    };
    let link = PacketBuilder::ethernet2(OWN, multicast_hardware(to.into()));
    frame!(link.ipv6(from, to, hops).icmpv6(icmp), &payload)
}

#[test]
fn discovery_is_a_hosts_and_its_own_and_is_answered_here() {
    let now = Instant::now();
    let say = |kind: u8, from: [u8; 16], hops: u8, about: [u8; 16], option: [u8; 6]| {
        let mut filter = public();
        let verdict = filter.look(&discovery(kind, from, hops, about, option), now);
        (verdict, filter.counters.total())
    };
    for from in [OWN_V6, LINK_V6] {
        for about in [PUBLIC_V6, GATEWAY_V6, MEMBER_LINK_V6] {
            let (Verdict::Answer(answer), 0) = say(135, from, 255, about, OWN) else {
                panic!("not answered");
            };
            assert_eq!((&answer[..6], &answer[6..12]), (&OWN[..], &GATEWAY[..]));
            assert_eq!((&answer[22..38], &answer[38..54]), (&about[..], &from[..]));
            assert_eq!((answer[54], &answer[62..78]), (136, &about[..]));
            assert_eq!(answer[78..], [2, 1, 2, 0, 0, 0, 0, 1]);
        }
        // Messages that need no answer.
        for (kind, about) in [
            (133, OWN_V6),
            (136, OWN_V6),
            (136, LINK_V6),
            (135, OWN_V6),
            (135, LINK_V6),
        ] {
            assert_eq!(say(kind, from, 255, about, OWN), (Verdict::Drop, 0), "{kind}");
        }
    }
    for kind in [133, 135, 136] {
        for (from, hops, option) in [
            ([0; 16], 255, OWN),
            (PUBLIC_V6, 255, OWN),
            (OWN_V6, 255, GATEWAY),
            (OWN_V6, 64, OWN),
        ] {
            assert_eq!(say(kind, from, hops, OWN_V6, option), (Verdict::Drop, 1), "{kind}");
        }
    }
    // Router advertisement, redirect, report of multicast groups; messages in another's name.
    for kind in [134, 137, 143] {
        assert_eq!(say(kind, OWN_V6, 255, OWN_V6, OWN), (Verdict::Drop, 1), "{kind}");
    }
    assert_eq!(say(136, OWN_V6, 255, PUBLIC_V6, OWN), (Verdict::Drop, 1));
}

#[test]
fn what_is_denied_is_told_so() {
    let (mut filter, now) = (public(), Instant::now());
    let denied = udp(OWN_V4, PRIVATE_V4, 443, b"x");
    let Verdict::Answer(answer) = filter.look(&denied, now) else {
        panic!("no answer");
    };
    assert_eq!((&answer[..6], &answer[6..12]), (&OWN[..], &GATEWAY[..]));
    assert_eq!((&answer[26..30], &answer[30..34]), (&PRIVATE_V4[..], &OWN_V4[..]));
    assert_eq!(answer[34..36], [3, 13]);
    assert_eq!(answer[42..], denied[14..]);
    let v6 = frame!(out().ipv6(OWN_V6, OWN_V6, 64).tcp(4000, 80, 1, 1000).syn(), &[]);
    assert!(is_answered(&filter.look(&v6, now)));
    // No answer in the middle of a conversation that does not exist, and none to many hosts.
    let middle = frame!(out().ipv4(OWN_V4, PRIVATE_V4, 64).tcp(4000, 80, 1, 1000).ack(1), b"x");
    assert_eq!(filter.look(&middle, now), Verdict::Drop);
    for to in [[224, 0, 0, 251], [255; 4]] {
        assert_eq!(filter.look(&udp(OWN_V4, to, 5353, b"x"), now), Verdict::Drop);
    }
    assert_eq!(filter.counters.denied, 5);
}

#[test]
fn dhcp_and_its_answers_go_nowhere() {
    let (mut filter, now) = (public(), Instant::now());
    for (from, to) in [(68, 67), (67, 68), (546, 547), (547, 546)] {
        let v4 = frame!(out().ipv4(OWN_V4, [255; 4], 64).udp(from, to), b"x");
        let v6 = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2];
        let v6 = frame!(out().ipv6(OWN_V6, v6, 64).udp(from, to), b"x");
        assert_eq!(filter.look(&v4, now), Verdict::Drop);
        assert_eq!(filter.look(&v6, now), Verdict::Drop);
    }
    let nobody = frame!(out().ipv4([0; 4], [255; 4], 64).udp(68, 67), b"x");
    assert_eq!(filter.look(&nobody, now), Verdict::Drop);
}

#[test]
fn whom_a_stranger_asks_may_answer_and_nobody_else() {
    let (mut filter, now) = (filter(&[]), Instant::now());
    let answer = |to: [u8; 4], port| frame!(out().ipv4(OWN_V4, to, 64).tcp(80, port, 1, 1000).syn().ack(1), &[]);
    assert_eq!(filter.look(&answer(PRIVATE_V4, 999), now), Verdict::Drop);
    filter.note(
        &frame!(back().ipv4(PRIVATE_V4, OWN_V4, 64).tcp(999, 80, 1, 1000).syn(), &[]),
        now,
    );
    assert_eq!(filter.look(&answer(PRIVATE_V4, 999), now), UPLINK);
    assert_eq!(filter.look(&answer(PRIVATE_V4, 998), now), Verdict::Drop);
    assert_eq!(filter.look(&answer(PUBLIC_V4, 999), now), Verdict::Drop);
    // In the opposite direction, from the same ports, it is a connection of the guest's own.
    let begin = frame!(out().ipv4(OWN_V4, PRIVATE_V4, 64).tcp(80, 999, 1, 1000).syn(), &[]);
    assert!(is_answered(&filter.look(&begin, now)));
    let reply = |to| frame!(out().ipv4(OWN_V4, to, 64).udp(81, 999), b"x");
    assert!(is_answered(&filter.look(&reply(PRIVATE_V4), now)));
    filter.note(&frame!(back().ipv4(PRIVATE_V4, OWN_V4, 64).udp(999, 81), b"x"), now);
    assert_eq!(filter.look(&reply(PRIVATE_V4), now), UPLINK);
    let later = now + Duration::from_secs(600);
    assert!(is_answered(&filter.look(&reply(PRIVATE_V4), later)));
}

#[test]
fn only_what_begins_at_a_published_port_is_answered() {
    let now = Instant::now();
    let answers = [
        frame!(out().ipv4(OWN_V4, PRIVATE_V4, 64).tcp(80, 999, 1, 1000).ack(1), b"x"),
        frame!(out().ipv4(OWN_V4, PRIVATE_V4, 64).tcp(79, 999, 1, 1000).ack(1), b"x"),
        frame!(out().ipv4(OWN_V4, PRIVATE_V4, 64).udp(79, 999), b"x"),
        frame!(out().ipv4(OWN_V4, METADATA_V4, 64).udp(80, 999), b"x"),
        frame!(out().ipv4(OWN_V4, PRIVATE_V4, 64).icmpv4_echo_reply(80, 1), b"x"),
    ];
    let tcp = |port| back().ipv4(PRIVATE_V4, OWN_V4, 64).tcp(999, port, 1, 1000);
    let udp = |from, to| back().ipv4(from, to, 64).udp(999, 80);
    for arrived in [
        // In the middle of a connection that was never started, its answer, one to a port that is not published.
        frame!(tcp(80).ack(1), b"x"),
        frame!(tcp(80).syn().ack(1), &[]),
        frame!(tcp(80).rst(), &[]),
        frame!(tcp(79).syn(), &[]),
        frame!(back().ipv4(PRIVATE_V4, OWN_V4, 64).udp(999, 79), b"x"),
        // To another host, and forged.
        frame!(udp(PRIVATE_V4, [100, 96, 0, 3]), b"x"),
        frame!(udp(METADATA_V4, OWN_V4), b"x"),
        frame!(back().ipv4(PRIVATE_V4, OWN_V4, 64).icmpv4_echo_request(80, 1), b"x"),
    ] {
        for targets in [&[][..], &[Target::Public], &[Target::Name("a.test".into())]] {
            let mut filter = filter(targets);
            filter.note(&arrived, now);
            for answer in &answers {
                assert_ne!(filter.look(answer, now), UPLINK, "{arrived:02x?}: {answer:02x?}");
            }
        }
    }
}

#[test]
fn an_answer_to_the_hosts_loopback_goes_there() {
    let now = Instant::now();
    let mut opened = uplink(egress(&[]));
    opened.egress.closed = vec![RESOLVER_V4.into()];
    opened.loopback_alias = Some(RESOLVER_V4.into());
    let mut filter = PacketFilter::new(OWN, RESOLVER_V4.into());
    filter.open(opened);
    let answer = |port| frame!(out().ipv4(OWN_V4, RESOLVER_V4, 64).udp(80, port), b"odd");
    assert!(is_answered(&filter.look(&answer(999), now)));
    filter.note(&frame!(back().ipv4(RESOLVER_V4, OWN_V4, 64).udp(999, 80), b"x"), now);
    let mut frame = answer(999);
    assert_eq!(filter.examine(&mut frame, now), UPLINK);
    let expected = frame!(out().ipv4(OWN_V4, [127, 0, 0, 1], 64).udp(80, 999), b"odd");
    assert_eq!(frame, expected, "checksums included");
    assert!(is_answered(&filter.look(&answer(998), now)));
    let by_itself = frame!(out().ipv4(OWN_V4, [127, 0, 0, 1], 64).udp(80, 999), b"x");
    assert!(is_answered(&filter.look(&by_itself, now)));
    // A connection is translated by the other end.
    filter.note(
        &frame!(back().ipv4(RESOLVER_V4, OWN_V4, 64).tcp(999, 80, 1, 1000).syn(), &[]),
        now,
    );
    let tcp = frame!(
        out().ipv4(OWN_V4, RESOLVER_V4, 64).tcp(80, 999, 1, 1000).syn().ack(1),
        &[]
    );
    let mut frame = tcp.clone();
    assert_eq!(filter.examine(&mut frame, now), UPLINK);
    assert_eq!(frame, tcp);
}

#[test]
fn echoes_are_asked_for_where_the_guest_may_go_and_answered_to_nobody() {
    let (mut filter, now) = (public(), Instant::now());
    let request = |to| frame!(out().ipv4(OWN_V4, to, 64).icmpv4_echo_request(7, 1), b"x");
    let reply = |to| frame!(out().ipv4(OWN_V4, to, 64).icmpv4_echo_reply(7, 1), b"x");
    assert_eq!(filter.look(&request(PUBLIC_V4), now), UPLINK);
    assert!(is_answered(&filter.look(&request(PRIVATE_V4), now)));
    assert_eq!(filter.look(&reply(PUBLIC_V4), now), Verdict::Drop);
    let v6 = frame!(out().ipv6(OWN_V6, PUBLIC_V6, 64).icmpv6_echo_request(7, 1), b"x");
    assert_eq!(filter.look(&v6, now), UPLINK);
    // An error is no echo either, and an answer to it would be answered in turn.
    let mut error = request(PUBLIC_V4);
    error[34] = 3;
    assert_eq!(filter.look(&error, now), Verdict::Drop);
    // A tunnel is no echo.
    let mut tunnel = request(PUBLIC_V4);
    tunnel[23] = 47;
    assert!(is_answered(&filter.look(&tunnel, now)));
}

/// Question for `a.test`, or an answer that it is [`PUBLIC_V4`].
fn dns(name: &[u8; 1], is_answer: bool) -> Vec<u8> {
    let counts: &[u8] = if is_answer {
        &[0x81, 0, 0, 1, 0, 1, 0, 0, 0, 0]
    } else {
        &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    };
    let mut bytes = [&[0, 7], counts, &[1], name, b"\x04test\0\0\x01\0\x01"].concat();
    if is_answer {
        bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        bytes.extend(PUBLIC_V4);
    }
    bytes
}

#[test]
fn names_are_asked_for_as_the_rules_say() {
    let now = Instant::now();
    let ask = |filter: &mut PacketFilter, name| filter.look(&udp(OWN_V4, RESOLVER_V4, 53, &dns(name, false)), now);
    assert_eq!(ask(&mut public(), b"b"), UPLINK);
    assert!(is_answered(&ask(&mut filter(&[]), b"a")));
    let other_port = udp(OWN_V4, RESOLVER_V4, 54, &dns(b"a", false));
    assert!(
        is_answered(&public().look(&other_port, now)),
        "only questions go to the resolver"
    );
    let mut named = filter(&[Target::Name("a.test".into())]);
    let open = udp(OWN_V4, PUBLIC_V4, 443, b"x");
    let Verdict::Answer(refused) = ask(&mut named, b"b") else {
        panic!("not answered");
    };
    assert_eq!(refused[36..38], 4000_u16.to_be_bytes());
    assert_eq!(refused[45] & 0x0f, 5, "REFUSED");
    assert!(is_answered(&named.look(&open, now)));
    assert_eq!(ask(&mut named, b"a"), UPLINK);
    named.note(
        &frame!(back().ipv4(RESOLVER_V4, OWN_V4, 64).udp(53, 4000), &dns(b"a", true)),
        now,
    );
    assert_eq!(named.look(&open, now), UPLINK);
    named.reset();
    assert!(is_answered(&named.look(&open, now)));
}

const MEMBER_V4: [u8; 4] = [100, 96, 0, 9];
const MEMBER_V6: [u8; 16] = [0xfd, 0x63, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
pub(super) const GATEWAY_V6: [u8; 16] = [0xfd, 0x63, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const MEMBER_LINK_V6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 9];
