//! Catalog of an archive: the images that it holds, and the locations of their parts. Made by a converter.
//!
//! Headers, indexes, manifests and configs of an archive are read by the converter alone, with limits on its memory.
//! The process that started it reads the catalog, which is bounded, and then only bytes at places that the catalog
//! names.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;

use serde::{Deserialize, Serialize};

use super::archive::{Archive, OpenNamed};
use super::fault::ArchiveFault;
use super::{docker, oci};
use crate::digest::Digest;
use crate::limits::{CATALOG_BYTES_MAX, INDEX_ENTRIES_MAX};
use crate::manifest::Descriptor;

/// All images of an archive that this machine can run, each once.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Catalog {
    pub images: Vec<CatalogImage>,
}

/// Image of an archive.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CatalogImage {
    /// Location of the manifest. Docker's own archives have none, so one is made from config and layers.
    pub manifest: Option<Location>,
    pub config: Location,
    /// Digest, length and media type of the config.
    pub config_descriptor: Descriptor,
    /// Layers of the image, bottom first.
    pub layers: Vec<CatalogLayer>,
    /// Names that parse, as the archive writes them.
    pub references: Vec<String>,
}

/// Layer of an image of an archive.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CatalogLayer {
    pub location: Location,
    /// Digest of the layer's bytes as the archive holds them. Docker's own archives do not state that of a compressed
    /// layer.
    pub blob: Option<Digest>,
    /// Digest of the layer's tar.
    pub diff: Digest,
    /// Length of the layer in the archive, bytes.
    pub size: u64,
    pub media_type: String,
}

/// Location of a part of an archive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Location {
    /// Section of the archive's file.
    Section { offset: u64, size: u64 },
    /// File of a layout's folder.
    File { name: String },
}

/// Source that a catalog is made from.
pub(crate) enum CatalogSource<'a> {
    /// Tar of `bytes` bytes.
    Tar { file: File, bytes: u64 },
    /// Folder whose files another process opens.
    Folder(&'a OpenNamed<'a>),
}

/// Reason why there is no catalog.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CatalogError {
    #[error(transparent)]
    Fault(#[from] ArchiveFault),
    #[error("cannot write the catalog")]
    Write(#[source] std::io::Error),
}

/// Writes the catalog of `source` to `out` and returns its length.
pub(crate) fn write_catalog(source: CatalogSource<'_>, mut out: File) -> Result<u64, CatalogError> {
    let catalog = catalog(source)?;
    let bytes = serde_json::to_vec(&catalog).map_err(|error| CatalogError::Write(error.into()))?;
    if bytes.len() as u64 > CATALOG_BYTES_MAX {
        return Err(ArchiveFault::LongCatalog.into());
    }
    out.write_all(&bytes).map_err(CatalogError::Write)?;
    Ok(bytes.len() as u64)
}

fn catalog(source: CatalogSource<'_>) -> Result<Catalog, ArchiveFault> {
    let archive = match source {
        CatalogSource::Tar { file, bytes } => Archive::scan(file, bytes)?,
        CatalogSource::Folder(open) => Archive::folder(open),
    };
    let mut images = if archive.has("index.json")? && archive.has("oci-layout")? {
        oci::images(&archive)?
    } else if archive.has("manifest.json")? {
        docker::images(&archive)?
    } else {
        return Err(ArchiveFault::NotAnArchive);
    };
    let mut references = 0;
    for image in &mut images {
        let mut seen = BTreeSet::new();
        image.references.retain(|name| seen.insert(name.clone()));
        references += image.references.len();
    }
    if references > INDEX_ENTRIES_MAX {
        return Err(ArchiveFault::TooManyImages);
    }
    if images.is_empty() {
        return Err(ArchiveFault::Empty);
    }
    Ok(Catalog { images })
}
