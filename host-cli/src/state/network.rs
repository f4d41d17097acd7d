//! A pod's network as the state knows it: what was asked for, complete, so that every start makes the same of it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;

use capsid_vmm::egress::{Protocol, Rule};
use serde::{Deserialize, Serialize};

use super::user_network::Endpoint;

/// Name of the network that nobody made, on which every pod is alone.
pub(crate) const DEFAULT_NETWORK: &str = "default";
/// Name of no network at all.
pub(crate) const NO_NETWORK: &str = "none";

/// It.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub(crate) struct NetworkConfig {
    /// The guest's hardware address.
    pub mac: [u8; 6],
    /// Ports of the host's that lead to the guest's.
    pub ports: Vec<PublishedPort>,
    /// Where the guest may go to.
    pub egress: Vec<Rule>,
    /// Resolvers that are asked in place of the host's.
    pub dns: Vec<IpAddr>,
    /// `search` of `/etc/resolv.conf`.
    pub dns_search: Vec<String>,
    /// `options` of `/etc/resolv.conf`.
    pub dns_options: Vec<String>,
    /// The pod has a link of its own, with nobody else on it: the network that is called `default`.
    pub own_link: bool,
    /// User-defined networks that the pod is on, in the order in which it came to them.
    #[serde(rename = "joined")]
    pub endpoints: Vec<Endpoint>,
    /// Most bytes of frames a second, each way.
    #[serde(default)]
    pub bytes_per_second: Option<NonZeroU64>,
}

impl NetworkConfig {
    /// The networks' names, its own link's first.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let own = self.own_link.then_some(DEFAULT_NETWORK);
        own.into_iter()
            .chain(self.endpoints.iter().map(|endpoint| endpoint.name.as_str()))
    }
}

/// One published port.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PublishedPort {
    /// The guest's.
    pub container: u16,
    pub protocol: Protocol,
    /// Where the host listens; port 0 is one that is still to be chosen.
    pub host: SocketAddr,
    /// Last of the ports from `host` on of which one is still to be chosen; 0 when there is nothing to choose.
    #[serde(skip)]
    pub host_last: u16,
}

impl PublishedPort {
    /// Whether `next` is one further, at both ends.
    pub(crate) fn is_followed_by(&self, next: &Self) -> bool {
        self.protocol == next.protocol
            && self.host.ip() == next.host.ip()
            && self.host.port().checked_add(1) == Some(next.host.port())
            && self.container.checked_add(1) == Some(next.container)
    }

    /// As in docker's `80/tcp`.
    pub(crate) fn container_words(&self) -> String {
        format!("{}/{}", self.container, protocol_name(self.protocol))
    }
}

impl fmt::Display for PublishedPort {
    /// As `docker ps` shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_last {
            0 => write!(f, "{}->{}", self.host, self.container_words()),
            last => write!(f, "{}-{last}->{}", self.host, self.container_words()),
        }
    }
}

/// docker's word for it.
pub(crate) fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Icmp => "icmp",
    }
}

/// As `02:42:ac:11:00:02`.
pub(crate) fn mac_words(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
