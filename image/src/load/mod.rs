//! Loading images from docker archives, OCI archives and OCI layout folders.
//!
//! An archive is only ever read: its members are found by name in a table made from its headers, its blobs by digest, and
//! no name in it becomes a path of the host (CVE-2026-20613 was that).

mod archive;
mod docker;
mod error;
mod oci;

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::config::ImageConfig;
use crate::limits::CONFIG_BYTES_MAX;
use crate::manifest::{Manifest, ManifestError};
use crate::platform::Platform;
use crate::progress::{LayerState, Progress};
use crate::reference::Reference;
use crate::store::{Image, LayerName, NewImage, Store};
use archive::Archive;

pub use error::LoadError;

/// Where an archive comes from.
pub enum LoadSource {
    /// A file, or the folder of an OCI layout.
    Path(PathBuf),
    /// A stream: standard input.
    Stream(File),
}

/// Loads all images of an archive that this machine can run, and tells them in the archive's order.
/// [`Store::cancel`] ends it.
///
/// # Errors
/// [`LoadError`]; images that were loaded before the failing one stay.
pub fn load(store: &Store, source: LoadSource, progress: &dyn Progress) -> Result<Vec<Image>, LoadError> {
    let archive = Archive::open(store, source)?;
    let found = if archive.has("index.json") && archive.has("oci-layout") {
        oci::images(&archive)?
    } else if archive.has("manifest.json") {
        docker::images(&archive)?
    } else {
        return Err(LoadError::NotAnArchive);
    };
    if found.is_empty() {
        return Err(LoadError::Empty);
    }
    let loaded = found.iter().map(|image| load_one(store, &archive, image, progress));
    loaded
        .collect::<Result<_, _>>()
        .inspect_err(|_| store.forget_unfinished())
}

/// An image found in an archive: where its parts are, not yet read.
struct Found {
    manifest: Manifest,
    manifest_bytes: Vec<u8>,
    config: Vec<u8>,
    /// Member names of the layers.
    members: Vec<String>,
    references: Vec<Reference>,
}

fn load_one(store: &Store, archive: &Archive, found: &Found, progress: &dyn Progress) -> Result<Image, LoadError> {
    let config = ImageConfig::parse(&found.config)?;
    let wanted = Platform::host();
    if !wanted.accepts(&config.platform) {
        return Err(ManifestError::NoPlatform {
            wanted,
            found: vec![config.platform],
        }
        .into());
    }
    if config.diff_ids.len() != found.manifest.layers.len() {
        return Err(LoadError::LayerCount {
            manifest: found.manifest.layers.len(),
            config: config.diff_ids.len(),
        });
    }
    let mut held = Vec::new();
    for ((descriptor, diff), member) in found.manifest.layers.iter().zip(&config.diff_ids).zip(&found.members) {
        progress.layer(descriptor.digest, LayerState::Converting);
        let name = LayerName {
            blob: descriptor.digest,
            diff: *diff,
        };
        let layer = store.hold_layer(name, Some(descriptor.size), || archive.open_member(member))?;
        let state = if layer.existed {
            LayerState::AlreadyExists
        } else {
            LayerState::Done
        };
        progress.layer(descriptor.digest, state);
        held.push(layer);
    }
    progress.merging();
    let layers: Vec<_> = held.iter().map(|held| held.layer).collect();
    let new = NewImage {
        manifest: &found.manifest_bytes,
        config: &found.config,
        layers: &layers,
        references: &found.references,
    };
    Ok(store.commit_image(&new)?)
}

fn read_config(archive: &Archive, name: &str) -> Result<Vec<u8>, LoadError> {
    archive.read(name, CONFIG_BYTES_MAX)
}

fn open_file(path: &Path) -> Result<File, LoadError> {
    File::open(path).map_err(|source| LoadError::Open {
        path: path.to_owned(),
        source,
    })
}
