//! A pod's way out: a process of passt's (<https://passt.top>) that makes of the guest's frames connections of this
//! user's own, without any right; what of it is permitted is checked before, by the machine's network device.
//!
//! ```text
//!  guest eth0 ─► network device: whose, where to ─┬► socket ─► passt ─► sockets of this user's
//!                                                 │              ▲ published ports
//!                                                 └► socket ─► switch of the user's network ─► other pods
//! ```
//!
//! Every pod that is on no network of the user's has one of its own with the same addresses: no other is on its link. On
//! a user's network each pod has a passt of its own behind the same gateway, and all have the network's switch.

mod endpoint;
mod guest;
mod host;
mod passt;
mod ports;
mod switch;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use capsid_vmm::egress::Egress;
use capsid_vmm::switch::membership::Join;
use ipnet::IpNet;

use crate::accelerator::{Helper, Nic, Segment, StartError};
use crate::parts::PartError;
use crate::state::{Network, NetworkConfig};

pub(crate) use endpoint::Endpoint;
pub(crate) use guest::{GuestNetwork, Link};
pub(crate) use ports::choose as choose_ports;
pub(crate) use switch::forget;

/// The guest's address, and the link that it has with the other end. Of the space between providers and their customers
/// (RFC 6598), where hardly anybody's servers are.
const GUEST_V4: Ipv4Addr = Ipv4Addr::new(100, 96, 0, 2);
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(100, 96, 0, 1);
const PREFIX_V4: u8 = 30;
/// The same of a unique-local network (RFC 4193); its bits spell "capsid".
const GUEST_V6: Ipv6Addr = Ipv6Addr::new(0xfd63, 0x6170, 0x7369, 0x6400, 0, 0, 0, 2);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd63, 0x6170, 0x7369, 0x6400, 0, 0, 0, 1);
const PREFIX_V6: u8 = 64;
/// Hardware address of the other end.
pub(crate) const GATEWAY_MAC: [u8; 6] = [0x02, 0xca, 0, 0, 0, 1];
/// The longest packet: the most that passt takes.
const MTU: u32 = 65520;

/// Why a pod has no network.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    #[error("cannot give the pod a network (--network none needs none)")]
    Part(#[from] PartError),
    #[error(transparent)]
    Port(#[from] ports::PortError),
    #[error("cannot look at this host's network")]
    Host(#[source] std::io::Error),
    #[error("cannot make a socket for the network")]
    Socket(#[source] std::io::Error),
    #[error("cannot start the network's helper")]
    Start(#[from] StartError),
    #[error("cannot join network {name}")]
    Join {
        name: String,
        #[source]
        source: switch::SwitchError,
    },
}

/// A network that is there for one start of a machine.
#[derive(Debug)]
pub(crate) struct Attached {
    /// The machine's device.
    pub nic: Nic,
    /// The machine ends when one of them does.
    pub helpers: Vec<Helper>,
    /// What the agent is told.
    pub guest: GuestNetwork,
}

/// Makes the network of a machine that starts now; `config` is the endpoint's.
pub(crate) fn attach(endpoint: &Endpoint<'_>, config: &NetworkConfig, run: &Path) -> Result<Attached, NetworkError> {
    let host = host::Host::look().map_err(NetworkError::Host)?;
    ports::check(&config.ports)?;
    let guest = match (endpoint.networks.first(), config.joined.first()) {
        (Some(network), Some(joined)) => GuestNetwork::on(network, joined, config).that_leads_where(&host),
        _ => GuestNetwork::new(&host, config),
    };
    let mut helpers = Vec::new();
    let mut uplink = None;
    if endpoint.networks.first().is_none_or(|network| !network.config.internal) {
        let (socket, helper) = passt::start(config, &host, &guest)?;
        uplink = Some(socket.into());
        helpers.push(helper);
    }
    let mut segment = None;
    if let Some(network) = endpoint.networks.first() {
        let (joined, helper) = join(endpoint, network, config.mac, &guest, run)?;
        segment = Some(joined);
        helpers.push(helper);
    }
    let nic = Nic {
        mac: config.mac,
        addresses: guest.addresses().collect(),
        egress: Egress {
            rules: config.egress.clone(),
            host: host.addresses,
            closed: guest.gateways().chain([GATEWAY_V4.into(), GATEWAY_V6.into()]).collect(),
            resolver: Some(guest.resolver()),
        },
        uplink,
        segment,
        bytes_per_second: config.bytes_per_second,
    };
    Ok(Attached { nic, helpers, guest })
}

/// Puts a pod on a user's network.
fn join(
    endpoint: &Endpoint<'_>,
    network: &Network,
    mac: [u8; 6],
    guest: &GuestNetwork,
    run: &Path,
) -> Result<(Segment, Helper), NetworkError> {
    let gateways: Vec<IpAddr> = network.config.subnets.iter().map(|subnet| subnet.gateway).collect();
    let wish = Join {
        mac,
        addresses: guest.addresses().collect(),
        names: endpoint
            .dns_names()
            .iter()
            .map(|name| name.to_ascii_lowercase())
            .collect(),
    };
    let membership = switch::join(&switch::folder(run, &network.id), gateways.clone(), &wish);
    let membership = membership.map_err(|source| NetworkError::Join {
        name: network.name.clone(),
        source,
    })?;
    let segment = Segment {
        networks: network.config.subnets.iter().map(|subnet| subnet.network).collect(),
        gateways,
        socket: membership.frames.into(),
    };
    let helper = Helper::shared(&format!("the switch of network {}", network.name), membership.control);
    Ok((segment, helper))
}

/// The link that `inspect` shows of a pod that is on no network of the user's; what it has of IPv6 depends on the host.
pub(crate) fn own_link() -> Link {
    guest::OWN_V4
}

/// What such links take of all addresses.
pub(crate) fn own_networks() -> Vec<IpNet> {
    [guest::OWN_V4, guest::OWN_V6]
        .iter()
        .filter_map(Link::network)
        .collect()
}

/// What this host has of all addresses: its own, and what it has a way to beside the default one.
pub(crate) fn host_networks() -> Result<Vec<IpNet>, NetworkError> {
    Ok(host::Host::look().map_err(NetworkError::Host)?.networks())
}
