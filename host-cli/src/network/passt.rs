//! Command line of passt. It gets no privilege from this process: as root it becomes nobody, and it confines itself.
//!
//! No address leads a guest to this host's loopback: passt's own mapping of the gateway is off. Traffic from loopback,
//! through a published port, comes from the gateway's address or from the one that passt has on the guest's link. An
//! answer to it is part of the same connection, or of the same UDP flow. passt without a table of such flows (before
//! 2024-07-26) would send a datagram to the gateway's address itself; there the network device sends it to 127.0.0.1,
//! see [`capsid_vmm::segments::Uplink::loopback_alias`].

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use capsid_vmm::egress::Protocol;
use rustix::net::sockopt;

use super::host::Host;
use super::{GATEWAY_MAC, GuestNetwork, NetworkError};
use crate::install_paths;
use crate::model::{NetworkConfig, PublishedPort, mac_words};
use crate::process::{HandedFiles, Sidecar};

/// Name of the sidecar in messages to users.
pub(super) const NAME: &str = "the network helper passt";
/// Number of bytes that may wait in the machine's socket, with the kernel's overhead: some thousand short frames.
const SEND_BYTES: usize = 2 << 20;

/// Options that turn off further mappings of the host's addresses, in passt since 2024-08-21.
const LATER_OPTIONS: [&str; 2] = ["--map-host-loopback", "--map-guest-addr"];

/// Running passt process.
pub(super) struct Passt {
    /// Socket of the machine. passt ends when it is closed.
    pub(super) machine: UnixStream,
    pub(super) sidecar: Sidecar,
    /// Whether this passt knows which datagrams answer which.
    pub(super) tracks_udp: bool,
}

/// Starts passt for a pod's uplink.
pub(super) fn start(config: &NetworkConfig, host: &Host, guest: &GuestNetwork) -> Result<Passt, NetworkError> {
    let program = install_paths::passt()?;
    let later = later_options(&program);
    let (machine, ours) = UnixStream::pair().map_err(NetworkError::Socket)?;
    widen(&ours);
    let mut files = HandedFiles::default();
    let socket = files.add(ours);
    let arguments = arguments(config, host, guest, (socket, &later));
    let sidecar = Sidecar::start(NAME, &program, &arguments, files)?;
    Ok(Passt {
        machine,
        sidecar,
        tracks_udp: !later.is_empty(),
    })
}

/// Returns the [`LATER_OPTIONS`] that this passt has; none if its help cannot be read.
fn later_options(program: &Path) -> Vec<&'static str> {
    let mut command = Command::new(program);
    let asked = command.arg("--help").stdin(Stdio::null()).output();
    let knows = |option: &&'static str| {
        let said = asked.as_ref().ok();
        // Older versions print their help on standard error.
        said.is_some_and(|said| [&said.stdout, &said.stderr].into_iter().any(|text| names(text, option)))
    };
    LATER_OPTIONS.into_iter().filter(knows).collect()
}

fn names(text: &[u8], option: &str) -> bool {
    String::from_utf8_lossy(text)
        .split_whitespace()
        .any(|word| word == option)
}

/// Enlarges a socket's send buffer, so that more frames can wait for a slow machine. passt drops frames that do not
/// fit, and sends them again after seconds, three times. The buffer becomes as large as this user may have, which
/// exceeds the default even without privileges.
fn widen(socket: &UnixStream) {
    if sockopt::set_socket_send_buffer_size_force(socket, SEND_BYTES).is_err() {
        // The size is cut down to what is permitted. The previous size is good enough, too.
        let _ = sockopt::set_socket_send_buffer_size(socket, SEND_BYTES);
    }
}

fn arguments(
    config: &NetworkConfig,
    host: &Host,
    guest: &GuestNetwork,
    (socket, later): (i32, &[&'static str]),
) -> Vec<String> {
    let mut words: Vec<String> = [
        "--foreground",
        "--quiet",
        "--stderr",
        // The agent configures the guest's interface itself.
        "--no-dhcp",
        "--no-dhcpv6",
        "--no-ra",
        "--no-map-gw",
    ]
    .map(String::from)
    .to_vec();
    let mut add = |flag: &str, value: String| words.extend([flag.into(), value]);
    for option in later {
        add(option, "none".into());
    }
    add("--fd", socket.to_string());
    add("--mac-addr", mac_words(GATEWAY_MAC));
    for link in guest.links() {
        let Some(gateway) = link.gateway else {
            continue;
        };
        add("--address", link.address.to_string());
        // passt knows no other prefix length for IPv6.
        if link.address.is_ipv4() {
            add("--netmask", link.prefix_bits.to_string());
        }
        add("--gateway", gateway.to_string());
    }
    add("--dns-forward", guest.resolver().to_string());
    for resolver in &config.dns {
        add("--dns", resolver.to_string());
    }
    for (flag, protocol) in [("--tcp-ports", Protocol::Tcp), ("--udp-ports", Protocol::Udp)] {
        let of = |port: &&PublishedPort| port.protocol == protocol;
        let ports: Vec<&PublishedPort> = config.ports.iter().filter(of).collect();
        if ports.is_empty() {
            // Without an option, the UDP ports follow the TCP ones.
            add(flag, "none".into());
        }
        for run in runs(&ports) {
            add(flag, run);
        }
    }
    // An IP version without a default route is off: passt would accept connections that it has no guest address for.
    let (leads_v4, leads_v6) = (guest.leads(true), guest.leads(false));
    let mut family = match (leads_v4, leads_v6) {
        (true, true) => Vec::new(),
        (_, false) => vec!["--ipv4-only"],
        (false, true) => vec!["--ipv6-only"],
    };
    if leads_v4 && host.way_v4.is_none() || leads_v6 && host.way_v6.is_none() {
        // Without a default route of the host there is no way out, but published ports work all the same. passt
        // requires an interface anyway, and for IPv6 one with a link-local address.
        let way = host.way_v4.as_deref().or(host.way_v6.as_deref());
        family.extend(["--interface", way.unwrap_or("lo")]);
    }
    words.extend(family.into_iter().map(String::from));
    words
}

/// Formats published ports for passt's command line, consecutive ones as one range.
fn runs(ports: &[&PublishedPort]) -> Vec<String> {
    let mut ports: Vec<PublishedPort> = ports.iter().map(|port| **port).collect();
    ports.sort_unstable_by_key(|port| (port.host, port.container));
    let range = |first: u16, last: u16| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    };
    ports
        .chunk_by(PublishedPort::is_followed_by)
        .filter_map(|run| {
            let (first, last) = (run.first()?, run.last()?);
            let host = range(first.host.port(), last.host.port());
            let container = range(first.container, last.container);
            Some(format!("{}{host}:{container}", place(first.host)))
        })
        .collect()
}

/// Formats the address that passt listens at. The IPv6 unspecified address becomes an empty string: passt listens
/// everywhere then.
fn place(host: SocketAddr) -> String {
    match host.ip() {
        ip if ip.is_unspecified() && ip.is_ipv6() => String::new(),
        ip => format!("{ip}/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::default_route::DefaultRoute;
    use crate::network::pod_networks::PodNetworks;

    #[test]
    fn options_are_found_in_what_passt_says_of_itself() {
        let said =
            b"  --no-map-gw\t\tDon't\n  --map-host-loopback ADDR\tTranslate\n    can be none, see --map-guest-address";
        assert!(names(said, "--map-host-loopback") && names(said, "--no-map-gw"));
        assert!(!names(said, "--map-guest-addr"));
    }

    #[test]
    fn no_option_maps_an_address_to_this_host() {
        let host = Host {
            way_v4: Some("eth0".into()),
            ..Host::default()
        };
        let config = crate::state::tests::plain(1);
        let pod_networks = PodNetworks {
            id: "1",
            name: "web",
            hostname: "web",
            config: Some(&config),
            networks: Vec::new(),
        };
        let guest = GuestNetwork::of(&pod_networks, &config, &DefaultRoute::Own, &host);
        let words = |later: &[&'static str]| arguments(&config, &host, &guest, (7, later));
        let old = words(&[]);
        assert!(old.contains(&"--no-map-gw".to_owned()), "{old:?}");
        assert!(!old.iter().any(|word| word.starts_with("--map-")), "{old:?}");
        let new = words(&LATER_OPTIONS);
        assert!(new.contains(&"--no-map-gw".to_owned()), "{new:?}");
        for option in LATER_OPTIONS {
            let at = new.iter().position(|word| word == option).unwrap();
            assert_eq!(new.get(at + 1).map(String::as_str), Some("none"), "{new:?}");
        }
        // Without published ports, nothing of this host listens for the guest.
        for flag in ["--tcp-ports", "--udp-ports"] {
            let at = new.iter().position(|word| word == flag).unwrap();
            assert_eq!(new.get(at + 1).map(String::as_str), Some("none"), "{new:?}");
        }
    }

    #[test]
    fn ports_that_follow_each_other_are_one_word() {
        let port = |host: &str, container| PublishedPort {
            container,
            protocol: Protocol::Tcp,
            host: host.parse().unwrap(),
            host_last: 0,
        };
        let ports = [
            port("127.0.0.1:8001", 81),
            port("127.0.0.1:8000", 80),
            port("127.0.0.1:8003", 83),
            port("127.0.0.1:8004", 90),
            port("0.0.0.0:53", 53),
            port("[::1]:8002", 82),
            port("[::]:99", 99),
        ];
        let ports: Vec<&PublishedPort> = ports.iter().collect();
        assert_eq!(
            runs(&ports),
            [
                "0.0.0.0/53:53",
                "127.0.0.1/8000-8001:80-81",
                "127.0.0.1/8003:83",
                "127.0.0.1/8004:90",
                "99:99",
                "::1/8002:82"
            ]
        );
    }
}
