//! Guest on a segment: the link of a network of pods, beside the uplink or without one.

use super::*;

/// Packet filter of a guest on a segment that the guest's addresses belong to.
fn member(targets: &[Target], has_uplink: bool) -> PacketFilter {
    let addresses = vec![IpAddr::from(OWN_V4), IpAddr::from(OWN_V6)];
    let segment = Segment {
        addresses: addresses.clone(),
        networks: ["100.96.0.0/24", "fd63::/64"]
            .map(|text| text.parse().expect("a network"))
            .to_vec(),
        gateways: vec![IpAddr::from(RESOLVER_V4), IpAddr::from(GATEWAY_V6)],
    };
    let mut filter = PacketFilter::new(OWN, RESOLVER_V4.into());
    filter.connect(0, segment);
    if has_uplink {
        filter.open(uplink(egress(targets)));
    }
    filter
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
        let mut filter = member(&targets, has_uplink);
        let mut port = |frame: Vec<u8>| filter.look(&frame, now);
        assert_eq!(port(udp(OWN_V4, MEMBER_V4, 53, b"x")), SEGMENT);
        let tcp = || out().ipv4(OWN_V4, MEMBER_V4, 64).tcp(4000, 80, 1, 1000);
        assert_eq!(port(frame!(tcp().syn(), &[])), SEGMENT);
        assert_eq!(port(frame!(tcp().ack(1), b"x")), SEGMENT);
        let echo = frame!(out().ipv4(OWN_V4, MEMBER_V4, 64).icmpv4_echo_reply(7, 1), b"x");
        assert_eq!(port(echo.clone()), SEGMENT);
        let mut tunnel = echo;
        tunnel[23] = 47;
        assert_eq!(port(tunnel), SEGMENT);
        for (from, to) in [(OWN_V6, MEMBER_V6), (LINK_V6, MEMBER_LINK_V6), (LINK_V6, MEMBER_V6)] {
            assert_eq!(port(frame!(out().ipv6(from, to, 64).udp(4000, 80), b"x")), SEGMENT);
        }
        assert_eq!(filter.counters.total(), 0);
    }
}

#[test]
fn the_hosts_loopback_is_answered_on_the_link_and_nothing_else() {
    let now = Instant::now();
    for mut filter in [public(), member(&[Target::Public], true)] {
        let answer = || {
            frame!(
                out().ipv6(LINK_V6, MEMBER_LINK_V6, 64).tcp(80, 4000, 1, 1000).ack(1),
                b"x"
            )
        };
        assert_ne!(filter.look(&answer(), now), UPLINK);
        let asked = frame!(
            back().ipv6(MEMBER_LINK_V6, LINK_V6, 64).tcp(4000, 80, 1, 1000).syn(),
            &[]
        );
        filter.note(&asked, now);
        assert_eq!(filter.look(&answer(), now), UPLINK);
        let question = discovery(135, LINK_V6, 255, MEMBER_LINK_V6, OWN);
        assert!(is_answered(&filter.look(&question, now)));
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
            assert_ne!(filter.look(&other, now), UPLINK);
        }
        filter.close();
        assert_ne!(filter.look(&answer(), now), UPLINK);
    }
}

#[test]
fn everything_else_goes_to_the_uplink_as_the_rules_say() {
    let now = Instant::now();
    let public_v4 = udp(OWN_V4, PUBLIC_V4, 443, b"x");
    let public_v6 = frame!(out().ipv6(OWN_V6, PUBLIC_V6, 64).udp(4000, 443), b"x");
    let mut open = member(&everywhere(), true);
    assert_eq!(open.look(&public_v4, now), UPLINK);
    assert_eq!(open.look(&public_v6, now), UPLINK);
    for mut closed in [member(&[], true), member(&everywhere(), false)] {
        assert!(is_answered(&closed.look(&public_v4, now)));
        assert!(is_answered(&closed.look(&public_v6, now)));
        assert_eq!(closed.counters.denied, 2);
    }
    // The gateways belong to the uplink, which treats them as the host.
    let gateway_v6 = frame!(out().ipv6(OWN_V6, GATEWAY_V6, 64).udp(4000, 80), b"x");
    let question_by_tcp = out().ipv4(OWN_V4, RESOLVER_V4, 64).tcp(4000, 53, 1, 1000).syn();
    for frame in [
        udp(OWN_V4, RESOLVER_V4, 80, b"x"),
        gateway_v6,
        frame!(question_by_tcp, &[]),
    ] {
        assert!(is_answered(&open.look(&frame, now)));
    }
}

#[test]
fn nothing_is_for_all_of_a_segment() {
    let (mut filter, now) = (member(&everywhere(), true), Instant::now());
    for to in [[100, 96, 0, 255], [100, 96, 0, 0], [255; 4], [224, 0, 0, 251]] {
        assert_eq!(filter.look(&udp(OWN_V4, to, 5353, b"x"), now), Verdict::Drop);
    }
    let many = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfb];
    for from in [OWN_V6, LINK_V6] {
        let frame = frame!(out().ipv6(from, many, 255).udp(5353, 5353), b"x");
        assert_eq!(filter.look(&frame, now), Verdict::Drop);
    }
    assert_eq!(filter.counters.denied, 6);
}

#[test]
fn a_member_is_nobody_but_itself_and_no_router() {
    let (mut filter, now) = (member(&[], true), Instant::now());
    assert_eq!(filter.look(&udp(MEMBER_V4, OWN_V4, 80, b"x"), now), Verdict::Drop);
    for (from, to) in [(MEMBER_V6, OWN_V6), (MEMBER_LINK_V6, LINK_V6), (LINK_V6, PUBLIC_V6)] {
        let frame = frame!(out().ipv6(from, to, 64).udp(4000, 80), b"x");
        assert_eq!(filter.look(&frame, now), Verdict::Drop);
    }
    assert_eq!(filter.counters.spoofed, 4);
    for kind in [134, 137] {
        let icmp = Icmpv6Type::Unknown {
            type_u8: kind,
            code_u8: 0,
            bytes5to8: [0; 4],
        };
        let frame = frame!(out().ipv6(LINK_V6, MEMBER_LINK_V6, 255).icmpv6(icmp), &OWN_V6);
        assert_eq!(filter.look(&frame, now), Verdict::Drop, "{kind}");
    }
    let mut redirect = frame!(out().ipv4(OWN_V4, MEMBER_V4, 64).icmpv4_echo_request(7, 1), &[0; 28]);
    redirect[34] = 5;
    assert_eq!(filter.look(&redirect, now), Verdict::Drop);
    assert_eq!(filter.counters.denied, 3);
}

#[test]
fn a_segment_is_asked_who_is_where() {
    let (mut filter, now) = (member(&[], true), Instant::now());
    assert_eq!(filter.look(&arp(ArpOperation::REQUEST, OWN, OWN_V4), now), SEGMENT);
    assert_eq!(filter.look(&discovery(135, LINK_V6, 255, MEMBER_V6, OWN), now), SEGMENT);
    // Nothing is learned from messages that are not questions.
    assert_eq!(filter.look(&arp(ArpOperation::REPLY, OWN, OWN_V4), now), Verdict::Drop);
    for kind in [133, 136] {
        assert_eq!(
            filter.look(&discovery(kind, LINK_V6, 255, OWN_V6, OWN), now),
            Verdict::Drop
        );
    }
    assert_eq!(filter.counters.total(), 0);
    let foreign = arp(ArpOperation::REPLY, OWN, MEMBER_V4);
    assert_eq!(filter.look(&foreign, now), Verdict::Drop);
    assert_eq!(filter.counters.spoofed, 1);
}

#[test]
fn names_are_asked_for_on_the_segment_first() {
    let now = Instant::now();
    let ask = |name| udp(OWN_V4, RESOLVER_V4, 53, &dns(name, false));
    let named = [Target::Name("a.test".into())];
    for mut filter in [member(&[], true), member(&named, true), member(&[], false)] {
        assert_eq!(filter.look(&ask(b"b"), now), SEGMENT);
        assert!(filter.is_own(&ask(b"b")));
    }
    // Returned questions are judged by the rules.
    assert_eq!(member(&[Target::Public], true).look_returned(&ask(b"b"), 0), UPLINK);
    assert!(is_answered(&member(&[], true).look_returned(&ask(b"a"), 0)));
    let mut filter = member(&named, true);
    let answer = frame!(back().ipv4(RESOLVER_V4, OWN_V4, 64).udp(53, 4000), &dns(b"a", true));
    let open = udp(OWN_V4, PUBLIC_V4, 443, b"x");
    filter.note(&answer, now);
    assert!(is_answered(&filter.look(&open, now)), "nothing was asked of the uplink");
    assert_eq!(filter.look_returned(&ask(b"a"), 0), UPLINK);
    filter.note(&answer, now);
    assert_eq!(filter.look(&open, now), UPLINK);
    for mut filter in [filter, member(&everywhere(), false)] {
        let Verdict::Answer(refused) = filter.look_returned(&ask(b"b"), 0) else {
            panic!("not answered");
        };
        assert_eq!(refused[26..30], RESOLVER_V4);
        assert_eq!(refused[36..38], 4000_u16.to_be_bytes());
        assert_eq!(refused[45] & 0x0f, 5, "REFUSED");
    }
}

#[test]
fn only_questions_are_given_back() {
    let mut filter = member(&everywhere(), true);
    let others = [
        udp(OWN_V4, MEMBER_V4, 53, b"x"),
        udp(OWN_V4, RESOLVER_V4, 80, b"x"),
        udp(OWN_V4, PUBLIC_V4, 443, b"x"),
        arp(ArpOperation::REQUEST, OWN, OWN_V4),
        discovery(133, LINK_V6, 255, OWN_V6, OWN),
    ];
    for frame in &others {
        assert_eq!(filter.look_returned(frame, 0), Verdict::Drop);
    }
    assert_eq!(filter.counters.malformed, others.len() as u64);
    let foreign = udp(MEMBER_V4, RESOLVER_V4, 53, &dns(b"a", false));
    assert_eq!(filter.look_returned(&foreign, 0), Verdict::Drop);
    assert_eq!(filter.counters.spoofed, 1);
}
