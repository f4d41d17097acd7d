//! Uplink of a pod: a passt process (<https://passt.top>) that turns the guest's frames into connections of this user,
//! without any privilege. The machine's network device checks before what is permitted.
//!
//! ```text
//!  guest eth0 ─► network device: whose, where to ─┬► socket ─► passt ─► sockets of this user's
//!                                                 │              ▲ published ports
//!                                                 └► sockets ─► switches of user-defined networks ─► other pods
//! ```
//!
//! A pod that is on no user-defined network has its own link, with the same addresses as every other such pod: nobody
//! else is on it. On user-defined networks each pod has its own passt behind the gateway of the first one that leads
//! out, and all pods share the networks' switches. The networks of a pod and its default route may change while it
//! runs: see [`attachments`].

mod attachments;
mod default_route;
mod guest;
mod host;
mod passt;
pub(crate) mod passt_probe;
mod pod_networks;
mod ports;
mod steps;
mod switch;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;

use capsid_vmm::segments::SEGMENTS_MAX;
use ipnet::IpNet;

use crate::accelerator::Nic;
use crate::install_paths::PartError;
use crate::model::NetworkConfig;
use crate::process::{DeviceSocket, Sidecars, SpawnError};

pub(crate) use attachments::{AttachmentsError, NetworkAttachments};
use default_route::DefaultRoute;
pub(crate) use guest::{GuestNetwork, Link};
pub(crate) use host::address as host_address;
pub(crate) use pod_networks::PodNetworks;
pub(crate) use ports::choose as choose_ports;
pub(crate) use switch::forget;

/// The guest's IPv4 address, and the link that it shares with the gateway. In the space between providers and their
/// customers (RFC 6598), where hardly anybody has servers.
const GUEST_V4: Ipv4Addr = Ipv4Addr::new(100, 96, 0, 2);
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(100, 96, 0, 1);
const PREFIX_V4: u8 = 30;
/// The guest's IPv6 address, gateway and prefix, of a unique-local network (RFC 4193) whose bits spell "capsid".
const GUEST_V6: Ipv6Addr = Ipv6Addr::new(0xfd63, 0x6170, 0x7369, 0x6400, 0, 0, 0, 2);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd63, 0x6170, 0x7369, 0x6400, 0, 0, 0, 1);
const PREFIX_V6: u8 = 64;
/// Hardware address of the gateway.
pub(crate) const GATEWAY_MAC: [u8; 6] = [0x02, 0xca, 0, 0, 0, 1];
/// MTU of the guest's interface: the longest packet that passt takes.
const MTU: u32 = 65520;

/// Error when a pod gets no network.
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
    Start(#[from] SpawnError),
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

/// Network of a machine, created for one start of it.
#[derive(Debug)]
pub(crate) struct Attached {
    /// Network device of the machine.
    pub nic: Nic,
    /// Networks that the device is connected to.
    pub attachments: Rc<NetworkAttachments>,
}

/// Creates the network of a machine that starts now. `config` is the one of `pod_networks`. Processes that the network
/// depends on are added to `sidecars`.
pub(crate) fn attach(
    pod_networks: &PodNetworks<'_>,
    config: &NetworkConfig,
    run: &Path,
    sidecars: Sidecars,
) -> Result<Attached, NetworkError> {
    // The watch starts before the addresses are read: nothing is missed in between.
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

/// Link that `inspect` shows for a pod on no user-defined network. Whether such a pod has IPv6 too depends on the host.
pub(crate) fn own_link() -> Link {
    guest::OWN_V4
}

/// Networks that pods' own links occupy.
pub(crate) fn own_networks() -> Vec<IpNet> {
    [guest::OWN_V4, guest::OWN_V6]
        .iter()
        .filter_map(Link::network)
        .collect()
}

/// Networks that this host occupies: its own addresses, and its routes beside the default one.
pub(crate) fn host_networks() -> Result<Vec<IpNet>, NetworkError> {
    Ok(host::Host::look().map_err(NetworkError::Host)?.networks())
}
