//! The network device in its place, and what can be set on it.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::Netlink;
use super::setting::Setting;
use super::{NAME, NetworkError};

/// Tells the agent's routes to single addresses from those that a container makes (`ip route` says `boot`).
const HOST_ROUTES: RouteProtocol = RouteProtocol::Static;

/// It, in the network namespace of the thread that found it.
pub(super) struct Interface {
    kernel: Netlink,
    index: u32,
}

impl Interface {
    pub(super) fn find() -> Result<Self, NetworkError> {
        let kernel = Netlink::open()?;
        let index = rustix::net::netdevice::name_to_index(&kernel, NAME)
            .map_err(|e| NetworkError::step("find the network device", e.into()))?;
        Ok(Self { kernel, index })
    }

    /// Lets it send and receive, packets of `mtu` bytes at most.
    pub(super) fn start(&self, mtu: u32) -> Result<(), NetworkError> {
        let mut link = LinkMessage::default();
        link.header.index = self.index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        link.attributes.push(LinkAttribute::Mtu(mtu));
        self.kernel
            .ask("start the network device", RouteNetlinkMessage::SetLink(link), 0)
    }

    pub(super) fn add(&self, setting: Setting) -> Result<(), NetworkError> {
        let request = match setting {
            Setting::Address { address, prefix_bits } => {
                RouteNetlinkMessage::NewAddress(self.address(address, prefix_bits))
            }
            Setting::Neighbour(address) => RouteNetlinkMessage::NewRoute(self.host_route(address)),
            Setting::Default(gateway) => RouteNetlinkMessage::NewRoute(self.default_route(gateway)),
        };
        self.kernel
            .ask(&format!("set {setting}"), request, NLM_F_CREATE | NLM_F_EXCL)
    }

    fn address(&self, address: IpAddr, prefix_bits: u8) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.prefix_len = prefix_bits;
        message.header.index = self.index;
        message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
        if address.is_ipv6() {
            // The host gives an address once: there is no need to ask the link whether it is free, for a second.
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        message
    }

    fn host_route(&self, address: IpAddr) -> RouteMessage {
        let mut message = self.route(address, HOST_ROUTES, RouteScope::Link);
        message.header.destination_prefix_length = host_bits(address);
        message.attributes.push(RouteAttribute::Destination(address.into()));
        message
    }

    fn default_route(&self, gateway: IpAddr) -> RouteMessage {
        let mut message = self.route(gateway, RouteProtocol::Boot, RouteScope::Universe);
        message.attributes.push(RouteAttribute::Gateway(gateway.into()));
        message
    }

    /// A route out of the device, of the kind of `address`.
    fn route(&self, address: IpAddr, protocol: RouteProtocol, scope: RouteScope) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family(address),
            table: RouteHeader::RT_TABLE_MAIN,
            protocol,
            scope,
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        message.attributes.push(RouteAttribute::Oif(self.index));
        message
    }
}

/// The length of a prefix that is one address.
fn host_bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
