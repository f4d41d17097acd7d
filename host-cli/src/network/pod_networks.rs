//! A pod's place on its networks, complete: what was asked for, and the user's networks that it is on.

use super::Lead;
use crate::state::{Container, Joined, Network, NetworkConfig, Pod, State, StateError};

/// It.
#[derive(Debug)]
pub(crate) struct Endpoint<'a> {
    /// Of the pod, or of the container that is a pod of its own.
    pub id: &'a str,
    pub name: &'a str,
    pub hostname: &'a str,
    /// Nothing when the pod has no network.
    pub config: Option<&'a NetworkConfig>,
    /// The user's, in the order of connecting.
    pub networks: Vec<Network>,
}

impl<'a> Endpoint<'a> {
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

    /// With the user's networks that it is on.
    fn found_in(mut self, state: &State) -> Result<Self, StateError> {
        let found = self.joined().iter().map(|joined| state.network(&joined.network));
        self.networks = found.collect::<Result<_, _>>()?;
        Ok(self)
    }

    fn joined(&self) -> &'a [Joined] {
        self.config.map_or(&[], |config| &config.joined)
    }

    /// The user's networks, and what it has there.
    pub(crate) fn places(&self) -> impl Iterator<Item = (&Network, &'a Joined)> {
        self.networks.iter().zip(self.joined())
    }

    /// Whether it has a way out.
    pub(crate) fn leads_out(&self) -> bool {
        self.config
            .is_some_and(|config| Lead::of(self, config) != Lead::Nowhere)
    }

    /// Names that others on a user's network find it by, in lower case.
    pub(super) fn dns_names(&self, joined: &Joined) -> Vec<String> {
        let names = joined.dns_names(self.name, self.id, self.hostname);
        names.iter().map(|name| name.to_ascii_lowercase()).collect()
    }
}
