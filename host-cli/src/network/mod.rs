//! A pod's uplink: a process of passt's (<https://passt.top>) that makes of the guest's frames connections of this
//! user's own, without any right; what of it is permitted is checked before, by the machine's network device.
//!
//! ```text
//!  guest eth0 ─► network device: whose, where to ─┬► socket ─► passt ─► sockets of this user's
//!                                                 │              ▲ published ports
//!                                                 └► sockets ─► switches of user-defined networks ─► other pods
//! ```
//!
//! A pod that is on no user-defined network has a link of its own with the same addresses as every other such pod:
//! nobody else is on it. On user-defined networks each pod has a passt of its own behind the gateway of the first one
//! that leads out, and all have the networks' switches. Which networks those are, and by which the default route is,
//! may change while the pod runs: see [`attachments`].

mod attachments;
mod default_route;
mod guest;
mod host;
mod passt;
mod pod_networks;
mod ports;
mod switch;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;

use capsid_vmm::segments::SEGMENTS_MAX;
use ipnet::IpNet;

use crate::accelerator::{DeviceSocket, Nic, Sidecars, StartError};
use crate::install_paths::PartError;
use crate::state::NetworkConfig;

pub(crate) use attachments::{AttachmentsError, NetworkAttachments};
use default_route::DefaultRoute;
pub(crate) use guest::{GuestNetwork, Link};
pub(crate) use host::address as host_address;
pub(crate) use pod_networks::PodNetworks;
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
    #[error("cannot start the network's sidecar")]
    Start(#[from] StartError),
    #[error("cannot publish a port at {address}: the pod has no default route over {kind} now")]
    Kind { address: SocketAddr, kind: &'static str },
    #[error("cannot join network {0}: a pod is on {SEGMENTS_MAX} networks at most")]
    TooMany(String),
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
    /// What it is connected to.
    pub attachments: Rc<NetworkAttachments>,
}

/// Makes the network of a machine that starts now; `config` is that of `pod_networks`. What it needs to live is said to
/// `sidecars`.
pub(crate) fn attach(
    pod_networks: &PodNetworks<'_>,
    config: &NetworkConfig,
    run: &Path,
    sidecars: Sidecars,
) -> Result<Attached, NetworkError> {
    // Before it is looked at: nothing is missed in between.
    let watch = host::AddressWatch::start().map_err(NetworkError::Host)?;
    let host = host::Host::look().map_err(NetworkError::Host)?;
    let (device, control) = DeviceSocket::pair().map_err(NetworkError::Socket)?;
    let attachments = NetworkAttachments::new(pod_networks, config, &host, (device, watch), run, sidecars)?;
    let nic = Nic {
        mac: config.mac,
        resolver: attachments.resolver(),
        control,
        bytes_per_second: config.bytes_per_second,
    };
    Ok(Attached {
        nic,
        attachments: Rc::new(attachments),
    })
}

/// The link that `inspect` shows of a pod that is on no user-defined network; what it has of IPv6 depends on the host.
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
