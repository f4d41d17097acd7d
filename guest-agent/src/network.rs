//! The machine's network device, and how a container gets it. It begins in the agent's network namespace, is moved to the
//! container's, or its pod's, and set up there: the agent itself has no network.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use capsid_protocol::spec::{Address, Network};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;

/// The kernel's name for its first network device.
const NAME: &str = "eth0";
/// The least, usual and largest buffer of what a TCP connection received: see [`RECEIVE_BUFFERS`].
const TCP_RMEM: &str = "/proc/sys/net/ipv4/tcp_rmem";
/// The other end of the device is on the same machine and ends connections itself, so that a window of 256 KiB is wide
/// for any distance; one of megabytes is more than the socket between holds, and what that does not hold is sent again
/// after seconds.
const RECEIVE_BUFFERS: &str = "4096 131072 524288";
/// Where the kernel is told not to speak IPv6.
const DISABLE_V6: &str = "/proc/sys/net/ipv6/conf/eth0/disable_ipv6";

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    /// Netlink.
    #[error("cannot speak to the kernel of networks")]
    Netlink(#[source] io::Error),
    /// The namespace to move to.
    #[error("cannot open the network namespace")]
    Namespace(#[source] io::Error),
    /// One step.
    #[error("cannot {step}")]
    Step {
        step: &'static str,
        #[source]
        source: io::Error,
    },
    /// Neither 4 nor 16 bytes, or of two kinds.
    #[error("the spec has an address that is none")]
    Address,
}

/// The device where it begins, and who may move it.
pub(crate) struct Device(Netlink);

impl Device {
    /// In the namespace of the calling thread, which may leave it then.
    pub(crate) fn here() -> Result<Self, NetworkError> {
        Ok(Self(Netlink::open()?))
    }

    /// Moves it to the namespace that the calling thread is in now, and sets it up.
    pub(crate) fn bring(self, network: &Network) -> Result<(), NetworkError> {
        let namespace = File::open("/proc/thread-self/ns/net").map_err(NetworkError::Namespace)?;
        let mut link = named();
        link.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
        self.0
            .ask("move the network device", RouteNetlinkMessage::SetLink(link), 0)?;
        set_up(network)
    }
}

fn set_up(network: &Network) -> Result<(), NetworkError> {
    let addresses: Option<Vec<_>> = network.addresses.iter().map(parse).collect();
    let addresses = addresses.ok_or(NetworkError::Address)?;
    let kernel = Netlink::open()?;
    if addresses.iter().all(|(address, ..)| address.is_ipv4()) {
        // Nobody would answer. A kernel without IPv6 has no such file.
        let _ = std::fs::write(DISABLE_V6, "1");
    }
    std::fs::write(TCP_RMEM, RECEIVE_BUFFERS).map_err(|source| NetworkError::Step {
        step: "set the size of receive buffers",
        source,
    })?;
    let mut link = named();
    link.attributes.push(LinkAttribute::Mtu(network.mtu));
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    kernel.ask("start the network device", RouteNetlinkMessage::SetLink(link), 0)?;
    let index = rustix::net::netdevice::name_to_index(&kernel.0, NAME).map_err(|e| NetworkError::Netlink(e.into()))?;
    for (address, prefix_bits, gateway) in addresses {
        let request = RouteNetlinkMessage::NewAddress(address_message(index, address, prefix_bits));
        kernel.ask("set the network address", request, NLM_F_CREATE | NLM_F_EXCL)?;
        let Some(gateway) = gateway else { continue };
        let request = RouteNetlinkMessage::NewRoute(default_route(index, gateway));
        kernel.ask("set the default route", request, NLM_F_CREATE | NLM_F_EXCL)?;
    }
    Ok(())
}

/// A question about the device, by its name.
fn named() -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(NAME.into()));
    link
}

fn address_message(index: u32, address: IpAddr, prefix_bits: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = prefix_bits;
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    if address.is_ipv6() {
        // The host gives an address once: there is no need to ask the link whether it is free, for a second.
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

fn default_route(index: u32, gateway: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(gateway),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Boot,
        scope: RouteScope::Universe,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    let gateway = match gateway {
        IpAddr::V4(gateway) => RouteAddress::Inet(gateway),
        IpAddr::V6(gateway) => RouteAddress::Inet6(gateway),
    };
    message.attributes = vec![RouteAttribute::Gateway(gateway), RouteAttribute::Oif(index)];
    message
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// Address, length of the prefix, and the gateway if there is one; of one kind.
fn parse(address: &Address) -> Option<(IpAddr, u8, Option<IpAddr>)> {
    let own = ip(&address.address)?;
    let gateway = match &address.gateway[..] {
        [] => None,
        bytes => Some(ip(bytes)?),
    };
    let bits_max = address.address.len() as u32 * 8;
    let is_same_kind = gateway.is_none_or(|gateway| gateway.is_ipv4() == own.is_ipv4());
    let is_good = is_same_kind && address.prefix_bits <= bits_max;
    is_good.then_some((own, address.prefix_bits as u8, gateway))
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|bytes| IpAddr::V4(Ipv4Addr::from(bytes)));
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|bytes| IpAddr::V6(Ipv6Addr::from(bytes))))
        .ok()
}

/// A socket to the kernel, in the namespace that it was opened in.
struct Netlink(Socket);

impl Netlink {
    fn open() -> Result<Self, NetworkError> {
        Ok(Self(Socket::new(NETLINK_ROUTE).map_err(NetworkError::Netlink)?))
    }

    /// Asks for one thing, and waits until it is done.
    fn ask(&self, step: &'static str, request: RouteNetlinkMessage, flags: u16) -> Result<(), NetworkError> {
        let fail = |source| NetworkError::Step { step, source };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.0.send(&bytes, 0).map_err(fail)?;
        let (answer, _) = self.0.recv_from_full().map_err(fail)?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer);
        match answer.map(|answer| answer.payload) {
            Ok(NetlinkPayload::Error(error)) if error.code.is_none() => Ok(()),
            Ok(NetlinkPayload::Error(error)) => Err(fail(error.to_io())),
            _ => Err(fail(io::ErrorKind::InvalidData.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_may_be_without_a_gateway() {
        let parse = |address: &[u8], prefix_bits, gateway: &[u8]| {
            parse(&Address {
                address: address.into(),
                prefix_bits,
                gateway: gateway.into(),
            })
        };
        let own = IpAddr::from([10, 89, 0, 2]);
        let gateway = IpAddr::from([10, 89, 0, 1]);
        assert_eq!(
            parse(&[10, 89, 0, 2], 24, &[10, 89, 0, 1]),
            Some((own, 24, Some(gateway)))
        );
        assert_eq!(parse(&[10, 89, 0, 2], 24, &[]), Some((own, 24, None)));
        assert_eq!(parse(&[10, 89, 0, 2], 33, &[]), None);
        assert_eq!(parse(&[10, 89, 0, 2], 24, &[0; 16]), None);
        assert_eq!(parse(&[10, 89, 0], 24, &[]), None);
    }
}
