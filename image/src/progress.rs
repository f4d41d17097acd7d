//! Progress reports of a pull or load.

use std::path::PathBuf;

use crate::digest::Digest;

/// State of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayerState {
    /// The download has not begun.
    Waiting,
    /// `bytes` of `total` bytes have arrived; they are converted as they come.
    Downloading {
        /// Number of bytes that have arrived.
        bytes: u64,
        /// Number of bytes in total.
        total: u64,
    },
    /// The connection broke; another attempt follows.
    Retrying,
    /// All bytes have arrived; the converter and the disk are finishing.
    Converting,
    /// The layer is stored.
    Done,
    /// The layer was stored before.
    AlreadyExists,
}

/// Warning to the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// Docker's config holds credentials and its mode lets other users read it.
    #[error("{} holds credentials that other users can read; run: chmod 600 {}", path.display(), path.display())]
    ReadableCredentials {
        /// Path of the file.
        path: PathBuf,
    },
}

/// Receiver of progress reports. Called from several threads.
pub trait Progress: Send + Sync {
    /// Reports that a layer of the image entered a state. The digest is that of the layer's blob.
    fn layer(&self, layer: Digest, state: LayerState);

    /// Reports that all layers are stored and their rootfs is being made.
    fn merging(&self) {}

    /// Reports something that does not stop the work, but that the user should know.
    fn warn(&self, _: &Warning) {}
}

/// Ignores all reports.
impl Progress for () {
    fn layer(&self, _: Digest, _: LayerState) {}
}
