//! Seals: records of the content of a converted object's files, so that a file that has changed since is never served.
//!
//! ```text
//! layers/BLOB.DIFF/seal   digests and stamps of `data` and `index`
//! rootfs/KEY/seal         digest and stamp of `metadata`
//! ```
//! A stamp is the `stat` result of the file when its content was last known to be good, and the boot at that time. A
//! file with that stamp is used unchecked, which costs two system calls. Any other file is read and digested first: one
//! that was written to or replaced, and each one at its first use after a boot, because nobody knows what a crash, or a
//! disk while the machine was off, has done to it. Then it gets a new stamp, or is refused.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{Store, StoreError, Workspace};
use crate::cancellation::{Cancellation, cancelled_error};
use crate::digest::{Digest, Hasher};
use crate::limits::SEAL_BYTES_MAX;
use crate::own_file;

/// Name of the seal in an object's directory.
pub(super) const SEAL: &str = "seal";

/// Number of bytes digested at once. Part of the format: a file's digest is a digest of the digests of such chunks.
const CHUNK_BYTES: u64 = 1 << 20;

/// Seal of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seal {
    /// Length of the blob that a layer was made from; a rootfs has none.
    pub blob_bytes: Option<u64>,
    files: BTreeMap<String, SealedFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SealedFile {
    digest: Digest,
    stamp: Stamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    boot: String,
    device: u64,
    inode: u64,
    bytes: u64,
    /// Modification time, seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Reason why a file of an object cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenSealedError {
    /// The file or its seal is missing, or its content is not what was sealed.
    #[error("{} is missing or damaged", path.display())]
    Damaged { path: PathBuf },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            boot: boot().to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

impl Seal {
    /// Creates the seal of files that were just made, under their names in the object's directory.
    pub(super) fn of(
        files: &[(&str, &File)],
        blob_bytes: Option<u64>,
        cancellation: &Cancellation,
    ) -> io::Result<Self> {
        let seal = |(name, file): &(&str, &File)| {
            let digest = content_digest(file, cancellation)?;
            let stamp = Stamp::of(file)?;
            Ok(((*name).to_owned(), SealedFile { digest, stamp }))
        };
        let files = files.iter().map(seal).collect::<io::Result<_>>()?;
        Ok(Self { blob_bytes, files })
    }

    /// Writes the seal into the directory of an object that is being made.
    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        let mut file = File::create_new(directory.join(SEAL))?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()
    }

    /// Reads the seal in an object's directory; `None` if there is no valid one.
    pub(super) fn read(directory: &Path) -> Option<Self> {
        let mut bytes = Vec::new();
        let file = own_file::read(&directory.join(SEAL)).ok()?;
        file.take(SEAL_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }
}

/// Thoroughness of the check of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// Checks the stamp, and the content only if the stamp differs.
    Stamp,
    /// Checks the content.
    Content,
}

impl Store {
    /// Opens the file `name` of the object in `directory` if it holds what was sealed.
    pub(super) fn open_sealed(&self, directory: &Path, name: &str, check: Check) -> Result<File, OpenSealedError> {
        let path = directory.join(name);
        let damaged = || OpenSealedError::Damaged { path: path.clone() };
        let mut seal = Seal::read(directory).ok_or_else(damaged)?;
        let sealed = seal.files.get_mut(name).ok_or_else(damaged)?;
        let file = own_file::read(&path).map_err(|_| damaged())?;
        let read_error = |source: io::Error| {
            if self.cancellation.is_cancelled() {
                return StoreError::Cancelled;
            }
            StoreError::File {
                action: "read",
                path: path.clone(),
                source,
            }
        };
        let stamp = Stamp::of(&file).map_err(read_error)?;
        if check == Check::Stamp && stamp == sealed.stamp {
            return Ok(file);
        }
        let found = match content_digest(&file, &self.cancellation) {
            // A disk that cannot return the bytes has lost them.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => return Err(damaged()),
            found => found.map_err(read_error)?,
        };
        if found != sealed.digest {
            return Err(damaged());
        }
        if stamp != sealed.stamp {
            sealed.stamp = stamp;
            // Without a new stamp the next use digests the file again.
            let _ = self.renew_seal(directory, &seal);
        }
        Ok(file)
    }

    fn renew_seal(&self, directory: &Path, seal: &Seal) -> Result<(), StoreError> {
        let workspace: Workspace = self.workspace()?;
        let renew = || -> io::Result<()> {
            seal.write(workspace.path())?;
            std::fs::rename(workspace.path().join(SEAL), directory.join(SEAL))
        };
        renew().map_err(|error| self.write_error(directory, 0, error))
    }
}

/// Digest of a file's content: of its length and the digests of its chunks, where a chunk of zeros has none. Holes are
/// not read, so a sparse file takes only the time for its data.
fn content_digest(mut file: &File, cancellation: &Cancellation) -> io::Result<Digest> {
    let bytes = file.metadata()?.len();
    let mut hasher = Hasher::default();
    hasher.update(&bytes.to_le_bytes());
    let mut buffer = vec![0; CHUNK_BYTES as usize];
    let (mut position, mut data) = (0, 0);
    while position < bytes {
        if cancellation.is_cancelled() {
            return Err(cancelled_error());
        }
        let chunk = &mut buffer[..CHUNK_BYTES.min(bytes - position) as usize];
        if data < position {
            data = next_data(file, position, bytes)?;
        }
        let end = position + chunk.len() as u64;
        let is_zeros = data >= end || {
            file.seek(SeekFrom::Start(position))?;
            file.read_exact(chunk)?;
            chunk.iter().all(|&byte| byte == 0)
        };
        let digest = if is_zeros {
            [0; 32]
        } else {
            Digest::of(chunk).to_bytes()
        };
        hasher.update(&digest);
        position = end;
    }
    file.rewind()?;
    Ok(hasher.finish())
}

/// Offset of the next data from `position` on, or the end of the file.
fn next_data(file: &File, position: u64, end: u64) -> io::Result<u64> {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(position)) {
        Ok(data) => Ok(data),
        Err(Errno::NXIO) => Ok(end),
        Err(errno) => Err(errno.into()),
    }
}

/// Identity of this boot of the host.
fn boot() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        read.map_or_else(|_| String::new(), |text| text.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;
    use std::time::Instant;

    fn digest(file: &File) -> Digest {
        content_digest(file, &Cancellation::new().unwrap()).unwrap()
    }

    #[test]
    fn holes_are_zeros_and_take_no_time() {
        let zeros = tempfile::tempfile().unwrap();
        zeros.write_all_at(&vec![0; 5 << 20], 0).unwrap();
        zeros.write_all_at(b"end", (5 << 20) + 7).unwrap();
        let hole = tempfile::tempfile().unwrap();
        hole.write_all_at(b"end", (5 << 20) + 7).unwrap();
        assert_eq!(digest(&zeros), digest(&hole));
        hole.write_all_at(b"\x01", 3 << 20).unwrap();
        assert_ne!(digest(&zeros), digest(&hole));
        let (start, sparse) = (Instant::now(), tempfile::tempfile().unwrap());
        sparse.set_len(64 << 30).unwrap();
        let short = digest(&sparse);
        sparse.set_len((64 << 30) + 1).unwrap();
        assert_ne!(digest(&sparse), short, "the length counts");
        assert!(start.elapsed().as_secs() < 2, "{:?}", start.elapsed());
    }

    #[test]
    fn a_changed_file_is_refused_and_a_touched_one_stamped_anew() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), crate::Converter::default()).unwrap();
        let object = folder.path().join("object");
        std::fs::create_dir(&object).unwrap();
        let path = object.join("data");
        std::fs::write(&path, "content").unwrap();
        let open = |check| store.open_sealed(&object, "data", check);
        assert!(open(Check::Stamp).is_err(), "without a seal");
        let file = File::open(&path).unwrap();
        let seal = Seal::of(&[("data", &file)], Some(7), &store.cancellation).unwrap();
        seal.write(&object).unwrap();
        open(Check::Stamp).unwrap();
        open(Check::Content).unwrap();
        // The same content in another file, as a backup restores it.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "content").unwrap();
        open(Check::Stamp).unwrap();
        let renewed = Seal::read(&object).unwrap();
        assert_ne!(renewed, seal);
        assert_eq!(renewed.blob_bytes, Some(7));
        std::fs::write(&path, "c0ntent").unwrap();
        assert!(matches!(open(Check::Stamp), Err(OpenSealedError::Damaged { .. })));
        assert_eq!(Seal::read(&object).unwrap(), renewed, "a damaged file is not stamped");
        // Another boot: the stamp no longer vouches for the content.
        std::fs::write(&path, "content").unwrap();
        open(Check::Stamp).unwrap();
        let mut old = Seal::read(&object).unwrap();
        old.files.get_mut("data").unwrap().stamp.boot = "before".into();
        std::fs::remove_file(object.join(SEAL)).unwrap();
        old.write(&object).unwrap();
        open(Check::Stamp).unwrap();
        assert_ne!(Seal::read(&object).unwrap(), old);
    }
}
