//! `docker save` archives: `manifest.json` names config, tags and layers of each image. Runs in a converter.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::archive::{Archive, diff_ids};
use super::catalog::{CatalogImage, CatalogLayer};
use super::fault::ArchiveFault;
use crate::compression::Compression;
use crate::digest::Digest;
use crate::json;
use crate::limits::{CONFIG_BYTES_MAX, INDEX_ENTRIES_MAX, LAYERS_MAX, MANIFEST_BYTES_MAX};
use crate::manifest::{Descriptor, ManifestError, OCI_CONFIG, OCI_LAYER};
use crate::reference::Reference;

const NAME: &str = "manifest.json";
/// Name that some tools write for an image without a name.
const NO_NAME: &str = "<none>:<none>";

/// Image of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SavedImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

impl SavedImage {
    /// Names of the image, each one that docker could give.
    pub(super) fn references(&self) -> Result<Vec<String>, ArchiveFault> {
        let tags = self.repo_tags.iter().flatten();
        tags.filter(|tag| *tag != NO_NAME)
            .map(|tag| checked_name(tag))
            .collect()
    }

    pub(super) fn config(&self) -> &str {
        &self.config
    }
}

/// Reads the images of `manifest.json`.
pub(super) fn saved_images(archive: &Archive<'_>) -> Result<Vec<SavedImage>, ArchiveFault> {
    let (_, bytes) = archive.read(NAME, MANIFEST_BYTES_MAX)?;
    let images: Vec<SavedImage> = json::parse(&bytes).map_err(|error| ArchiveFault::document(NAME, &error))?;
    if images.len() > INDEX_ENTRIES_MAX {
        Err(ArchiveFault::TooManyImages)
    } else {
        Ok(images)
    }
}

pub(super) fn images(archive: &Archive<'_>) -> Result<Vec<CatalogImage>, ArchiveFault> {
    let mut images: Vec<CatalogImage> = Vec::new();
    // An image may be listed once for each of its names; it is read once.
    let mut known: BTreeMap<(&str, &[String]), usize> = BTreeMap::new();
    let saved = saved_images(archive)?;
    for one in &saved {
        let layers = one.layers.as_deref().unwrap_or_default();
        let index = *known.entry((&one.config, layers)).or_insert(images.len());
        if index == images.len() {
            images.push(image(archive, &one.config, layers)?);
        }
        images[index].references.extend(one.references()?);
    }
    Ok(images)
}

fn image(archive: &Archive<'_>, config_name: &str, members: &[String]) -> Result<CatalogImage, ArchiveFault> {
    let refuse = |error: ManifestError| ArchiveFault::document(NAME, &error);
    if members.is_empty() {
        return Err(refuse(ManifestError::NoLayers));
    }
    if members.len() > LAYERS_MAX {
        return Err(refuse(ManifestError::TooManyLayers));
    }
    let (config, bytes) = archive.read(config_name, CONFIG_BYTES_MAX)?;
    let diff_ids = diff_ids(config_name, &bytes, members.len())?;
    let layers = members.iter().zip(diff_ids);
    Ok(CatalogImage {
        manifest: None,
        config: config.location,
        config_descriptor: Descriptor {
            media_type: OCI_CONFIG.into(),
            digest: Digest::of(&bytes),
            size: config.size,
            platform: None,
            annotations: BTreeMap::new(),
        },
        layers: layers
            .map(|(member, diff)| layer(archive, member, diff))
            .collect::<Result<_, _>>()?,
        references: Vec::new(),
    })
}

/// Layer of an image. Plain layers, the usual ones, are named by their `diff_id`, which the conversion checks.
fn layer(archive: &Archive<'_>, member: &str, diff: Digest) -> Result<CatalogLayer, ArchiveFault> {
    let part = archive.part(member)?;
    let compressed = part.magic().and_then(Compression::of);
    Ok(CatalogLayer {
        blob: compressed.is_none().then_some(diff),
        diff,
        size: part.size,
        media_type: compressed.map_or_else(
            || OCI_LAYER.into(),
            |compression| format!("{OCI_LAYER}+{}", compression.name()),
        ),
        location: part.location,
    })
}

/// Checks a name that an archive gives an image.
pub(super) fn checked_name(name: &str) -> Result<String, ArchiveFault> {
    match name.parse::<Reference>() {
        Ok(_) => Ok(name.into()),
        Err(error) => Err(ArchiveFault::name(&error)),
    }
}
