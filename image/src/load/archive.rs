//! Archives as tables of members, whatever form they come in.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::{LoadError, LoadSource, open_file};
use crate::cancellation::CancellableFile;
use crate::digest::Digest;
use crate::layer::path::LayerPath;
use crate::limits::ARCHIVE_MEMBERS_MAX;
use crate::store::{Store, Workspace};
use crate::text::printable;
use capsid_archive::TarReader;

/// Links of an archive followed to a member: docker's old archives link a repeated layer to its first copy.
const MEMBER_LINKS_MAX: usize = 8;

/// An opened archive.
pub(super) enum Archive {
    /// A plain tar in a file, by offsets.
    Tar {
        file: File,
        members: HashMap<Vec<u8>, Member>,
        /// Holds the file if it was expanded or came as a stream.
        _workspace: Option<Workspace>,
    },
    /// The folder of an OCI layout.
    Folder(OwnedFd),
}

pub(super) enum Member {
    Content { offset: u64, size: u64 },
    Link(Vec<u8>),
}

impl Archive {
    pub(super) fn open(store: &Store, source: LoadSource) -> Result<Self, LoadError> {
        match source {
            LoadSource::Path(path) => {
                let file = open_file(&path)?;
                let is_folder = file.metadata().is_ok_and(|metadata| metadata.is_dir());
                if is_folder {
                    return Ok(Self::Folder(file.into()));
                }
                let mut magic = [0; 4];
                let plain = match file.read_exact_at(&mut magic, 0) {
                    Ok(()) => !is_compressed(magic),
                    // Not seekable: a named pipe.
                    Err(_) => false,
                };
                if plain {
                    Self::scan(file, None)
                } else {
                    Self::spool(store, file)
                }
            }
            LoadSource::Stream(file) => Self::spool(store, file),
        }
    }

    /// Expands a compressed archive or a stream to a file of the store's `tmp`. A converter does it: compressed bytes are
    /// not for this process.
    fn spool(store: &Store, source: File) -> Result<Self, LoadError> {
        let workspace = store.workspace()?;
        let file = workspace.create("archive")?;
        let cancellation = store.cancellation();
        let mut source = CancellableFile {
            file: source,
            cancellation: cancellation.clone(),
        };
        let expanded = store.converter().expand(&mut source, &file, cancellation);
        expanded.map_err(|error| {
            if error.is_no_space() {
                store.no_space(0).into()
            } else {
                LoadError::Expand(error)
            }
        })?;
        Self::scan(file, Some(workspace))
    }

    /// Reads the headers alone.
    fn scan(mut file: File, workspace: Option<Workspace>) -> Result<Self, LoadError> {
        let refuse = |error: &dyn std::error::Error| LoadError::Read {
            reason: printable(error.to_string().as_bytes(), 200),
        };
        file.rewind().map_err(|error| refuse(&error))?;
        let length = file.metadata().map_err(|error| refuse(&error))?.len();
        let mut members = HashMap::new();
        let mut tar = TarReader::new(BufReader::with_capacity(8 << 10, &file));
        while let Some(member) = tar.next_member().map_err(|error| refuse(&error))? {
            let offset = tar.input_mut().stream_position().map_err(|error| refuse(&error))?;
            let rest = tar.take_rest().unwrap_or(u64::MAX);
            if offset.saturating_add(rest.min(member.size)) > length {
                return Err(LoadError::Read {
                    reason: "the archive is truncated".into(),
                });
            }
            tar.input_mut()
                .seek_relative(rest as i64)
                .map_err(|error| refuse(&error))?;
            let Ok(name) = LayerPath::normalise(&member.path) else {
                continue;
            };
            let entry = match member.kind {
                b'0' => Member::Content {
                    offset,
                    size: member.size,
                },
                b'1' => Member::Link(member.link),
                b'2' => Member::Link(match name.split_last() {
                    Some((directory, _)) => [directory.as_bytes(), b"/", &member.link].concat(),
                    None => continue,
                }),
                _ => continue,
            };
            if members.len() >= ARCHIVE_MEMBERS_MAX {
                return Err(LoadError::TooManyMembers);
            }
            members.insert(name.as_bytes().to_vec(), entry);
        }
        Ok(Self::Tar {
            file,
            members,
            _workspace: workspace,
        })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.open_member(name).is_ok()
    }

    /// The content of a member and its length.
    pub(super) fn open_member(&self, name: &str) -> io::Result<Section> {
        match self {
            Self::Folder(folder) => {
                // The names asked for are ours (index.json, blobs/sha256/DIGEST), but anything may lie there.
                let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
                let file = File::from(openat2(folder, name, flags, Mode::empty(), resolve)?);
                let metadata = file.metadata()?;
                if !metadata.is_file() {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "not a file"));
                }
                Ok(Section {
                    file,
                    position: 0,
                    end: metadata.len(),
                })
            }
            Self::Tar { file, members, .. } => {
                let missing = || io::Error::from(io::ErrorKind::NotFound);
                let mut name = name.as_bytes().to_vec();
                for _ in 0..=MEMBER_LINKS_MAX {
                    let path = LayerPath::normalise(&name).map_err(|_| missing())?;
                    match members.get(path.as_bytes()).ok_or_else(missing)? {
                        Member::Content { offset, size } => {
                            return Ok(Section {
                                file: file.try_clone()?,
                                position: *offset,
                                end: offset + size,
                            });
                        }
                        Member::Link(target) => name.clone_from(target),
                    }
                }
                Err(missing())
            }
        }
    }

    /// All of a small member.
    pub(super) fn read(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, LoadError> {
        let shown = || printable(name.as_bytes(), 300);
        let mut section = self
            .open_member(name)
            .map_err(|_| LoadError::Missing { name: shown() })?;
        if section.length() > bytes_max {
            return Err(LoadError::TooLong {
                name: shown(),
                bytes_max,
            });
        }
        let mut bytes = Vec::new();
        let length = section.length();
        section.read_to_end(&mut bytes).map_err(|error| LoadError::Read {
            reason: error.to_string(),
        })?;
        if bytes.len() as u64 != length {
            return Err(LoadError::Read {
                reason: "the archive is truncated".into(),
            });
        }
        Ok(bytes)
    }

    /// All of a small blob, which must have the digest it is named by.
    pub(super) fn read_blob(&self, digest: Digest, bytes_max: u64) -> Result<Vec<u8>, LoadError> {
        let name = blob_name(digest);
        let bytes = self.read(&name, bytes_max)?;
        let found = Digest::of(&bytes);
        if found == digest {
            Ok(bytes)
        } else {
            Err(LoadError::Digest { name, found })
        }
    }
}

/// Where a layout keeps a blob.
pub(super) fn blob_name(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Whether these first bytes are gzip's or zstd's.
pub(super) fn is_compressed(magic: [u8; 4]) -> bool {
    matches!(
        magic,
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18]
    )
}

/// A stretch of a file, read without moving the file's own position.
pub(super) struct Section {
    file: File,
    position: u64,
    end: u64,
}

impl Section {
    pub(super) fn length(&self) -> u64 {
        self.end - self.position
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(usize::try_from(self.length()).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut buffer[..length], self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}
