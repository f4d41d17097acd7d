//! Tests of the socket device between a driver that is played here and real sockets of the host.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::packet::{Credit, HOST_CID, Operation, RawHeader, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, StreamKey};
use super::test_fixture::{
    Fixture, GUEST_CID, GUEST_PORT, Packet, RECEIVED, SENT, SESSION_PORT, ask, guest_header, key, session_key,
};
use crate::limits::{VSOCK_ANSWER_TIMEOUT_MS, VSOCK_BUFFER_BYTES, VSOCK_CONNECTIONS_MAX, VSOCK_RESETS_MAX};
use crate::virtio::device::{Cause, Device};
use crate::virtio::test_driver::{MEMORY_BYTES, Part, process};

#[test]
fn the_guest_gets_its_session_once() {
    let mut fixture = Fixture::with_buffers(16);
    fixture.say(session_key(), 1, 0);
    assert_eq!(fixture.operations(), [Operation::Response]);
    fixture.write(session_key(), b"hello");
    let mut bytes = [0; 5];
    fixture.session.read_exact(&mut bytes).expect("open");
    assert_eq!(&bytes, b"hello");
    fixture.session.write_all(b"welcome").expect("open");
    let packets = fixture.packets();
    assert_eq!(packets.len(), 1);
    assert_eq!(
        (packets[0].operation(), packets[0].payload.as_slice()),
        (Operation::ReadWrite, &b"welcome"[..])
    );
    let again = StreamKey {
        guest_port: 40001,
        ..session_key()
    };
    fixture.say(again, 1, 0);
    assert_eq!(fixture.operations(), [Operation::Reset]);
}

#[test]
fn no_other_port_of_the_host_answers() {
    let mut fixture = Fixture::with_buffers(32);
    for host_port in [0, 1, SESSION_PORT - 1, SESSION_PORT + 1, 1 << 30, u32::MAX] {
        let stream = StreamKey {
            host_port,
            guest_port: 9,
        };
        fixture.say(stream, 1, 0);
        let packets = fixture.packets();
        assert_eq!(packets.len(), 1);
        assert_eq!(
            (packets[0].operation(), key(&packets[0].header)),
            (Operation::Reset, stream)
        );
    }
    assert_eq!(fixture.counters().refused, 6);
}

#[test]
fn packets_of_others_are_not_answered() {
    let mut fixture = Fixture::with_buffers(16);
    let good = guest_header(session_key(), 1, 0, 0);
    let from_other = RawHeader { source_cid: 8, ..good };
    let to_other = RawHeader { target_cid: 1, ..good };
    fixture.send(&from_other, &[]);
    fixture.send(&to_other, &[]);
    assert_eq!(fixture.operations(), []);
    assert_eq!(fixture.counters().foreign, 2);
    fixture.send(&RawHeader { kind: 2, ..good }, &[]);
    assert_eq!(fixture.operations(), [Operation::Reset]);
}

#[test]
fn the_host_opens_streams_and_bytes_flow_both_ways() {
    let mut fixture = Fixture::with_buffers(16);
    let (stream, mut host) = fixture.open();
    assert_eq!(stream.guest_port, GUEST_PORT);
    let sent: Vec<u8> = (0..60_000_u32).map(|n| (n / 3) as u8).collect();
    // Linux splits packets larger than 32 KiB over several descriptors.
    fixture.send_in_pieces(&guest_header(stream, 5, 0, sent.len() as u32), &sent, 4096);
    let mut received = vec![0; sent.len()];
    host.read_exact(&mut received).expect("open");
    assert!(received == sent);
    host.write_all(&sent[..10_000]).expect("open");
    let mut arrived = Vec::new();
    for packet in fixture.packets() {
        arrived.extend(packet.payload);
    }
    assert!(arrived == sent[..10_000]);
}

#[test]
fn a_refused_stream_is_closed() {
    let mut fixture = Fixture::with_buffers(16);
    let (mut ours, theirs) = UnixStream::pair().expect("sockets");
    fixture.ask(77, &[theirs.as_fd()]);
    drop(theirs);
    let request = fixture.packets()[0].header;
    fixture.say(key(&request), 3, 0);
    assert_eq!(ours.read(&mut [0; 1]).expect("an end"), 0);
    assert_eq!(fixture.operations(), []);
}

#[test]
fn a_stream_that_the_guest_does_not_answer_is_closed_in_time() {
    let mut fixture = Fixture::with_buffers(16);
    let (mut ours, theirs) = UnixStream::pair().expect("sockets");
    fixture.ask(77, &[theirs.as_fd()]);
    drop(theirs);
    assert_eq!(fixture.operations(), [Operation::Request]);
    thread::sleep(Duration::from_millis(VSOCK_ANSWER_TIMEOUT_MS + 100));
    assert_eq!(fixture.operations(), [Operation::Reset]);
    assert_eq!(ours.read(&mut [0; 1]).expect("an end"), 0);
    assert_eq!(fixture.counters().overdue, 1);
}

#[test]
fn malformed_requests_of_the_supervisor_are_ignored() {
    let mut fixture = Fixture::with_buffers(16);
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    ask(&fixture.control, b"abc", &[theirs.as_fd()]);
    ask(&fixture.control, b"abcde", &[theirs.as_fd()]);
    ask(&fixture.control, b"abcd", &[]);
    ask(&fixture.control, b"abcd", &[theirs.as_fd(), ours.as_fd()]);
    let file = tempfile::tempfile().expect("a file");
    ask(&fixture.control, b"abcd", &[file.as_fd()]);
    assert_eq!(fixture.operations(), []);
    assert_eq!(fixture.counters().control_malformed, 5);
    fixture.open();
}

#[test]
fn credit_bounds_what_is_kept_for_a_slow_reader() {
    let mut fixture = Fixture::with_buffers(32);
    let (stream, mut host) = fixture.open();
    let chunk = vec![7; 8192];
    let mut sent: u32 = 0;
    let mut forwarded = 0;
    // Like a guest that keeps to its credit, until it has none.
    loop {
        for packet in fixture.packets() {
            forwarded = packet.header.credit.forwarded;
            fixture.offer_buffers(1);
        }
        if sent - forwarded + chunk.len() as u32 > VSOCK_BUFFER_BYTES as u32 {
            break;
        }
        fixture.write(stream, &chunk);
        sent += chunk.len() as u32;
    }
    assert_eq!(fixture.counters().violations, 0);
    // The reader wakes up: everything arrives, and the guest gets credit.
    let mut left = sent as usize;
    let mut buffer = vec![0; 1 << 16];
    while left > 0 {
        left -= host.read(&mut buffer).expect("open");
        fixture.run_to_rest();
    }
    let last = fixture.packets().pop().expect("credit");
    assert_eq!(last.operation(), Operation::CreditUpdate);
    assert!(sent - last.header.credit.forwarded <= VSOCK_BUFFER_BYTES as u32 / 2);
}

#[test]
fn a_guest_beyond_its_credit_loses_the_stream() {
    let mut fixture = Fixture::with_buffers(32);
    let (stream, host) = fixture.open();
    let chunk = vec![7; 60_000];
    for _ in 0..64 {
        fixture.write(stream, &chunk);
    }
    assert_eq!(fixture.counters().violations, 1);
    assert!(fixture.operations().contains(&Operation::Reset));
    drop(host);
}

#[test]
fn the_host_waits_for_the_guests_credit() {
    let mut fixture = Fixture::with_buffers(60);
    let (stream, mut host) = fixture.open();
    let small = |forwarded| RawHeader {
        credit: Credit {
            buffer_bytes: 10_000,
            forwarded,
        },
        ..guest_header(stream, 6, 0, 0)
    };
    fixture.send(&small(0), &[]);
    host.write_all(&[7; 25_000]).expect("room in the socket");
    let packets = fixture.packets();
    let bytes: usize = packets.iter().map(|packet| packet.payload.len()).sum();
    assert_eq!(bytes, 10_000);
    assert_eq!(packets.last().map(Packet::operation), Some(Operation::CreditRequest));
    // No busy waiting: the device is at rest, and asks only once.
    assert!(!fixture.is_readable());
    fixture.send(&small(10_000), &[]);
    let bytes: usize = fixture.packets().iter().map(|packet| packet.payload.len()).sum();
    assert_eq!(bytes, 10_000);
    // A guest that claims to have read what it was never sent has no room, and nothing breaks.
    fixture.send(&small(u32::MAX / 2), &[]);
    let bytes: usize = fixture.packets().iter().map(|packet| packet.payload.len()).sum();
    assert_eq!(bytes, 0);
}

#[test]
fn without_receive_buffers_the_device_rests() {
    let mut fixture = Fixture::with_buffers(2);
    let (_, mut host) = fixture.open();
    host.write_all(&[7; 20_000]).expect("room in the socket");
    let bytes: usize = fixture.packets().iter().map(|packet| packet.payload.len()).sum();
    assert!(bytes > 0 && bytes < 20_000);
    assert!(!fixture.is_readable());
    fixture.offer_buffers(8);
    fixture.work(Cause::Queue(0));
    let rest: usize = fixture.packets().iter().map(|packet| packet.payload.len()).sum();
    assert_eq!(bytes + rest, 20_000);
}

#[test]
fn receive_buffers_without_room_are_skipped() {
    let mut fixture = Fixture::new();
    fixture.receive.add(&fixture.memory, &[(RECEIVED, 10, true)]);
    fixture.receive.add(&fixture.memory, &[(RECEIVED, 4096, false)]);
    fixture.receive.add(&fixture.memory, &[(u64::MAX, 4096, true)]);
    fixture.offer_buffers(1);
    fixture.say(session_key(), 1, 0);
    let used = fixture.receive.used(&fixture.memory);
    assert_eq!(used.iter().map(|used| used.1).collect::<Vec<_>>(), [0, 0, 0, 44]);
    assert_eq!(fixture.counters().malformed, 3);
}

#[test]
fn each_direction_ends_by_itself() {
    let mut fixture = Fixture::with_buffers(16);
    let (stream, mut host) = fixture.open();
    host.write_all(b"last words").expect("open");
    host.shutdown(Shutdown::Write).expect("open");
    let packets = fixture.packets();
    assert_eq!(packets[0].payload, b"last words");
    assert_eq!(packets[1].operation(), Operation::Shutdown);
    assert_eq!(packets[1].header.flags, SHUTDOWN_SEND);
    // The guest can still answer.
    fixture.write(stream, b"answer");
    fixture.say(stream, 4, SHUTDOWN_SEND);
    let mut answer = Vec::new();
    host.read_to_end(&mut answer).expect("open");
    assert_eq!(answer, b"answer");
    assert_eq!(fixture.operations(), [Operation::Reset]);
}

#[test]
fn what_the_guest_sent_before_it_closed_arrives() {
    let mut fixture = Fixture::with_buffers(32);
    let (stream, mut host) = fixture.open();
    let mut sent = 0;
    while !fixture.is_stuffed(stream) {
        fixture.write(stream, &[7; 4096]);
        sent += 4096;
        for _ in fixture.packets() {
            fixture.offer_buffers(1);
        }
    }
    fixture.say(stream, 4, SHUTDOWN_SEND | SHUTDOWN_RECEIVE);
    fixture.say(stream, 3, 0);
    let mut received = 0;
    let mut buffer = [0; 1 << 16];
    loop {
        let count = host.read(&mut buffer).expect("no reset");
        if count == 0 {
            break;
        }
        received += count;
        fixture.run_to_rest();
    }
    assert_eq!(received, sent);
}

#[test]
fn a_host_that_is_gone_ends_the_stream() {
    let mut fixture = Fixture::with_buffers(16);
    let (stream, host) = fixture.open();
    drop(host);
    let packets = fixture.packets();
    let flags = packets.iter().fold(0, |flags, packet| flags | packet.header.flags);
    assert_eq!(flags, SHUTDOWN_SEND | SHUTDOWN_RECEIVE);
    fixture.offer_buffers(8);
    // Payload that was under way is discarded; the guest confirms.
    fixture.write(stream, b"too late");
    fixture.say(stream, 3, 0);
    assert_eq!(fixture.operations(), []);
    fixture.say(stream, 4, 3);
    assert_eq!(fixture.operations(), [Operation::Reset]);
}

#[test]
fn unconfirmed_ends_are_forgotten_in_time() {
    let mut fixture = Fixture::with_buffers(16);
    let (stream, host) = fixture.open();
    drop(host);
    fixture.packets();
    for _ in 0..200 {
        fixture.say(stream, 7, 0);
        fixture.offer_buffers(1);
    }
    thread::sleep(Duration::from_millis(VSOCK_ANSWER_TIMEOUT_MS + 100));
    assert_eq!(fixture.operations().last(), Some(&Operation::Reset));
    assert_eq!(fixture.counters().overdue, 1);
}

#[test]
fn streams_are_bounded() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    if most < 3 * VSOCK_CONNECTIONS_MAX as u64 {
        println!("skipped: at most {most} open files");
        return;
    }
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("up to the hard limit");
    let mut fixture = Fixture::new();
    let mut ends = Vec::new();
    for _ in 0..VSOCK_CONNECTIONS_MAX + 3 {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        fixture.ask(GUEST_PORT, &[theirs.as_fd()]);
        fixture.run_to_rest();
        ends.push(ours);
    }
    assert_eq!(fixture.counters().control_refused, 3);
    assert_eq!(ends.pop().expect("an end").read(&mut [0; 1]).expect("closed"), 0);
}

#[test]
fn resets_are_bounded() {
    let mut fixture = Fixture::new();
    for guest_port in 0..VSOCK_RESETS_MAX as u32 + 5 {
        let stream = StreamKey {
            host_port: 1,
            guest_port,
        };
        fixture.say(stream, 1, 0);
    }
    assert_eq!(fixture.counters().resets_dropped, 5);
}

#[test]
fn a_new_driver_finds_no_old_streams() {
    let mut fixture = Fixture::with_buffers(16);
    let (stream, mut host) = fixture.open();
    let (_waiting, theirs) = UnixStream::pair().expect("sockets");
    fixture.device.reset();
    assert_eq!(host.read(&mut [0; 1]).expect("closed"), 0);
    fixture.write(stream, b"old");
    assert_eq!(fixture.operations(), [Operation::Reset]);
    fixture.ask(GUEST_PORT, &[theirs.as_fd()]);
    assert_eq!(fixture.operations(), [Operation::Request]);
}

fn hostile_header() -> impl Strategy<Value = RawHeader> {
    let port = || {
        prop_oneof![
            Just(SESSION_PORT),
            Just(GUEST_PORT),
            Just(1 << 30),
            Just(40000),
            any::<u32>()
        ]
    };
    let cid = |own| prop_oneof![8 => Just(own), 1 => any::<u64>()];
    let bytes = prop_oneof![Just(0), 0..5000_u32, Just(65536), any::<u32>()];
    let operation = prop_oneof![8 => 0..9_u16, 1 => any::<u16>()];
    let kind = prop_oneof![8 => Just(1_u16), 1 => any::<u16>()];
    let credit = (any::<u32>(), any::<u32>());
    (
        cid(u64::from(GUEST_CID)),
        cid(HOST_CID),
        port(),
        port(),
        bytes,
        kind,
        operation,
        0..5_u32,
        credit,
    )
        .prop_map(
            |(source_cid, target_cid, source_port, target_port, payload_bytes, kind, operation, flags, credit)| {
                RawHeader {
                    source_cid,
                    target_cid,
                    source_port,
                    target_port,
                    payload_bytes,
                    kind,
                    operation,
                    flags,
                    credit: Credit {
                        buffer_bytes: credit.0,
                        forwarded: credit.1,
                    },
                }
            },
        )
}

fn hostile_part() -> impl Strategy<Value = Part> {
    let address = prop_oneof![4 => SENT..MEMORY_BYTES, 1 => any::<u64>()];
    let bytes = prop_oneof![Just(44_u32), 0..70_000_u32, any::<u32>()];
    (address, bytes, any::<bool>())
}

proptest! {
    #[test]
    fn no_packet_harms_the_device(packets in prop::collection::vec((hostile_header(), 0..70_000_usize), 1..40)) {
        let mut fixture = Fixture::with_buffers(40);
        let (_, mut host) = fixture.open();
        host.set_nonblocking(true).expect("settable");
        let payload = vec![1; 70_000];
        for (header, bytes) in &packets {
            fixture.send(header, &payload[..*bytes]);
            let _ = host.write(&payload[..100]);
            let _ = host.read(&mut [0; 5000]);
            fixture.run_to_rest();
        }
    }

    #[test]
    fn no_chain_harms_the_device(
        transmit in prop::collection::vec(prop::collection::vec(hostile_part(), 1..5), 1..10),
        receive in prop::collection::vec(prop::collection::vec(hostile_part(), 1..5), 1..10),
    ) {
        let mut fixture = Fixture::with_buffers(2);
        let (_, mut host) = fixture.open();
        host.write_all(&[1; 50_000]).expect("room in the socket");
        for chain in &receive {
            fixture.receive.add(&fixture.memory, chain);
        }
        for chain in &transmit {
            fixture.transmit.add(&fixture.memory, chain);
        }
        for cause in [Cause::Queue(1), Cause::Queue(0), Cause::Backend] {
            let queues = &mut [&mut fixture.receive, &mut fixture.transmit, &mut fixture.events];
            // The payload may overwrite the rings themselves: then a queue is at fault, and nothing else.
            let _ = process(&mut fixture.device, cause, &fixture.memory, queues);
        }
    }
}
