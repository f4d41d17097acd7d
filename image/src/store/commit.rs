//! Creation of objects: durable and complete, or not at all.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::database::{ImageRow, StoreDirectory};
use super::error::{CommitImageError, RootfsError};
use super::seal::{Check, OpenSealedError, Seal};
use super::{Image, LayerName, ObjectLock, Rootfs, Store, StoreError, StoredLayer};
use crate::config::ImageConfig;
use crate::converter::ConvertError;
use crate::digest::{Digest, Hasher};
use crate::erofs::BLOCK_BYTES;
use crate::limits::IMAGE_EXPANDED_BYTES_MAX;
use crate::reference::Reference;
use crate::rootfs::Stack;

/// Name of the file of a rootfs.
pub(super) const METADATA: &str = "metadata";

/// Number of attempts to make a rootfs anew while other processes do the same.
const ROOTFS_TRIES: usize = 3;

/// Image whose layers are stored, ready to be recorded.
pub(crate) struct NewImage<'a> {
    pub manifest: &'a [u8],
    pub config: &'a [u8],
    pub layers: &'a [StoredLayer],
    /// Names that the image gets.
    pub references: &'a [Reference],
}

impl Store {
    /// Stores the image; after the return it survives a power cut. The layers' locks must still be held.
    pub(crate) fn commit_image(&self, new: &NewImage<'_>) -> Result<Image, CommitImageError> {
        let size_bytes: u64 = new.layers.iter().map(|layer| layer.data_bytes).sum();
        if size_bytes > IMAGE_EXPANDED_BYTES_MAX {
            return Err(CommitImageError::TooLarge);
        }
        let (id, manifest) = (Digest::of(new.config), Digest::of(new.manifest));
        let config = ImageConfig::parse(new.config).map_err(|source| StoreError::Config { id, source })?;
        let layers: Vec<LayerName> = new.layers.iter().map(|layer| layer.name).collect();
        if layers.len() != config.diff_ids.len() {
            return Err(CommitImageError::LayerCount {
                manifest: layers.len(),
                config: config.diff_ids.len(),
            });
        }
        let key = rootfs_key(&layers);
        let _locks = [
            self.lock_object(id)?,
            self.lock_object(manifest)?,
            self.lock_object(key)?,
        ];
        self.write_blob(id, new.config)?;
        self.write_blob(manifest, new.manifest)?;
        self.ensure_rootfs(&layers, key)?;
        let row = ImageRow {
            id,
            manifest,
            size_bytes,
            added: now(),
            references: new.references.to_vec(),
            layers,
        };
        let row = self.database().insert_image(row, key)?;
        let ImageRow {
            id,
            manifest,
            size_bytes,
            added,
            references,
            layers,
        } = row;
        Ok(Image {
            id,
            manifest,
            references,
            config,
            size_bytes,
            added,
            layers,
        })
    }

    /// Opens the files of an image's rootfs, made anew if it is missing. Open files stay complete when the image is
    /// removed.
    ///
    /// # Errors
    /// [`RootfsError::DamagedLayer`] if the image was removed meanwhile, or a layer does not hold its original content.
    pub fn rootfs(&self, image: &Image) -> Result<Rootfs, RootfsError> {
        let key = rootfs_key(&image.layers);
        let _lock = self.lock_object(key)?;
        let _layers: Vec<_> = image
            .layers
            .iter()
            .map(|layer| self.lock_layer(*layer))
            .collect::<Result<_, StoreError>>()?;
        let mut data = Vec::new();
        for layer in unique_blobs(&self.stored_layers(&image.layers)?) {
            data.push(self.open_layer_file(layer, "data")?);
        }
        for _ in 0..ROOTFS_TRIES {
            self.ensure_rootfs(&image.layers, key)?;
            match self.open_sealed(&self.rootfs_path(key), METADATA, Check::Stamp) {
                Ok(metadata) => return Ok(Rootfs { metadata, data }),
                Err(OpenSealedError::Store(error)) => return Err(error.into()),
                // Made anew from the layers' indexes, which are checked. Another process may do the same.
                Err(OpenSealedError::Damaged { .. }) => self.discard(&self.rootfs_path(key))?,
            }
        }
        Err(RootfsError::Contended)
    }

    /// Makes the metadata image if it is missing. Of two makers, which write the same bytes, the first one's image
    /// stays.
    fn ensure_rootfs(&self, layers: &[LayerName], key: Digest) -> Result<(), RootfsError> {
        let path = self.rootfs_path(key);
        if path.is_dir() {
            return Ok(());
        }
        // An earlier version wrote a file of this name.
        self.discard(&path)?;
        let (stack, indexes) = self.stack(layers)?;
        let workspace = self.workspace()?;
        let out = workspace.create(METADATA)?;
        let merged = self.converter.merge(stack, &indexes, &out, &self.cancellation);
        merged.map_err(|error| match error {
            ConvertError::Merge { layer, source } => RootfsError::Fault {
                layer: layers[layer].blob,
                source,
            },
            error if error.is_no_space() => RootfsError::Store(self.no_space(0)),
            error => RootfsError::Convert(error),
        })?;
        let whole = workspace.path().join("rootfs");
        let gather = || -> io::Result<()> {
            out.sync_all()?;
            std::fs::create_dir(&whole)?;
            std::fs::rename(workspace.path().join(METADATA), whole.join(METADATA))?;
            Seal::of(&[(METADATA, &out)], None, &self.cancellation)?.write(&whole)?;
            File::open(&whole)?.sync_all()
        };
        gather().map_err(|error| self.write_error(&whole, 0, error))?;
        self.database().record(StoreDirectory::Rootfs, &key.hex())?;
        match self.move_durably(&whole, &path) {
            Err(_) if path.is_dir() => Ok(()),
            moved => Ok(moved?),
        }
    }

    /// Input of a merge of the layers: their stack, and their indexes.
    fn stack(&self, layers: &[LayerName]) -> Result<(Stack, Vec<File>), RootfsError> {
        let stored = self.stored_layers(layers)?;
        let unique = unique_blobs(&stored);
        let blob_of = |name: &LayerName| unique.iter().position(|unique| unique == name).unwrap_or(0) as u16;
        let bytes_of = |name: &LayerName| {
            stored
                .iter()
                .find(|layer| layer.name == *name)
                .map_or(0, |layer| layer.data_bytes)
        };
        let stack = Stack {
            blobs: layers.iter().map(blob_of).collect(),
            blob_blocks: unique
                .iter()
                .map(|name| (bytes_of(name) / BLOCK_BYTES) as u32)
                .collect(),
        };
        let indexes = layers.iter().map(|layer| self.open_layer_file(*layer, "index"));
        Ok((stack, indexes.collect::<Result<_, _>>()?))
    }

    fn stored_layers(&self, layers: &[LayerName]) -> Result<Vec<StoredLayer>, RootfsError> {
        layers.iter().map(|name| self.stored_layer(*name)).collect()
    }

    fn lock_object(&self, name: Digest) -> Result<ObjectLock, StoreError> {
        ObjectLock::shared(&self.lock_path(&name.hex()), &self.cancellation)
    }

    fn write_blob(&self, digest: Digest, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.blob_path(digest);
        if path.exists() {
            return Ok(());
        }
        let workspace = self.workspace()?;
        let mut file = workspace.create("blob")?;
        file.write_all(bytes)
            .map_err(|source| self.write_error(&path, bytes.len() as u64, source))?;
        self.database().record(StoreDirectory::Blobs, &digest.hex())?;
        self.publish(&file, &workspace.path().join("blob"), &path)
    }

    /// Flushes `file`, moves it from its workspace to its final place, and flushes the directory.
    fn publish(&self, file: &File, from: &Path, to: &Path) -> Result<(), StoreError> {
        file.sync_all().map_err(|source| self.write_error(to, 0, source))?;
        self.move_durably(from, to)
    }

    /// Renames a file or directory, whose own content is flushed, so that the new name survives a power cut.
    pub(super) fn move_durably(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        let rename = || -> io::Result<()> {
            std::fs::rename(from, to)?;
            File::open(to.parent().unwrap_or(to))?.sync_all()
        };
        rename().map_err(|source| self.write_error(to, 0, source))
    }

    /// Converts an error of writing; a full disk is reported with figures.
    pub(super) fn write_error(&self, path: &Path, need_bytes: u64, source: io::Error) -> StoreError {
        if source.kind() == io::ErrorKind::StorageFull {
            return self.no_space(need_bytes);
        }
        StoreError::File {
            action: "write",
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn no_space(&self, need_bytes: u64) -> StoreError {
        let have_bytes = self.free_bytes();
        StoreError::NoSpace {
            path: self.root.clone(),
            need_bytes: need_bytes.max(have_bytes + 1),
            have_bytes,
        }
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        rustix::fs::statvfs(&self.root).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// Name of a rootfs: it depends on its layers and on how this version merges them.
pub(super) fn rootfs_key(layers: &[LayerName]) -> Digest {
    let mut hasher = Hasher::default();
    hasher.update(b"capsid rootfs 2\n");
    for layer in layers {
        hasher.update(layer.to_string().as_bytes());
        hasher.update(b"\n");
    }
    hasher.finish()
}

/// Layers that have data, each once, bottom first: the blobs of the disk.
fn unique_blobs(layers: &[StoredLayer]) -> Vec<LayerName> {
    let mut unique = Vec::new();
    for layer in layers.iter().filter(|layer| layer.data_bytes > 0) {
        if !unique.contains(&layer.name) {
            unique.push(layer.name);
        }
    }
    unique
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |duration| duration.as_secs() as i64)
}
