//! What a pull or load tells while it runs.

use std::path::PathBuf;

use crate::digest::Digest;

/// State of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayerState {
    /// Not begun.
    Waiting,
    /// This many bytes of so many have arrived; they are converted as they come.
    Downloading {
        /// Bytes so far.
        bytes: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The connection broke; trying again.
    Retrying,
    /// All bytes have arrived; the converter and the disk finish.
    Converting,
    /// Stored.
    Done,
    /// Was stored before.
    AlreadyExists,
}

/// Something that its user should know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// Docker's config holds credentials and its mode lets other users read it.
    #[error("{} holds credentials that other users can read; run: chmod 600 {}", path.display(), path.display())]
    ReadableCredentials {
        /// The file.
        path: PathBuf,
    },
}

/// Somebody who wants to know. Called from several threads.
pub trait Progress: Send + Sync {
    /// A layer of the image entered a state. The digest is that of the layer's blob.
    fn layer(&self, layer: Digest, state: LayerState);

    /// All layers are there; their rootfs is being made.
    fn merging(&self) {}

    /// Something does not stop the work, but its user should know.
    fn warn(&self, _: &Warning) {}
}

/// Nobody.
impl Progress for () {
    fn layer(&self, _: Digest, _: LayerState) {}
}
