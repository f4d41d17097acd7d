//! What may pass between a guest and the network: frame by frame, each looked at once, in host memory.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use etherparse::{
    ArpOperation, ArpPacketSlice, Icmpv6Slice, Ipv4Slice, Ipv6Slice, LinkSlice, NetSlice, SlicedPacket, TransportSlice,
};

use super::discovery::{self, HOST_DISCOVERY, NEIGHBOR_ADVERTISEMENT, ON_LINK_HOPS, ROUTER_SOLICITATION, link_local};
use super::flows::{Flow, Flows};
use super::links::Way;
use super::names::{Names, Question};
use super::refusal::{self, Ends};
use super::segment::{Place, Segments, Slot};
use super::transport::{Transport, carried, incoming};
use super::{Mac, announcement};
use crate::egress::{Destination, Egress, Protocol, is_closed};
use crate::segments::Segment;

/// Where names are asked for.
pub(crate) const DNS_PORT: u16 = 53;

/// What ended here, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetCounters {
    /// Frames that make no sense, or are of a kind that is not carried.
    pub malformed: u64,
    /// Frames in the name of another machine.
    pub spoofed: u64,
    /// Pieces of packets.
    pub fragments: u64,
    /// Packets to where the guest may not go.
    pub denied: u64,
    /// Frames for which the guest, or the network, had no room.
    pub dropped: u64,
}

impl NetCounters {
    /// All of them together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.malformed + self.spoofed + self.fragments + self.denied + self.dropped
    }
}

/// What becomes of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass(Way),
    /// Nothing but this, to the guest.
    Answer(Vec<u8>),
    Drop,
}

/// It, with what it remembers.
#[derive(Debug)]
pub(super) struct Guard {
    mac: Mac,
    /// Where names are asked for.
    resolver: IpAddr,
    /// Those of the guest's addresses that the uplink is open to; without one there is none.
    addresses: Vec<IpAddr>,
    /// Where to. Nowhere without an uplink.
    egress: Egress,
    /// The link-local address that the uplink speaks from, once it has: passt's for this host's loopback.
    neighbor: Option<IpAddr>,
    segments: Segments,
    flows: Flows,
    names: Names,
    pub(super) counters: NetCounters,
}

/// Why a frame ends here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Malformed,
    Spoofed,
    Fragment,
}

/// What a guest sends.
#[derive(Debug)]
enum Sent<'a> {
    /// ARP and neighbour discovery, about this address.
    Discovery(IpAddr),
    /// The same, to find out whether it is somebody's already (RFC 4862, section 5.4).
    Probe(IpAddr),
    /// Asks for routers.
    Solicitation,
    Packet(Packet<'a>),
}

/// A packet that the guest sends somewhere.
#[derive(Debug, Clone, Copy)]
struct Packet<'a> {
    ends: Ends,
    from: IpAddr,
    to: IpAddr,
    transport: Transport<'a>,
}

impl Guard {
    /// Of a guest that is on no segment, and has no uplink.
    pub(super) fn new(mac: Mac, resolver: IpAddr) -> Self {
        Self {
            mac,
            resolver,
            addresses: Vec::new(),
            egress: Egress::default(),
            neighbor: None,
            segments: Segments::default(),
            flows: Flows::default(),
            names: Names::default(),
            counters: NetCounters::default(),
        }
    }

    /// The guest is on this segment from now on.
    pub(super) fn connect(&mut self, slot: Slot, segment: Segment) {
        self.segments.connect(slot, segment);
    }

    /// It is not any more; whether it was.
    pub(super) fn disconnect(&mut self, slot: Slot) -> bool {
        self.segments.disconnect(slot).is_some()
    }

    /// The uplink leads out from now on, for these of the guest's addresses.
    pub(super) fn open(&mut self, addresses: Vec<IpAddr>, egress: Egress) {
        self.addresses = addresses;
        self.egress = egress;
    }

    /// Nothing leads out any more.
    pub(super) fn close(&mut self) {
        self.open(Vec::new(), Egress::default());
        self.reset();
    }

    /// The host has other addresses from now on.
    pub(super) fn set_host(&mut self, addresses: Vec<IpAddr>) {
        self.egress.host = addresses;
    }

    /// Whether the uplink is open to the guest at all.
    fn leads_out(&self) -> bool {
        !self.addresses.is_empty()
    }

    /// Forgets what was of the driver that is gone.
    pub(super) fn reset(&mut self) {
        self.flows.clear();
        self.names.clear();
        self.neighbor = None;
    }

    /// What tells the uplink who is here.
    pub(super) fn announcement(&self) -> Vec<Vec<u8>> {
        announcement::frames(self.mac, &self.addresses)
    }

    /// Looks at a frame of the guest's.
    pub(super) fn examine(&mut self, frame: &[u8], now: Instant) -> Verdict {
        match self.look(frame) {
            Ok(Sent::Packet(packet)) => self.direct(frame, packet, now),
            // Every gateway is known to who is here, and passt is told to be no router.
            Ok(Sent::Solicitation) => Verdict::Drop,
            Ok(Sent::Discovery(target)) if self.neighbor == Some(target) => Verdict::Pass(Way::Uplink),
            Ok(Sent::Discovery(target)) => {
                let slot = self.segments.link_of(target);
                Verdict::Pass(slot.map_or(Way::Uplink, Way::Segment))
            }
            // Nobody else is on the uplink, and passt would forget where the guest is.
            Ok(Sent::Probe(target)) => {
                let slot = self.segments.link_of(target);
                slot.map_or(Verdict::Drop, |slot| Verdict::Pass(Way::Segment(slot)))
            }
            Err(fault) => self.drop_faulty(fault),
        }
    }

    /// Whether a frame is sent by the guest's hardware. The segment gives such a one back when it is a question that it
    /// has no answer to.
    pub(super) fn is_own(&self, frame: &[u8]) -> bool {
        frame.get(6..12) == Some(&self.mac)
    }

    /// Looks at a frame of the guest's that this segment has given back: a question goes to the next one then, and to the
    /// uplink after the last, or nowhere.
    pub(super) fn examine_returned(&mut self, frame: &[u8], slot: Slot) -> Verdict {
        let packet = match self.look(frame) {
            Ok(Sent::Packet(packet)) => packet,
            Ok(Sent::Discovery(_) | Sent::Probe(_) | Sent::Solicitation) => {
                return drop_counted(&mut self.counters.malformed);
            }
            Err(fault) => return self.drop_faulty(fault),
        };
        match (self.question(packet), self.segments.after(slot)) {
            (Some(_), Some(next)) => Verdict::Pass(Way::Segment(next)),
            (Some((port, payload)), None) => self.judge_question(frame, packet, port, payload),
            (None, _) => drop_counted(&mut self.counters.malformed),
        }
    }

    /// Notes what a frame to the guest begins, or answers.
    pub(super) fn note(&mut self, frame: &[u8], now: Instant) {
        let Ok(packet) = SlicedPacket::from_ethernet(frame) else {
            return;
        };
        let Some((from, transport)) = incoming(&packet) else {
            return;
        };
        if matches!(from, IpAddr::V6(from) if from.is_unicast_link_local()) {
            self.neighbor = Some(from);
        }
        let (protocol, port, peer_port) = match transport {
            Transport::Tcp { from, to, .. } => (Protocol::Tcp, to, from),
            Transport::Udp {
                from: peer_port,
                to,
                payload,
            } => {
                if peer_port == DNS_PORT && from == self.resolver {
                    self.names.answer(payload, to, now);
                    return;
                }
                (Protocol::Udp, to, peer_port)
            }
            Transport::Echo { id, begins: true } => (Protocol::Icmp, id, 0),
            Transport::Echo { .. } | Transport::Other | Transport::Error | Transport::Routing => return,
        };
        let back = Destination {
            protocol,
            address: from,
            port: (protocol != Protocol::Icmp).then_some(peer_port),
        };
        if !self.permits(back, now) {
            let flow = Flow {
                protocol,
                port,
                peer: from,
                peer_port,
            };
            self.flows.note(flow, now);
        }
    }

    /// Checks whose a frame is.
    fn look<'a>(&self, frame: &'a [u8]) -> Result<Sent<'a>, Fault> {
        let packet = SlicedPacket::from_ethernet(frame).map_err(|_| Fault::Malformed)?;
        let Some(LinkSlice::Ethernet2(link)) = &packet.link else {
            return Err(Fault::Malformed);
        };
        if link.source() != self.mac {
            return Err(Fault::Spoofed);
        }
        // VLAN tags, MACsec.
        if !packet.link_exts.is_empty() {
            return Err(Fault::Malformed);
        }
        match &packet.net {
            Some(NetSlice::Arp(arp)) => self.look_at_arp(arp).map(Sent::Discovery),
            Some(NetSlice::Ipv4(ip)) => self.look_at_ipv4(ip, packet.transport.as_ref()).map(Sent::Packet),
            Some(NetSlice::Ipv6(ip)) => self.look_at_ipv6(ip, packet.transport.as_ref()),
            None => Err(Fault::Malformed),
        }
    }

    /// Only for IPv4 over Ethernet, and in nobody else's name (RFC 826; 0.0.0.0 asks whether an address is free). Whom it
    /// is about.
    fn look_at_arp(&self, arp: &ArpPacketSlice<'_>) -> Result<IpAddr, Fault> {
        let is_usual = arp.hw_addr_type().0 == 1 && arp.proto_addr_type().0 == 0x0800;
        let operations = [ArpOperation::REQUEST, ArpOperation::REPLY];
        if !is_usual || !operations.contains(&arp.operation()) {
            return Err(Fault::Malformed);
        }
        let address = |bytes| <[u8; 4]>::try_from(bytes).map_err(|_| Fault::Malformed);
        let (sender, target) = (
            address(arp.sender_protocol_addr())?,
            address(arp.target_protocol_addr())?,
        );
        let is_own = sender == [0; 4] || self.is_own_address(sender);
        if arp.sender_hw_addr() != self.mac || !is_own {
            return Err(Fault::Spoofed);
        }
        Ok(target.into())
    }

    fn look_at_ipv4<'a>(
        &self,
        ip: &Ipv4Slice<'a>,
        transport: Option<&TransportSlice<'a>>,
    ) -> Result<Packet<'a>, Fault> {
        let header = ip.header();
        let from = IpAddr::V4(header.source_addr());
        if !self.is_own_address(from) {
            return Err(Fault::Spoofed);
        }
        if ip.is_payload_fragmented() {
            return Err(Fault::Fragment);
        }
        Ok(Packet {
            ends: Ends::V4 {
                from: header.source(),
                to: header.destination(),
            },
            from,
            to: IpAddr::V4(header.destination_addr()),
            transport: transport.map_or(Transport::Other, carried),
        })
    }

    fn look_at_ipv6<'a>(&self, ip: &Ipv6Slice<'a>, transport: Option<&TransportSlice<'a>>) -> Result<Sent<'a>, Fault> {
        let header = ip.header();
        let (from, to) = (header.source_addr(), header.destination_addr());
        if ip.is_payload_fragmented() {
            return Err(Fault::Fragment);
        }
        if let Some(TransportSlice::Icmpv6(icmp)) = transport
            && HOST_DISCOVERY.contains(&icmp.type_u8())
        {
            return self.look_at_discovery(icmp, from, header.hop_limit());
        }
        // What is sent on the link comes from the address there. Without a segment it is refused with a word.
        let is_member = || matches!(self.segments.place(IpAddr::V6(to)), Place::Member(_));
        let is_for_link = || is_closed(IpAddr::V6(to)) || is_member();
        let is_own = self.is_own_address(from) || from == link_local(self.mac) && is_for_link();
        if !is_own {
            return Err(Fault::Spoofed);
        }
        Ok(Sent::Packet(Packet {
            ends: Ends::V6 {
                from: header.source(),
                to: header.destination(),
            },
            from: IpAddr::V6(from),
            to: IpAddr::V6(to),
            transport: transport.map_or(Transport::Other, carried),
        }))
    }

    /// Only from this host, and about nobody else.
    fn look_at_discovery<'a>(&self, icmp: &Icmpv6Slice<'_>, from: Ipv6Addr, hops: u8) -> Result<Sent<'a>, Fault> {
        let is_own = |address| address == link_local(self.mac) || self.is_own_address(address);
        let target = discovery::target(icmp);
        let is_told_of_own = || target.is_some_and(is_own);
        let speaks_truly = icmp.type_u8() != NEIGHBOR_ADVERTISEMENT || is_told_of_own();
        if !(from.is_unspecified() || is_own(from)) || !speaks_truly || !discovery::names_hardware(icmp, self.mac) {
            return Err(Fault::Spoofed);
        }
        match (hops == ON_LINK_HOPS, icmp.type_u8() == ROUTER_SOLICITATION) {
            (false, _) => Err(Fault::Malformed),
            (true, false) if from.is_unspecified() => target.map(|to| Sent::Probe(to.into())).ok_or(Fault::Malformed),
            (true, false) => target.map(|to| Sent::Discovery(to.into())).ok_or(Fault::Malformed),
            (true, true) => Ok(Sent::Solicitation),
        }
    }

    fn is_own_address(&self, address: impl Into<IpAddr>) -> bool {
        let address = address.into();
        self.addresses.contains(&address) || self.segments.has(address)
    }

    /// Port and payload of a question to the resolver.
    fn question<'a>(&self, packet: Packet<'a>) -> Option<(u16, &'a [u8])> {
        match packet.transport {
            Transport::Udp { from, to, payload } if to == DNS_PORT && self.resolver == packet.to => {
                Some((from, payload))
            }
            _ => None,
        }
    }

    /// Chooses a packet's way. That to the uplink is not open to all of them.
    fn direct(&mut self, frame: &[u8], packet: Packet<'_>, now: Instant) -> Verdict {
        if matches!(packet.transport, Transport::Routing) {
            return drop_counted(&mut self.counters.denied);
        }
        if let Some((port, payload)) = self.question(packet) {
            // The names of members come first, and need no rule.
            return match self.segments.first() {
                Some(first) => Verdict::Pass(Way::Segment(first)),
                None => self.judge_question(frame, packet, port, payload),
            };
        }
        match self.segments.place(packet.to) {
            _ if self.neighbor == Some(packet.to) => self.judge(frame, packet, now),
            Place::Member(slot) if self.may_send(slot, packet.from) => Verdict::Pass(Way::Segment(slot)),
            // It is the guest's address on another one.
            Place::Member(_) => drop_counted(&mut self.counters.spoofed),
            Place::Broadcast => drop_counted(&mut self.counters.denied),
            Place::Elsewhere => self.judge(frame, packet, now),
        }
    }

    /// Whether the guest has this address on this segment.
    fn may_send(&self, slot: Slot, from: IpAddr) -> bool {
        self.segments.has_on(slot, from) || from == IpAddr::V6(link_local(self.mac))
    }

    /// Whether a packet may go to the uplink.
    fn judge(&mut self, frame: &[u8], packet: Packet<'_>, now: Instant) -> Verdict {
        let (protocol, port, peer_port, begins) = match packet.transport {
            Transport::Tcp { from, to, begins, .. } => (Protocol::Tcp, from, to, begins),
            Transport::Udp { from, to, .. } => (Protocol::Udp, from, to, true),
            Transport::Echo { id, begins } => (Protocol::Icmp, id, 0, begins),
            Transport::Other => return self.refuse(frame, packet),
            Transport::Error | Transport::Routing => return drop_counted(&mut self.counters.denied),
        };
        // What answers to another of its addresses would not find the way back. The neighbor knows the one on the link.
        let is_link_local = packet.from == IpAddr::V6(link_local(self.mac));
        if !(self.addresses.contains(&packet.from) || is_link_local && self.neighbor == Some(packet.to)) {
            return self.refuse(frame, packet);
        }
        let flow = Flow {
            protocol,
            port,
            peer: packet.to,
            peer_port,
        };
        // Of TCP, what begins a connection is known by its look; an answered echo does not begin one.
        let goes_on = !(begins && protocol == Protocol::Tcp);
        if goes_on && self.flows.has(flow, now) {
            return Verdict::Pass(Way::Uplink);
        }
        let destination = Destination {
            protocol,
            address: packet.to,
            port: (protocol != Protocol::Icmp).then_some(peer_port),
        };
        // A reply to an echo is no way to begin to speak.
        let may_begin = protocol != Protocol::Icmp || begins;
        if may_begin && self.opens(destination, |_| false) {
            return Verdict::Pass(Way::Uplink);
        }
        if may_begin && self.permits(destination, now) {
            // The name may have another address when this conversation still lasts.
            self.flows.note(flow, now);
            return Verdict::Pass(Way::Uplink);
        }
        if begins {
            return self.refuse(frame, packet);
        }
        drop_counted(&mut self.counters.denied)
    }

    fn permits(&self, destination: Destination, now: Instant) -> bool {
        self.opens(destination, |name| self.names.has(name, destination.address, now))
    }

    /// No rule for a segment's network opens what is no member's there.
    fn opens(&self, destination: Destination, is_named: impl Fn(&str) -> bool) -> bool {
        !self.segments.has_gateway(destination.address) && self.egress.permits(destination, is_named)
    }

    fn judge_question(&mut self, frame: &[u8], packet: Packet<'_>, port: u16, payload: &[u8]) -> Verdict {
        // Where there is no uplink, the resolver's own "no" is heard by every program.
        if self.leads_out() && !(self.egress.permits_names() && self.addresses.contains(&packet.from)) {
            return self.refuse(frame, packet);
        }
        let Some(permitted) = self.egress.only_names() else {
            return Verdict::Pass(Way::Uplink);
        };
        match self.names.ask(payload, port, &permitted) {
            Question::Pass => Verdict::Pass(Way::Uplink),
            Question::Malformed => drop_counted(&mut self.counters.malformed),
            Question::Refuse(answer) => {
                self.counters.denied += 1;
                let answer = refusal::answer(frame, packet.ends, (port, DNS_PORT), &answer);
                answer.map_or(Verdict::Drop, Verdict::Answer)
            }
        }
    }

    fn drop_faulty(&mut self, fault: Fault) -> Verdict {
        drop_counted(match fault {
            Fault::Malformed => &mut self.counters.malformed,
            Fault::Spoofed => &mut self.counters.spoofed,
            Fault::Fragment => &mut self.counters.fragments,
        })
    }

    fn refuse(&mut self, frame: &[u8], packet: Packet<'_>) -> Verdict {
        self.counters.denied += 1;
        // Nobody is told of what was for everybody (RFC 1122, section 3.2.2).
        let is_for_many = match packet.to {
            IpAddr::V4(to) => to.is_multicast() || to.is_broadcast() || to == Ipv4Addr::UNSPECIFIED,
            IpAddr::V6(to) => to.is_multicast(),
        };
        if is_for_many {
            return Verdict::Drop;
        }
        refusal::prohibited(frame, packet.ends).map_or(Verdict::Drop, Verdict::Answer)
    }
}

fn drop_counted(counter: &mut u64) -> Verdict {
    *counter += 1;
    Verdict::Drop
}
