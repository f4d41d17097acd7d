//! Which of its networks a pod's way out is by.

use super::Endpoint;
use crate::state::NetworkConfig;

/// It.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lead {
    /// The link that nobody else is on.
    Own,
    /// The user's network of this id.
    Network(String),
    /// There is none.
    Nowhere,
}

impl Lead {
    /// Its own link, or the first network that leads out.
    pub(super) fn of(endpoint: &Endpoint<'_>, config: &NetworkConfig) -> Self {
        if config.own_link {
            return Self::Own;
        }
        let mut open = endpoint.networks.iter().filter(|network| !network.config.internal);
        open.next()
            .map_or(Self::Nowhere, |network| Self::Network(network.id.clone()))
    }

    /// Whether it is by the user's network of this id.
    pub(super) fn is_by(&self, id: &str) -> bool {
        matches!(self, Self::Network(by) if by == id)
    }
}
