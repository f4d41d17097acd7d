//! Ports of the host: chosen when a container is created, checked again at each start. passt binds them itself; the
//! check here gives a clear error when it could not.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use capsid_vmm::egress::{Ports, Protocol};
use capsid_vmm::segments::Published;
use tokio::time::{sleep, timeout};

use crate::model::PublishedPort;

/// Time limit for passt to bind its ports: milliseconds on a host that is not very busy.
const BOUND_TIMEOUT: Duration = Duration::from_secs(10);
const BOUND_LOOK_EVERY: Duration = Duration::from_millis(10);
/// State of a listening socket in `/proc/net/tcp` (`include/net/tcp_states.h`).
const TCP_LISTEN: &str = "0A";
/// State of a bound socket without a peer in `/proc/net/udp`.
const UDP_UNCONNECTED: &str = "07";

/// Error when a port of the host cannot be published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PortError {
    #[error("port {0} is in use on this host")]
    InUse(String),
    #[error(
        "port {0} needs more rights than this user has: use one from 1024 on, or lower net.ipv4.ip_unprivileged_port_start"
    )]
    Privileged(String),
    #[error("cannot publish at {0}: this host has no such address")]
    Address(String),
    #[error("cannot publish at {name}")]
    Other {
        name: String,
        #[source]
        source: io::Error,
    },
}

/// Port of the host that stays bound while this value is kept.
#[derive(Debug)]
enum Taken {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Taken {
    fn port(&self) -> io::Result<u16> {
        let address = match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Udp(socket) => socket.local_addr(),
        };
        address.map(|address| address.port())
    }
}

/// Chooses a free port for each entry that has none or a range. All are bound at once, so that none is chosen twice.
pub(crate) fn choose(ports: &mut [PublishedPort]) -> Result<(), PortError> {
    let mut taken = Vec::new();
    let given: Vec<_> = ports
        .iter()
        .filter(|port| port.host_last == 0)
        .map(|port| (port.host, port.protocol))
        .collect();
    for port in ports.iter_mut().filter(|port| port.host_last > 0) {
        taken.push(choose_of_range(port, &given)?);
    }
    for port in ports.iter_mut().filter(|port| port.host.port() == 0) {
        let one = take(port)?;
        let number = one.port().map_err(|source| PortError::Other {
            name: port.host.to_string(),
            source,
        })?;
        port.host.set_port(number);
        taken.push(one);
    }
    Ok(())
}

/// Whether two addresses cannot be listened to at the same time. The unspecified address includes each interface's.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let is_all = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && (is_all || one.ip() == other.ip())
}

/// Binds the first port of a range that is free, and that no other flag names.
fn choose_of_range(port: &mut PublishedPort, given: &[(SocketAddr, Protocol)]) -> Result<Taken, PortError> {
    let (first, last) = (port.host, std::mem::take(&mut port.host_last));
    for number in first.port()..=last {
        port.host.set_port(number);
        let collides =
            |(host, protocol): &(SocketAddr, Protocol)| *protocol == port.protocol && overlap(*host, port.host);
        if given.iter().any(collides) {
            continue;
        }
        match take(port) {
            Err(PortError::InUse(_)) => {}
            taken => return taken,
        }
    }
    let protocol = crate::model::protocol_name(port.protocol);
    Err(PortError::InUse(format!("{first}-{last}/{protocol}")))
}

/// Checks that all ports can be bound.
pub(super) fn check(ports: &[PublishedPort]) -> Result<(), PortError> {
    ports.iter().try_for_each(|port| take(port).map(drop))
}

/// Waits until all ports are bound: passt binds them a moment after it was started. Gives up when it does not, which
/// ends the machine with passt's own reason.
pub(super) async fn bound(ports: Vec<PublishedPort>) {
    if ports.is_empty() {
        return;
    }
    let ports = Arc::new(ports);
    let wait = async {
        loop {
            // The tables of a host with many sockets take a while.
            let all = Arc::clone(&ports);
            let looked = tokio::task::spawn_blocking(move || are_bound(&all)).await;
            if looked.unwrap_or(true) {
                return;
            }
            sleep(BOUND_LOOK_EVERY).await;
        }
    };
    let _ = timeout(BOUND_TIMEOUT, wait).await;
}

/// Whether processes of this network namespace have bound all ports.
fn are_bound(ports: &[PublishedPort]) -> bool {
    let bound = |tables: [&str; 2], state| {
        let read = |table| fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        let tables = tables.map(read);
        tables
            .iter()
            .flat_map(|table| local_ports(table, state))
            .collect::<BTreeSet<u16>>()
    };
    let is_udp = |port: &&PublishedPort| port.protocol == Protocol::Udp;
    let (udp, tcp): (Vec<_>, Vec<_>) = ports.iter().partition(is_udp);
    let all_in = |ports: Vec<&PublishedPort>, tables, state| {
        ports.is_empty() || {
            let bound = bound(tables, state);
            ports.iter().all(|port| bound.contains(&port.host.port()))
        }
    };
    all_in(tcp, ["tcp", "tcp6"], TCP_LISTEN) && all_in(udp, ["udp", "udp6"], UDP_UNCONNECTED)
}

/// Returns the local ports of the sockets in this state, of a table of sockets (`proc_pid_net(5)`).
fn local_ports(table: &str, state: &str) -> Vec<u16> {
    let port = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let local = words.nth(1)?.rsplit(':').next()?;
        let is_in_state = words.nth(1) == Some(state);
        u16::from_str_radix(local, 16).ok().filter(|_| is_in_state)
    };
    table.lines().skip(1).filter_map(port).collect()
}

/// Returns the published ports of the guest, consecutive ones as one range.
pub(super) fn published(ports: &[PublishedPort]) -> Vec<Published> {
    let mut of_guest: Vec<(Protocol, u16)> = ports.iter().map(|port| (port.protocol, port.container)).collect();
    of_guest.sort_unstable();
    of_guest.dedup();
    of_guest
        .chunk_by(|port, next| port.0 == next.0 && port.1.checked_add(1) == Some(next.1))
        .filter_map(|run| {
            let (&(protocol, first), &(_, last)) = (run.first()?, run.last()?);
            let ports = Ports { first, last };
            Some(Published { protocol, ports })
        })
        .collect()
}

fn take(port: &PublishedPort) -> Result<Taken, PortError> {
    let address: SocketAddr = port.host;
    let taken = match port.protocol {
        Protocol::Udp => UdpSocket::bind(address).map(Taken::Udp),
        _ => TcpListener::bind(address).map(Taken::Tcp),
    };
    taken.map_err(|source| {
        let name = format!("{address}/{}", crate::model::protocol_name(port.protocol));
        match source.kind() {
            io::ErrorKind::AddrInUse => PortError::InUse(name),
            io::ErrorKind::PermissionDenied => PortError::Privileged(name),
            io::ErrorKind::AddrNotAvailable => PortError::Address(address.ip().to_string()),
            _ => PortError::Other { name, source },
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(host: &str, protocol: Protocol) -> PublishedPort {
        PublishedPort {
            container: 80,
            protocol,
            host: host.parse().unwrap(),
            host_last: 0,
        }
    }

    #[test]
    fn a_bound_port_is_seen_and_one_of_a_connection_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = UdpSocket::bind("[::1]:0").unwrap();
        let at = |address: SocketAddr, protocol| are_bound(&[port(&address.to_string(), protocol)]);
        assert!(at(listener.local_addr().unwrap(), Protocol::Tcp));
        assert!(at(socket.local_addr().unwrap(), Protocol::Udp));
        assert!(!at(peer.local_addr().unwrap(), Protocol::Tcp));
        let table = "  sl  local_address rem_address   st\n   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n";
        assert_eq!(local_ports(table, TCP_LISTEN), [8080]);
        assert!(
            local_ports(table, UDP_UNCONNECTED).is_empty() && local_ports("a\nb\n1 2:zz 3 0A", TCP_LISTEN).is_empty()
        );
    }

    #[test]
    fn an_address_of_all_interfaces_overlaps_with_each() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(overlap(at("0.0.0.0:80"), at("127.0.0.1:80")));
        assert!(overlap(at("127.0.0.1:80"), at("[::]:80")));
        assert!(overlap(at("127.0.0.1:80"), at("127.0.0.1:80")));
        assert!(!overlap(at("127.0.0.1:80"), at("127.0.0.2:80")));
        assert!(!overlap(at("0.0.0.0:80"), at("0.0.0.0:81")));
    }

    #[test]
    fn ports_are_chosen_all_different_and_are_free() {
        let mut ports = vec![port("127.0.0.1:0", Protocol::Tcp); 20];
        ports.push(port("127.0.0.1:0", Protocol::Udp));
        choose(&mut ports).unwrap();
        check(&ports).unwrap();
        let mut numbers: Vec<u16> = ports[..20].iter().map(|port| port.host.port()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 20);
    }

    #[test]
    fn one_port_of_a_range_is_chosen() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap();
        let range = |last| PublishedPort {
            host_last: last,
            ..port(&host.to_string(), Protocol::Tcp)
        };
        let used = choose(&mut [range(host.port())]).unwrap_err().to_string();
        assert_eq!(used, format!("port {host}-{}/tcp is in use on this host", host.port()));
        let mut ports = [
            range(host.port().saturating_add(20)),
            range(host.port().saturating_add(20)),
        ];
        choose(&mut ports).unwrap();
        assert!(
            ports
                .iter()
                .all(|port| port.host_last == 0 && port.host.port() > host.port())
        );
        assert_ne!(ports[0].host, ports[1].host);
    }

    #[test]
    fn published_ports_of_the_guest_are_ranges() {
        let port = |container, protocol| PublishedPort {
            container,
            ..port("127.0.0.1:1", protocol)
        };
        let ports = [
            port(82, Protocol::Tcp),
            port(80, Protocol::Tcp),
            port(80, Protocol::Tcp),
            port(81, Protocol::Tcp),
            port(81, Protocol::Udp),
            port(65535, Protocol::Udp),
        ];
        let found: Vec<_> = published(&ports)
            .into_iter()
            .map(|published| (published.protocol, published.ports.first, published.ports.last))
            .collect();
        let expected = [
            (Protocol::Tcp, 80, 82),
            (Protocol::Udp, 81, 81),
            (Protocol::Udp, 65535, 65535),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_cannot_be_had_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let error = check(&[port(&address, Protocol::Tcp)]).unwrap_err().to_string();
        assert_eq!(error, format!("port {address}/tcp is in use on this host"));
        check(&[port(&address, Protocol::Udp)]).unwrap();
        assert!(matches!(
            check(&[port("203.0.113.77:1", Protocol::Tcp)]),
            Err(PortError::Address(_) | PortError::Privileged(_))
        ));
    }
}
