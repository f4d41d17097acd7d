//! What can go wrong with the store.

use std::io;
use std::path::PathBuf;

use crate::config::ConfigError;
use crate::converter::ConvertError;
use crate::database::is_damage;
use crate::digest::Digest;
use crate::directory::DirectoryError;
use crate::limits::IMAGE_EXPANDED_BYTES_MAX;

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenStoreError {
    /// Its directory or database is not Capsid's, lost or damaged. Nothing was touched.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A directory in it cannot be made.
    #[error("cannot make the directory {}", path.display())]
    Make {
        /// Which.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// No descriptor by which work in the store can be cancelled.
    #[error("cannot make an event descriptor")]
    Event(#[source] io::Error),
    /// Leftovers cannot be removed.
    #[error("cannot remove leftovers of an interrupted command")]
    Recover(#[from] StoreError),
}

/// What helps against an error of SQLite's.
fn cure(error: &rusqlite::Error) -> &'static str {
    if is_damage(error) {
        ": restore it from a backup of the data directory, or run `capsid system recover`"
    } else {
        ""
    }
}

/// Why the store cannot be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database.
    #[error("cannot use the image database state.db{}", cure(.0))]
    Database(#[from] rusqlite::Error),
    /// A row that this crate would not write.
    #[error("the image database holds an invalid {what}")]
    Row {
        /// Which value.
        what: &'static str,
    },
    /// A manifest or config.
    #[error("cannot read {}", path.display())]
    ReadBlob {
        /// Which file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A manifest or config whose digest is another now.
    #[error("{} is damaged: its digest does not match; remove the image and pull it again", path.display())]
    DamagedBlob {
        /// Which file.
        path: PathBuf,
    },
    /// A stored config that this version refuses.
    #[error("the config of image {id} is invalid")]
    Config {
        /// The image.
        id: Digest,
        /// Cause.
        #[source]
        source: ConfigError,
    },
    /// A file operation.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The disk is full.
    #[error("no space left for {}: {} MiB are needed, {} MiB are free", path.display(), need_bytes.div_ceil(1 << 20), have_bytes >> 20)]
    NoSpace {
        /// What could not be written.
        path: PathBuf,
        /// At least this much is needed.
        need_bytes: u64,
        /// This much is free.
        have_bytes: u64,
    },
    /// The user wanted no more of it.
    #[error("cancelled")]
    Cancelled,
}

/// Why an image was not found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindImageError {
    /// There is none.
    #[error("no such image: {name}")]
    NoSuchImage {
        /// What was asked for.
        name: String,
    },
    /// The start of an id fits several images.
    #[error("image id {name} is ambiguous")]
    Ambiguous {
        /// What was asked for.
        name: String,
    },
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an image was not removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveImageError {
    /// Which image is not clear.
    #[error(transparent)]
    Find(#[from] FindImageError),
    /// Named by its id while it has several names.
    #[error("unable to remove image {id} (must be forced): it has several names: {}", names.join(", "))]
    SeveralNames {
        /// Its short id.
        id: String,
        /// Its names.
        names: Vec<String>,
    },
    /// The store cannot be changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a layer was not stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddLayerError {
    /// The converter failed, or the layer is at fault.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// The blob is not the one that was asked for.
    #[error("layer {wanted} has wrong content: its digest is {found}")]
    Digest {
        /// What the manifest says.
        wanted: Digest,
        /// What came.
        found: Digest,
    },
    /// The blob is longer or shorter than the manifest says.
    #[error("layer {digest} has the wrong size: {found} bytes instead of {wanted}")]
    Size {
        /// The layer.
        digest: Digest,
        /// What the manifest says.
        wanted: u64,
        /// What came.
        found: u64,
    },
    /// Over the limit on all layers of the image.
    #[error("image expands to more than {} GiB", IMAGE_EXPANDED_BYTES_MAX >> 30)]
    ImageTooLarge,
    /// The tar is not the one that the config names.
    #[error("layer {layer} expands to {found}, but the image config says {wanted}")]
    DiffId {
        /// The blob.
        layer: Digest,
        /// What the config says.
        wanted: Digest,
        /// What it is.
        found: Digest,
    },
    /// The store cannot be changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an image whose layers are stored was not.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitImageError {
    /// Config and manifest name different numbers of layers.
    #[error("image manifest has {manifest} layers, its config {config}")]
    LayerCount {
        /// Of the manifest.
        manifest: usize,
        /// Of the config.
        config: usize,
    },
    /// Over the limit on all layers.
    #[error("image expands to more than {} GiB", IMAGE_EXPANDED_BYTES_MAX >> 30)]
    TooLarge,
    /// The rootfs cannot be made.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// The store cannot be changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why there is no rootfs of an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootfsError {
    /// A layer is not there (the image was removed meanwhile, or files of the store were), or its bytes have changed.
    #[error(
        "layer {layer} of the image is missing or damaged, so that it is not used: `capsid pull` or `capsid load` of the \
         image puts it right, `capsid rmi` removes it"
    )]
    DamagedLayer {
        /// The blob.
        layer: Digest,
    },
    /// Others remove the rootfs as often as it is made.
    #[error("the rootfs of the image changes all the time: is another process at work in the store?")]
    Contended,
    /// The converter failed, or the layers do not fit together.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// The store cannot be changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
