//! What a guest that is hostile sends, and what becomes of it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, Icmpv6Type, PacketBuilder, VlanId};

use super::guard::{Guard, NetCounters, Verdict};
use super::links::Way;
use crate::egress::{Egress, Rule, Target};
use crate::segments::Segment;

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 2];
const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OWN_V4: [u8; 4] = [100, 96, 0, 2];
const PUBLIC_V4: [u8; 4] = [203, 0, 113, 5];
const PRIVATE_V4: [u8; 4] = [192, 168, 1, 1];
const RESOLVER_V4: [u8; 4] = [100, 96, 0, 1];
const OWN_V6: [u8; 16] = [0xfd, 0x63, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const PUBLIC_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
/// `link_local(OWN)`.
const LINK_V6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 2];

const UPLINK: Verdict = Verdict::Pass(Way::Uplink);
const SEGMENT: Verdict = Verdict::Pass(Way::Segment(0));

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

fn guard(targets: &[Target]) -> Guard {
    let mut guard = Guard::new(OWN, RESOLVER_V4.into());
    guard.open(vec![IpAddr::from(OWN_V4), IpAddr::from(OWN_V6)], egress(targets));
    guard
}

fn public() -> Guard {
    guard(&[Target::Public])
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

fn udp(from: [u8; 4], to: [u8; 4], port: u16, payload: &[u8]) -> Vec<u8> {
    frame!(out().ipv4(from, to, 64).udp(4000, port), payload)
}

fn is_answered(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Answer(_))
}

#[test]
fn a_guest_speaks_in_its_own_name_only() {
    let (mut guard, now) = (public(), Instant::now());
    let mut pass = |frame: Vec<u8>| guard.examine(&frame, now) == UPLINK;
    assert!(pass(udp(OWN_V4, PUBLIC_V4, 443, b"x")));
    assert!(pass(frame!(out().ipv6(OWN_V6, PUBLIC_V6, 64).udp(4000, 443), b"x")));
    assert!(!pass(udp([100, 96, 0, 3], PUBLIC_V4, 443, b"x")));
    assert!(!pass(udp([0; 4], PUBLIC_V4, 443, b"x")));
    assert!(!pass(frame!(out().ipv6(PUBLIC_V6, PUBLIC_V6, 64).udp(4000, 443), b"x")));
    assert!(!pass(frame!(out().ipv6(LINK_V6, PUBLIC_V6, 64).udp(4000, 443), b"x")));
    let foreign = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], GATEWAY);
    assert!(!pass(frame!(foreign.ipv4(OWN_V4, PUBLIC_V4, 64).udp(4000, 443), b"x")));
    assert_eq!(
        guard.counters,
        NetCounters {
            spoofed: 5,
            ..NetCounters::default()
        }
    );
}

#[test]
fn tags_fragments_and_other_kinds_end_here() {
    let (mut guard, now) = (public(), Instant::now());
    let tagged = out()
        .single_vlan(VlanId::ZERO)
        .ipv4(OWN_V4, PUBLIC_V4, 64)
        .udp(4000, 443);
    assert_eq!(guard.examine(&frame!(tagged, b"x"), now), Verdict::Drop);
    let mut other = udp(OWN_V4, PUBLIC_V4, 443, b"x");
    // 802.1X, and what is no kind but a length.
    for kind in [[0x88, 0x8e], [0, 40]] {
        other[12..14].copy_from_slice(&kind);
        assert_eq!(guard.examine(&other, now), Verdict::Drop);
    }
    let whole = udp(OWN_V4, PUBLIC_V4, 443, &[0; 64]);
    for cut in [0, 13, 14, 20, 33, 40, whole.len() - 1] {
        assert_eq!(guard.examine(&whole[..cut], now), Verdict::Drop, "{cut} bytes");
    }
    assert_eq!(guard.counters.malformed, 10);
    // More fragments; an offset.
    for flags in [[0x20, 0], [0, 1]] {
        let mut fragment = whole.clone();
        fragment[20..22].copy_from_slice(&flags);
        assert_eq!(guard.examine(&fragment, now), Verdict::Drop);
    }
    // A header of extension says the same over IPv6.
    let mut fragment = frame!(out().ipv6(OWN_V6, PUBLIC_V6, 64).udp(4000, 443), &[0; 64]);
    fragment[20] = 44;
    fragment[54..62].copy_from_slice(&[17, 0, 0, 1, 0, 0, 0, 7]);
    assert_eq!(guard.examine(&fragment, now), Verdict::Drop);
    assert_eq!(guard.counters.fragments, 3);
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
fn arp_tells_of_nobody_else() {
    let now = Instant::now();
    let say = |operation, mac, address| public().examine(&arp(operation, mac, address), now);
    assert_eq!(say(ArpOperation::REQUEST, OWN, OWN_V4), UPLINK);
    assert_eq!(say(ArpOperation::REPLY, OWN, OWN_V4), UPLINK);
    assert_eq!(say(ArpOperation::REQUEST, OWN, [0; 4]), UPLINK);
    assert_eq!(say(ArpOperation::REPLY, OWN, RESOLVER_V4), Verdict::Drop);
    assert_eq!(say(ArpOperation::REPLY, GATEWAY, OWN_V4), Verdict::Drop);
    assert_eq!(say(ArpOperation(3), OWN, OWN_V4), Verdict::Drop);
}

/// A message of neighbour discovery, about `about` and with a hardware address.
fn discovery(kind: u8, from: [u8; 16], hops: u8, about: [u8; 16], option: [u8; 6]) -> Vec<u8> {
    const EVERYBODY: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let body: &[u8] = if kind == 133 { &[] } else { &about };
    let payload = [body, &[1, 1], &option].concat();
    let icmp = Icmpv6Type::Unknown {
        type_u8: kind,
        code_u8: 0,
        bytes5to8: [0; 4],
    };
    frame!(out().ipv6(from, EVERYBODY, hops).icmpv6(icmp), &payload)
}

#[test]
fn discovery_is_a_hosts_and_its_own() {
    let now = Instant::now();
    let say = |kind: u8, from: [u8; 16], hops: u8, option: [u8; 6]| {
        public().examine(&discovery(kind, from, hops, OWN_V6, option), now)
    };
    for kind in [133, 135, 136] {
        for from in [OWN_V6, LINK_V6] {
            let expected = if kind == 133 { Verdict::Drop } else { UPLINK };
            assert_eq!(say(kind, from, 255, OWN), expected, "{kind}");
        }
        assert_eq!(say(kind, [0; 16], 255, OWN), Verdict::Drop, "nobody else is there");
        assert_eq!(say(kind, PUBLIC_V6, 255, OWN), Verdict::Drop);
        assert_eq!(say(kind, OWN_V6, 255, GATEWAY), Verdict::Drop);
        assert_eq!(say(kind, OWN_V6, 64, OWN), Verdict::Drop);
    }
    // A router's advertisement, a redirect, a report of multicast groups.
    for kind in [134, 137, 143] {
        assert_eq!(say(kind, OWN_V6, 255, OWN), Verdict::Drop, "{kind}");
    }
    // Anybody may be asked for, but nobody else's hardware is told.
    let say = |kind, about| public().examine(&discovery(kind, OWN_V6, 255, about, OWN), now);
    assert_eq!((say(135, PUBLIC_V6), say(136, LINK_V6)), (UPLINK, UPLINK));
    assert_eq!(say(136, PUBLIC_V6), Verdict::Drop);
}

#[test]
fn what_is_denied_is_told_so() {
    let (mut guard, now) = (public(), Instant::now());
    let denied = udp(OWN_V4, PRIVATE_V4, 443, b"x");
    let Verdict::Answer(answer) = guard.examine(&denied, now) else {
        panic!("no answer");
    };
    assert_eq!((&answer[..6], &answer[6..12]), (&OWN[..], &GATEWAY[..]));
    assert_eq!((&answer[26..30], &answer[30..34]), (&PRIVATE_V4[..], &OWN_V4[..]));
    assert_eq!(answer[34..36], [3, 13]);
    assert_eq!(answer[42..], denied[14..]);
    let v6 = frame!(out().ipv6(OWN_V6, OWN_V6, 64).tcp(4000, 80, 1, 1000).syn(), &[]);
    assert!(is_answered(&guard.examine(&v6, now)));
    // Not in the middle of a conversation that is none, and not to many.
    let middle = frame!(out().ipv4(OWN_V4, PRIVATE_V4, 64).tcp(4000, 80, 1, 1000).ack(1), b"x");
    assert_eq!(guard.examine(&middle, now), Verdict::Drop);
    for to in [[224, 0, 0, 251], [255; 4]] {
        assert_eq!(guard.examine(&udp(OWN_V4, to, 5353, b"x"), now), Verdict::Drop);
    }
    assert_eq!(guard.counters.denied, 5);
}

#[test]
fn dhcp_and_its_answers_go_nowhere() {
    let (mut guard, now) = (public(), Instant::now());
    for (from, to) in [(68, 67), (67, 68), (546, 547), (547, 546)] {
        let v4 = frame!(out().ipv4(OWN_V4, [255; 4], 64).udp(from, to), b"x");
        let v6 = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2];
        let v6 = frame!(out().ipv6(OWN_V6, v6, 64).udp(from, to), b"x");
        assert_eq!(guard.examine(&v4, now), Verdict::Drop);
        assert_eq!(guard.examine(&v6, now), Verdict::Drop);
    }
    let nobody = frame!(out().ipv4([0; 4], [255; 4], 64).udp(68, 67), b"x");
    assert_eq!(guard.examine(&nobody, now), Verdict::Drop);
}

#[test]
fn whom_a_stranger_asks_may_answer_and_nobody_else() {
    let (mut guard, now) = (guard(&[]), Instant::now());
    let answer = |to: [u8; 4], port| frame!(out().ipv4(OWN_V4, to, 64).tcp(80, port, 1, 1000).syn().ack(1), &[]);
    assert_eq!(guard.examine(&answer(PRIVATE_V4, 999), now), Verdict::Drop);
    guard.note(
        &frame!(back().ipv4(PRIVATE_V4, OWN_V4, 64).tcp(999, 80, 1, 1000).syn(), &[]),
        now,
    );
    assert_eq!(guard.examine(&answer(PRIVATE_V4, 999), now), UPLINK);
    assert_eq!(guard.examine(&answer(PRIVATE_V4, 998), now), Verdict::Drop);
    assert_eq!(guard.examine(&answer(PUBLIC_V4, 999), now), Verdict::Drop);
    // The other way round, from the same ports, is a connection of the guest's own.
    let begin = frame!(out().ipv4(OWN_V4, PRIVATE_V4, 64).tcp(80, 999, 1, 1000).syn(), &[]);
    assert!(is_answered(&guard.examine(&begin, now)));
    let reply = |to| frame!(out().ipv4(OWN_V4, to, 64).udp(53, 999), b"x");
    assert!(is_answered(&guard.examine(&reply(PRIVATE_V4), now)));
    guard.note(&frame!(back().ipv4(PRIVATE_V4, OWN_V4, 64).udp(999, 53), b"x"), now);
    assert_eq!(guard.examine(&reply(PRIVATE_V4), now), UPLINK);
    let later = now + Duration::from_secs(600);
    assert!(is_answered(&guard.examine(&reply(PRIVATE_V4), later)));
}

#[test]
fn echoes_are_asked_for_where_the_guest_may_go_and_answered_to_who_asks() {
    let (mut guard, now) = (public(), Instant::now());
    let request = |to| frame!(out().ipv4(OWN_V4, to, 64).icmpv4_echo_request(7, 1), b"x");
    let reply = |to| frame!(out().ipv4(OWN_V4, to, 64).icmpv4_echo_reply(7, 1), b"x");
    assert_eq!(guard.examine(&request(PUBLIC_V4), now), UPLINK);
    assert!(is_answered(&guard.examine(&request(PRIVATE_V4), now)));
    assert_eq!(guard.examine(&reply(PUBLIC_V4), now), Verdict::Drop);
    guard.note(
        &frame!(back().ipv4(PRIVATE_V4, OWN_V4, 64).icmpv4_echo_request(7, 1), b"x"),
        now,
    );
    assert_eq!(guard.examine(&reply(PRIVATE_V4), now), UPLINK);
    let v6 = frame!(out().ipv6(OWN_V6, PUBLIC_V6, 64).icmpv6_echo_request(7, 1), b"x");
    assert_eq!(guard.examine(&v6, now), UPLINK);
    // An error is no echo either, and an answer to it would be answered.
    let mut error = request(PUBLIC_V4);
    error[34] = 3;
    assert_eq!(guard.examine(&error, now), Verdict::Drop);
    // A tunnel is no echo.
    let mut tunnel = request(PUBLIC_V4);
    tunnel[23] = 47;
    assert!(is_answered(&guard.examine(&tunnel, now)));
}

/// A question for `a.test`, or an answer that it is [`PUBLIC_V4`].
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
    let ask = |guard: &mut Guard, name| guard.examine(&udp(OWN_V4, RESOLVER_V4, 53, &dns(name, false)), now);
    assert_eq!(ask(&mut public(), b"b"), UPLINK);
    assert!(is_answered(&ask(&mut guard(&[]), b"a")));
    let other_port = udp(OWN_V4, RESOLVER_V4, 54, &dns(b"a", false));
    assert!(
        is_answered(&public().examine(&other_port, now)),
        "only questions go to the resolver"
    );
    let mut named = guard(&[Target::Name("a.test".into())]);
    let open = udp(OWN_V4, PUBLIC_V4, 443, b"x");
    let Verdict::Answer(refused) = ask(&mut named, b"b") else {
        panic!("not answered");
    };
    assert_eq!(refused[36..38], 4000_u16.to_be_bytes());
    assert_eq!(refused[45] & 0x0f, 5, "REFUSED");
    assert!(is_answered(&named.examine(&open, now)));
    assert_eq!(ask(&mut named, b"a"), UPLINK);
    named.note(
        &frame!(back().ipv4(RESOLVER_V4, OWN_V4, 64).udp(53, 4000), &dns(b"a", true)),
        now,
    );
    assert_eq!(named.examine(&open, now), UPLINK);
    named.reset();
    assert!(is_answered(&named.examine(&open, now)));
}

const MEMBER_V4: [u8; 4] = [100, 96, 0, 9];
const MEMBER_V6: [u8; 16] = [0xfd, 0x63, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
const GATEWAY_V6: [u8; 16] = [0xfd, 0x63, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const MEMBER_LINK_V6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 9];

/// On a segment that the guest's addresses are of.
fn member(targets: &[Target], has_uplink: bool) -> Guard {
    let addresses = vec![IpAddr::from(OWN_V4), IpAddr::from(OWN_V6)];
    let segment = Segment {
        addresses: addresses.clone(),
        networks: ["100.96.0.0/24", "fd63::/64"]
            .map(|text| text.parse().expect("a network"))
            .to_vec(),
        gateways: vec![IpAddr::from(RESOLVER_V4), IpAddr::from(GATEWAY_V6)],
    };
    let mut guard = Guard::new(OWN, RESOLVER_V4.into());
    guard.connect(0, segment);
    if has_uplink {
        guard.open(addresses, egress(targets));
    }
    guard
}

fn everywhere() -> Vec<Target> {
    ["0.0.0.0/0", "::/0"]
        .map(|text| Target::Network(text.parse().expect("a network")))
        .to_vec()
}

#[test]
fn members_are_spoken_to_on_the_segment_whatever_the_rules_say() {
    let now = Instant::now();
    for (targets, has_uplink) in [(everywhere(), true), (vec![], true), (vec![], false)] {
        let mut guard = member(&targets, has_uplink);
        let mut way = |frame: Vec<u8>| guard.examine(&frame, now);
        assert_eq!(way(udp(OWN_V4, MEMBER_V4, 53, b"x")), SEGMENT);
        let tcp = || out().ipv4(OWN_V4, MEMBER_V4, 64).tcp(4000, 80, 1, 1000);
        assert_eq!(way(frame!(tcp().syn(), &[])), SEGMENT);
        assert_eq!(way(frame!(tcp().ack(1), b"x")), SEGMENT);
        let echo = frame!(out().ipv4(OWN_V4, MEMBER_V4, 64).icmpv4_echo_reply(7, 1), b"x");
        assert_eq!(way(echo.clone()), SEGMENT);
        let mut tunnel = echo;
        tunnel[23] = 47;
        assert_eq!(way(tunnel), SEGMENT);
        for (from, to) in [(OWN_V6, MEMBER_V6), (LINK_V6, MEMBER_LINK_V6), (LINK_V6, MEMBER_V6)] {
            assert_eq!(way(frame!(out().ipv6(from, to, 64).udp(4000, 80), b"x")), SEGMENT);
        }
        // IPv4 in IPv6's clothes, which a rule for IPv4 opens too.
        let mut mapped = [0; 16];
        (mapped[10], mapped[11]) = (0xff, 0xff);
        mapped[12..].copy_from_slice(&MEMBER_V4);
        assert_eq!(way(frame!(out().ipv6(OWN_V6, mapped, 64).udp(4000, 80), b"x")), SEGMENT);
        assert_eq!(guard.counters.total(), 0);
    }
}

#[test]
fn the_hosts_loopback_is_answered_on_the_link_and_nothing_else() {
    let now = Instant::now();
    for mut guard in [public(), member(&[Target::Public], true)] {
        let answer = || {
            frame!(
                out().ipv6(LINK_V6, MEMBER_LINK_V6, 64).tcp(80, 4000, 1, 1000).ack(1),
                b"x"
            )
        };
        assert_ne!(guard.examine(&answer(), now), UPLINK);
        let asked = frame!(
            back().ipv6(MEMBER_LINK_V6, LINK_V6, 64).tcp(4000, 80, 1, 1000).syn(),
            &[]
        );
        guard.note(&asked, now);
        assert_eq!(guard.examine(&answer(), now), UPLINK);
        for other in [
            frame!(
                out().ipv6(LINK_V6, MEMBER_LINK_V6, 64).tcp(81, 4000, 1, 1000).ack(1),
                b"x"
            ),
            frame!(
                out().ipv6(LINK_V6, MEMBER_LINK_V6, 64).tcp(80, 4000, 1, 1000).syn(),
                &[]
            ),
            frame!(out().ipv6(LINK_V6, PUBLIC_V6, 64).udp(80, 4000), b"x"),
        ] {
            assert_ne!(guard.examine(&other, now), UPLINK);
        }
        guard.close();
        assert_ne!(guard.examine(&answer(), now), UPLINK);
    }
}

#[test]
fn everything_else_goes_to_the_uplink_as_the_rules_say() {
    let now = Instant::now();
    let public_v4 = udp(OWN_V4, PUBLIC_V4, 443, b"x");
    let public_v6 = frame!(out().ipv6(OWN_V6, PUBLIC_V6, 64).udp(4000, 443), b"x");
    let mut open = member(&everywhere(), true);
    assert_eq!(open.examine(&public_v4, now), UPLINK);
    assert_eq!(open.examine(&public_v6, now), UPLINK);
    for mut closed in [member(&[], true), member(&everywhere(), false)] {
        assert!(is_answered(&closed.examine(&public_v4, now)));
        assert!(is_answered(&closed.examine(&public_v6, now)));
        assert_eq!(closed.counters.denied, 2);
    }
    // The gateways are the uplink's, which takes them for the host.
    let gateway_v6 = frame!(out().ipv6(OWN_V6, GATEWAY_V6, 64).udp(4000, 80), b"x");
    let question_by_tcp = out().ipv4(OWN_V4, RESOLVER_V4, 64).tcp(4000, 53, 1, 1000).syn();
    for frame in [
        udp(OWN_V4, RESOLVER_V4, 80, b"x"),
        gateway_v6,
        frame!(question_by_tcp, &[]),
    ] {
        assert!(is_answered(&open.examine(&frame, now)));
    }
}

#[test]
fn nothing_is_for_all_of_a_segment() {
    let (mut guard, now) = (member(&everywhere(), true), Instant::now());
    for to in [[100, 96, 0, 255], [100, 96, 0, 0], [255; 4], [224, 0, 0, 251]] {
        assert_eq!(guard.examine(&udp(OWN_V4, to, 5353, b"x"), now), Verdict::Drop);
    }
    let many = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfb];
    for from in [OWN_V6, LINK_V6] {
        let frame = frame!(out().ipv6(from, many, 255).udp(5353, 5353), b"x");
        assert_eq!(guard.examine(&frame, now), Verdict::Drop);
    }
    assert_eq!(guard.counters.denied, 6);
}

#[test]
fn a_member_is_nobody_but_itself_and_no_router() {
    let (mut guard, now) = (member(&[], true), Instant::now());
    assert_eq!(guard.examine(&udp(MEMBER_V4, OWN_V4, 80, b"x"), now), Verdict::Drop);
    for (from, to) in [(MEMBER_V6, OWN_V6), (MEMBER_LINK_V6, LINK_V6), (LINK_V6, PUBLIC_V6)] {
        let frame = frame!(out().ipv6(from, to, 64).udp(4000, 80), b"x");
        assert_eq!(guard.examine(&frame, now), Verdict::Drop);
    }
    assert_eq!(guard.counters.spoofed, 4);
    for kind in [134, 137] {
        let icmp = Icmpv6Type::Unknown {
            type_u8: kind,
            code_u8: 0,
            bytes5to8: [0; 4],
        };
        let frame = frame!(out().ipv6(LINK_V6, MEMBER_LINK_V6, 255).icmpv6(icmp), &OWN_V6);
        assert_eq!(guard.examine(&frame, now), Verdict::Drop, "{kind}");
    }
    let mut redirect = frame!(out().ipv4(OWN_V4, MEMBER_V4, 64).icmpv4_echo_request(7, 1), &[0; 28]);
    redirect[34] = 5;
    assert_eq!(guard.examine(&redirect, now), Verdict::Drop);
    assert_eq!(guard.counters.denied, 3);
}

#[test]
fn a_segment_is_told_and_asked_who_is_where() {
    let (mut guard, now) = (member(&[], true), Instant::now());
    assert_eq!(guard.examine(&arp(ArpOperation::REQUEST, OWN, OWN_V4), now), SEGMENT);
    for kind in [135, 136] {
        assert_eq!(guard.examine(&discovery(kind, LINK_V6, 255, OWN_V6, OWN), now), SEGMENT);
    }
    let solicitation = discovery(133, LINK_V6, 255, OWN_V6, OWN);
    assert_eq!(guard.examine(&solicitation, now), Verdict::Drop);
    assert_eq!(guard.counters.total(), 0);
    let foreign = arp(ArpOperation::REPLY, OWN, MEMBER_V4);
    assert_eq!(guard.examine(&foreign, now), Verdict::Drop);
    assert_eq!(guard.counters.spoofed, 1);
}

#[test]
fn names_are_asked_for_on_the_segment_first() {
    let now = Instant::now();
    let ask = |name| udp(OWN_V4, RESOLVER_V4, 53, &dns(name, false));
    let named = [Target::Name("a.test".into())];
    for mut guard in [member(&[], true), member(&named, true), member(&[], false)] {
        assert_eq!(guard.examine(&ask(b"b"), now), SEGMENT);
        assert!(guard.is_own(&ask(b"b")));
    }
    // Given back they are judged.
    assert_eq!(member(&[Target::Public], true).examine_returned(&ask(b"b"), 0), UPLINK);
    assert!(is_answered(&member(&[], true).examine_returned(&ask(b"a"), 0)));
    let mut guard = member(&named, true);
    let answer = frame!(back().ipv4(RESOLVER_V4, OWN_V4, 64).udp(53, 4000), &dns(b"a", true));
    let open = udp(OWN_V4, PUBLIC_V4, 443, b"x");
    guard.note(&answer, now);
    assert!(
        is_answered(&guard.examine(&open, now)),
        "nothing was asked of the uplink"
    );
    assert_eq!(guard.examine_returned(&ask(b"a"), 0), UPLINK);
    guard.note(&answer, now);
    assert_eq!(guard.examine(&open, now), UPLINK);
    for mut guard in [guard, member(&everywhere(), false)] {
        let Verdict::Answer(refused) = guard.examine_returned(&ask(b"b"), 0) else {
            panic!("not answered");
        };
        assert_eq!(refused[26..30], RESOLVER_V4);
        assert_eq!(refused[36..38], 4000_u16.to_be_bytes());
        assert_eq!(refused[45] & 0x0f, 5, "REFUSED");
    }
}

#[test]
fn only_questions_are_given_back() {
    let mut guard = member(&everywhere(), true);
    let others = [
        udp(OWN_V4, MEMBER_V4, 53, b"x"),
        udp(OWN_V4, RESOLVER_V4, 80, b"x"),
        udp(OWN_V4, PUBLIC_V4, 443, b"x"),
        arp(ArpOperation::REQUEST, OWN, OWN_V4),
        discovery(133, LINK_V6, 255, OWN_V6, OWN),
    ];
    for frame in &others {
        assert_eq!(guard.examine_returned(frame, 0), Verdict::Drop);
    }
    assert_eq!(guard.counters.malformed, others.len() as u64);
    let foreign = udp(MEMBER_V4, RESOLVER_V4, 53, &dns(b"a", false));
    assert_eq!(guard.examine_returned(&foreign, 0), Verdict::Drop);
    assert_eq!(guard.counters.spoofed, 1);
}
