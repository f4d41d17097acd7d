//! Faults of archives.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::limits::{
    ARCHIVE_DOCUMENTS_BYTES_MAX, ARCHIVE_MEMBERS_MAX, ARCHIVE_NAMES_BYTES_MAX, CATALOG_BYTES_MAX, INDEX_DEPTH_MAX,
    INDEX_ENTRIES_MAX,
};
use crate::reference::ParseReferenceError;
use crate::text::{chain, printable};

const MIB: u64 = 1 << 20;

/// Reason why an archive has no catalog. Crosses the socket from the converter; its texts are made printable when
/// shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ArchiveFault {
    /// The archive is not a tar, or ends early.
    #[error("cannot read the archive: {}", shown(reason))]
    Read {
        /// Description of the fault.
        reason: String,
    },
    /// The archive has neither docker's files nor those of the image specification.
    #[error("not an image archive: it has neither manifest.json nor oci-layout and index.json")]
    NotAnArchive,
    /// The archive holds no images.
    #[error("the archive holds no image")]
    Empty,
    /// The archive exceeds the limit on members or their names.
    #[error("the archive has more than {ARCHIVE_MEMBERS_MAX} members or {} MiB of names", ARCHIVE_NAMES_BYTES_MAX as u64 / MIB)]
    TooManyMembers,
    /// The archive exceeds the limit on images or names of images.
    #[error("the archive holds more than {INDEX_ENTRIES_MAX} images or names of images")]
    TooManyImages,
    /// The catalog of all images exceeds its limit.
    #[error("the images of the archive have too many layers: their list is longer than {} MiB", CATALOG_BYTES_MAX / MIB)]
    LongCatalog,
    /// All manifests and configs together exceed their limit.
    #[error("the archive has more than {} MiB of manifests and image configs", ARCHIVE_DOCUMENTS_BYTES_MAX / MIB)]
    Documents,
    /// An index is nested more deeply than the limit.
    #[error("an index of the archive is nested deeper than {INDEX_DEPTH_MAX}")]
    TooDeep,
    /// The archive lacks a file that it should have.
    #[error("the archive lacks {:?}", shown(name))]
    Missing {
        /// Name of the file.
        name: String,
    },
    /// A document exceeds its limit.
    #[error("{:?} in the archive is larger than {bytes_max} bytes", shown(name))]
    TooLong {
        /// Name of the document.
        name: String,
        /// Limit on the length of the document.
        bytes_max: u64,
    },
    /// A blob does not have the digest in its name.
    #[error("{:?} in the archive has wrong content: its digest is {found}", shown(name))]
    Digest {
        /// Name of the blob.
        name: String,
        /// Digest of the blob's content.
        found: Digest,
    },
    /// A blob does not have the size in its descriptor.
    #[error(
        "{:?} in the archive has the wrong size: {found} bytes instead of {wanted}",
        shown(name)
    )]
    Size {
        /// Name of the blob.
        name: String,
        /// Size in the descriptor, bytes.
        wanted: u64,
        /// Length of the blob, bytes.
        found: u64,
    },
    /// A manifest, an index or a config is refused.
    #[error("{:?} in the archive is refused: {}", shown(name), shown(reason))]
    Document {
        /// Name of the document.
        name: String,
        /// Reason of the refusal.
        reason: String,
    },
    /// An image has a name that no image can have.
    #[error("an image of the archive has a name that cannot be its name: {}", shown(reason))]
    Name {
        /// Reason why the name is invalid.
        reason: String,
    },
    /// Config and manifest name different numbers of layers.
    #[error("image manifest has {manifest} layers, its config {config}")]
    LayerCount {
        /// Number of layers in the manifest.
        manifest: usize,
        /// Number of layers in the config.
        config: usize,
    },
}

impl ArchiveFault {
    pub(super) fn read(error: &dyn std::error::Error) -> Self {
        Self::Read {
            reason: shown(&chain(error)),
        }
    }

    pub(super) fn name(error: &ParseReferenceError) -> Self {
        Self::Name {
            reason: shown(&chain(error)),
        }
    }

    pub(super) fn missing(name: &str) -> Self {
        Self::Missing { name: shown(name) }
    }

    pub(super) fn document(name: &str, error: &dyn std::error::Error) -> Self {
        Self::Document {
            name: shown(name),
            reason: shown(&chain(error)),
        }
    }
}

fn shown(text: &str) -> String {
    printable(text.as_bytes(), 300)
}
