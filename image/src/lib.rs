//! Images: references, registries, the content store, and layers made into a rootfs.
//!
//! ```text
//! registry or archive ──bytes──► digest, size ──pipe──► converter (confined): expand, digest, tar ──► data, index
//!                                                        converter (confined): indexes ──► EROFS metadata
//! Store::rootfs ──► metadata + data blobs = one EROFS disk for the guest
//! ```
//! Everything that an image, an archive or a registry says is hostile. Compressed bytes and tars of layers are only
//! ever touched by converter processes; nothing of an image becomes a path of the host, and nothing of it is mounted
//! there. This crate knows nothing about virtual machines, and prints nothing.

pub mod limits;

mod cancellation;
mod compression;
mod config;
mod confined;
mod converter;
mod database;
mod digest;
mod directory;
mod erofs;
#[cfg(fuzzing)]
pub mod fuzzing;
mod job;
mod json;
mod layer;
mod load;
mod manifest;
pub mod own_file;
mod platform;
mod progress;
mod pull;
mod reference;
mod rootfs;
mod store;
mod sys;
mod text;
mod tree;

pub use compression::Compression;
pub use config::{ConfigError, Healthcheck, ImageConfig};
pub use confined::convert_main;
pub use converter::{CONVERTER_COMMAND, ConvertError, Converter};
pub use database::is_damage;
pub use digest::{Digest, ParseDigestError};
pub use directory::{DatabaseSpec, Directory, DirectoryError, DirectorySpec, Links, Recovered};
pub use json::JsonError;
pub use layer::fault::LayerFault;
pub use layer::path::NameFault;
pub use load::{ArchiveFault, LoadError, LoadSource, Loaded, load};
pub use manifest::ManifestError;
pub use platform::{ParsePlatformError, Platform};
pub use progress::{LayerState, Progress, Warning};
pub use pull::{
    Credentials, CredentialsError, ParseTokenHostError, PullError, PullOptions, Pulled, RegistryError, TokenHost, pull,
};
pub use reference::{ParseReferenceError, Reference, Version};
pub use store::{
    AddLayerError, CommitImageError, Damage, FindImageError, Image, OpenStoreError, RemoveImageError, Removed, Rootfs,
    RootfsError, STORE_DATABASE, STORE_SUBDIRECTORIES, Store, StoreError,
};
pub use text::{controls_terminal, printable};
