//! Why an archive was not loaded.

use std::io;
use std::path::PathBuf;

use crate::config::ConfigError;
use crate::converter::ConvertError;
use crate::digest::Digest;
use crate::json::JsonError;
use crate::limits::{ARCHIVE_MEMBERS_MAX, INDEX_DEPTH_MAX, INDEX_ENTRIES_MAX};
use crate::manifest::ManifestError;
use crate::store::{AddLayerError, CommitImageError, StoreError};

/// Why an archive was not loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file or folder.
    #[error("cannot open {}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The stream or file broke off, or is no tar.
    #[error("cannot read the archive: {reason}")]
    Read {
        /// What is wrong.
        reason: String,
    },
    /// A compressed archive that does not expand.
    #[error("cannot expand the archive")]
    Expand(#[source] ConvertError),
    /// Neither docker's nor the image specification's files in it.
    #[error("not an image archive: it has neither manifest.json nor oci-layout and index.json")]
    NotAnArchive,
    /// An archive without images.
    #[error("the archive holds no image")]
    Empty,
    /// Over the limit on members.
    #[error("the archive has more than {ARCHIVE_MEMBERS_MAX} members")]
    TooManyMembers,
    /// Over the limit on images.
    #[error("the archive holds more than {INDEX_ENTRIES_MAX} images")]
    TooManyImages,
    /// Over the limit on nesting.
    #[error("an index of the archive is nested deeper than {INDEX_DEPTH_MAX}")]
    TooDeep,
    /// A file that the archive should have.
    #[error("the archive lacks {name:?}")]
    Missing {
        /// Its name.
        name: String,
    },
    /// A document over its limit.
    #[error("{name:?} in the archive is larger than {bytes_max} bytes")]
    TooLong {
        /// Its name.
        name: String,
        /// The limit.
        bytes_max: u64,
    },
    /// A blob that is not what its name says.
    #[error("{name:?} in the archive has wrong content: its digest is {found}")]
    Digest {
        /// Its name.
        name: String,
        /// What it is.
        found: Digest,
    },
    /// `manifest.json`, `index.json` or `oci-layout`.
    #[error("{name:?} in the archive is malformed")]
    Json {
        /// Which.
        name: &'static str,
        /// Cause.
        #[source]
        source: JsonError,
    },
    /// Config and manifest name different numbers of layers.
    #[error("image manifest has {manifest} layers, its config {config}")]
    LayerCount {
        /// Of the manifest.
        manifest: usize,
        /// Of the config.
        config: usize,
    },
    /// A manifest, or its platform.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A config.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A layer.
    #[error(transparent)]
    Layer(#[from] AddLayerError),
    /// The image as a whole.
    #[error(transparent)]
    Commit(#[from] CommitImageError),
    /// The store cannot be changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
