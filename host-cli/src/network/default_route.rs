//! Default route of a pod: the one of its networks by which it leaves.

use super::PodNetworks;
use crate::model::NetworkConfig;

/// Default route of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DefaultRoute {
    /// Route by the pod's own link, which nobody else is on.
    Own,
    /// Route by the user-defined network of this id.
    Network(String),
    /// No default route.
    Nowhere,
}

impl DefaultRoute {
    /// Chooses the pod's own link, or the first network that leads out.
    pub(super) fn of(pod_networks: &PodNetworks<'_>, config: &NetworkConfig) -> Self {
        if config.own_link {
            return Self::Own;
        }
        let mut open = pod_networks.networks.iter().filter(|network| !network.config.internal);
        open.next()
            .map_or(Self::Nowhere, |network| Self::Network(network.id.clone()))
    }

    /// Whether the route is by the user-defined network of this id.
    pub(super) fn is_by(&self, id: &str) -> bool {
        matches!(self, Self::Network(by) if by == id)
    }
}
