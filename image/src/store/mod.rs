//! The content store: images, their layers and rootfs files on disk.
//!
//! ```text
//! ROOT/
//!   state.db                        SQLite: which images there are, their names and layers
//!   blobs/DIGEST                    manifests and configs, by their own digest
//!   layers/BLOB.DIFF/{data,index}   a converted layer, by the digests of its blob and of its tar
//!   rootfs/KEY/metadata             EROFS metadata of a stack of layers, by the digest of their names
//!   {layers,rootfs}/X/seal          what the files beside it hold, checked before they are used
//!   locks/OBJECT                    flock: shared while an object is needed, exclusive while it is made or removed
//!   tmp/X                           what is being made; its maker holds an flock on it
//! ```
//! Every object is absent or complete: it is made in `tmp`, flushed, renamed, and its directory flushed. A row of the
//! database is written last, so everything acknowledged is there after a power cut, and nothing else has a row. Before
//! an object or a directory in `tmp` is made, and when the row that needed it is deleted, its name is recorded in the
//! table `pending`: opening the store removes objects that are recorded and not needed, and nothing else. The bytes of
//! a layer as downloaded are not kept: the converted form holds all that a rootfs needs, and keeping both would double
//! the disk usage.
//!
//! A converted layer is named by *both* digests. The host itself digests the blob; the tar is digested by the
//! converter, which a hostile blob may have subverted. So a blob can spoil itself alone, never another image that has
//! the same `diff_id`.

mod allowance;
mod collect;
mod commit;
mod database;
mod error;
mod layers;
mod lock;
mod seal;
mod verify;
mod workspace;

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cancellation::Cancellation;
use crate::config::ImageConfig;
use crate::converter::Converter;
use crate::digest::Digest;
use crate::directory::{Directory, DirectorySpec, Links};
use crate::limits::{CONFIG_BYTES_MAX, MANIFEST_BYTES_MAX};
use crate::own_file;
use crate::reference::{Reference, Version};
use database::{Database, ImageRow};

pub(crate) use allowance::{Allowance, ArchiveAllowance};
pub(crate) use commit::NewImage;
pub use database::STORE_DATABASE;
pub use error::{
    AddLayerError, CommitImageError, FindImageError, OpenStoreError, RemoveImageError, RootfsError, StoreError,
};
use layers::StoredLayer;
pub(crate) use layers::{HeldLayer, LayerName};
use lock::ObjectLock;
pub use verify::Damage;
pub(crate) use workspace::Workspace;

/// Image in the store.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of the config: docker's image id.
    pub id: Digest,
    /// Digest of the manifest.
    pub manifest: Digest,
    /// Names of the image, tags before digests.
    pub references: Vec<Reference>,
    /// Config of the image: how to run it.
    pub config: ImageConfig,
    /// Size of the image's files as stored, bytes: layers shared with other images count too.
    pub size_bytes: u64,
    /// Time when the image was added to this store, seconds since 1970.
    pub added: i64,
    pub(crate) layers: Vec<LayerName>,
}

/// Rootfs as open files: one EROFS disk when concatenated.
#[derive(Debug)]
pub struct Rootfs {
    /// First file of the disk; its length is a multiple of 4096.
    pub metadata: File,
    /// Further files of the disk in order; each length is a multiple of 4096 and above zero.
    pub data: Vec<File>,
}

/// Actions of [`Store::remove`], in docker's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name was removed.
    Untagged(Reference),
    /// The image was deleted, or a layer that no other image has.
    Deleted(Digest),
}

impl Image {
    /// Whether the image has another tag than `name`, so that it stays when that name is removed.
    pub fn has_other_tag(&self, name: &str) -> bool {
        let is_tag = |reference: &&Reference| reference.tag().is_some();
        name.parse::<Reference>().is_ok_and(|name| {
            self.references.contains(&name) && self.references.iter().filter(is_tag).any(|tag| *tag != name)
        })
    }
}

/// Content store. Many processes may use one at the same time.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    database: Arc<Mutex<Database>>,
    converter: Converter,
    cancellation: Cancellation,
}

/// Names of the store's subdirectories.
pub const STORE_SUBDIRECTORIES: [&str; 5] = ["blobs", "layers", "rootfs", "locks", "tmp"];

/// Description of a directory that holds a store, and perhaps more.
const DIRECTORY: DirectorySpec = DirectorySpec {
    kind: "data",
    databases: &[STORE_DATABASE],
    subdirectories: &STORE_SUBDIRECTORIES,
    is_older: |_| false,
};

impl Store {
    /// Opens the store in the directory `root`, created if missing; a directory that is neither empty nor Capsid's is
    /// refused. Removes remains of killed processes from it.
    ///
    /// # Errors
    /// [`OpenStoreError`] if the directory cannot be used, or was written by a newer version.
    pub fn open(root: &Path, converter: Converter) -> Result<Self, OpenStoreError> {
        let directory = Directory::open(root, &DIRECTORY, Links::Follow)?;
        let root = directory.path().to_owned();
        for name in STORE_SUBDIRECTORIES {
            let path = root.join(name);
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(|source| OpenStoreError::Make { path, source })?;
        }
        let database = Database::open(&directory)?;
        let store = Self {
            root,
            database: Arc::new(Mutex::new(database)),
            converter,
            cancellation: Cancellation::new().map_err(OpenStoreError::Event)?,
        };
        // Remains of killed processes stay where nothing can be removed.
        if !directory.is_read_only() {
            store.recover()?;
        }
        Ok(store)
    }

    /// Directory of the store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Finds the image that `name` means, in docker's order: a whole id, a reference, or the start of an id.
    ///
    /// # Errors
    /// [`FindImageError::Ambiguous`] if the start of an id matches several; others if the store cannot be read.
    pub fn find(&self, name: &str) -> Result<Option<Image>, FindImageError> {
        let id = self.find_id(name)?;
        match id {
            Some(id) => Ok(self.database().image(id)?.map(|row| self.image(row)).transpose()?),
            None => Ok(None),
        }
    }

    /// Lists all images, newest first.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub fn list(&self) -> Result<Vec<Image>, StoreError> {
        let rows = self.database().images()?;
        rows.into_iter().map(|row| self.image(row)).collect()
    }

    /// Gives the image that `name` means the additional name `reference`.
    ///
    /// # Errors
    /// [`FindImageError::NoSuchImage`] if there is no such image.
    pub fn tag(&self, name: &str, reference: &Reference) -> Result<(), FindImageError> {
        let id = self
            .find_id(name)?
            .ok_or_else(|| FindImageError::NoSuchImage { name: shown(name) })?;
        Ok(self.database().set_name(reference, id)?)
    }

    /// Reads the bytes of an image's manifest.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be read or have changed.
    pub fn manifest(&self, image: &Image) -> Result<Vec<u8>, StoreError> {
        self.read_blob(image.manifest, MANIFEST_BYTES_MAX)
    }

    /// Reads the bytes of an image's config.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be read or have changed.
    pub fn config(&self, image: &Image) -> Result<Vec<u8>, StoreError> {
        self.read_blob(image.id, CONFIG_BYTES_MAX)
    }

    /// Ends all pulls and loads of this store and its clones, for good: each releases what it holds, removes what it
    /// has made, and returns an error.
    pub fn cancel(&self) {
        self.cancellation.cancel();
    }

    pub(crate) fn cancellation(&self) -> &Cancellation {
        &self.cancellation
    }

    pub(crate) fn converter(&self) -> &Converter {
        &self.converter
    }

    fn find_id(&self, name: &str) -> Result<Option<Digest>, FindImageError> {
        let database = self.database();
        if let Ok(digest) = name.parse::<Digest>() {
            return Ok(database.image(digest)?.map(|row| row.id));
        }
        if let Ok(reference) = name.parse::<Reference>() {
            let found = match reference.version() {
                Version::Tag(_) => database.id_of_name(&reference)?,
                Version::Digest(digest) => database.id_of_digest(&reference, *digest)?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        let digits = name.strip_prefix("sha256:").unwrap_or(name);
        if digits.len() < ID_DIGITS_MIN || digits.len() > 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(None);
        }
        match database.ids_starting_with(&digits.to_ascii_lowercase())?[..] {
            [] => Ok(None),
            [id] => Ok(Some(id)),
            _ => Err(FindImageError::Ambiguous { name: shown(name) }),
        }
    }

    fn image(&self, row: ImageRow) -> Result<Image, StoreError> {
        let bytes = self.read_blob(row.id, CONFIG_BYTES_MAX)?;
        let config = ImageConfig::parse(&bytes).map_err(|source| StoreError::Config { id: row.id, source })?;
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

    fn read_blob(&self, digest: Digest, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let path = self.blob_path(digest);
        let read = || -> io::Result<Vec<u8>> {
            let file = own_file::read(&path)?;
            let length = file.metadata()?.len().min(bytes_max);
            let mut bytes = vec![0; length as usize];
            file.read_exact_at(&mut bytes, 0)?;
            Ok(bytes)
        };
        let bytes = read().map_err(|source| StoreError::ReadBlob {
            path: path.clone(),
            source,
        })?;
        if Digest::of(&bytes) != digest {
            Err(StoreError::DamagedBlob { path })
        } else {
            Ok(bytes)
        }
    }

    fn database(&self) -> MutexGuard<'_, Database> {
        // A panic elsewhere leaves no transaction open: they roll back when dropped.
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn blob_path(&self, digest: Digest) -> PathBuf {
        self.root.join("blobs").join(digest.hex())
    }

    /// Directory of a rootfs.
    fn rootfs_path(&self, key: Digest) -> PathBuf {
        self.root.join("rootfs").join(key.hex())
    }
}

/// Smallest number of digits of an abbreviated id: fewer are a typing mistake rather than an id.
const ID_DIGITS_MIN: usize = 4;

fn shown(name: &str) -> String {
    crate::text::printable(name.as_bytes(), 300)
}

#[cfg(test)]
mod tests;
