//! Complete network configuration of a pod: what the user asked for, and the user-defined networks that it is on.

use super::DefaultRoute;
use crate::model::{Endpoint, Network, NetworkConfig, Pod};
use crate::state::{State, StateError};

/// Network configuration of a pod, with its user-defined networks read from the state.
#[derive(Debug)]
pub(crate) struct PodNetworks<'a> {
    pub id: &'a str,
    pub name: &'a str,
    pub hostname: &'a str,
    /// Configuration of the pod's network; nothing when it has no network.
    pub config: Option<&'a NetworkConfig>,
    /// User-defined networks, in the order in which the pod was connected.
    pub networks: Vec<Network>,
}

impl<'a> PodNetworks<'a> {
    /// Reads the user-defined networks of the pod's endpoints from the state.
    pub(crate) fn of(pod: &'a Pod, state: &State) -> Result<Self, StateError> {
        let config = pod.config.network.as_ref();
        let endpoints = config.into_iter().flat_map(|config| &config.endpoints);
        let networks = endpoints.map(|endpoint| state.network(&endpoint.network));
        Ok(Self {
            id: &pod.id,
            name: &pod.name,
            hostname: &pod.config.hostname,
            config,
            networks: networks.collect::<Result<_, _>>()?,
        })
    }

    /// Creates the configuration of a pod as if it had no network.
    pub(crate) fn without(pod: &'a Pod) -> Self {
        Self {
            id: &pod.id,
            name: &pod.name,
            hostname: &pod.config.hostname,
            config: None,
            networks: Vec::new(),
        }
    }

    fn endpoints(&self) -> &'a [Endpoint] {
        self.config.map_or(&[], |config| &config.endpoints)
    }

    /// Returns the pod's user-defined networks, each with the pod's endpoint there.
    pub(crate) fn attachments(&self) -> impl Iterator<Item = (&Network, &'a Endpoint)> {
        self.networks.iter().zip(self.endpoints())
    }

    /// Whether the pod has a default route.
    pub(crate) fn has_default_route(&self) -> bool {
        self.config
            .is_some_and(|config| DefaultRoute::of(self, config) != DefaultRoute::Nowhere)
    }

    /// Returns the names that others on a user-defined network find the pod by, in lower case.
    pub(super) fn dns_names(&self, endpoint: &Endpoint) -> Vec<String> {
        let names = endpoint.dns_names(self.name, self.id, self.hostname);
        names.iter().map(|name| name.to_ascii_lowercase()).collect()
    }
}
