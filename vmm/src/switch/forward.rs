//! Forwarding of a member's frame: each frame is examined alone, and decided by who is a member. Pure.

use std::net::IpAddr;

use super::members::Members;
use super::names;
use crate::virtio::net::{Body, DNS_PORT, Mac, NeighborQuestion, Transport, answer_udp, parse_frame};

/// Uplink of the network, which each member has behind its own device: no host is there, but its addresses are.
#[derive(Debug, Clone)]
pub(super) struct Gateway {
    pub(super) mac: Mac,
    pub(super) addresses: Vec<IpAddr>,
}

/// Decision about a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Forward {
    /// Sends the frame to this member, whatever hardware address it was sent to.
    To(Mac),
    /// Sends this answer to the sender.
    Answer(Vec<u8>),
    /// Returns the frame to the sender: a question for a name that no member has.
    Back,
    Nowhere,
}

/// Decides about a frame of the member `from`.
pub(super) fn forward(frame: &[u8], from: Mac, members: &Members, gateway: &Gateway) -> Forward {
    decide(frame, from, members, gateway).unwrap_or(Forward::Nowhere)
}

fn decide(bytes: &[u8], from: Mac, members: &Members, gateway: &Gateway) -> Option<Forward> {
    let frame = parse_frame(bytes).ok()?;
    if frame.from != from {
        return None;
    }
    let packet = match frame.body {
        // The sender gets the answer to a question, whatever address it has on another network.
        Body::Arp(arp) if arp.hardware == from => return resolve(arp.question()?, from, members, gateway),
        Body::Arp(_) => return None,
        Body::Discovery(discovery) => return resolve(discovery.question(from)?, from, members, gateway),
        Body::Packet(packet) => packet,
    };
    if gateway.addresses.contains(&packet.to) {
        let Transport::Udp { from, to, payload } = packet.transport else {
            return None;
        };
        return (to == DNS_PORT).then(|| {
            let answer = names::answer(payload, members);
            answer
                .and_then(|answer| answer_udp(bytes, packet.ends, (from, DNS_PORT), &answer))
                .map_or(Forward::Back, Forward::Answer)
        });
    }
    if !members.is_at(from, packet.from) || packet.transport == Transport::Routing {
        return None;
    }
    // The sender may still know the hardware address of a previous owner of the address.
    let to = members.at(packet.to)?;
    let is_for_one = frame.to[0] & 1 == 0 && frame.to != gateway.mac;
    (to != from && is_for_one).then_some(Forward::To(to))
}

/// Decides about a frame on a network with two members, `web` and `db`, and checks the decision. For fuzzing.
#[cfg(fuzzing)]
pub fn forward_between_two(frame: &[u8]) {
    use super::membership::Join;
    let mut members = Members::new(8);
    for (last, name) in [(2, "web"), (3, "db")] {
        let mac = [2, 0, 0, 0, 0, last];
        let addresses = vec![
            IpAddr::from([100, 96, 0, last]),
            IpAddr::from([0xfd63, 0, 0, 0, 0, 0, 0, u16::from(last)]),
        ];
        let names = vec![name.to_owned()];
        let added = members.add(Join { mac, addresses, names });
        assert!(added.is_ok(), "two are not too many");
    }
    let gateway = Gateway {
        mac: [2, 0, 0, 0, 0, 1],
        addresses: vec![[100, 96, 0, 1].into()],
    };
    match forward(frame, [2, 0, 0, 0, 0, 2], &members, &gateway) {
        Forward::To(to) => assert_eq!(to, [2, 0, 0, 0, 0, 3], "there is nobody else"),
        Forward::Answer(answer) => assert_eq!(answer.get(..6), frame.get(6..12), "answers go to who asked"),
        Forward::Back | Forward::Nowhere => {}
    }
}

/// Answers a question for a neighbor's hardware address, if another host has the address.
fn resolve(question: NeighborQuestion, from: Mac, members: &Members, gateway: &Gateway) -> Option<Forward> {
    let target = question.target();
    let owner = if gateway.addresses.contains(&target) {
        gateway.mac
    } else {
        members.at(target).filter(|owner| *owner != from)?
    };
    question.answer(owner).map(Forward::Answer)
}

#[cfg(test)]
mod tests;
