//! Walk along a path of a layer, through symbolic links.

use super::InodeId;
use crate::layer::path::LayerPath;
use crate::limits::LINKS_FOLLOWED_MAX;

/// Result of looking up the next component of a path.
pub(super) enum Step {
    Into(InodeId),
    /// A link was followed; its parts continue from this directory.
    Restart(InodeId),
    Missing,
    File,
}

/// Components still to be walked, last first, and the number of links followed so far.
pub(super) struct Walk {
    parts: Vec<Vec<u8>>,
    links: usize,
}

impl Walk {
    pub(super) fn new(path: &LayerPath) -> Self {
        let mut parts: Vec<Vec<u8>> = path.components().map(<[u8]>::to_vec).collect();
        parts.reverse();
        Self { parts, links: 0 }
    }

    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        self.parts.pop()
    }

    /// Puts the components of a link's target first; `None` after too many links.
    pub(super) fn follow(&mut self, target: &[u8]) -> Option<()> {
        self.links += 1;
        let parts = target.split(|&b| b == b'/').filter(|part| !matches!(*part, b"" | b"."));
        self.parts.extend(parts.map(<[u8]>::to_vec).rev());
        (self.links <= LINKS_FOLLOWED_MAX).then_some(())
    }
}
