//! Marker of a directory: a small JSON file, always replaced as a whole.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

use super::DirectoryError;
use crate::own_file::{self, Fault};

/// File name of the marker.
pub(super) const NAME: &str = "capsid-directory.json";
/// File name of the marker while it is being written.
pub(super) const UNFINISHED: &str = "capsid-directory.json.new";
/// Version of the marker's format.
const FORMAT: i64 = 1;
/// Longest marker, bytes: far more than a marker takes; a larger file is not one.
const BYTES_MAX: u64 = 4096;
/// Number of hexadecimal digits of an identity.
const IDENTITY_DIGITS: usize = 32;

/// Record that a directory belongs to Capsid, and of the databases in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    format: i64,
    pub(super) kind: String,
    /// Random identity; the directory's databases carry it too.
    pub(super) identity: String,
    /// Names of the databases that have been created: none of them may be missing.
    pub(super) databases: Vec<String>,
}

impl Marker {
    /// Creates a marker that lists no database, with the identity of existing databases or a new one.
    pub(super) fn new(kind: &str, identity: Option<String>) -> io::Result<Self> {
        let identity = match identity {
            Some(identity) => identity,
            None => {
                let mut random = [0; IDENTITY_DIGITS / 2];
                getrandom(&mut random, GetRandomFlags::empty())?;
                hex::encode(random)
            }
        };
        Ok(Self {
            format: FORMAT,
            kind: kind.into(),
            identity,
            databases: Vec::new(),
        })
    }

    /// Reads the marker of a directory; `None` if no file has the marker's name.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, DirectoryError> {
        let path = directory.join(NAME);
        match own_file::check(&path) {
            Err(Fault::Missing) => return Ok(None),
            Err(fault) => return Err(DirectoryError::Fault { path, fault }),
            Ok(()) => {}
        }
        let mut text = Vec::new();
        let read = own_file::read(&path).and_then(|file| file.take(BYTES_MAX).read_to_end(&mut text));
        let damaged = |detail: String| Fault::Damaged(detail);
        let parse = |text: &[u8]| -> Result<Self, Fault> {
            let marker: Self = serde_json::from_slice(text).map_err(|e| damaged(e.to_string()))?;
            if is_identity(&marker.identity) || marker.format > FORMAT {
                Ok(marker)
            } else {
                Err(damaged("its identity is not one".into()))
            }
        };
        match read.map_err(Fault::Unreadable).and_then(|_| parse(&text)) {
            Err(fault) => Err(DirectoryError::Fault { path, fault }),
            Ok(marker) if marker.format > FORMAT => Err(DirectoryError::Newer {
                path,
                found: marker.format,
                known: FORMAT,
            }),
            Ok(marker) => Ok(Some(marker)),
        }
    }

    /// Writes the marker durably; readers see the old one or the complete new one.
    pub(super) fn write(&self, path: &Path, directory: &File) -> io::Result<()> {
        // Left by a command that was killed.
        match rustix::fs::unlinkat(directory, UNFINISHED, AtFlags::empty()) {
            Err(rustix::io::Errno::NOENT) => {}
            removed => removed?,
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let mut file = File::from(rustix::fs::openat(directory, UNFINISHED, flags, mode)?);
        let mut text = serde_json::to_vec(self)?;
        text.push(b'\n');
        let written = file.write_all(&text).and_then(|()| file.sync_all());
        if let Err(error) = written {
            // The first error is the one to report; the next command removes what stays.
            let _ = std::fs::remove_file(path.join(UNFINISHED));
            return Err(error);
        }
        rustix::fs::renameat(directory, UNFINISHED, directory, NAME)?;
        directory.sync_all()
    }

    /// Whether the database was created.
    pub(super) fn lists(&self, database: &str) -> bool {
        self.databases.iter().any(|name| name == database)
    }
}

/// Whether a text has the form of an identity.
pub(super) fn is_identity(text: &str) -> bool {
    text.len() == IDENTITY_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
