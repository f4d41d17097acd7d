//! OCI layouts, as folder or tar: `index.json` names manifests, everything else is a blob found by its digest.

use serde::Deserialize;

use super::archive::{Archive, blob_name};
use super::docker::saved_images;
use super::{Found, LoadError};
use crate::json;
use crate::limits::{CONFIG_BYTES_MAX, INDEX_DEPTH_MAX, INDEX_ENTRIES_MAX, MANIFEST_BYTES_MAX};
use crate::manifest::{Descriptor, Document, ManifestError, choose};
use crate::platform::Platform;
use crate::reference::Reference;

/// containerd's and docker's annotation: the whole name.
const IMAGE_NAME: &str = "io.containerd.image.name";
/// The specification's: a tag, or with many tools the whole name.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

#[derive(Deserialize)]
struct Layout {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

pub(super) fn images(archive: &Archive) -> Result<Vec<Found>, LoadError> {
    const LAYOUT: &str = "oci-layout";
    let layout = archive.read(LAYOUT, MANIFEST_BYTES_MAX)?;
    let layout: Layout = json::parse(&layout).map_err(|source| LoadError::Json { name: LAYOUT, source })?;
    if layout.version != "1.0.0" {
        return Err(LoadError::NotAnArchive);
    }
    let index = archive.read("index.json", MANIFEST_BYTES_MAX)?;
    let Document::Index(entries) = Document::parse(&index, None)? else {
        return Err(LoadError::NotAnArchive);
    };
    if entries.len() > INDEX_ENTRIES_MAX {
        return Err(LoadError::TooManyImages);
    }
    let mut images: Vec<Found> = Vec::new();
    for entry in &entries {
        let Some(manifest) = resolve(archive, entry, INDEX_DEPTH_MAX)? else {
            continue;
        };
        let mut image = found(archive, &manifest)?;
        image.references = names(entry);
        // The same image under several names has an entry for each.
        match images
            .iter_mut()
            .find(|other| other.manifest_bytes == image.manifest_bytes)
        {
            Some(other) => other.references.append(&mut image.references),
            None => images.push(image),
        }
    }
    add_docker_names(archive, &mut images)?;
    Ok(images)
}

/// The manifest that an entry means on this machine. `None` for what is no image: attestations, signatures.
fn resolve(archive: &Archive, entry: &Descriptor, depth_left: usize) -> Result<Option<Descriptor>, LoadError> {
    if !entry.is_index() {
        let foreign = entry.platform.is_some() && entry.platform().is_none_or(|platform| platform.os == "unknown");
        return Ok((entry.is_manifest() && !foreign).then(|| entry.clone()));
    }
    if depth_left == 0 {
        return Err(LoadError::TooDeep);
    }
    let bytes = archive.read_blob(entry.digest, MANIFEST_BYTES_MAX)?;
    match Document::parse(&bytes, Some(&entry.media_type))? {
        Document::Index(entries) => resolve(archive, choose(&entries, &Platform::host())?, depth_left - 1),
        Document::Manifest(_) => Err(ManifestError::Ambiguous.into()),
    }
}

fn found(archive: &Archive, descriptor: &Descriptor) -> Result<Found, LoadError> {
    let manifest_bytes = archive.read_blob(descriptor.digest, MANIFEST_BYTES_MAX)?;
    let Document::Manifest(manifest) = Document::parse(&manifest_bytes, Some(&descriptor.media_type))? else {
        return Err(ManifestError::Ambiguous.into());
    };
    let config = archive.read_blob(manifest.config.digest, CONFIG_BYTES_MAX)?;
    let members = manifest.layers.iter().map(|layer| blob_name(layer.digest)).collect();
    Ok(Found {
        manifest,
        manifest_bytes,
        config,
        members,
        references: Vec::new(),
    })
}

/// The names an entry gives its image. A bare tag names no repository, so it is passed over.
fn names(entry: &Descriptor) -> Vec<Reference> {
    let full = entry.annotations.get(IMAGE_NAME);
    let short = entry.annotations.get(REF_NAME).filter(|name| name.contains([':', '/']));
    full.or(short).and_then(|name| name.parse().ok()).into_iter().collect()
}

/// Docker writes its own `manifest.json` beside the layout; tags may be there alone.
fn add_docker_names(archive: &Archive, images: &mut [Found]) -> Result<(), LoadError> {
    if !archive.has("manifest.json") {
        return Ok(());
    }
    for saved in saved_images(archive)? {
        let is_its_config = |image: &&mut Found| saved.config() == blob_name(image.manifest.config.digest);
        let Some(image) = images.iter_mut().find(is_its_config) else {
            continue;
        };
        for reference in saved.references() {
            if !image.references.contains(&reference) {
                image.references.push(reference);
            }
        }
    }
    Ok(())
}
