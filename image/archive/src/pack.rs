//! Packing of a file tree into an archive. The owner of the tree may change it meanwhile: the archive holds what was
//! found at some moment, and all of it lies in the tree.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::limits::{DEPTH_MAX, ENTRIES_MAX, XATTR_BYTES_MAX};
use crate::reader::{Member, Xattr};
use crate::writer::TarWriter;

/// Number of hard-linked files whose names are remembered; names of further ones become files of their own.
const LINKS_MAX: usize = 100_000;

/// Error of packing a file tree.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Path in the archive.
        path: String,
        /// Cause of the error.
        #[source]
        source: Errno,
    },
    /// The content of one file cannot be copied, or the archive cannot be written.
    #[error("cannot copy {path}")]
    Copy {
        /// Path in the archive.
        path: String,
        /// Cause of the error.
        #[source]
        source: io::Error,
    },
    /// The tree has more levels than the limit.
    #[error("{0}: more than {DEPTH_MAX} folders within folders")]
    Deep(String),
    /// The tree has more files than the limit.
    #[error("more than {ENTRIES_MAX} files")]
    Many,
    /// The end of the archive cannot be written.
    #[error("cannot write the archive")]
    Finish(#[source] io::Error),
}

/// Packs trees into one archive.
#[derive(Debug)]
pub struct Packer<W> {
    tar: TarWriter<W>,
    entries: usize,
    /// Device and inode of each file with several names, and its first name in the archive.
    links: HashMap<(u64, u64), Vec<u8>>,
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn failed(path: &[u8]) -> impl Fn(Errno) -> PackError {
    move |source| PackError::Read {
        path: shown(path),
        source,
    }
}

impl<W: Write> Packer<W> {
    /// Starts a new archive.
    pub fn new(output: W) -> Self {
        Self {
            tar: TarWriter::new(output),
            entries: 0,
            links: HashMap::new(),
        }
    }

    /// Adds the entry `name` of `folder` with everything below it; a link is added as a link. `path` is its name in the
    /// archive.
    pub fn add(&mut self, folder: impl AsFd, name: &OsStr, path: &[u8]) -> Result<(), PackError> {
        self.add_entry(folder.as_fd(), name, path, DEPTH_MAX)
    }

    /// Adds an open file or folder with everything below it; with an empty path, only the content of the folder.
    pub fn add_opened(&mut self, file: OwnedFd, path: &[u8]) -> Result<(), PackError> {
        let stat = rustix::fs::fstat(&file).map_err(failed(path))?;
        self.add_file(file, &stat, path, DEPTH_MAX)
    }

    /// Writes the end of the archive.
    pub fn finish(self) -> Result<W, PackError> {
        self.tar.finish().map_err(PackError::Finish)
    }

    fn add_entry(&mut self, folder: impl AsFd, name: &OsStr, path: &[u8], depth: usize) -> Result<(), PackError> {
        let stat = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed(path))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::RegularFile | FileType::Directory => {
                // NONBLOCK: a file that has become a FIFO meanwhile must not block this process.
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&folder, name, flags, Mode::empty()).map_err(failed(path))?;
                let stat = rustix::fs::fstat(&file).map_err(failed(path))?;
                self.add_file(file, &stat, path, depth)
            }
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(&folder, name, Vec::new()).map_err(failed(path))?;
                let mut member = self.member(&stat, b'2', path)?;
                member.link = link.into_bytes();
                self.append(&member, io::empty())
            }
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo => self.add_special(&stat, kind, path),
            // A socket is useless without its listener: docker leaves sockets out too.
            _ => Ok(()),
        }
    }

    fn add_special(&mut self, stat: &Stat, kind: FileType, path: &[u8]) -> Result<(), PackError> {
        let letter = match kind {
            FileType::CharacterDevice => b'3',
            FileType::BlockDevice => b'4',
            _ => b'6',
        };
        let mut member = self.member(stat, letter, path)?;
        if letter != b'6' {
            member.device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        }
        self.append(&member, io::empty())
    }

    /// Adds an open regular file or folder.
    fn add_file(&mut self, file: OwnedFd, stat: &Stat, path: &[u8], depth: usize) -> Result<(), PackError> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => self.add_folder(&file, stat, path, depth),
            FileType::RegularFile => {
                let key = (stat.st_dev, stat.st_ino);
                if let Some(first) = self.links.get(&key).cloned() {
                    let mut member = self.member(stat, b'1', path)?;
                    member.link = first;
                    return self.append(&member, io::empty());
                }
                if stat.st_nlink > 1 && self.links.len() < LINKS_MAX {
                    self.links.insert(key, path.to_vec());
                }
                let mut member = self.member(stat, b'0', path)?;
                member.size = u64::try_from(stat.st_size).unwrap_or(0);
                member.xattrs = xattrs(&file);
                self.append(&member, File::from(file))
            }
            // The file has become something else meanwhile.
            kind => self.add_special(stat, kind, path),
        }
    }

    fn add_folder(&mut self, folder: &OwnedFd, stat: &Stat, path: &[u8], depth: usize) -> Result<(), PackError> {
        let depth = depth.checked_sub(1).ok_or_else(|| PackError::Deep(shown(path)))?;
        let prefix = if path.is_empty() {
            Vec::new()
        } else {
            [path, b"/"].concat()
        };
        if !path.is_empty() {
            let mut member = self.member(stat, b'5', &prefix)?;
            member.xattrs = xattrs(folder);
            self.append(&member, io::empty())?;
        }
        let mut names = Vec::new();
        for entry in Dir::read_from(folder).map_err(failed(path))? {
            let name = entry.map_err(failed(path))?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
            if names.len() > ENTRIES_MAX {
                return Err(PackError::Many);
            }
        }
        names.sort_unstable();
        for name in names {
            let inner = [&prefix[..], &name].concat();
            match self.add_entry(folder, OsStr::from_bytes(&name), &inner, depth) {
                // Removed since the folder was read.
                Err(PackError::Read {
                    source: Errno::NOENT, ..
                }) => {}
                added => added?,
            }
        }
        Ok(())
    }

    fn member(&mut self, stat: &Stat, kind: u8, path: &[u8]) -> Result<Member, PackError> {
        self.entries += 1;
        if self.entries > ENTRIES_MAX {
            return Err(PackError::Many);
        }
        Ok(Member {
            path: path.to_vec(),
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (stat.st_mtime, 0),
            ..Member::default()
        })
    }

    fn append(&mut self, member: &Member, content: impl io::Read) -> Result<(), PackError> {
        self.tar.append(member, content).map_err(|source| PackError::Copy {
            path: shown(&member.path),
            source,
        })
    }
}

/// File capabilities and the users' own attributes: those that docker's archives carry. Others (labels, access control
/// lists) have a meaning on one system only. An attribute that cannot be read is left out.
fn xattrs(file: impl AsFd) -> Vec<Xattr> {
    let mut names = vec![0; XATTR_BYTES_MAX];
    let Ok(listed) = rustix::fs::flistxattr(&file, &mut names[..]) else {
        return Vec::new();
    };
    let is_told = |name: &[u8]| name == b"security.capability" || name.starts_with(b"user.");
    let mut xattrs = Vec::new();
    for name in names[..listed].split(|byte| *byte == 0).filter(|name| is_told(name)) {
        let mut value = vec![0; XATTR_BYTES_MAX];
        if let Ok(bytes) = rustix::fs::fgetxattr(&file, name, &mut value[..]) {
            value.truncate(bytes);
            xattrs.push(Xattr {
                name: name.to_vec(),
                value,
            });
        }
    }
    xattrs
}
