//! Complete network configuration of a pod: what the user asked for, and the user-defined networks that it is on.

use super::DefaultRoute;
use crate::model::{Container, Endpoint, Network, NetworkConfig, Pod};
use crate::state::{State, StateError};

/// Network configuration of a pod, with its user-defined networks read from the state.
#[derive(Debug)]
pub(crate) struct PodNetworks<'a> {
    /// Id of the pod, or of the container that is a pod of its own.
    pub id: &'a str,
    pub name: &'a str,
    pub hostname: &'a str,
    /// Configuration of the pod's network; nothing when it has no network.
    pub config: Option<&'a NetworkConfig>,
    /// User-defined networks, in the order in which the pod was connected.
    pub networks: Vec<Network>,
}

impl<'a> PodNetworks<'a> {
    pub(crate) fn of_container(container: &'a Container, state: &State) -> Result<Self, StateError> {
        Self {
            id: &container.id,
            name: &container.name,
            hostname: &container.spec.hostname,
            config: container.config.network.as_ref(),
            networks: Vec::new(),
        }
        .found_in(state)
    }

    pub(crate) fn of_pod(pod: &'a Pod, state: &State) -> Result<Self, StateError> {
        Self {
            id: &pod.id,
            name: &pod.name,
            hostname: &pod.config.hostname,
            config: pod.config.network.as_ref(),
            networks: Vec::new(),
        }
        .found_in(state)
    }

    /// Adds the user-defined networks of the pod's endpoints, read from the state.
    fn found_in(mut self, state: &State) -> Result<Self, StateError> {
        let found = self.endpoints().iter().map(|endpoint| state.network(&endpoint.network));
        self.networks = found.collect::<Result<_, _>>()?;
        Ok(self)
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
