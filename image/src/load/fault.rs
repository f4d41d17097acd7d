//! What is wrong with an archive.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::limits::{
    ARCHIVE_DOCUMENTS_BYTES_MAX, ARCHIVE_MEMBERS_MAX, ARCHIVE_NAMES_BYTES_MAX, CATALOG_BYTES_MAX, INDEX_DEPTH_MAX,
    INDEX_ENTRIES_MAX,
};
use crate::reference::ParseReferenceError;
use crate::text::{chain, printable};

const MIB: u64 = 1 << 20;

/// Why an archive has no catalog. Crosses the socket from the converter; its texts are made printable when shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ArchiveFault {
    /// The archive is no tar, or ends early.
    #[error("cannot read the archive: {}", shown(reason))]
    Read {
        /// What is wrong.
        reason: String,
    },
    /// Neither docker's nor the image specification's files in it.
    #[error("not an image archive: it has neither manifest.json nor oci-layout and index.json")]
    NotAnArchive,
    /// An archive without images.
    #[error("the archive holds no image")]
    Empty,
    /// Over the limit on members or their names.
    #[error("the archive has more than {ARCHIVE_MEMBERS_MAX} members or {} MiB of names", ARCHIVE_NAMES_BYTES_MAX as u64 / MIB)]
    TooManyMembers,
    /// Over the limit on images or names of images.
    #[error("the archive holds more than {INDEX_ENTRIES_MAX} images or names of images")]
    TooManyImages,
    /// Over the limit on what is known of all images.
    #[error("the images of the archive have too many layers: their list is longer than {} MiB", CATALOG_BYTES_MAX / MIB)]
    LongCatalog,
    /// Over the limit on all manifests and configs.
    #[error("the archive has more than {} MiB of manifests and image configs", ARCHIVE_DOCUMENTS_BYTES_MAX / MIB)]
    Documents,
    /// Over the limit on nesting.
    #[error("an index of the archive is nested deeper than {INDEX_DEPTH_MAX}")]
    TooDeep,
    /// A file that the archive should have.
    #[error("the archive lacks {:?}", shown(name))]
    Missing {
        /// Its name.
        name: String,
    },
    /// A document over its limit.
    #[error("{:?} in the archive is larger than {bytes_max} bytes", shown(name))]
    TooLong {
        /// Its name.
        name: String,
        /// The limit.
        bytes_max: u64,
    },
    /// A blob that is not what its name says.
    #[error("{:?} in the archive has wrong content: its digest is {found}", shown(name))]
    Digest {
        /// Its name.
        name: String,
        /// What it is.
        found: Digest,
    },
    /// A blob whose descriptor gives another size.
    #[error(
        "{:?} in the archive has the wrong size: {found} bytes instead of {wanted}",
        shown(name)
    )]
    Size {
        /// Its name.
        name: String,
        /// What the descriptor says.
        wanted: u64,
        /// Its length.
        found: u64,
    },
    /// A manifest, an index or a config is refused.
    #[error("{:?} in the archive is refused: {}", shown(name), shown(reason))]
    Document {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// An image with a name that no image can have.
    #[error("an image of the archive has a name that cannot be its name: {}", shown(reason))]
    Name {
        /// Why.
        reason: String,
    },
    /// Config and manifest name different numbers of layers.
    #[error("image manifest has {manifest} layers, its config {config}")]
    LayerCount {
        /// Of the manifest.
        manifest: usize,
        /// Of the config.
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
