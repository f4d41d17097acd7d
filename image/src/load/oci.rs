//! OCI layouts, as folder or tar: `index.json` names manifests, and everything else is a blob found by its digest. Runs
//! in a converter.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::archive::{Archive, blob_name, diff_ids};
use super::catalog::{CatalogImage, CatalogLayer};
use super::docker::{checked_name, saved_images};
use super::fault::ArchiveFault;
use crate::digest::Digest;
use crate::json;
use crate::limits::{CONFIG_BYTES_MAX, INDEX_DEPTH_MAX, INDEX_ENTRIES_MAX, MANIFEST_BYTES_MAX};
use crate::manifest::{Descriptor, Document, ManifestError, choose};
use crate::platform::Platform;

/// Annotation of containerd and docker: the whole name.
const IMAGE_NAME: &str = "io.containerd.image.name";
/// Annotation of the specification: a tag, or with many tools the whole name.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

const LAYOUT: &str = "oci-layout";
const INDEX: &str = "index.json";

#[derive(Deserialize)]
struct Layout {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

pub(super) fn images(archive: &Archive<'_>) -> Result<Vec<CatalogImage>, ArchiveFault> {
    let (_, layout) = archive.read(LAYOUT, MANIFEST_BYTES_MAX)?;
    let layout: Layout = json::parse(&layout).map_err(|error| ArchiveFault::document(LAYOUT, &error))?;
    if layout.version != "1.0.0" {
        return Err(ArchiveFault::NotAnArchive);
    }
    let (_, index) = archive.read(INDEX, MANIFEST_BYTES_MAX)?;
    let Document::Index(entries) = parse(INDEX, &index, None)? else {
        return Err(ArchiveFault::NotAnArchive);
    };
    if entries.len() > INDEX_ENTRIES_MAX {
        return Err(ArchiveFault::TooManyImages);
    }
    let mut images: Vec<CatalogImage> = Vec::new();
    // The same image under several names has an entry for each; it is read once.
    let mut known: BTreeMap<Digest, usize> = BTreeMap::new();
    for entry in &entries {
        let Some(manifest) = resolve(archive, entry, INDEX_DEPTH_MAX)? else {
            continue;
        };
        let index = *known.entry(manifest.digest).or_insert(images.len());
        if index == images.len() {
            images.push(image(archive, &manifest)?);
        }
        images[index].references.extend(name(entry)?);
    }
    add_docker_names(archive, &mut images)?;
    Ok(images)
}

fn parse(name: &str, bytes: &[u8], media_type: Option<&str>) -> Result<Document, ArchiveFault> {
    Document::parse(bytes, media_type).map_err(|error| ArchiveFault::document(name, &error))
}

/// Finds the manifest that an entry means on this machine. `None` for entries that are no image: attestations,
/// signatures.
fn resolve(archive: &Archive<'_>, entry: &Descriptor, depth_left: usize) -> Result<Option<Descriptor>, ArchiveFault> {
    if !entry.is_index() {
        let foreign = entry.platform.is_some() && entry.platform().is_none_or(|platform| platform.os == "unknown");
        return Ok((entry.is_manifest() && !foreign).then(|| entry.clone()));
    }
    if depth_left == 0 {
        return Err(ArchiveFault::TooDeep);
    }
    let (_, bytes) = archive.read_blob(entry, MANIFEST_BYTES_MAX)?;
    let name = blob_name(entry.digest);
    let refuse = |error: ManifestError| ArchiveFault::document(&name, &error);
    match parse(&name, &bytes, Some(&entry.media_type))? {
        Document::Index(entries) => {
            let entry = choose(&entries, &Platform::host()).map_err(refuse)?;
            resolve(archive, entry, depth_left - 1)
        }
        Document::Manifest(_) => Err(refuse(ManifestError::Ambiguous)),
    }
}

fn image(archive: &Archive<'_>, descriptor: &Descriptor) -> Result<CatalogImage, ArchiveFault> {
    let name = blob_name(descriptor.digest);
    let (part, bytes) = archive.read_blob(descriptor, MANIFEST_BYTES_MAX)?;
    let Document::Manifest(manifest) = parse(&name, &bytes, Some(&descriptor.media_type))? else {
        return Err(ArchiveFault::document(&name, &ManifestError::Ambiguous));
    };
    let (config, bytes) = archive.read_blob(&manifest.config, CONFIG_BYTES_MAX)?;
    let config_name = blob_name(manifest.config.digest);
    let diff_ids = diff_ids(&config_name, &bytes, manifest.layers.len())?;
    let layers = manifest.layers.into_iter().zip(diff_ids);
    Ok(CatalogImage {
        manifest: Some(part.location),
        config: config.location,
        config_descriptor: Descriptor {
            annotations: BTreeMap::new(),
            ..manifest.config
        },
        layers: layers
            .map(|(layer, diff)| {
                Ok(CatalogLayer {
                    location: archive.blob(&layer)?.location,
                    blob: Some(layer.digest),
                    diff,
                    size: layer.size,
                    media_type: layer.media_type,
                })
            })
            .collect::<Result<_, ArchiveFault>>()?,
        references: Vec::new(),
    })
}

/// Name that an entry gives its image. A bare tag names no repository, so it is ignored.
fn name(entry: &Descriptor) -> Result<Option<String>, ArchiveFault> {
    let full = entry.annotations.get(IMAGE_NAME);
    let short = entry.annotations.get(REF_NAME).filter(|name| name.contains([':', '/']));
    full.or(short).map(|name| checked_name(name)).transpose()
}

/// Adds the names in docker's `manifest.json`, which docker writes beside the layout; tags may be there alone.
fn add_docker_names(archive: &Archive<'_>, images: &mut [CatalogImage]) -> Result<(), ArchiveFault> {
    if !archive.has("manifest.json")? {
        return Ok(());
    }
    let by_config: BTreeMap<String, usize> = images
        .iter()
        .enumerate()
        .map(|(index, image)| (blob_name(image.config_descriptor.digest), index))
        .collect();
    for saved in saved_images(archive)? {
        if let Some(&index) = by_config.get(saved.config()) {
            images[index].references.extend(saved.references()?);
        }
    }
    Ok(())
}
