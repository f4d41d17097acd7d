//! Networks of pods that a guest is on, and the uplink beside them.

use super::*;

#[test]
fn each_frame_goes_its_way() {
    let (mut bench, mut switch) = Bench::on_segment();
    bench.send(&frame(b"out"));
    bench.send(&frame_to(MEMBER_V4, 80, b"in"));
    assert_eq!(bench.sent(), frame(b"out"));
    assert_eq!(read_frame(&mut switch), frame_to(MEMBER_V4, 80, b"in"));
    assert!(
        !bench.has_sent() && !has_more(&mut switch),
        "the announcement is passt's"
    );
    assert_eq!(bench.device.counters().total(), 0);
}

#[test]
fn a_question_that_is_given_back_goes_to_the_uplink() {
    let (mut bench, mut switch) = Bench::on_segment();
    bench.offer(1);
    let question = frame_to(RESOLVER_V4, 53, b"question");
    bench.send(&question);
    assert!(!bench.has_sent());
    let returned = read_frame(&mut switch);
    assert_eq!(returned, question);
    write_frame(&mut switch, &returned);
    assert!(!bench.process(Cause::Backend).any(), "the guest does not see it");
    assert_eq!(bench.sent(), question);
    assert!(!has_more(&mut switch));
    // Any other frame of the guest's own is an error of the switch.
    write_frame(&mut switch, &frame(b"x"));
    bench.process(Cause::Backend);
    assert!(!bench.has_sent() && !has_more(&mut switch));
    assert_eq!(bench.device.counters().malformed, 1);
    assert!(bench.receive.used(&bench.memory).is_empty());
}

#[test]
fn without_an_uplink_a_question_that_is_given_back_is_refused() {
    let mut bench = Bench::with(device(None));
    let mut switch = bench.connect(0, OWN_V4);
    bench.offer(1);
    let question = frame_to(
        RESOLVER_V4,
        53,
        b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01a\x04test\0\0\x01\0\x01",
    );
    bench.send(&question);
    assert_eq!(read_frame(&mut switch), question, "the first thing that a switch gets");
    write_frame(&mut switch, &question);
    assert!(bench.process(Cause::Backend).any());
    assert_eq!(bench.read(BUFFERS + 12 + 26, 4), RESOLVER_V4);
    assert_eq!(bench.read(BUFFERS + 12 + 45, 1)[0] & 0x0f, 5, "REFUSED");
    assert!(!has_more(&mut switch));
}

/// Frame like [`frame_to`], from the guest's address `from`.
fn frame_from(from: [u8; 4], to: [u8; 4], port: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ethernet2(OWN, [2, 0, 0, 0, 0, 1])
        .ipv4(from, to, 64)
        .udp(1, port);
    builder.write_to_vec(&mut bytes, payload).expect("a frame");
    bytes
}

#[test]
fn segments_come_and_go_and_each_has_its_frames() {
    const SECOND_V4: [u8; 4] = [10, 90, 0, 2];
    let mut bench = Bench::new();
    let there = frame_from(SECOND_V4, [10, 90, 0, 9], 80, b"second");
    bench.send(&there);
    assert_eq!(bench.device.counters().spoofed, 1, "it is not on that one yet");
    let (mut first, mut second) = (bench.connect(0, OWN_V4), bench.connect(1, SECOND_V4));
    bench.send(&frame_to(MEMBER_V4, 80, b"first"));
    bench.send(&there);
    bench.send(&frame(b"out"));
    assert_eq!(read_frame(&mut first), frame_to(MEMBER_V4, 80, b"first"));
    assert_eq!(read_frame(&mut second), there);
    assert_eq!(bench.sent(), frame(b"out"));
    // A question visits each segment in turn.
    let question = frame_to(RESOLVER_V4, 53, b"question");
    bench.send(&question);
    for switch in [&mut first, &mut second] {
        assert_eq!(read_frame(switch), question);
        write_frame(switch, &question);
        bench.process(Cause::Backend);
    }
    assert_eq!(bench.sent(), question);
    // An address of the guest on one network is not valid on another, nor on the uplink.
    bench.send(&frame_from(OWN_V4, [10, 90, 0, 9], 80, b"x"));
    bench.send(&frame_from(SECOND_V4, PUBLIC_V4, 80, b"x"));
    assert_eq!(
        (bench.device.counters().spoofed, bench.device.counters().denied),
        (2, 1)
    );
    // The second segment is disconnected: its frames, its address, its socket.
    bench.offer(2);
    write_frame(&mut second, &frame(b"late"));
    assert_eq!(bench.ask(&Change::Disconnect { slot: 1 }, &[]), DONE);
    assert!(bench.receive.used(&bench.memory).is_empty() || !has_more(&mut second));
    assert_eq!(second.read(&mut [0]).expect("an end"), 0);
    bench.send(&there);
    assert_eq!(bench.device.counters().spoofed, 3);
    // The second segment is connected again.
    let mut second = bench.connect(1, SECOND_V4);
    bench.send(&there);
    assert_eq!(read_frame(&mut second), there);
}

#[test]
fn the_uplink_comes_and_goes() {
    let mut bench = Bench::with(device(None));
    bench.send(&frame(b"early"));
    assert_eq!(bench.device.counters().spoofed, 1, "nothing is open before it is said");
    bench = bench.with_uplink();
    bench.send(&frame(b"out"));
    assert_eq!(bench.sent(), frame(b"out"));
    let (ours, _) = sockets();
    let again = Change::Open(Uplink {
        addresses: vec![OWN_V4.into()],
        ..Uplink::default()
    });
    assert_eq!(bench.ask(&again, &[ours.as_fd()]), REFUSED, "there is one");
    bench.arrive(&frame(b"late"));
    assert_eq!(bench.ask(&Change::Close, &[]), DONE);
    bench.offer(1);
    bench.send(&frame(b"out"));
    bench.process(Cause::Backend);
    assert!(bench.receive.used(&bench.memory).is_empty());
    // passt ends then. What it had sent was not read.
    let ended = bench.network.read(&mut [0]);
    assert!(ended.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
    bench = bench.with_uplink();
    bench.arrive(&frame(b"in"));
    bench.process(Cause::Backend);
    assert_eq!(bench.receive.used(&bench.memory).len(), 1);
    bench.send(&frame(b"out"));
    assert_eq!(bench.sent(), frame(b"out"));
}

#[test]
fn a_segments_gateway_is_opened_by_no_rule() {
    let mut bench = Bench::with(device(None));
    bench.connect(0, OWN_V4);
    let (ours, mut network) = sockets();
    let rule = Rule {
        target: Target::Network("100.96.0.0/16".parse().expect("a network")),
        ports: None,
        protocol: None,
    };
    let open = Change::Open(Uplink {
        hardware: GATEWAY,
        addresses: vec![OWN_V4.into()],
        egress: Egress {
            rules: vec![rule],
            ..Egress::default()
        },
        ..Uplink::default()
    });
    assert_eq!(bench.ask(&open, &[ours.as_fd()]), DONE);
    read_frame(&mut network);
    bench.send(&frame_to(RESOLVER_V4, 80, b"x"));
    assert!(!has_more(&mut network));
    bench.send(&frame_to([100, 96, 7, 1], 80, b"x"));
    assert_eq!(read_frame(&mut network), frame_to([100, 96, 7, 1], 80, b"x"));
}

#[test]
fn an_address_that_the_host_gets_is_the_hosts() {
    let mut bench = Bench::new();
    bench.send(&frame(b"out"));
    assert_eq!(bench.sent(), frame(b"out"));
    let addresses = vec![PUBLIC_V4.into()];
    assert_eq!(bench.ask(&Change::Host { addresses }, &[]), DONE);
    bench.send(&frame(b"out"));
    assert!(!bench.has_sent());
    assert_eq!(bench.device.counters().denied, 1);
    assert_eq!(bench.ask(&Change::Host { addresses: Vec::new() }, &[]), DONE);
    bench.send(&frame(b"out"));
    assert_eq!(bench.sent(), frame(b"out"));
}

#[test]
fn changes_that_make_no_sense_change_nothing() {
    let (mut bench, mut switch) = Bench::on_segment();
    let connect = |slot| Change::Connect {
        slot,
        segment: segment([10, 90, 0, 2]),
    };
    let (socket, other) = sockets();
    let fd = socket.as_fd();
    assert_eq!(bench.ask(&connect(0), &[fd]), REFUSED, "the place is taken");
    assert_eq!(bench.ask(&connect(16), &[fd]), REFUSED, "there is no such place");
    assert_eq!(bench.ask(&connect(1), &[]), REFUSED, "nothing came beside it");
    assert_eq!(bench.ask(&connect(1), &[fd, other.as_fd()]), REFUSED, "too much did");
    assert_eq!(
        bench.ask(&Change::Disconnect { slot: 1 }, &[]),
        REFUSED,
        "nothing is there"
    );
    assert_eq!(bench.ask(&Change::Disconnect { slot: 0 }, &[fd]), REFUSED);
    bench.send(&frame_to(MEMBER_V4, 80, b"x"));
    assert_eq!(read_frame(&mut switch), frame_to(MEMBER_V4, 80, b"x"));
    // A supervisor that is gone is not waited for.
    bench.supervisor = socket.into();
    bench.process(Cause::Backend);
    assert!(!bench.is_called());
}

#[test]
fn what_comes_from_the_segment_opens_nothing_at_the_uplink() {
    const PRIVATE_V4: [u8; 4] = [192, 168, 1, 1];
    let (mut bench, mut switch) = Bench::on_segment();
    // The third buffer is for a refusal.
    bench.offer(3);
    let mut from_private = Vec::new();
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], OWN)
        .ipv4(PRIVATE_V4, OWN_V4, 64)
        .udp(2, 1);
    builder.write_to_vec(&mut from_private, b"x").expect("a frame");
    write_frame(&mut switch, &from_private);
    assert!(bench.process(Cause::Backend).any());
    assert_eq!(bench.read(BUFFERS + 12, from_private.len()), from_private);
    bench.send(&frame_to(PRIVATE_V4, 2, b"x"));
    assert!(!bench.has_sent());
    assert_eq!(bench.device.counters().denied, 1);
    bench.arrive(&from_private);
    bench.process(Cause::Backend);
    bench.send(&frame_to(PRIVATE_V4, 2, b"x"));
    assert_eq!(bench.sent(), frame_to(PRIVATE_V4, 2, b"x"));
}

#[test]
fn uplink_and_segment_take_turns() {
    let (mut bench, mut switch) = Bench::on_segment();
    for _ in 0..3 {
        bench.arrive(&[1; 60]);
        write_frame(&mut switch, &[2; 60]);
    }
    bench.offer(6);
    bench.process(Cause::Backend);
    let firsts = [0, 1, 2, 3, 4, 5].map(|index| bench.read(BUFFERS + index * 0x1000 + 12, 1)[0]);
    assert_eq!(firsts, [1, 2, 1, 2, 1, 2]);
}

#[test]
fn a_segment_that_is_gone_does_not_hold_the_uplink_up() {
    let (mut bench, switch) = Bench::on_segment();
    let payload = [5; 60000];
    let mut sent = 0;
    while bench.transmit.used(&bench.memory).len() == 1 || sent == 0 {
        bench.send(&frame_to(MEMBER_V4, 80, &payload));
        sent += 1;
        assert!(sent < 1000, "the socket takes everything");
    }
    assert!(!bench.is_called());
    // At the latest moment: after the guest's frames were examined.
    switch.shutdown(std::net::Shutdown::Write).expect("a socket");
    bench.process(Cause::Queue(1));
    assert!(bench.is_called());
    bench.process(Cause::Backend);
    assert_eq!(bench.transmit.used(&bench.memory).len(), 1, "what was held up is gone");
    bench.send(&frame(b"x"));
    assert_eq!(bench.sent(), frame(b"x"));
}
