//! Archive as its loader sees it: open, with its catalog, and readable in parts.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::catalog::{Catalog, Location};
use super::fault::ArchiveFault;
use super::{LoadError, LoadSource};
use crate::cancellation::{CancellableFile, Cancellation, cancelled_error};
use crate::compression::Compression;
use crate::converter::ConvertError;
use crate::limits::CATALOG_BYTES_MAX;
use crate::store::{Store, Workspace};

/// Opened archive.
pub(super) enum Source {
    /// Plain tar in a file.
    Tar {
        file: File,
        /// Directory of the file if it was expanded or came as a stream.
        _workspace: Option<Workspace>,
    },
    /// Folder of an OCI layout.
    Folder(OwnedFd),
}

impl Source {
    pub(super) fn open(store: &Store, source: LoadSource) -> Result<Self, LoadError> {
        let path = match source {
            LoadSource::Path(path) => path,
            LoadSource::Stream(file) => return Self::spool(store, file),
        };
        let file = open_file(&path)?;
        if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return Ok(Self::Folder(file.into()));
        }
        let mut magic = [0; 4];
        // A file that cannot be read at an offset is a named pipe.
        let is_plain = file.read_exact_at(&mut magic, 0).is_ok() && Compression::of(magic).is_none();
        if is_plain {
            return Ok(Self::Tar { file, _workspace: None });
        }
        Self::spool(store, file)
    }

    /// Expands a compressed archive or a stream to a file of the store's `tmp`. A converter does so, because this
    /// process must not read compressed bytes.
    fn spool(store: &Store, source: File) -> Result<Self, LoadError> {
        let workspace = store.workspace()?;
        let file = workspace.create("archive")?;
        let cancellation = store.cancellation();
        let mut source = CancellableFile {
            file: source,
            cancellation: cancellation.clone(),
        };
        let expanded = store.converter().expand(&mut source, &file, cancellation);
        expanded.map_err(|error| failed(store, error, LoadError::Expand))?;
        let _workspace = Some(workspace);
        Ok(Self::Tar { file, _workspace })
    }

    /// Reads the catalog, which a converter makes.
    pub(super) fn catalog(&self, store: &Store) -> Result<Catalog, LoadError> {
        let workspace = store.workspace()?;
        let out = workspace.create("catalog")?;
        let (converter, cancellation) = (store.converter(), store.cancellation());
        let made = match self {
            Self::Tar { file, .. } => {
                let metadata = file.metadata().map_err(|error| ArchiveFault::read(&error))?;
                converter.catalog_tar(file, metadata.len(), &out, cancellation)
            }
            Self::Folder(folder) => {
                let open = |name: &str| open_beneath(folder, name);
                converter.catalog_folder(&open, &out, cancellation)
            }
        };
        let bytes = made.map_err(|error| failed(store, error, LoadError::Catalog))?;
        let mut catalog = vec![0; bytes.min(CATALOG_BYTES_MAX) as usize];
        let read = out
            .read_exact_at(&mut catalog, 0)
            .map_err(|error| ArchiveFault::read(&error));
        read.map(|()| serde_json::from_slice(&catalog).map_err(|error| ArchiveFault::read(&error).into()))?
    }

    /// Opens the bytes at a location of the catalog.
    pub(super) fn section(&self, location: &Location, cancellation: &Cancellation) -> io::Result<Section> {
        let (file, position, end) = match (self, location) {
            (Self::Tar { file, .. }, Location::Section { offset, size }) => {
                let end = offset.checked_add(*size).ok_or(io::ErrorKind::InvalidData)?;
                (file.try_clone()?, *offset, end)
            }
            (Self::Folder(folder), Location::File { name }) => {
                let (file, length) = open_beneath(folder, name)?.ok_or(io::ErrorKind::NotFound)?;
                (file, 0, length)
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        Ok(Section {
            file,
            position,
            end,
            cancellation: cancellation.clone(),
        })
    }
}

fn failed(store: &Store, error: ConvertError, step: impl FnOnce(ConvertError) -> LoadError) -> LoadError {
    match error {
        error if error.is_no_space() => store.no_space(0).into(),
        ConvertError::Archive(fault) => fault.into(),
        error => step(error),
    }
}

/// Opens a file of a layout's folder: a regular one, beneath the folder, through no link. The names come from the
/// image.
fn open_beneath(folder: impl AsFd, name: &str) -> io::Result<Option<(File, u64)>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let file = match openat2(folder, name, flags, Mode::empty(), resolve) {
        Ok(file) => File::from(file),
        Err(_) => return Ok(None),
    };
    let metadata = file.metadata()?;
    Ok(metadata.is_file().then_some((file, metadata.len())))
}

/// Opens the path given to `load`. Does not wait for the other end of a named pipe: reading does, and can be cancelled.
fn open_file(path: &Path) -> Result<File, LoadError> {
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    options.open(path).map_err(|source| LoadError::Open {
        path: path.to_owned(),
        source,
    })
}

/// Section of a file, read without moving the file's own position. Reads fail after cancellation.
pub(super) struct Section {
    file: File,
    position: u64,
    end: u64,
    cancellation: Cancellation,
}

impl Section {
    pub(super) fn length(&self) -> u64 {
        self.end - self.position
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancellation.is_cancelled() {
            return Err(cancelled_error());
        }
        let length = buffer.len().min(usize::try_from(self.length()).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut buffer[..length], self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_that_no_file_can_have_is_refused() {
        let file = tempfile::tempfile().unwrap();
        let source = Source::Tar { file, _workspace: None };
        let cancellation = Cancellation::new().unwrap();
        let at = |offset, size| source.section(&Location::Section { offset, size }, &cancellation);
        assert!(at(u64::MAX, 1).is_err());
        assert!(at(1, u64::MAX).is_err());
        let mut beyond = at(10, 10).unwrap();
        assert_eq!(beyond.read(&mut [0; 4]).unwrap(), 0);
        let name = "etc/passwd".to_owned();
        assert!(source.section(&Location::File { name }, &cancellation).is_err());
    }

    #[test]
    fn a_folder_gives_its_own_files_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("inside"), "x").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link")).unwrap();
        let open = File::open(folder.path()).unwrap();
        assert_eq!(open_beneath(&open, "inside").unwrap().unwrap().1, 1);
        for name in ["link", "../inside", "/etc/passwd", ".", "", "missing"] {
            assert!(open_beneath(&open, name).unwrap().is_none(), "{name:?}");
        }
    }
}
