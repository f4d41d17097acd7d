//! Loading images from docker archives, OCI archives and OCI layout folders.
//!
//! An archive is only ever read. A converter reads its headers and documents and makes a [`catalog`]; this process
//! reads bytes at the places that the catalog names. No name in an archive becomes a path of the host (CVE-2026-20613
//! was such a bug).
//!
//! ```text
//! archive ──fd──► converter (confined): headers, indexes, manifests, configs ──► catalog: digests, sizes, offsets, names
//! archive ──bytes at an offset──► converter (confined): one layer ──► data, index
//! ```

mod archive;
pub(crate) mod catalog;
mod docker;
mod error;
pub(crate) mod fault;
mod oci;
mod source;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use crate::digest::{Digest, Hasher};
use crate::limits::{CONFIG_BYTES_MAX, MANIFEST_BYTES_MAX};
use crate::manifest::{Descriptor, Manifest};
use crate::progress::{LayerState, Progress};
use crate::reference::Reference;
use crate::store::{Allowance, ArchiveAllowance, HeldLayer, Image, LayerName, NewImage, Store};
use catalog::{Catalog, CatalogImage, CatalogLayer, Location};
use source::Source;

pub(crate) use archive::OpenNamed;
pub use error::LoadError;
pub use fault::ArchiveFault;

/// Source of an archive.
pub enum LoadSource {
    /// File, or the folder of an OCI layout.
    Path(PathBuf),
    /// Stream: standard input.
    Stream(File),
}

/// Image that was loaded from an archive.
#[derive(Debug)]
pub struct Loaded {
    /// Image in the store, which may have other names too.
    pub image: Image,
    /// Names that the archive gives the image, each once.
    pub references: Vec<Reference>,
}

/// Loads all images of an archive that this machine can run, and returns them in the archive's order. [`Store::cancel`]
/// ends it.
///
/// # Errors
/// [`LoadError`]; images that were loaded before the failing one stay.
pub fn load(store: &Store, source: LoadSource, progress: &dyn Progress) -> Result<Vec<Loaded>, LoadError> {
    let source = Source::open(store, source)?;
    let catalog = source.catalog(store)?;
    let mut loader = Loader {
        store,
        source: &source,
        progress,
        digests: BTreeMap::new(),
        allowance: ArchiveAllowance::of(layers_bytes(&catalog)),
    };
    let loaded = catalog.images.iter().map(|image| loader.load(image));
    loaded
        .collect::<Result<_, _>>()
        .inspect_err(|_| store.forget_unfinished())
}

/// Loads the images of one archive.
struct Loader<'a> {
    store: &'a Store,
    source: &'a Source,
    progress: &'a dyn Progress,
    /// Digests of compressed layers of docker archives: images share them, and each is read once.
    digests: BTreeMap<Location, Digest>,
    /// Bytes that new layers of all images may expand to.
    allowance: ArchiveAllowance,
}

impl Loader<'_> {
    fn load(&mut self, image: &CatalogImage) -> Result<Loaded, LoadError> {
        let (mut held, mut layers) = (Vec::new(), Vec::new());
        let allowance = Allowance::of_an_image(Some(self.allowance.clone()));
        for layer in &image.layers {
            let blob = match layer.blob {
                Some(blob) => blob,
                None => self.digest(&layer.location)?,
            };
            held.push(self.hold(layer, blob, &allowance)?);
            layers.push(Descriptor {
                media_type: layer.media_type.clone(),
                digest: blob,
                size: layer.size,
                platform: None,
                annotations: BTreeMap::new(),
            });
        }
        self.progress.merging();
        let manifest = match &image.manifest {
            Some(location) => self.read(location, MANIFEST_BYTES_MAX)?,
            None => {
                let config = image.config_descriptor.clone();
                Manifest { config, layers }.encode()
            }
        };
        let references = references(&image.references)?;
        let new = NewImage {
            manifest: &manifest,
            config: &self.read(&image.config, CONFIG_BYTES_MAX)?,
            layers: &held.iter().map(|held| held.layer).collect::<Vec<_>>(),
            references: &references,
        };
        let image = self.store.commit_image(&new)?;
        Ok(Loaded { image, references })
    }

    fn hold(&self, layer: &CatalogLayer, blob: Digest, allowance: &Allowance) -> Result<HeldLayer, LoadError> {
        self.progress.layer(blob, LayerState::Converting);
        let name = LayerName { blob, diff: layer.diff };
        let open = || self.source.section(&layer.location, self.store.cancellation());
        let held = self.store.hold_layer(name, layer.size, allowance, open)?;
        let state = if held.existed {
            LayerState::AlreadyExists
        } else {
            LayerState::Done
        };
        self.progress.layer(blob, state);
        Ok(held)
    }

    /// Digest of the bytes at `location`.
    fn digest(&mut self, location: &Location) -> Result<Digest, LoadError> {
        if let Some(digest) = self.digests.get(location) {
            return Ok(*digest);
        }
        let section = self.source.section(location, self.store.cancellation());
        let digest = section.and_then(digest_of).map_err(LoadError::Read)?;
        self.digests.insert(location.clone(), digest);
        Ok(digest)
    }

    /// Reads the whole document at `location`.
    fn read(&self, location: &Location, bytes_max: u64) -> Result<Vec<u8>, LoadError> {
        let read = || -> io::Result<Vec<u8>> {
            let section = self.source.section(location, self.store.cancellation())?;
            let length = section.length();
            let mut bytes = Vec::new();
            section.take(bytes_max).read_to_end(&mut bytes)?;
            if bytes.len() as u64 != length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(bytes)
        };
        read().map_err(LoadError::Read)
    }
}

/// Returns the length of all layers of an archive, each counted once: of a file by its sections, whatever its manifests
/// say.
fn layers_bytes(catalog: &Catalog) -> u64 {
    let layers = catalog.images.iter().flat_map(|image| &image.layers);
    let length = |layer: &CatalogLayer| match layer.location {
        Location::Section { size, .. } => size,
        Location::File { .. } => layer.size,
    };
    let lengths: BTreeMap<&Location, u64> = layers.map(|layer| (&layer.location, length(layer))).collect();
    lengths.values().fold(0, |sum, length| sum.saturating_add(*length))
}

/// Parses names and removes duplicates.
fn references(names: &[String]) -> Result<Vec<Reference>, ArchiveFault> {
    let mut references = Vec::new();
    for name in names {
        let reference: Reference = name.parse().map_err(|error| ArchiveFault::name(&error))?;
        if !references.contains(&reference) {
            references.push(reference);
        }
    }
    Ok(references)
}

fn digest_of(mut input: impl Read) -> io::Result<Digest> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match input.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            count => hasher.update(&buffer[..count]),
        }
    }
}
