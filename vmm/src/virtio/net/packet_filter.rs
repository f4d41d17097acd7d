//! Packet filter between a guest and its network: frame by frame, each examined once, in host memory.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use super::discovery::{Arp, Discovery, DiscoveryKind, Question as NeighborQuestion, link_local};
use super::flows::{Flow, Flows};
use super::frame::{self, Body, FrameError, Packet};
use super::links::Port;
use super::names::{Names, Question};
use super::refusal;
use super::segment::{AddressOwner, Segments, Slot};
use super::transport::Transport;
use super::{Mac, announcement};
use crate::egress::{Destination, Protocol, is_closed, is_metadata};
use crate::segments::{Segment, Uplink};

/// Port of name servers.
pub(crate) const DNS_PORT: u16 = 53;

/// Counts of the frames that were dropped or refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetCounters {
    /// Number of frames that are malformed, or of a kind that is not carried.
    pub malformed: u64,
    /// Number of frames in the name of another machine.
    pub spoofed: u64,
    /// Number of fragments of packets.
    pub fragments: u64,
    /// Number of packets to destinations that the guest may not reach.
    pub denied: u64,
    /// Number of frames for which the guest, or the network, had no room.
    pub dropped: u64,
}

impl NetCounters {
    /// Sum of all counts.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.malformed + self.spoofed + self.fragments + self.denied + self.dropped
    }
}

/// Decision about a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass(Port),
    /// Drops the frame and sends this answer to the guest.
    Answer(Vec<u8>),
    Drop,
}

/// Packet filter of one guest, with its state.
#[derive(Debug)]
pub(super) struct PacketFilter {
    mac: Mac,
    /// Address of the resolver.
    resolver: IpAddr,
    /// Uplink of the guest; closed while it has no address of the guest's.
    uplink: Uplink,
    /// Link-local address of the uplink, once it has sent from it: passt's for this host's loopback.
    neighbor: Option<IpAddr>,
    segments: Segments,
    flows: Flows,
    names: Names,
    pub(super) counters: NetCounters,
}

/// Reason why a frame is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Malformed,
    Spoofed,
    Fragment,
}

impl From<FrameError> for Fault {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Malformed => Self::Malformed,
            FrameError::Fragment => Self::Fragment,
        }
    }
}

/// Content of a frame that a guest sends.
#[derive(Debug)]
enum Sent<'a> {
    /// Question for a neighbor's hardware address.
    Question(NeighborQuestion),
    /// Neighbor discovery that needs no answer: nothing is learned from it, every gateway is known to those on the
    /// link, and an address that a guest asks for is its own.
    Announcement,
    Packet(Packet<'a>),
}

impl PacketFilter {
    /// Makes the packet filter of a guest that is on no segment, and has no uplink.
    pub(super) fn new(mac: Mac, resolver: IpAddr) -> Self {
        Self {
            mac,
            resolver,
            uplink: Uplink::default(),
            neighbor: None,
            segments: Segments::default(),
            flows: Flows::default(),
            names: Names::default(),
            counters: NetCounters::default(),
        }
    }

    /// Connects the guest to a segment.
    pub(super) fn connect(&mut self, slot: Slot, segment: Segment) {
        self.segments.connect(slot, segment);
    }

    /// Disconnects the guest from a segment; returns whether it was connected.
    pub(super) fn disconnect(&mut self, slot: Slot) -> bool {
        self.segments.disconnect(slot).is_some()
    }

    /// Opens the uplink.
    pub(super) fn open(&mut self, uplink: Uplink) {
        self.uplink = uplink;
    }

    /// Closes the uplink.
    pub(super) fn close(&mut self) {
        self.open(Uplink::default());
        self.reset();
    }

    /// Replaces the host's addresses.
    pub(super) fn set_host(&mut self, addresses: Vec<IpAddr>) {
        self.uplink.egress.host = addresses;
    }

    /// Whether the uplink is open to the guest at all.
    fn leads_out(&self) -> bool {
        !self.uplink.addresses.is_empty()
    }

    /// Forgets the state that belongs to a driver that is gone.
    pub(super) fn reset(&mut self) {
        self.flows.clear();
        self.names.clear();
        self.neighbor = None;
    }

    /// Frames that announce the guest on the uplink.
    pub(super) fn announcement(&self) -> Vec<Vec<u8>> {
        announcement::frames(self.mac, &self.uplink.addresses)
    }

    /// Decides about a frame of the guest's. A frame that passes is rewritten in place.
    pub(super) fn examine(&mut self, frame: &mut Vec<u8>, now: Instant) -> Verdict {
        let (sent, bytes) = match self.identify(frame) {
            Ok(sent) => sent,
            Err(fault) => return self.drop_faulty(fault),
        };
        match sent {
            Sent::Packet(packet) => {
                let is_for_loopback = self.is_for_loopback(packet);
                let verdict = self.direct(frame, packet, now);
                self.rewrite(frame, bytes, is_for_loopback, &verdict);
                verdict
            }
            Sent::Question(question) => {
                let verdict = self.resolve(question);
                self.rewrite(frame, bytes, false, &verdict);
                verdict
            }
            Sent::Announcement => Verdict::Drop,
        }
    }

    /// Whether a frame is sent by the guest's hardware. The segment returns such a frame when it is a question that the
    /// segment has no answer to.
    pub(super) fn is_own(&self, frame: &[u8]) -> bool {
        frame.get(6..12) == Some(&self.mac)
    }

    /// Decides about a frame of the guest's that this segment has returned: a question for a name is sent to the next
    /// segment, and to the uplink after the last one; any other frame is dropped.
    pub(super) fn examine_returned(&mut self, frame: &mut Vec<u8>, slot: Slot) -> Verdict {
        let (packet, bytes) = match self.identify(frame) {
            Ok((Sent::Packet(packet), bytes)) => (packet, bytes),
            Ok((Sent::Question(_) | Sent::Announcement, _)) => return drop_counted(&mut self.counters.malformed),
            Err(fault) => return self.drop_faulty(fault),
        };
        let verdict = match (self.question(packet), self.segments.after(slot)) {
            (Some(_), Some(next)) => Verdict::Pass(Port::Segment(next)),
            (Some((port, payload)), None) => self.judge_question(frame, packet, port, payload),
            (None, _) => drop_counted(&mut self.counters.malformed),
        };
        self.rewrite(frame, bytes, false, &verdict);
        verdict
    }

    /// Records what a frame from the uplink starts, continues, or answers.
    pub(super) fn note(&mut self, frame: &[u8], now: Instant) {
        let Ok(frame::Frame {
            body: Body::Packet(packet),
            ..
        }) = frame::parse(frame)
        else {
            return;
        };
        let (protocol, port, peer_port, begins) = match packet.transport {
            Transport::Tcp { from, to, begins } => (Protocol::Tcp, to, from, begins),
            Transport::Udp { from, to, payload } => {
                if from == DNS_PORT && packet.from == self.resolver {
                    self.names.answer(payload, to, now);
                    return;
                }
                (Protocol::Udp, to, from, true)
            }
            Transport::Echo { id, begins: false } => (Protocol::Icmp, id, 0, false),
            // Echo requests are not carried to a guest.
            Transport::Echo { .. } | Transport::Other | Transport::Error | Transport::Routing => return,
        };
        let flow = Flow {
            protocol,
            port,
            peer: packet.from,
            peer_port,
        };
        if begins && self.is_arrival(packet, flow) {
            if is_link_local(packet.from) {
                self.neighbor = Some(packet.from);
            }
            if !self.opens(destination(flow), |_| false) {
                self.flows.note(flow, now);
            }
        } else {
            self.flows.refresh(flow, now);
        }
    }

    /// Whether a packet from the uplink, the first of `flow`, is for a published port of the guest.
    fn is_arrival(&self, packet: Packet<'_>, flow: Flow) -> bool {
        let is_for_guest = self.uplink.addresses.contains(&packet.to) || packet.to == IpAddr::V6(link_local(self.mac));
        let mut published = self.uplink.published.iter();
        // No host with such an address sends requests: the packet is forged.
        is_for_guest
            && !is_metadata(packet.from)
            && published.any(|published| published.protocol == flow.protocol && published.ports.contains(flow.port))
    }

    /// Rewrites a frame that is forwarded.
    fn rewrite(&self, frame: &mut Vec<u8>, bytes: usize, is_for_loopback: bool, verdict: &Verdict) {
        match verdict {
            Verdict::Pass(Port::Uplink) => {
                frame::serialize_for_uplink(frame, bytes, self.uplink.hardware);
                if is_for_loopback {
                    frame::redirect_udp_v4(frame, Ipv4Addr::LOCALHOST);
                }
            }
            Verdict::Pass(Port::Segment(_)) => frame::serialize(frame, bytes),
            Verdict::Answer(_) | Verdict::Drop => {}
        }
    }

    /// Whether a packet answers, over UDP, what came from the host's loopback and is known by another address: see
    /// [`Uplink::loopback_alias`]. Questions for names are sent to the same address, and are excluded.
    fn is_for_loopback(&self, packet: Packet<'_>) -> bool {
        let is_alias = self.uplink.loopback_alias.map(IpAddr::V4) == Some(packet.to);
        is_alias && matches!(packet.transport, Transport::Udp { .. }) && self.question(packet).is_none()
    }

    /// Resolves a neighbor's hardware address, by a segment's switch or by the device in place of the uplink, where
    /// there is no host but the uplink itself.
    fn resolve(&self, question: NeighborQuestion) -> Verdict {
        let target = question.target();
        match self.segments.link_of(target) {
            Some(slot) if self.neighbor != Some(target) => Verdict::Pass(Port::Segment(slot)),
            _ if self.leads_out() && !self.is_own_host(target) => question
                .answer(self.uplink.hardware)
                .map_or(Verdict::Drop, Verdict::Answer),
            _ => Verdict::Drop,
        }
    }

    /// Parses a frame and checks that it is the guest's; also returns its length.
    fn identify<'a>(&self, bytes: &'a [u8]) -> Result<(Sent<'a>, usize), Fault> {
        let frame = frame::parse(bytes)?;
        if frame.from != self.mac {
            return Err(Fault::Spoofed);
        }
        let sent = match frame.body {
            Body::Arp(arp) => self.identify_arp(arp)?,
            Body::Discovery(discovery) => self.identify_discovery(discovery)?,
            Body::Packet(packet) => Sent::Packet(self.identify_packet(packet)?),
        };
        Ok((sent, frame.bytes))
    }

    /// Checks that an ARP message is in the guest's own name (RFC 826; 0.0.0.0 asks whether an address is free).
    fn identify_arp(&self, arp: Arp) -> Result<Sent<'static>, Fault> {
        let is_own = arp.sender.is_unspecified() || self.is_own_address(arp.sender);
        if arp.hardware != self.mac || !is_own {
            return Err(Fault::Spoofed);
        }
        Ok(arp.question().map_or(Sent::Announcement, Sent::Question))
    }

    /// Checks that a neighbor discovery message is sent only by this guest, and advertises no other host.
    fn identify_discovery(&self, discovery: Discovery) -> Result<Sent<'static>, Fault> {
        let is_own = |address| self.is_own_host(IpAddr::V6(address));
        let speaks_truly = match discovery.kind {
            DiscoveryKind::Advertisement { target } => is_own(target),
            DiscoveryKind::Solicitation { .. } | DiscoveryKind::Routers => true,
        };
        let is_from_own = discovery.from.is_unspecified() || is_own(discovery.from);
        let names_own = discovery.hardware.is_none_or(|hardware| hardware == self.mac);
        if !(speaks_truly && is_from_own && names_own) {
            return Err(Fault::Spoofed);
        }
        let question = discovery.question(self.mac);
        Ok(question.map_or(Sent::Announcement, Sent::Question))
    }

    fn identify_packet<'a>(&self, packet: Packet<'a>) -> Result<Packet<'a>, Fault> {
        // Packets on the link are sent from the link-local address. Without a segment they are refused with an answer.
        let is_for_link = || is_closed(packet.to) || matches!(self.segments.place(packet.to), AddressOwner::Member(_));
        let is_own =
            self.is_own_address(packet.from) || packet.from == IpAddr::V6(link_local(self.mac)) && is_for_link();
        if is_own { Ok(packet) } else { Err(Fault::Spoofed) }
    }

    fn is_own_address(&self, address: impl Into<IpAddr>) -> bool {
        let address = address.into();
        self.uplink.addresses.contains(&address) || self.segments.has(address)
    }

    /// Whether an address is the guest's, including its link-local address.
    fn is_own_host(&self, address: IpAddr) -> bool {
        address == IpAddr::V6(link_local(self.mac)) || self.is_own_address(address)
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

    /// Routes a packet by its destination. The uplink is not open to all packets.
    fn direct(&mut self, frame: &[u8], packet: Packet<'_>, now: Instant) -> Verdict {
        if matches!(packet.transport, Transport::Routing) {
            return drop_counted(&mut self.counters.denied);
        }
        if let Some((port, payload)) = self.question(packet) {
            // The names of members have priority, and need no rule.
            return match self.segments.first() {
                Some(first) => Verdict::Pass(Port::Segment(first)),
                None => self.judge_question(frame, packet, port, payload),
            };
        }
        match self.segments.place(packet.to) {
            _ if self.neighbor == Some(packet.to) => self.judge(frame, packet, now),
            AddressOwner::Member(slot) if self.may_send(slot, packet.from) => Verdict::Pass(Port::Segment(slot)),
            // The source is the guest's address on another segment.
            AddressOwner::Member(_) => drop_counted(&mut self.counters.spoofed),
            AddressOwner::Broadcast => drop_counted(&mut self.counters.denied),
            AddressOwner::Elsewhere => self.judge(frame, packet, now),
        }
    }

    /// Whether the guest has this address on this segment.
    fn may_send(&self, slot: Slot, from: IpAddr) -> bool {
        self.segments.has_on(slot, from) || from == IpAddr::V6(link_local(self.mac))
    }

    /// Decides whether a packet may be sent to the uplink.
    fn judge(&mut self, frame: &[u8], packet: Packet<'_>, now: Instant) -> Verdict {
        let (protocol, port, peer_port, begins) = match packet.transport {
            Transport::Tcp { from, to, begins, .. } => (Protocol::Tcp, from, to, begins),
            Transport::Udp { from, to, .. } => (Protocol::Udp, from, to, true),
            Transport::Echo { id, begins } => (Protocol::Icmp, id, 0, begins),
            Transport::Other => return self.refuse(frame, packet),
            Transport::Error | Transport::Routing => return drop_counted(&mut self.counters.denied),
        };
        // Answers to another address of the guest would not find the way back. The neighbor knows the link-local one.
        let is_link_local = packet.from == IpAddr::V6(link_local(self.mac));
        if !(self.uplink.addresses.contains(&packet.from) || is_link_local && self.neighbor == Some(packet.to)) {
            return self.refuse(frame, packet);
        }
        let flow = Flow {
            protocol,
            port,
            peer: packet.to,
            peer_port,
        };
        // A TCP packet that starts a connection is recognized by its flags; an echo that is answered does not start
        // one.
        let goes_on = !(begins && protocol == Protocol::Tcp);
        if goes_on && self.flows.has(flow, now) {
            return Verdict::Pass(Port::Uplink);
        }
        let destination = destination(flow);
        // An echo reply cannot start a conversation.
        let may_begin = protocol != Protocol::Icmp || begins;
        if may_begin && self.opens(destination, |_| false) {
            return Verdict::Pass(Port::Uplink);
        }
        if may_begin && self.permits(destination, now) {
            // The name may have another address while this conversation still lasts.
            self.flows.note(flow, now);
            return Verdict::Pass(Port::Uplink);
        }
        if begins {
            return self.refuse(frame, packet);
        }
        drop_counted(&mut self.counters.denied)
    }

    fn permits(&self, destination: Destination, now: Instant) -> bool {
        self.opens(destination, |name| self.names.has(name, destination.address, now))
    }

    /// Whether the egress rules permit a destination. No rule for a segment's network opens its gateway addresses,
    /// which no member has.
    fn opens(&self, destination: Destination, is_named: impl Fn(&str) -> bool) -> bool {
        !self.segments.has_gateway(destination.address) && self.uplink.egress.permits(destination, is_named)
    }

    fn judge_question(&mut self, frame: &[u8], packet: Packet<'_>, port: u16, payload: &[u8]) -> Verdict {
        // Without an uplink the answer is the resolver's own refusal, which every program understands.
        if self.leads_out() && !(self.uplink.egress.permits_names() && self.uplink.addresses.contains(&packet.from)) {
            return self.refuse(frame, packet);
        }
        let Some(permitted) = self.uplink.egress.only_names() else {
            return Verdict::Pass(Port::Uplink);
        };
        match self.names.ask(payload, port, &permitted) {
            Question::Pass => Verdict::Pass(Port::Uplink),
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
        // A packet to many hosts is never answered (RFC 1122, section 3.2.2).
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

/// Destination of a flow.
fn destination(flow: Flow) -> Destination {
    Destination {
        protocol: flow.protocol,
        address: flow.peer,
        port: (flow.protocol != Protocol::Icmp).then_some(flow.peer_port),
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn drop_counted(counter: &mut u64) -> Verdict {
    *counter += 1;
    Verdict::Drop
}
