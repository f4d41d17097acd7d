//! A pod's way out: a process of passt's (<https://passt.top>) that makes of the guest's frames connections of this
//! user's own, without any right; what of it is permitted is checked before, by the machine's network device.
//!
//! ```text
//!  guest eth0 ─► network device: whose, where to ─► socket ─► passt ─► sockets of this user's
//!                                                               ▲ published ports
//! ```
//!
//! Every pod that is on no network of the user's has one of its own with the same addresses: no other is on its link.

mod guest;
mod host;
mod passt;
mod ports;
mod switch;

use std::net::{Ipv4Addr, Ipv6Addr};

use capsid_vmm::egress::Egress;
use ipnet::IpNet;

use crate::accelerator::{Helper, Nic, StartError};
use crate::parts::PartError;
use crate::state::NetworkConfig;

pub(crate) use guest::{GuestNetwork, Link};
pub(crate) use ports::choose as choose_ports;

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
const GATEWAY_MAC: [u8; 6] = [0x02, 0xca, 0, 0, 0, 1];
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
}

/// A network that is there for one start of a machine.
#[derive(Debug)]
pub(crate) struct Attached {
    /// The machine's device.
    pub nic: Nic,
    /// Ends the machine when it ends.
    pub helper: Helper,
    /// What the agent is told.
    pub guest: GuestNetwork,
}

/// Makes the network of a machine that starts now.
pub(crate) fn attach(config: &NetworkConfig) -> Result<Attached, NetworkError> {
    let host = host::Host::look().map_err(NetworkError::Host)?;
    ports::check(&config.ports)?;
    let guest = GuestNetwork::new(&host, config);
    let (socket, helper) = passt::start(config, &host, &guest)?;
    let nic = Nic {
        mac: config.mac,
        addresses: guest.addresses().collect(),
        egress: Egress {
            rules: config.egress.clone(),
            host: host.addresses,
            closed: vec![GATEWAY_V4.into(), GATEWAY_V6.into()],
            resolver: Some(guest.resolver()),
        },
        socket: socket.into(),
    };
    Ok(Attached { nic, helper, guest })
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
