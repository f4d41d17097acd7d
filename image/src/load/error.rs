//! Errors of loading an archive.

use std::io;
use std::path::PathBuf;

use super::fault::ArchiveFault;
use crate::converter::ConvertError;
use crate::store::{AddLayerError, CommitImageError, StoreError};

/// Reason why an archive was not loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file or folder cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// Path of the file or folder.
        path: PathBuf,
        /// Cause of the error.
        #[source]
        source: io::Error,
    },
    /// A compressed archive cannot be expanded.
    #[error("cannot expand the archive")]
    Expand(#[source] ConvertError),
    /// The converter gave no catalog of the archive.
    #[error("cannot list the images of the archive")]
    Catalog(#[source] ConvertError),
    /// The archive is at fault.
    #[error(transparent)]
    Archive(#[from] ArchiveFault),
    /// A part of the archive cannot be read.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// A layer was not stored.
    #[error(transparent)]
    Layer(#[from] AddLayerError),
    /// The image as a whole was not stored.
    #[error(transparent)]
    Commit(#[from] CommitImageError),
    /// The store cannot be changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
