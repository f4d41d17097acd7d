//! The network device in its namespace, and the settings that can be made on it.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::Netlink;
use super::setting::{Route, Setting};
use super::{NAME, NetworkError};

/// Protocol of the agent's routes to single addresses, unlike those that a container makes (`boot` in `ip route`).
const HOST_ROUTES: RouteProtocol = RouteProtocol::Static;

/// Network device in the namespace of the thread that found it.
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

    /// Starts the device, with packets of `mtu` bytes at most.
    pub(super) fn start(&self, mtu: u32) -> Result<(), NetworkError> {
        let mut link = LinkMessage::default();
        link.header.index = self.index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        link.attributes.push(LinkAttribute::Mtu(mtu));
        self.kernel
            .ask("start the network device", RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Returns the device's settings, in the order in which they were made: addresses, and the routes through it that
    /// are the agent's concern.
    pub(super) fn settings(&self) -> Result<Vec<Setting>, NetworkError> {
        let kinds = [AddressFamily::Inet, AddressFamily::Inet6];
        let mut settings = Vec::new();
        for kind in kinds {
            let mut request = AddressMessage::default();
            request.header.family = kind;
            request.header.index = self.index;
            let request = RouteNetlinkMessage::GetAddress(request);
            let read = |entry| self.read_address(kind, entry);
            settings.extend(self.kernel.list("read the network addresses", request, read)?);
        }
        for kind in kinds {
            let mut request = RouteMessage::default();
            request.header.address_family = kind;
            request.attributes.push(RouteAttribute::Oif(self.index));
            let request = RouteNetlinkMessage::GetRoute(request);
            let read = |entry| self.read_route(kind, entry);
            settings.extend(self.kernel.list("read the routes", request, read)?);
        }
        Ok(settings)
    }

    /// Parses an address of the device, of the requested kind: a kernel that lacks it reports others.
    fn read_address(&self, kind: AddressFamily, entry: RouteNetlinkMessage) -> Option<Setting> {
        let RouteNetlinkMessage::NewAddress(message) = entry else {
            return None;
        };
        let (mut local, mut address) = (None, None);
        for attribute in message.attributes {
            match attribute {
                AddressAttribute::Local(own) => local = Some(own),
                AddressAttribute::Address(own) => address = Some(own),
                _ => {}
            }
        }
        let setting = Setting::Address {
            // If there are both, the second may be the peer's.
            address: local.or(address)?,
            prefix_bits: message.header.prefix_len,
        };
        let is_own = message.header.family == kind && message.header.index == self.index;
        is_own.then_some(setting)
    }

    /// Parses a default route, whoever made it, or a route to a single address that the agent made.
    fn read_route(&self, kind: AddressFamily, entry: RouteNetlinkMessage) -> Option<Setting> {
        let RouteNetlinkMessage::NewRoute(RouteMessage { header, attributes, .. }) = entry else {
            return None;
        };
        let is_own = header.address_family == kind
            && header.table == RouteHeader::RT_TABLE_MAIN
            && header.kind == RouteType::Unicast
            && attributes.contains(&RouteAttribute::Oif(self.index));
        let (mut destination, mut gateway, mut source) = (None, None, None);
        for attribute in &attributes {
            match attribute {
                RouteAttribute::Destination(address) => destination = Some(ip(address)?),
                RouteAttribute::Gateway(address) => gateway = Some(ip(address)?),
                RouteAttribute::PrefSource(address) => source = Some(ip(address)?),
                _ => {}
            }
        }
        let is_agents =
            |address| header.protocol == HOST_ROUTES && header.destination_prefix_length == host_bits(address);
        match (destination, gateway) {
            (None, Some(by)) if is_own => Some(Setting::DefaultRoute(Route { by, source })),
            (Some(by), None) if is_own && is_agents(by) => Some(Setting::LinkRoute(Route { by, source })),
            _ => None,
        }
    }

    /// Adds a setting, in place of a similar one that a container made.
    pub(super) fn add(&self, setting: Setting) -> Result<(), NetworkError> {
        let request = match setting {
            Setting::Address { address, prefix_bits } => {
                RouteNetlinkMessage::NewAddress(self.address(address, prefix_bits))
            }
            Setting::LinkRoute(route) => RouteNetlinkMessage::NewRoute(self.host_route(route)),
            Setting::DefaultRoute(route) => RouteNetlinkMessage::NewRoute(self.default_route(route)),
        };
        self.kernel
            .ask(&format!("set {setting}"), request, NLM_F_CREATE | NLM_F_REPLACE)
    }

    pub(super) fn remove(&self, setting: Setting) -> Result<(), NetworkError> {
        let request = match setting {
            Setting::Address { address, prefix_bits } => {
                RouteNetlinkMessage::DelAddress(self.address(address, prefix_bits))
            }
            Setting::LinkRoute(route) => RouteNetlinkMessage::DelRoute(self.host_route(route)),
            Setting::DefaultRoute(route) => {
                let mut route = self.default_route(route);
                // Matches any protocol, whoever made the route.
                route.header.protocol = RouteProtocol::Unspec;
                RouteNetlinkMessage::DelRoute(route)
            }
        };
        match self.kernel.ask(&format!("remove {setting}"), request, 0) {
            // Removed with something else, such as addresses of its subnet with an address.
            Err(NetworkError::Step { source, .. })
                if matches!(source.raw_os_error(), Some(libc::ESRCH | libc::EADDRNOTAVAIL)) =>
            {
                Ok(())
            }
            result => result,
        }
    }

    fn address(&self, address: IpAddr, prefix_bits: u8) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.prefix_len = prefix_bits;
        message.header.index = self.index;
        message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
        if address.is_ipv6() {
            // The host assigns an address once: there is no need to ask the link for a second whether it is free.
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        message
    }

    fn host_route(&self, route: Route) -> RouteMessage {
        let mut message = self.route(route, HOST_ROUTES, RouteScope::Link);
        message.header.destination_prefix_length = host_bits(route.by);
        message.attributes.push(RouteAttribute::Destination(route.by.into()));
        message
    }

    fn default_route(&self, route: Route) -> RouteMessage {
        let mut message = self.route(route, RouteProtocol::Boot, RouteScope::Universe);
        message.attributes.push(RouteAttribute::Gateway(route.by.into()));
        message
    }

    /// Builds a route through the device.
    fn route(&self, route: Route, protocol: RouteProtocol, scope: RouteScope) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family(route.by),
            table: RouteHeader::RT_TABLE_MAIN,
            protocol,
            scope,
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        message.attributes.push(RouteAttribute::Oif(self.index));
        if let Some(source) = route.source {
            message.attributes.push(RouteAttribute::PrefSource(source.into()));
        }
        message
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// Returns the prefix length of a single address.
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
