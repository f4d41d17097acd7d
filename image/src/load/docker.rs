//! `docker save` archives: `manifest.json` names config, tags and layers of each image.

use std::io::{self, Read};

use serde::Deserialize;

use super::archive::{Archive, is_compressed};
use super::{Found, LoadError, read_config};
use crate::config::ImageConfig;
use crate::digest::{Digest, Hasher};
use crate::json;
use crate::limits::{INDEX_ENTRIES_MAX, LAYERS_MAX, MANIFEST_BYTES_MAX};
use crate::manifest::{Descriptor, Manifest, ManifestError, OCI_CONFIG, OCI_LAYER};
use crate::reference::Reference;
use crate::text::printable;

/// An image of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SavedImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

impl SavedImage {
    /// Names that parse; `<none>:<none>` and the like do not.
    pub(super) fn references(&self) -> Vec<Reference> {
        self.repo_tags
            .iter()
            .flatten()
            .filter_map(|tag| tag.parse().ok())
            .collect()
    }

    pub(super) fn config(&self) -> &str {
        &self.config
    }
}

/// The images of `manifest.json`.
pub(super) fn saved_images(archive: &Archive) -> Result<Vec<SavedImage>, LoadError> {
    const NAME: &str = "manifest.json";
    let bytes = archive.read(NAME, MANIFEST_BYTES_MAX)?;
    let images: Vec<SavedImage> = json::parse(&bytes).map_err(|source| LoadError::Json { name: NAME, source })?;
    if images.len() > INDEX_ENTRIES_MAX {
        Err(LoadError::TooManyImages)
    } else {
        Ok(images)
    }
}

pub(super) fn images(archive: &Archive) -> Result<Vec<Found>, LoadError> {
    saved_images(archive)?
        .iter()
        .map(|image| found(archive, image))
        .collect()
}

/// Such an archive has no manifest in the sense of a registry; one is made that names its layers as they are.
fn found(archive: &Archive, image: &SavedImage) -> Result<Found, LoadError> {
    let members = image.layers.clone().unwrap_or_default();
    if members.is_empty() {
        return Err(ManifestError::NoLayers.into());
    }
    if members.len() > LAYERS_MAX {
        return Err(ManifestError::TooManyLayers.into());
    }
    let config = read_config(archive, &image.config)?;
    let diff_ids = ImageConfig::parse(&config)?.diff_ids;
    if diff_ids.len() != members.len() {
        return Err(LoadError::LayerCount {
            manifest: members.len(),
            config: diff_ids.len(),
        });
    }
    let mut layers = Vec::new();
    for (member, diff_id) in members.iter().zip(diff_ids) {
        layers.push(layer_descriptor(archive, member, diff_id)?);
    }
    let descriptor = Descriptor {
        media_type: OCI_CONFIG.into(),
        digest: Digest::of(&config),
        size: config.len() as u64,
        platform: None,
        annotations: Default::default(),
    };
    let manifest = Manifest {
        config: descriptor,
        layers,
    };
    let manifest_bytes = manifest.encode();
    Ok(Found {
        manifest,
        manifest_bytes,
        config,
        members,
        references: image.references(),
    })
}

/// Plain layers, the usual ones, are named by their `diff_id`, which the conversion checks; others are digested here.
fn layer_descriptor(archive: &Archive, member: &str, diff_id: Digest) -> Result<Descriptor, LoadError> {
    let missing = |_| LoadError::Missing {
        name: printable(member.as_bytes(), 300),
    };
    let mut section = archive.open_member(member).map_err(missing)?;
    let size = section.length();
    let mut magic = [0; 4];
    let compressed = section.read_exact(&mut magic).is_ok() && is_compressed(magic);
    let digest = if compressed {
        let mut section = archive.open_member(member).map_err(missing)?;
        digest_of(&mut section).map_err(|error| LoadError::Read {
            reason: error.to_string(),
        })?
    } else {
        diff_id
    };
    let media_type = if !compressed {
        OCI_LAYER.into()
    } else {
        format!("{OCI_LAYER}+{}", compression(magic))
    };
    Ok(Descriptor {
        media_type,
        digest,
        size,
        platform: None,
        annotations: Default::default(),
    })
}

fn compression(magic: [u8; 4]) -> &'static str {
    if magic[0] == 0x1f { "gzip" } else { "zstd" }
}

fn digest_of(input: &mut impl Read) -> io::Result<Digest> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match input.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            count => hasher.update(&buffer[..count]),
        }
    }
}
