//! Archives as tables of members, whatever their form. Runs in a converter.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Seek};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use super::catalog::Location;
use super::fault::ArchiveFault;
use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::layer::path::LayerPath;
use crate::limits::{ARCHIVE_DOCUMENTS_BYTES_MAX, ARCHIVE_MEMBERS_MAX, ARCHIVE_NAMES_BYTES_MAX, PATH_BYTES_MAX};
use crate::manifest::{Descriptor, ManifestError};
use crate::platform::Platform;
use capsid_archive::{Member, TarReader};

/// Largest number of links of an archive that are followed to a member: docker's old archives link a repeated layer to
/// its first copy.
const MEMBER_LINKS_MAX: usize = 8;

/// Function that opens a file of a layout's folder by name and returns its length too; `None` if there is no such file.
pub(crate) type OpenNamed<'a> = dyn Fn(&str) -> io::Result<Option<(File, u64)>> + 'a;

/// Archive, with the number of bytes that may still be read of its documents.
pub(super) struct Archive<'a> {
    form: Form<'a>,
    documents_bytes_left: Cell<u64>,
}

enum Form<'a> {
    /// Plain tar in a file, by offsets.
    Tar {
        file: Rc<File>,
        members: BTreeMap<Vec<u8>, IndexEntry>,
    },
    /// Folder of an OCI layout.
    Folder(&'a OpenNamed<'a>),
}

#[derive(Clone)]
enum IndexEntry {
    Content { offset: u64, size: u64 },
    Link(Vec<u8>),
}

/// Member that was found in an archive.
pub(super) struct Part {
    pub location: Location,
    pub size: u64,
    file: Rc<File>,
    offset: u64,
}

impl Part {
    /// First four bytes of the member; `None` if it is shorter.
    pub(super) fn magic(&self) -> Option<[u8; 4]> {
        let mut magic = [0; 4];
        (self.size >= 4).then_some(())?;
        self.file.read_exact_at(&mut magic, self.offset).ok()?;
        Some(magic)
    }
}

impl<'a> Archive<'a> {
    pub(super) fn folder(open: &'a OpenNamed<'a>) -> Self {
        Self::of(Form::Folder(open))
    }

    fn of(form: Form<'a>) -> Self {
        Self {
            form,
            documents_bytes_left: Cell::new(ARCHIVE_DOCUMENTS_BYTES_MAX),
        }
    }

    /// Reads the headers of a tar of `length` bytes.
    pub(super) fn scan(mut file: File, length: u64) -> Result<Self, ArchiveFault> {
        let refuse = |error: &dyn std::error::Error| ArchiveFault::read(error);
        file.rewind().map_err(|error| refuse(&error))?;
        let (mut members, mut names_bytes) = (BTreeMap::new(), 0);
        let mut tar = TarReader::new(BufReader::with_capacity(8 << 10, &file));
        while let Some(member) = tar.next_member().map_err(|error| refuse(&error))? {
            let offset = tar.input_mut().stream_position().map_err(|error| refuse(&error))?;
            let rest = tar.take_rest();
            let end = offset.checked_add(member.size).filter(|end| *end <= length);
            // A sparse member would be longer than what the archive stores of it, and no tool writes one here.
            let rest = rest.filter(|rest| end.is_some() && member.size <= *rest);
            let rest = rest.and_then(|rest| i64::try_from(rest).ok());
            let rest = rest.ok_or_else(|| ArchiveFault::Read {
                reason: "the archive is truncated, or a member has a wrong size".into(),
            })?;
            tar.input_mut().seek_relative(rest).map_err(|error| refuse(&error))?;
            let Some((name, entry)) = table_entry(member, offset) else {
                continue;
            };
            names_bytes += name.len();
            if let IndexEntry::Link(target) = &entry {
                names_bytes += target.len();
            }
            if members.len() >= ARCHIVE_MEMBERS_MAX || names_bytes > ARCHIVE_NAMES_BYTES_MAX {
                return Err(ArchiveFault::TooManyMembers);
            }
            members.insert(name, entry);
        }
        let file = Rc::new(file);
        Ok(Self::of(Form::Tar { file, members }))
    }

    pub(super) fn has(&self, name: &str) -> Result<bool, ArchiveFault> {
        Ok(self.find(name)?.is_some())
    }

    /// Finds the member that `name` means, if there is one.
    fn find(&self, name: &str) -> Result<Option<Part>, ArchiveFault> {
        match &self.form {
            Form::Folder(open) => {
                let opened = open(name).map_err(|error| ArchiveFault::read(&error))?;
                Ok(opened.map(|(file, size)| Part {
                    location: Location::File { name: name.to_owned() },
                    size,
                    file: Rc::new(file),
                    offset: 0,
                }))
            }
            Form::Tar { file, members } => Ok(find_member(members, name).map(|(offset, size)| Part {
                location: Location::Section { offset, size },
                size,
                file: Rc::clone(file),
                offset,
            })),
        }
    }

    /// Finds a member that must exist.
    pub(super) fn part(&self, name: &str) -> Result<Part, ArchiveFault> {
        self.find(name)?.ok_or_else(|| ArchiveFault::missing(name))
    }

    /// Reads a whole document.
    pub(super) fn read(&self, name: &str, bytes_max: u64) -> Result<(Part, Vec<u8>), ArchiveFault> {
        let part = self.part(name)?;
        if part.size > bytes_max {
            return Err(ArchiveFault::TooLong {
                name: name.to_owned(),
                bytes_max,
            });
        }
        let left = self.documents_bytes_left.get().checked_sub(part.size);
        self.documents_bytes_left.set(left.ok_or(ArchiveFault::Documents)?);
        let mut bytes = vec![0; part.size as usize];
        let read = part.file.read_exact_at(&mut bytes, part.offset);
        read.map_err(|error| ArchiveFault::read(&error))?;
        Ok((part, bytes))
    }

    /// Finds the member that a descriptor means, which must have the descriptor's size.
    pub(super) fn blob(&self, descriptor: &Descriptor) -> Result<Part, ArchiveFault> {
        let name = blob_name(descriptor.digest);
        let part = self.part(&name)?;
        if part.size != descriptor.size {
            return Err(ArchiveFault::Size {
                name,
                wanted: descriptor.size,
                found: part.size,
            });
        }
        Ok(part)
    }

    /// Reads the whole document that a descriptor means, which must have the descriptor's size and digest.
    pub(super) fn read_blob(&self, descriptor: &Descriptor, bytes_max: u64) -> Result<(Part, Vec<u8>), ArchiveFault> {
        self.blob(descriptor)?;
        let name = blob_name(descriptor.digest);
        let (part, bytes) = self.read(&name, bytes_max)?;
        let found = Digest::of(&bytes);
        if found != descriptor.digest {
            return Err(ArchiveFault::Digest { name, found });
        }
        Ok((part, bytes))
    }
}

/// Digests of the layers that a config names: as many as its manifest has. The config must be for this machine.
pub(super) fn diff_ids(name: &str, config: &[u8], layers: usize) -> Result<Vec<Digest>, ArchiveFault> {
    let config = ImageConfig::parse(config).map_err(|error| ArchiveFault::document(name, &error))?;
    if config.diff_ids.len() != layers {
        return Err(ArchiveFault::LayerCount {
            manifest: layers,
            config: config.diff_ids.len(),
        });
    }
    let wanted = Platform::host();
    if !wanted.accepts(&config.platform) {
        let found = vec![config.platform];
        let error = ManifestError::NoPlatform { wanted, found };
        return Err(ArchiveFault::document(name, &error));
    }
    Ok(config.diff_ids)
}

/// Name and table entry of a member, if an image can refer to it.
fn table_entry(member: Member, offset: u64) -> Option<(Vec<u8>, IndexEntry)> {
    let name = LayerPath::normalise(&member.path).ok()?;
    let link = |target: Vec<u8>| (target.len() <= PATH_BYTES_MAX).then_some(IndexEntry::Link(target));
    let entry = match member.kind {
        b'0' => IndexEntry::Content {
            offset,
            size: member.size,
        },
        b'1' => link(member.link)?,
        b'2' => {
            let (directory, _) = name.split_last()?;
            link([directory.as_bytes(), b"/", &member.link].concat())?
        }
        _ => return None,
    };
    Some((name.as_bytes().to_vec(), entry))
}

/// Offset and size of the member that `name` leads to.
fn find_member(members: &BTreeMap<Vec<u8>, IndexEntry>, name: &str) -> Option<(u64, u64)> {
    let mut name = name.as_bytes().to_vec();
    for _ in 0..=MEMBER_LINKS_MAX {
        let path = LayerPath::normalise(&name).ok()?;
        match members.get(path.as_bytes())? {
            IndexEntry::Content { offset, size } => return Some((*offset, *size)),
            IndexEntry::Link(target) => name.clone_from(target),
        }
    }
    None
}

/// Name of a blob in a layout.
pub(super) fn blob_name(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}
