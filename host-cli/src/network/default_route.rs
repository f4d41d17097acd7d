//! Default route of a pod: which of its networks it is by.

use super::PodNetworks;
use crate::state::NetworkConfig;

/// It.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DefaultRoute {
    /// The link that nobody else is on.
    Own,
    /// The user-defined network of this id.
    Network(String),
    /// There is none.
    Nowhere,
}

impl DefaultRoute {
    /// Its own link, or the first network that leads out.
    pub(super) fn of(pod_networks: &PodNetworks<'_>, config: &NetworkConfig) -> Self {
        if config.own_link {
            return Self::Own;
        }
        let mut open = pod_networks.networks.iter().filter(|network| !network.config.internal);
        open.next()
            .map_or(Self::Nowhere, |network| Self::Network(network.id.clone()))
    }

    /// Whether it is by the user-defined network of this id.
    pub(super) fn is_by(&self, id: &str) -> bool {
        matches!(self, Self::Network(by) if by == id)
    }
}
