//! Errors of the store.

use std::io;
use std::path::PathBuf;

use crate::config::ConfigError;
use crate::converter::ConvertError;
use crate::database::is_damage;
use crate::digest::Digest;
use crate::directory::DirectoryError;
use crate::layer::fault::LayerFault;
use crate::limits::{ARCHIVE_EXPANSION_RATIO_MAX, IMAGE_EXPANDED_BYTES_MAX};

/// Reason why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenStoreError {
    /// The store's directory or database does not belong to Capsid, or is lost or damaged. Nothing was touched.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A subdirectory cannot be created.
    #[error("cannot make the directory {}", path.display())]
    Make {
        /// Path of the directory.
        path: PathBuf,
        /// Cause of the error.
        #[source]
        source: io::Error,
    },
    /// The event descriptor for cancellation cannot be created.
    #[error("cannot make an event descriptor")]
    Event(#[source] io::Error),
    /// Remains of killed commands cannot be removed.
    #[error("cannot remove leftovers of an interrupted command")]
    Recover(#[from] StoreError),
}

/// Advice for the user about an error of SQLite.
fn cure(error: &rusqlite::Error) -> &'static str {
    if is_damage(error) {
        ": restore it from a backup of the data directory, or run `capsid system recover`"
    } else {
        ""
    }
}

/// Reason why the store cannot be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// SQLite reports an error.
    #[error("cannot use the image database state.db{}", cure(.0))]
    Database(#[from] rusqlite::Error),
    /// A row is not one that this crate would write.
    #[error("the image database holds an invalid {what}")]
    Row {
        /// Name of the value.
        what: &'static str,
    },
    /// A manifest or config cannot be read.
    #[error("cannot read {}", path.display())]
    ReadBlob {
        /// Path of the file.
        path: PathBuf,
        /// Cause of the error.
        #[source]
        source: io::Error,
    },
    /// A manifest or config has another digest now.
    #[error("{} is damaged: its digest does not match; remove the image and pull it again", path.display())]
    DamagedBlob {
        /// Path of the file.
        path: PathBuf,
    },
    /// A stored config is refused by this version.
    #[error("the config of image {id} is invalid")]
    Config {
        /// Id of the image.
        id: Digest,
        /// Cause of the error.
        #[source]
        source: ConfigError,
    },
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// Operation that failed.
        action: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Cause of the error.
        #[source]
        source: io::Error,
    },
    /// The disk is full.
    #[error("no space left for {}: {} MiB are needed, {} MiB are free", path.display(), need_bytes.div_ceil(1 << 20), have_bytes >> 20)]
    NoSpace {
        /// Path that could not be written.
        path: PathBuf,
        /// Space that is needed at least, bytes.
        need_bytes: u64,
        /// Space that is free, bytes.
        have_bytes: u64,
    },
    /// The user cancelled the operation.
    #[error("cancelled")]
    Cancelled,
}

/// Reason why an image was not found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindImageError {
    /// The image does not exist.
    #[error("no such image: {name}")]
    NoSuchImage {
        /// Name that was looked up.
        name: String,
    },
    /// The start of an id matches several images.
    #[error("image id {name} is ambiguous")]
    Ambiguous {
        /// Start of the id that was looked up.
        name: String,
    },
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reason why an image was not removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveImageError {
    /// The image was not found, or is ambiguous.
    #[error(transparent)]
    Find(#[from] FindImageError),
    /// The image was named by its id but has several names.
    #[error("unable to remove image {id} (must be forced): it has several names: {}", names.join(", "))]
    SeveralNames {
        /// Short id of the image.
        id: String,
        /// Names of the image.
        names: Vec<String>,
    },
    /// The store cannot be changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reason why a layer was not stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddLayerError {
    /// The converter could not be used, or its input or output.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// The layer is at fault, or makes the converter fail.
    #[error("cannot use layer {layer}")]
    Fault {
        /// Digest of the layer's blob.
        layer: Digest,
        /// Fault of the layer.
        #[source]
        source: ConvertError,
    },
    /// The blob is not the requested one.
    #[error("layer {wanted} has wrong content: its digest is {found}")]
    Digest {
        /// Digest in the manifest.
        wanted: Digest,
        /// Digest of the received bytes.
        found: Digest,
    },
    /// The blob is longer or shorter than the manifest says.
    #[error("layer {digest} has the wrong size: {found} bytes instead of {wanted}")]
    Size {
        /// Digest of the layer's blob.
        digest: Digest,
        /// Size in the manifest, bytes.
        wanted: u64,
        /// Number of received bytes.
        found: u64,
    },
    /// All layers of the image together exceed their limit.
    #[error("image expands to more than {} GiB", IMAGE_EXPANDED_BYTES_MAX >> 30)]
    ImageTooLarge,
    /// All new layers of the archive together exceed their limit.
    #[error(
        "archive expands to more than {} GiB and {ARCHIVE_EXPANSION_RATIO_MAX} times its length",
        IMAGE_EXPANDED_BYTES_MAX >> 30
    )]
    ArchiveTooLarge,
    /// The tar is not the one that the config names.
    #[error("layer {layer} expands to {found}, but the image config says {wanted}")]
    DiffId {
        /// Digest of the layer's blob.
        layer: Digest,
        /// Digest in the config.
        wanted: Digest,
        /// Digest of the tar.
        found: Digest,
    },
    /// The store cannot be changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reason why an image was not stored although its layers are.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitImageError {
    /// Config and manifest name different numbers of layers.
    #[error("image manifest has {manifest} layers, its config {config}")]
    LayerCount {
        /// Number of layers in the manifest.
        manifest: usize,
        /// Number of layers in the config.
        config: usize,
    },
    /// All layers together exceed their limit.
    #[error("image expands to more than {} GiB", IMAGE_EXPANDED_BYTES_MAX >> 30)]
    TooLarge,
    /// The rootfs cannot be made.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// The store cannot be changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reason why an image has no rootfs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootfsError {
    /// A layer is missing (the image was removed meanwhile, or files of the store were), or its bytes have changed.
    #[error(
        "layer {layer} of the image is missing or damaged, so that it is not used: `capsid pull` or `capsid load` of the \
         image puts it right, `capsid rmi` removes it"
    )]
    DamagedLayer {
        /// Digest of the layer's blob.
        layer: Digest,
    },
    /// Other processes remove the rootfs as often as it is made.
    #[error("the rootfs of the image changes all the time: is another process at work in the store?")]
    Contended,
    /// The converter failed.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// A layer does not fit on those below it.
    #[error("cannot use layer {layer}")]
    Fault {
        /// Digest of the layer's blob.
        layer: Digest,
        /// Fault of the layer.
        #[source]
        source: LayerFault,
    },
    /// The store cannot be changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
