use etherparse::icmpv6::TYPE_NEIGHBOR_SOLICITATION;
use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, LinkSlice, NetSlice, PacketBuilder, SlicedPacket, TransportSlice,
};

use super::*;
use crate::switch::membership::Join;
use crate::switch::names::tests::question;

const WEB: Mac = [2, 0xca, 0, 0, 0, 2];
const DB: Mac = [2, 0xca, 0, 0, 0, 3];
const GATEWAY: Mac = [2, 0xca, 0, 0, 0, 1];
const WEB_V4: [u8; 4] = [10, 89, 0, 2];
const DB_V4: [u8; 4] = [10, 89, 0, 3];
const GATEWAY_V4: [u8; 4] = [10, 89, 0, 1];

fn decide_for(from: Mac, frame: &[u8]) -> Forward {
    let mut members = Members::new(8);
    for (mac, v4, v6, name) in [(WEB, WEB_V4, "fd00::2", "web"), (DB, DB_V4, "fd00::3", "db")] {
        let addresses = vec![IpAddr::from(v4), v6.parse().unwrap()];
        let names = vec![name.to_owned()];
        members.add(Join { mac, addresses, names }).unwrap();
    }
    let gateway = Gateway {
        mac: GATEWAY,
        addresses: vec![GATEWAY_V4.into(), "fd00::1".parse().unwrap()],
    };
    forward(frame, from, &members, &gateway)
}

fn udp(from: (Mac, [u8; 4]), to: (Mac, [u8; 4]), port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from.0, to.0)
        .ipv4(from.1, to.1, 64)
        .udp(4000, port)
        .write_to_vec(&mut frame, payload)
        .unwrap();
    frame
}

fn arp(from: (Mac, [u8; 4]), operation: ArpOperation, target: [u8; 4]) -> Vec<u8> {
    let (hardware, kind) = (ArpHardwareId::ETHERNET, EtherType::IPV4);
    let packet = ArpPacket::new(hardware, kind, operation, &from.0, &from.1, &[0; 6], &target).unwrap();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from.0, [0xff; 6])
        .arp(packet)
        .write_to_vec(&mut frame)
        .unwrap();
    frame
}

fn solicitation(from: &str, target: &str) -> Vec<u8> {
    let address = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let option = [&[1, 1][..], &WEB].concat();
    // A sender without an address does not name its hardware either.
    let option = if from == "::" { &[][..] } else { &option };
    let payload = [&address(target)[..], option].concat();
    let last = address(target)[15];
    let mut many = address("ff02::1:ff00:0");
    many[15] = last;
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(WEB, [0x33, 0x33, 0xff, 0, 0, last])
        .ipv6(address(from), many, 255)
        .icmpv6_raw(TYPE_NEIGHBOR_SOLICITATION, 0, [0; 4])
        .write_to_vec(&mut frame, &payload)
        .unwrap();
    frame
}

/// Hardware address that an answer names as the owner.
fn sender_of(forward: Forward) -> Option<Mac> {
    let Forward::Answer(frame) = forward else {
        return None;
    };
    let packet = SlicedPacket::from_ethernet(&frame).unwrap();
    let Some(LinkSlice::Ethernet2(link)) = packet.link else {
        panic!("no Ethernet");
    };
    assert_eq!(link.destination(), WEB);
    Some(match (packet.net.unwrap(), packet.transport) {
        (NetSlice::Arp(arp), _) => arp.sender_hw_addr().try_into().unwrap(),
        (NetSlice::Ipv6(_), Some(TransportSlice::Icmpv6(icmp))) => {
            assert_eq!(icmp.type_u8(), 136);
            icmp.slice()[26..32].try_into().unwrap()
        }
        other => panic!("{other:?}"),
    })
}

#[test]
fn a_frame_goes_to_the_member_it_is_for() {
    let frame = udp((WEB, WEB_V4), (DB, DB_V4), 7, b"x");
    assert_eq!(decide_for(WEB, &frame), Forward::To(DB));
    // Sent to the hardware address of a previous owner of the address.
    let frame = udp((WEB, WEB_V4), ([2, 0xca, 0, 0, 0, 9], DB_V4), 7, b"x");
    assert_eq!(decide_for(WEB, &frame), Forward::To(DB));
}

#[test]
fn what_routers_and_neighbours_say_goes_nowhere() {
    let address = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    for kind in [133, 134, 136, 137] {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(WEB, DB)
            .ipv6(address("fe80::ca:ff:fe00:2"), address("fd00::3"), 255)
            .icmpv6_raw(kind, 0, [0; 4])
            .write_to_vec(&mut frame, &[0; 24])
            .unwrap();
        assert_eq!(decide_for(WEB, &frame), Forward::Nowhere, "{kind}");
    }
    for (kind, expected) in [(5, Forward::Nowhere), (9, Forward::Nowhere), (8, Forward::To(DB))] {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(WEB, DB)
            .ipv4(WEB_V4, DB_V4, 64)
            .icmpv4_raw(kind, 0, [0; 4])
            .write_to_vec(&mut frame, &[0; 24])
            .unwrap();
        assert_eq!(decide_for(WEB, &frame), expected, "{kind}");
    }
}

#[test]
fn a_frame_in_anothers_name_goes_nowhere() {
    for frame in [
        udp((DB, WEB_V4), (DB, DB_V4), 7, b"x"),
        udp((WEB, DB_V4), (DB, DB_V4), 7, b"x"),
        udp((WEB, [10, 89, 0, 9]), (DB, DB_V4), 7, b"x"),
        // To nobody, to everybody, to the sender itself, to the uplink.
        udp((WEB, WEB_V4), (DB, [10, 89, 0, 9]), 7, b"x"),
        udp((WEB, WEB_V4), ([0xff; 6], DB_V4), 7, b"x"),
        udp((WEB, WEB_V4), (GATEWAY, DB_V4), 7, b"x"),
        udp((WEB, WEB_V4), ([0xff; 6], [10, 89, 0, 255]), 67, b"x"),
        udp((WEB, WEB_V4), (WEB, WEB_V4), 7, b"x"),
        udp((WEB, WEB_V4), (GATEWAY, GATEWAY_V4), 7, b"x"),
        arp((WEB, WEB_V4), ArpOperation::REPLY, DB_V4),
        arp((WEB, WEB_V4), ArpOperation::REQUEST, WEB_V4),
        arp((WEB, WEB_V4), ArpOperation::REQUEST, [10, 89, 0, 9]),
        solicitation("::", "fd00::3"),
        Vec::new(),
        vec![0; 60],
    ] {
        assert_eq!(decide_for(WEB, &frame), Forward::Nowhere, "{frame:02x?}");
    }
}

#[test]
fn neighbours_are_told_by_the_switch() {
    let ask = |target| sender_of(decide_for(WEB, &arp((WEB, WEB_V4), ArpOperation::REQUEST, target)));
    assert_eq!(ask(DB_V4), Some(DB));
    assert_eq!(ask(GATEWAY_V4), Some(GATEWAY));
    let ask = |from, target| sender_of(decide_for(WEB, &solicitation(from, target)));
    assert_eq!(ask("fd00::2", "fd00::3"), Some(DB));
    assert_eq!(ask("fe80::ca:ff:fe00:2", "fe80::ca:ff:fe00:3"), Some(DB));
    assert_eq!(ask("fd00::2", "fd00::1"), Some(GATEWAY));
}

#[test]
fn a_member_is_answered_by_its_address_on_another_network_too() {
    const ELSEWHERE: [u8; 4] = [10, 90, 0, 7];
    let request = arp((WEB, ELSEWHERE), ArpOperation::REQUEST, GATEWAY_V4);
    assert_eq!(sender_of(decide_for(WEB, &request)), Some(GATEWAY));
    assert_eq!(
        sender_of(decide_for(WEB, &solicitation("fd90::7", "fd00::1"))),
        Some(GATEWAY)
    );
    let ask = |name| {
        decide_for(
            WEB,
            &udp((WEB, ELSEWHERE), (GATEWAY, GATEWAY_V4), 53, &question(name, 1)),
        )
    };
    assert!(matches!(ask("db"), Forward::Answer(_)));
    assert_eq!(ask("example.com"), Forward::Back);
}

#[test]
fn questions_for_members_names_are_answered_and_others_come_back() {
    let ask = |name| decide_for(WEB, &udp((WEB, WEB_V4), (GATEWAY, GATEWAY_V4), 53, &question(name, 1)));
    let Forward::Answer(frame) = ask("db") else {
        panic!("no answer");
    };
    let packet = SlicedPacket::from_ethernet(&frame).unwrap();
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) = (packet.net, packet.transport) else {
        panic!("no UDP");
    };
    assert_eq!((ip.header().source(), ip.header().destination()), (GATEWAY_V4, WEB_V4));
    assert_eq!((udp.source_port(), udp.destination_port()), (53, 4000));
    assert!(udp.payload().ends_with(&DB_V4));
    assert_eq!(ask("example.com"), Forward::Back);
}
