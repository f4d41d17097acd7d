//! Network configuration of a pod in the state: complete, so that every start creates the same network.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;

use capsid_vmm::egress::{Protocol, Rule};
use serde::{Deserialize, Serialize};

use super::user_network::Endpoint;

/// Name of the network that exists without being created, and on which every pod is alone.
pub(crate) const DEFAULT_NETWORK: &str = "default";
/// Name that stands for no network at all.
pub(crate) const NO_NETWORK: &str = "none";

/// Network configuration of a pod.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub(crate) struct NetworkConfig {
    /// Hardware address of the guest.
    pub mac: [u8; 6],
    /// Published ports: ports of the host that are forwarded to the guest's.
    pub ports: Vec<PublishedPort>,
    /// Egress rules: the destinations that the guest may reach.
    pub egress: Vec<Rule>,
    /// Resolvers that are used in place of the host's.
    pub dns: Vec<IpAddr>,
    /// Values of `search` in `/etc/resolv.conf`.
    pub dns_search: Vec<String>,
    /// Values of `options` in `/etc/resolv.conf`.
    pub dns_options: Vec<String>,
    /// Whether the pod has its own link, with nobody else on it: the network called `default`.
    pub own_link: bool,
    /// Endpoints on user-defined networks, in the order in which the pod was connected.
    #[serde(rename = "joined")]
    pub endpoints: Vec<Endpoint>,
    /// Maximum number of bytes of frames per second, in each direction.
    #[serde(default)]
    pub bytes_per_second: Option<NonZeroU64>,
}

impl NetworkConfig {
    /// Returns the networks' names, the own link's first.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let own = self.own_link.then_some(DEFAULT_NETWORK);
        own.into_iter()
            .chain(self.endpoints.iter().map(|endpoint| endpoint.name.as_str()))
    }
}

/// Published port.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PublishedPort {
    /// Port of the guest.
    pub container: u16,
    pub protocol: Protocol,
    /// Address that the host listens at; port 0 is one that is still to be chosen.
    pub host: SocketAddr,
    /// Last port of the range that begins at `host` and from which one is still to be chosen; 0 when there is no
    /// choice.
    #[serde(skip)]
    pub host_last: u16,
}

impl PublishedPort {
    /// Whether `next` is the following port, both of the host and of the guest.
    pub(crate) fn is_followed_by(&self, next: &Self) -> bool {
        self.protocol == next.protocol
            && self.host.ip() == next.host.ip()
            && self.host.port().checked_add(1) == Some(next.host.port())
            && self.container.checked_add(1) == Some(next.container)
    }

    /// Formats the guest's port as docker does: `80/tcp`.
    pub(crate) fn container_words(&self) -> String {
        format!("{}/{}", self.container, protocol_name(self.protocol))
    }
}

impl fmt::Display for PublishedPort {
    /// Formats the port as `docker ps` does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_last {
            0 => write!(f, "{}->{}", self.host, self.container_words()),
            last => write!(f, "{}-{last}->{}", self.host, self.container_words()),
        }
    }
}

/// Returns docker's word for a protocol.
pub(crate) fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Icmp => "icmp",
    }
}

/// Formats a hardware address, such as `02:42:ac:11:00:02`.
pub(crate) fn mac_words(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
