//! Network of this host: its addresses, default routes and resolvers.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use ipnet::{IpNet, Ipv4Net};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::net::UnixDatagram;

use crate::process::watched;

const ROUTES_V4: &str = "/proc/net/route";
/// `RTF_REJECT` of linux/route.h: no route at all.
const REJECT: u32 = 0x200;

/// Network of this host at one moment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Host {
    /// Addresses of the host itself.
    pub(super) addresses: Vec<IpAddr>,
    /// Interface of the host's default route over IPv4, if any; `way_v6` is the one over IPv6.
    pub(super) way_v4: Option<String>,
    pub(super) way_v6: Option<String>,
    /// Resolvers that the host asks for names.
    pub(super) resolvers: Vec<IpAddr>,
}

impl Host {
    /// Reads the host's current network.
    pub(super) fn look() -> io::Result<Self> {
        let mut addresses: Vec<IpAddr> = getifaddrs()?
            .filter_map(|interface| {
                let address = interface.address?;
                let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
                v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
            })
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        // A kernel without IPv6 has no such file.
        let routes = |path| fs::read_to_string(path).unwrap_or_default();
        Ok(Self {
            addresses,
            way_v4: default_v4(&routes(ROUTES_V4)),
            way_v6: default_v6(&routes("/proc/net/ipv6_route")),
            resolvers: resolvers(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default()),
        })
    }

    /// Returns networks that no user-defined network should overlap: the host's own addresses, and its routes beside
    /// the default one.
    pub(super) fn networks(&self) -> Vec<IpNet> {
        let own = self.addresses.iter().map(|address| IpNet::from(*address));
        own.chain(networks_v4(&fs::read_to_string(ROUTES_V4).unwrap_or_default()))
            .collect()
    }
}

/// Returns this host's address on its default route, by which others reach it. Asks only the kernel: connecting a UDP
/// socket sends nothing.
pub(crate) fn address() -> Option<IpAddr> {
    // Addresses reserved for documentation (RFC 5737 and 3849): routed like every address without a route of its own.
    let by = |own: SocketAddr, other: IpAddr| {
        let socket = UdpSocket::bind(own).ok()?;
        socket.connect((other, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_loopback())
    };
    let v4 = by((Ipv4Addr::UNSPECIFIED, 0).into(), Ipv4Addr::new(192, 0, 2, 1).into());
    v4.or_else(|| {
        let other = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
        by((Ipv6Addr::UNSPECIFIED, 0).into(), other.into())
    })
}

/// Watch of changes of this host's addresses (`rtnetlink(7)`), which needs no privilege.
#[derive(Debug)]
pub(super) struct AddressWatch(UnixDatagram);

impl AddressWatch {
    /// Starts watching for changes from now on.
    pub(super) fn start() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let kernel = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        let groups = (libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR).cast_unsigned();
        bind(kernel.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self(watched(kernel)?))
    }

    /// Waits for one or several changes. The host's network, read again, says more exactly what changed.
    pub(super) async fn changed(&self) -> io::Result<()> {
        let receive = || match rustix::net::recv(&self.0, &mut [0; 16], RecvFlags::DONTWAIT) {
            // More messages arrived than the kernel keeps for this socket.
            Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        };
        self.0.async_io(Interest::READABLE, receive).await?;
        // Discards the other pending messages.
        while self.0.try_io(Interest::READABLE, receive).is_ok() {}
        Ok(())
    }
}

/// Parses the networks of an IPv4 routing table. Destinations and masks are printed as numbers in the host's byte
/// order, of bytes in network order (see below).
fn networks_v4(table: &str) -> Vec<IpNet> {
    let network = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let address = |at: usize| {
            let number = u32::from_str_radix(fields.get(at)?, 16).ok()?;
            Some(Ipv4Addr::from(number.to_ne_bytes()))
        };
        let network = Ipv4Net::with_netmask(address(1)?, address(7)?).ok()?;
        (network.prefix_len() > 0).then_some(IpNet::V4(network))
    };
    table.lines().skip(1).filter_map(network).collect()
}

/// Parses the lines `nameserver ADDRESS` of resolv.conf(5).
fn resolvers(file: &str) -> Vec<IpAddr> {
    let resolver = |line: &str| {
        let address = line.strip_prefix("nameserver")?.trim();
        // A zone (`%eth0`) is cut off: passt(1) does not read it either.
        address.split('%').next()?.parse().ok()
    };
    file.lines().filter_map(resolver).collect()
}

/// Interface of the IPv4 default route. Fields as in `fib_route_seq_show` of net/ipv4/fib_trie.c: interface,
/// destination, gateway, flags, three numbers, mask.
fn default_v4(table: &str) -> Option<String> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let flags = u32::from_str_radix(fields.get(3)?, 16).ok()?;
        let is_default = fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000");
        (is_default && flags & REJECT == 0).then(|| fields[0].into())
    })
}

/// Interface of the IPv6 default route. Fields as in `rt6_info_route` of net/ipv6/route.c: destination and its length,
/// source and its length, next hop, three numbers, flags, interface.
fn default_v6(table: &str) -> Option<String> {
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let flags = u32::from_str_radix(fields.get(8)?, 16).ok()?;
        let is_default = fields[0].bytes().all(|b| b == b'0') && fields[1] == "00";
        let interface = *fields.last()?;
        (is_default && interface != "lo" && flags & REJECT == 0).then(|| interface.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_found() {
        let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
        let link = "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let default = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        assert_eq!(default_v4(&format!("{head}{link}{default}")).as_deref(), Some("eth0"));
        assert_eq!(default_v4(&format!("{head}{link}")).or(default_v4("")), None);
        let networks = networks_v4(&format!("{head}{link}{default}"));
        if cfg!(target_endian = "little") {
            assert_eq!(networks, ["192.0.2.0/24".parse().unwrap()]);
        }
        let zero = "0".repeat(32);
        let line = |flags, interface| format!("{zero} 00 {zero} 00 {zero} 00000400 1 0 {flags} {interface}\n");
        assert_eq!(default_v6(&line("00000003", "eth0")).as_deref(), Some("eth0"));
        let longer = line("00000003", "eth0").replace(" 00 ", " 40 ");
        for other in [line("00200200", "lo"), line("00000203", "eth0"), longer] {
            assert_eq!(default_v6(&other), None);
        }
    }

    #[test]
    fn resolvers_are_found() {
        let file = "# nameserver 10.0.0.1\nsearch a\nnameserver 192.0.2.1\nnameserver\tfe80::1%eth0\nnameserver x\n";
        assert_eq!(
            resolvers(file),
            ["192.0.2.1", "fe80::1"].map(|text| text.parse::<IpAddr>().unwrap())
        );
    }

    #[test]
    fn loopback_is_an_address_of_every_host() {
        let host = Host::look().unwrap();
        assert!(host.addresses.contains(&IpAddr::from([127, 0, 0, 1])));
    }
}
