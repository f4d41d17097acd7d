//! What may pass between a guest and the network: frame by frame, each looked at once, in host memory.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, ArpPacketSlice, EtherType, Icmpv4Slice, Icmpv4Type, Icmpv6Slice,
    Icmpv6Type, Ipv4Slice, Ipv6Slice, LinkSlice, NetSlice, PacketBuilder, SlicedPacket, TransportSlice,
};

use super::Mac;
use super::flows::{Flow, Flows};
use super::names::{Names, Question};
use super::refusal::{self, Ends};
use crate::egress::{Destination, Egress, Protocol, is_closed};

/// Where names are asked for.
const DNS_PORT: u16 = 53;
/// Neighbour discovery comes from the same link (RFC 4861, section 7.1).
const ON_LINK_HOPS: u8 = 255;
/// Router solicitation, neighbour solicitation and advertisement (RFC 4861): what a host says. Router advertisements and
/// redirects are a router's.
const HOST_DISCOVERY: [u8; 3] = [133, 135, 136];

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
    Pass,
    /// Nothing but this, to the guest.
    Answer(Vec<u8>),
    Drop,
}

/// It, with what it remembers.
#[derive(Debug)]
pub(super) struct Guard {
    mac: Mac,
    addresses: Vec<IpAddr>,
    egress: Egress,
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

/// A packet that the guest sends somewhere.
#[derive(Debug, Clone, Copy)]
struct Packet<'a> {
    ends: Ends,
    to: IpAddr,
    transport: Transport<'a>,
}

/// What of a transport matters here.
#[derive(Debug, Clone, Copy)]
enum Transport<'a> {
    Tcp {
        from: u16,
        to: u16,
        begins: bool,
    },
    Udp {
        from: u16,
        to: u16,
        payload: &'a [u8],
    },
    Echo {
        id: u16,
        begins: bool,
    },
    /// Not carried, but to be told so.
    Other,
    /// Not carried either, and never answered: an error of ICMP's (RFC 1122, section 3.2.2).
    Error,
}

impl Guard {
    pub(super) fn new(mac: Mac, addresses: Vec<IpAddr>, egress: Egress) -> Self {
        Self {
            mac,
            addresses,
            egress,
            flows: Flows::default(),
            names: Names::default(),
            counters: NetCounters::default(),
        }
    }

    /// Forgets what was of the driver that is gone.
    pub(super) fn reset(&mut self) {
        self.flows.clear();
        self.names.clear();
    }

    /// The frame that tells the guest's link of its addresses: a gratuitous ARP request (RFC 5227, section 3).
    pub(super) fn announcement(&self) -> Vec<u8> {
        let own = self.addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(address.octets()),
            IpAddr::V6(_) => None,
        });
        let own = own.unwrap_or_default();
        let (hardware, kind) = (ArpHardwareId::ETHERNET, EtherType::IPV4);
        let packet = ArpPacket::new(hardware, kind, ArpOperation::REQUEST, &self.mac, &own, &[0; 6], &own);
        let mut frame = Vec::new();
        if let Ok(packet) = packet {
            // Writing to memory does not fail.
            let _ = PacketBuilder::ethernet2(self.mac, [0xff; 6])
                .arp(packet)
                .write_to_vec(&mut frame);
        }
        frame
    }

    /// Looks at a frame of the guest's.
    pub(super) fn examine(&mut self, frame: &[u8], now: Instant) -> Verdict {
        match self.look(frame) {
            Ok(None) => Verdict::Pass,
            Ok(Some(packet)) => self.judge(frame, packet, now),
            Err(Fault::Malformed) => drop_counted(&mut self.counters.malformed),
            Err(Fault::Spoofed) => drop_counted(&mut self.counters.spoofed),
            Err(Fault::Fragment) => drop_counted(&mut self.counters.fragments),
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
        let (protocol, port, peer_port) = match transport {
            Transport::Tcp { from, to, .. } => (Protocol::Tcp, to, from),
            Transport::Udp {
                from: peer_port,
                to,
                payload,
            } => {
                if peer_port == DNS_PORT && Some(from) == self.egress.resolver {
                    self.names.answer(payload, to, now);
                    return;
                }
                (Protocol::Udp, to, peer_port)
            }
            Transport::Echo { id, begins: true } => (Protocol::Icmp, id, 0),
            Transport::Echo { .. } | Transport::Other | Transport::Error => return,
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

    /// Checks whose a frame is: what is left to be judged, if anything is.
    fn look<'a>(&self, frame: &'a [u8]) -> Result<Option<Packet<'a>>, Fault> {
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
            Some(NetSlice::Arp(arp)) => self.look_at_arp(arp).map(|()| None),
            Some(NetSlice::Ipv4(ip)) => self.look_at_ipv4(ip, packet.transport.as_ref()).map(Some),
            Some(NetSlice::Ipv6(ip)) => self.look_at_ipv6(ip, packet.transport.as_ref()),
            None => Err(Fault::Malformed),
        }
    }

    /// Only for IPv4 over Ethernet, and in nobody else's name (RFC 826; 0.0.0.0 asks whether an address is free).
    fn look_at_arp(&self, arp: &ArpPacketSlice<'_>) -> Result<(), Fault> {
        let is_usual = arp.hw_addr_type().0 == 1 && arp.proto_addr_type().0 == 0x0800;
        let operations = [ArpOperation::REQUEST, ArpOperation::REPLY];
        if !is_usual || !operations.contains(&arp.operation()) {
            return Err(Fault::Malformed);
        }
        let address = <[u8; 4]>::try_from(arp.sender_protocol_addr()).map_err(|_| Fault::Malformed)?;
        let is_own = address == [0; 4] || self.addresses.contains(&IpAddr::from(address));
        if arp.sender_hw_addr() != self.mac || !is_own {
            return Err(Fault::Spoofed);
        }
        Ok(())
    }

    fn look_at_ipv4<'a>(
        &self,
        ip: &Ipv4Slice<'a>,
        transport: Option<&TransportSlice<'a>>,
    ) -> Result<Packet<'a>, Fault> {
        let header = ip.header();
        if !self.addresses.contains(&IpAddr::V4(header.source_addr())) {
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
            to: IpAddr::V4(header.destination_addr()),
            transport: transport.map_or(Transport::Other, carried),
        })
    }

    fn look_at_ipv6<'a>(
        &self,
        ip: &Ipv6Slice<'a>,
        transport: Option<&TransportSlice<'a>>,
    ) -> Result<Option<Packet<'a>>, Fault> {
        let header = ip.header();
        let (from, to) = (header.source_addr(), header.destination_addr());
        if ip.is_payload_fragmented() {
            return Err(Fault::Fragment);
        }
        if let Some(TransportSlice::Icmpv6(icmp)) = transport
            && HOST_DISCOVERY.contains(&icmp.type_u8())
        {
            let is_own = from.is_unspecified() || from == link_local(self.mac) || self.is_own(from);
            let speaks_truly = names_hardware(icmp, self.mac);
            return match (is_own && speaks_truly, header.hop_limit() == ON_LINK_HOPS) {
                (false, _) => Err(Fault::Spoofed),
                (true, false) => Err(Fault::Malformed),
                (true, true) => Ok(None),
            };
        }
        // What is sent on the link comes from the address there, and is refused with a word.
        let is_for_link = from == link_local(self.mac) && is_closed(IpAddr::V6(to));
        if !self.is_own(from) && !is_for_link {
            return Err(Fault::Spoofed);
        }
        Ok(Some(Packet {
            ends: Ends::V6 {
                from: header.source(),
                to: header.destination(),
            },
            to: IpAddr::V6(to),
            transport: transport.map_or(Transport::Other, carried),
        }))
    }

    fn is_own(&self, address: Ipv6Addr) -> bool {
        self.addresses.contains(&IpAddr::V6(address))
    }

    /// Whether a packet may go where it wants to.
    fn judge(&mut self, frame: &[u8], packet: Packet<'_>, now: Instant) -> Verdict {
        let (protocol, port, peer_port, begins) = match packet.transport {
            Transport::Udp { from, to, payload } if to == DNS_PORT && self.egress.resolver == Some(packet.to) => {
                return self.judge_question(frame, packet, from, payload);
            }
            Transport::Tcp { from, to, begins, .. } => (Protocol::Tcp, from, to, begins),
            Transport::Udp { from, to, .. } => (Protocol::Udp, from, to, true),
            Transport::Echo { id, begins } => (Protocol::Icmp, id, 0, begins),
            Transport::Other => return self.refuse(frame, packet),
            Transport::Error => return drop_counted(&mut self.counters.denied),
        };
        let flow = Flow {
            protocol,
            port,
            peer: packet.to,
            peer_port,
        };
        // Of TCP, what begins a connection is known by its look; an answered echo does not begin one.
        let goes_on = !(begins && protocol == Protocol::Tcp);
        if goes_on && self.flows.has(flow, now) {
            return Verdict::Pass;
        }
        let destination = Destination {
            protocol,
            address: packet.to,
            port: (protocol != Protocol::Icmp).then_some(peer_port),
        };
        // A reply to an echo is no way to begin to speak.
        let may_begin = protocol != Protocol::Icmp || begins;
        if may_begin && self.egress.permits(destination, |_| false) {
            return Verdict::Pass;
        }
        if may_begin && self.permits(destination, now) {
            // The name may have another address when this conversation still lasts.
            self.flows.note(flow, now);
            return Verdict::Pass;
        }
        if begins {
            return self.refuse(frame, packet);
        }
        drop_counted(&mut self.counters.denied)
    }

    fn permits(&self, destination: Destination, now: Instant) -> bool {
        let is_named = |name: &str| self.names.has(name, destination.address, now);
        self.egress.permits(destination, is_named)
    }

    fn judge_question(&mut self, frame: &[u8], packet: Packet<'_>, port: u16, payload: &[u8]) -> Verdict {
        if !self.egress.permits_names() {
            return self.refuse(frame, packet);
        }
        let Some(permitted) = self.egress.only_names() else {
            return Verdict::Pass;
        };
        match self.names.ask(payload, port, &permitted) {
            Question::Pass => Verdict::Pass,
            Question::Malformed => drop_counted(&mut self.counters.malformed),
            Question::Refuse(answer) => {
                self.counters.denied += 1;
                let answer = refusal::answer(frame, packet.ends, (port, DNS_PORT), &answer);
                answer.map_or(Verdict::Drop, Verdict::Answer)
            }
        }
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

fn carried<'a>(transport: &TransportSlice<'a>) -> Transport<'a> {
    match transport {
        TransportSlice::Tcp(tcp) => Transport::Tcp {
            from: tcp.source_port(),
            to: tcp.destination_port(),
            begins: tcp.syn() && !tcp.ack(),
        },
        TransportSlice::Udp(udp) => Transport::Udp {
            from: udp.source_port(),
            to: udp.destination_port(),
            payload: udp.payload(),
        },
        TransportSlice::Icmpv4(icmp) => echo_v4(icmp),
        TransportSlice::Icmpv6(icmp) => echo_v6(icmp),
        TransportSlice::Igmp(_) => Transport::Other,
    }
}

fn echo_v4<'a>(icmp: &Icmpv4Slice<'_>) -> Transport<'a> {
    match icmp.icmp_type() {
        Icmpv4Type::EchoRequest(echo) => Transport::Echo {
            id: echo.id,
            begins: true,
        },
        Icmpv4Type::EchoReply(echo) => Transport::Echo {
            id: echo.id,
            begins: false,
        },
        _ => Transport::Error,
    }
}

fn echo_v6<'a>(icmp: &Icmpv6Slice<'_>) -> Transport<'a> {
    match icmp.icmp_type() {
        Icmpv6Type::EchoRequest(echo) => Transport::Echo {
            id: echo.id,
            begins: true,
        },
        Icmpv6Type::EchoReply(echo) => Transport::Echo {
            id: echo.id,
            begins: false,
        },
        _ => Transport::Error,
    }
}

/// Who sent a packet, and what is in it.
fn incoming<'a>(packet: &SlicedPacket<'a>) -> Option<(IpAddr, Transport<'a>)> {
    let from = match packet.net.as_ref()? {
        NetSlice::Ipv4(ip) => IpAddr::V4(ip.header().source_addr()),
        NetSlice::Ipv6(ip) => IpAddr::V6(ip.header().source_addr()),
        NetSlice::Arp(_) => return None,
    };
    Some((from, carried(packet.transport.as_ref()?)))
}

/// The address that a host has on its link by itself (RFC 4291, appendix A).
pub(crate) fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    let interface = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    Ipv6Addr::from_bits(0xfe80_u128 << 112 | u128::from(u64::from_be_bytes(interface)))
}

/// Whether no option of a discovery message tells of another hardware address (RFC 4861, section 4.6).
fn names_hardware(icmp: &Icmpv6Slice<'_>, mac: Mac) -> bool {
    /// Bytes before the options: 4 more of a router solicitation's header, an address more in the others.
    const ROUTER_SOLICITATION: u8 = 133;
    const HEADER_BYTES: usize = 8;
    let body = if icmp.type_u8() == ROUTER_SOLICITATION { 0 } else { 16 };
    let Some(mut options) = icmp.slice().get(HEADER_BYTES + body..) else {
        return false;
    };
    while let [kind, units, ..] = options {
        let bytes = usize::from(*units) * 8;
        let Some((option, rest)) = options.split_at_checked(bytes).filter(|_| bytes > 0) else {
            return false;
        };
        // Source and target link-layer address.
        if matches!(kind, 1 | 2) && option.get(2..8) != Some(&mac) {
            return false;
        }
        options = rest;
    }
    options.is_empty()
}
