//! Owner of a network configuration: a container that is a pod of its own, or a pod of several.

use rusqlite::params;

use super::{State, StateError};
use crate::model::{NetworkConfig, Owner};

impl State {
    /// Returns a container or a pod by name, id, or id prefix.
    pub(crate) fn find_owner(&self, word: &str) -> Result<Owner, StateError> {
        let container = match self.find(word) {
            Err(StateError::Unknown(_)) => None,
            found => Some(Owner::Container(Box::new(found?))),
        };
        // A whole name has precedence over an id prefix.
        if let Some(container) = container.as_ref().filter(|container| container.is_called(word)) {
            return Ok(container.clone());
        }
        let pod = match self.find_pod(word) {
            Err(StateError::UnknownPod(_)) => None,
            found => Some(Owner::Pod(Box::new(found?))),
        };
        let named = pod.as_ref().filter(|pod| pod.is_called(word)).cloned();
        named
            .or(container)
            .or(pod)
            .ok_or_else(|| StateError::UnknownOwner(word.into()))
    }

    /// Returns the container or pod with this full id.
    pub(super) fn owner(&self, id: &str) -> Result<Owner, StateError> {
        match self.container(id) {
            Err(StateError::Unknown(_)) => {}
            found => return Ok(Owner::Container(Box::new(found?))),
        }
        match self.pod(id) {
            Err(StateError::UnknownPod(_)) => Err(StateError::UnknownOwner(id.into())),
            found => Ok(Owner::Pod(Box::new(found?))),
        }
    }

    /// Returns the owner's networks; an error for a container whose networks are its pod's.
    pub(super) fn networks_of(&self, owner: &Owner) -> Result<NetworkConfig, StateError> {
        if let Owner::Container(container) = owner
            && let Some(pod) = &container.pod
        {
            return Err(StateError::PodsNetworks {
                container: container.name.clone(),
                pod: self.pod(pod)?.name,
            });
        }
        let config = owner.network().cloned();
        config.ok_or_else(|| StateError::WithoutNetwork(owner.name().into()))
    }

    /// Writes the owner's networks, and nothing else of its row.
    pub(super) fn set_networks(&self, owner: &Owner, config: &NetworkConfig) -> Result<(), StateError> {
        let text = serde_json::to_string(config).map_err(|source| StateError::Damaged {
            id: owner.id().into(),
            source: Box::new(source),
        })?;
        let statement = match owner {
            Owner::Container(_) => {
                "UPDATE containers SET config = json_set(config, '$.network', json(?2)) WHERE id = ?1"
            }
            Owner::Pod(_) => "UPDATE pods SET config = json_set(config, '$.network', json(?2)) WHERE id = ?1",
        };
        self.update(statement, params![owner.id(), text])
    }
}
