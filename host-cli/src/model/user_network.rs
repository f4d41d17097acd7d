//! User-defined networks and a pod's endpoints on them, as plain data.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::network::{DEFAULT_NETWORK, NetworkConfig};

/// User-defined network: a link that several pods are on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Network {
    /// Id of 64 hexadecimal digits.
    pub id: String,
    pub name: String,
    /// Time of the creation in nanoseconds since 1970.
    pub created_ns: i64,
    pub config: NetworkSpec,
}

/// Options of a network, complete. They do not change while the network exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkSpec {
    /// Subnets: one of IPv4, or one of IPv6, or both in this order.
    pub subnets: Vec<Subnet>,
    /// Whether the network is internal: nothing leads out of it.
    pub internal: bool,
    /// Labels, `KEY[=VALUE]` each.
    pub labels: Vec<String>,
}

impl NetworkSpec {
    /// Returns the subnet of the same IP version as `address`.
    pub(crate) fn subnet_like(&self, address: IpAddr) -> Option<&Subnet> {
        let mut subnets = self.subnets.iter();
        subnets.find(|subnet| subnet.gateway.is_ipv4() == address.is_ipv4())
    }
}

/// Subnet that a network's addresses are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Subnet {
    pub network: IpNet,
    /// Gateway, the one address that no pod has: the resolver and the default route.
    pub gateway: IpAddr,
}

/// Endpoint of a pod on a user-defined network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    /// Id of the network.
    pub network: String,
    /// Name of the network, for messages.
    pub name: String,
    /// Addresses of the pod in the order of the network's subnets. Until the pod is added to the state, the requested
    /// ones.
    pub addresses: Vec<IpAddr>,
    /// Aliases: names of the pod on this network in addition to its own.
    pub aliases: Vec<String>,
}

impl Endpoint {
    /// Returns an endpoint without requested addresses or aliases.
    pub(crate) fn anywhere(network: &Network) -> Self {
        Self {
            network: network.id.clone(),
            name: network.name.clone(),
            addresses: Vec::new(),
            aliases: Vec::new(),
        }
    }

    /// Returns the names that others on the network find the container or pod by, each once.
    pub(crate) fn dns_names(&self, name: &str, id: &str, hostname: &str) -> Vec<String> {
        let mut names = vec![name.to_owned()];
        names.extend(self.aliases.iter().cloned());
        names.push(id.chars().take(12).collect());
        names.push(hostname.into());
        let mut unique: Vec<String> = Vec::new();
        for name in names {
            if !unique.contains(&name) {
                unique.push(name);
            }
        }
        unique
    }
}

/// Member of a network.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NetworkMember {
    /// Id of the pod.
    pub id: String,
    pub name: String,
    /// Id of the network.
    pub network: String,
    /// Configuration of the member, with all its networks.
    pub config: NetworkConfig,
}

impl NetworkMember {
    /// Returns the member's addresses on the network.
    pub(crate) fn addresses(&self) -> &[IpAddr] {
        let mut endpoint = self.config.endpoints.iter();
        let place = endpoint.find(|endpoint| endpoint.network == self.network);
        place.map_or(&[], |place| &place.addresses)
    }
}

/// Network that a pod is connected to or disconnected from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ConnectTarget {
    /// The pod's own link: the network called `default`.
    OwnLink,
    /// One of the user-defined networks, with the requested addresses and aliases.
    UserDefined(Endpoint),
}

impl ConnectTarget {
    /// Returns the network's name.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::OwnLink => DEFAULT_NETWORK,
            Self::UserDefined(endpoint) => &endpoint.name,
        }
    }

    pub(crate) fn is_in(&self, config: &NetworkConfig) -> bool {
        match self {
            Self::OwnLink => config.own_link,
            Self::UserDefined(endpoint) => config.endpoints.iter().any(|known| known.network == endpoint.network),
        }
    }
}
