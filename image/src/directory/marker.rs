//! The marker of a directory: a small JSON file, replaced as a whole.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

use super::DirectoryError;
use crate::own_file::{self, Fault};

/// Its name.
pub(super) const NAME: &str = "capsid-directory.json";
/// Its name while it is written.
pub(super) const UNFINISHED: &str = "capsid-directory.json.new";
/// Version of its form.
const FORMAT: i64 = 1;
/// Far more than a marker takes; a larger file is not one.
const BYTES_MAX: u64 = 4096;
/// Hexadecimal digits of an identity.
const IDENTITY_DIGITS: usize = 32;

/// Says that a directory is Capsid's, and what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    format: i64,
    pub(super) kind: String,
    /// Random; the directory's databases carry it too.
    pub(super) identity: String,
    /// Databases that have been made: none of them may be missing.
    pub(super) databases: Vec<String>,
}

impl Marker {
    /// A marker that lists no database, with an identity that databases have already or a new one.
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

    /// Reads the marker of a directory; `None` where no file has its name.
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

    /// Writes the marker durably; readers see the old one or the whole new one.
    pub(super) fn write(&self, path: &Path, directory: &File) -> io::Result<()> {
        // Of a command that was killed.
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
            // The first error is the one to tell; what stays is removed by the next command.
            let _ = std::fs::remove_file(path.join(UNFINISHED));
            return Err(error);
        }
        rustix::fs::renameat(directory, UNFINISHED, directory, NAME)?;
        directory.sync_all()
    }

    /// Whether the database was made.
    pub(super) fn lists(&self, database: &str) -> bool {
        self.databases.iter().any(|name| name == database)
    }
}

/// Whether a text has the form of an identity.
pub(super) fn is_identity(text: &str) -> bool {
    text.len() == IDENTITY_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
