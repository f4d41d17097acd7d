//! Layers of the store: each is converted once, by one process at a time, however many want it.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use super::allowance::LayerCharge;
use super::database::StoreDirectory;
use super::error::{AddLayerError, RootfsError};
use super::lock::TRY_EVERY;
use super::seal::{Check, OpenSealedError, Seal};
use super::{Allowance, ObjectLock, Store, StoreError, Workspace};
use crate::cancellation::{Cancellation, cancelled_error};
use crate::converter::ConvertError;
use crate::digest::{Digest, Hasher};
use crate::erofs::BLOCK_BYTES;

/// Name of a layer: the digest of its blob as transported, and that of its tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LayerName {
    pub blob: Digest,
    pub diff: Digest,
}

/// Layer in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoredLayer {
    pub name: LayerName,
    /// Length of the data blob, a multiple of the block size.
    pub data_bytes: u64,
}

/// Names of a layer's files: the contents, and the index.
const LAYER_FILES: [&str; 2] = ["data", "index"];

/// Layer whose files hold their original content.
struct WholeLayer {
    layer: StoredLayer,
    /// Length of the blob that the layer was made from.
    blob_bytes: u64,
    /// Length of its files.
    bytes: u64,
}

/// Layer that is not removed as long as this value lives.
#[derive(Debug)]
pub(crate) struct HeldLayer {
    pub layer: StoredLayer,
    /// Whether the layer was stored before.
    pub existed: bool,
    _lock: ObjectLock,
}

impl fmt::Display for LayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.blob.hex(), self.diff.hex())
    }
}

impl LayerName {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (blob, diff) = text.split_once('.')?;
        Some(Self {
            blob: Digest::from_hex(blob).ok()?,
            diff: Digest::from_hex(diff).ok()?,
        })
    }
}

impl Store {
    pub(super) fn layer_path(&self, name: LayerName) -> PathBuf {
        self.root.join("layers").join(name.to_string())
    }

    pub(super) fn lock_layer(&self, name: LayerName) -> Result<ObjectLock, StoreError> {
        ObjectLock::shared(&self.lock_path(&name.to_string()), &self.cancellation)
    }

    /// Returns the layer, if it exists and is intact.
    fn whole_layer(&self, name: LayerName, check: Check) -> Result<Option<WholeLayer>, StoreError> {
        let directory = self.layer_path(name);
        let Some(blob_bytes) = Seal::read(&directory).and_then(|seal| seal.blob_bytes) else {
            return Ok(None);
        };
        let mut files = Vec::new();
        for file in LAYER_FILES {
            match self.open_sealed(&directory, file, check) {
                Ok(file) => files.push(file),
                Err(OpenSealedError::Damaged { .. }) => return Ok(None),
                Err(OpenSealedError::Store(error)) => return Err(error),
            }
        }
        let data_bytes = files[0].metadata().map_or(0, |metadata| metadata.len());
        let whole = WholeLayer {
            layer: StoredLayer { name, data_bytes },
            blob_bytes,
            bytes: length_of(&[&files[0], &files[1]]).unwrap_or(0),
        };
        Ok((data_bytes % BLOCK_BYTES == 0).then_some(whole))
    }

    /// Whether a layer that should exist holds its original content; all of it is read.
    pub(super) fn is_layer_whole(&self, name: LayerName) -> Result<bool, StoreError> {
        let _lock = self.lock_layer(name)?;
        Ok(self.whole_layer(name, Check::Content)?.is_some())
    }

    /// Returns a layer of an image.
    pub(super) fn stored_layer(&self, name: LayerName) -> Result<StoredLayer, RootfsError> {
        let whole = self.whole_layer(name, Check::Stamp)?;
        whole
            .map(|whole| whole.layer)
            .ok_or(RootfsError::DamagedLayer { layer: name.blob })
    }

    /// Opens a file of a layer of an image.
    pub(super) fn open_layer_file(&self, layer: LayerName, file: &str) -> Result<File, RootfsError> {
        match self.open_sealed(&self.layer_path(layer), file, Check::Stamp) {
            Ok(file) => Ok(file),
            Err(OpenSealedError::Damaged { .. }) => Err(RootfsError::DamagedLayer { layer: layer.blob }),
            Err(OpenSealedError::Store(error)) => Err(error.into()),
        }
    }

    /// Ensures that the layer is stored: `open` is called for its bytes if it is not. Waits while another process
    /// converts the layer. A damaged layer is made anew. `size` is the blob's length in the manifest, which must be
    /// right for a stored layer too. The layer is subtracted from `allowance` while it is made.
    pub(crate) fn hold_layer<R: Read>(
        &self,
        name: LayerName,
        size: u64,
        allowance: &Allowance,
        open: impl FnOnce() -> io::Result<R>,
    ) -> Result<HeldLayer, AddLayerError> {
        let mut charge = allowance.layer();
        let (held, whole) = self.obtain_layer(name, size, &mut charge, open)?;
        if whole.blob_bytes != size {
            return Err(AddLayerError::Size {
                digest: name.blob,
                wanted: size,
                found: whole.blob_bytes,
            });
        }
        charge.keep(whole.bytes, held.existed)?;
        Ok(held)
    }

    /// Gets or makes the layer, and returns it with the lengths of its blob and its files.
    fn obtain_layer<R: Read>(
        &self,
        name: LayerName,
        size: u64,
        charge: &mut LayerCharge<'_>,
        open: impl FnOnce() -> io::Result<R>,
    ) -> Result<(HeldLayer, WholeLayer), AddLayerError> {
        let path = self.lock_path(&name.to_string());
        let held = |whole: WholeLayer, existed, lock| {
            let layer = whole.layer;
            let _lock = lock;
            (HeldLayer { layer, existed, _lock }, whole)
        };
        let lock = loop {
            let lock = ObjectLock::shared(&path, &self.cancellation)?;
            if let Some(whole) = self.whole_layer(name, Check::Stamp)? {
                return Ok(held(whole, true, lock));
            }
            drop(lock);
            // The exclusive lock is never waited for: another maker keeps the layer shared, maybe until this process
            // releases another one.
            if let Some(lock) = ObjectLock::try_exclusive(&path)? {
                break lock;
            }
            std::thread::sleep(TRY_EVERY);
        };
        let existed = self.whole_layer(name, Check::Stamp)?.is_some();
        if !existed {
            let made = self.discard(&self.layer_path(name)).map_err(Into::into).and_then(|()| {
                let source = open().map_err(ConvertError::Source)?;
                self.convert_layer(name, size, charge, source)
            });
            if let Err(error) = made {
                // The lock has no object now.
                lock.retire();
                return Err(error);
            }
        }
        let lock = lock.share(&self.cancellation)?;
        match self.whole_layer(name, Check::Stamp)? {
            Some(whole) => Ok(held(whole, existed, lock)),
            // Collected between the two locks, in the one moment in which nobody held it.
            None => Err(StoreError::File {
                action: "keep",
                path: self.layer_path(name),
                source: io::ErrorKind::NotFound.into(),
            }
            .into()),
        }
    }

    fn convert_layer(
        &self,
        name: LayerName,
        size: u64,
        charge: &mut LayerCharge<'_>,
        source: impl Read,
    ) -> Result<(), AddLayerError> {
        let workspace = self.workspace()?;
        let (data, index) = (workspace.create("data")?, workspace.create("index")?);
        let expanded_bytes_max = charge.bytes_max();
        let mut source = Verified {
            source,
            charge,
            written: [&data, &index],
            excess: None,
            hasher: Hasher::default(),
            bytes: 0,
            bytes_max: size,
            cancellation: &self.cancellation,
        };
        let converted =
            self.converter
                .convert_layer(&mut source, &data, &index, expanded_bytes_max, &self.cancellation);
        // The converter stops early at a fault. Only a fault in the right bytes is the image's, so the rest is read
        // too.
        if matches!(converted, Err(ConvertError::Fault(_) | ConvertError::Died { .. })) {
            // An error here shows as a wrong size or digest.
            let _ = io::copy(&mut source, &mut io::sink());
        }
        if let Some(excess) = source.excess {
            return Err(excess);
        }
        let over_size = |found| AddLayerError::Size {
            digest: name.blob,
            wanted: size,
            found,
        };
        if source.bytes > source.bytes_max {
            return Err(over_size(source.bytes));
        }
        let converted = match converted {
            Err(error) if error.is_no_space() => return Err(self.no_space(size).into()),
            Err(source @ (ConvertError::Fault(_) | ConvertError::Died { .. })) => Err(AddLayerError::Fault {
                layer: name.blob,
                source,
            }),
            converted => Ok(converted?),
        };
        if size != source.bytes {
            return Err(over_size(source.bytes));
        }
        let found = source.hasher.finish();
        if found != name.blob {
            return Err(AddLayerError::Digest {
                wanted: name.blob,
                found,
            });
        }
        let converted = converted?;
        let bytes = length_of(&source.written).map_err(ConvertError::Source)?;
        source.charge.grow_to(bytes)?;
        source.charge.add_entries(name.blob, converted.entries)?;
        if converted.diff_id != name.diff {
            return Err(AddLayerError::DiffId {
                layer: name.blob,
                wanted: name.diff,
                found: converted.diff_id,
            });
        }
        self.publish_layer(name, size, &workspace, &data, &index)
    }

    /// Flushes and seals the files of a converted layer, and moves it to its final name.
    fn publish_layer(
        &self,
        name: LayerName,
        blob_bytes: u64,
        workspace: &Workspace,
        data: &File,
        index: &File,
    ) -> Result<(), AddLayerError> {
        // The files' own names must be there before the directory's new name is.
        let whole = workspace.path().join("layer");
        let gather = || -> io::Result<()> {
            data.sync_all()?;
            index.sync_all()?;
            std::fs::create_dir(&whole)?;
            for file in LAYER_FILES {
                std::fs::rename(workspace.path().join(file), whole.join(file))?;
            }
            let files = [(LAYER_FILES[0], data), (LAYER_FILES[1], index)];
            Seal::of(&files, Some(blob_bytes), &self.cancellation)?.write(&whole)?;
            File::open(&whole)?.sync_all()
        };
        gather().map_err(|error| self.write_error(&self.layer_path(name), 0, error))?;
        self.database()
            .record(StoreDirectory::Layers, &name.to_string())
            .map_err(AddLayerError::Store)?;
        Ok(self.move_durably(&whole, &self.layer_path(name))?)
    }
}

/// Returns the total length of files, bytes.
fn length_of(files: &[&File]) -> io::Result<u64> {
    files.iter().map(|file| Ok(file.metadata()?.len())).sum()
}

/// Reader that digests and counts the bytes, and fails beyond the promised size, after cancellation, or when what was
/// made of the bytes so far exceeds the allowance.
struct Verified<'a, 'b, R> {
    source: R,
    charge: &'a mut LayerCharge<'b>,
    /// Files that the converter writes.
    written: [&'a File; 2],
    /// Refusal of the allowance.
    excess: Option<AddLayerError>,
    hasher: Hasher,
    bytes: u64,
    bytes_max: u64,
    cancellation: &'a Cancellation,
}

impl<R: Read> Read for Verified<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancellation.is_cancelled() {
            return Err(cancelled_error());
        }
        if let Err(excess) = self.charge.grow_to(length_of(&self.written)?) {
            self.excess = Some(excess);
            return Err(io::Error::other("larger than allowed"));
        }
        let count = self.source.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.bytes += count as u64;
        if self.bytes > self.bytes_max {
            Err(io::Error::other("more bytes than announced"))
        } else {
            Ok(count)
        }
    }
}
