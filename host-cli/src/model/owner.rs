//! Owners of networks: containers without a pod, and pods.

use super::container::Container;
use super::network::NetworkConfig;
use super::pod::Pod;

/// Container or pod that owns a network configuration.
#[derive(Debug, Clone)]
pub(crate) enum Owner {
    Container(Box<Container>),
    Pod(Box<Pod>),
}

impl Owner {
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::Container(container) => &container.id,
            Self::Pod(pod) => &pod.id,
        }
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Container(container) => &container.name,
            Self::Pod(pod) => &pod.name,
        }
    }

    /// Returns the network configuration; nothing when the owner was created without any network.
    pub(crate) fn network(&self) -> Option<&NetworkConfig> {
        match self {
            Self::Container(container) => container.config.network.as_ref(),
            Self::Pod(pod) => pod.config.network.as_ref(),
        }
    }

    pub(crate) fn is_called(&self, word: &str) -> bool {
        self.name() == word || self.id() == word
    }
}
