//! Means to start processes: the agent's own program, and the reaper of all children.

use std::os::fd::OwnedFd;

use crate::reaper::Reaper;

/// Program and reaper of the agent.
pub(crate) struct Spawner {
    /// Program of the agent, for container inits.
    pub(crate) program: OwnedFd,
    /// Reaper of all children.
    pub(crate) reaper: Reaper,
}
