//! Unpacking of an archive into a file tree beneath one folder. The archive is hostile, and so may be others who share
//! the folder: every name is opened from the folder before it, and a link on the way is an error.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::limits::{DEPTH_MAX, ENTRIES_MAX, FOLDER_NAMES_BYTES_MAX, PATH_BYTES_MAX};
use crate::reader::{Member, ReadTarError, TarReader};

/// Number of bytes written at a time; as many zeros become a hole.
const CHUNK_BYTES: usize = 64 << 10;

/// Mode bits for set-user-id and set-group-id.
const SET_ID_BITS: u32 = 0o6000;

/// Extended attribute that holds a file's capabilities.
const CAPABILITIES: &[u8] = b"security.capability";

/// Error of unpacking an archive.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive itself is damaged.
    #[error("the archive is damaged")]
    Archive(#[from] ReadTarError),
    /// A name has `..` or a zero byte, or exceeds a limit.
    #[error("refused the name {0:?}")]
    Name(String),
    /// A member is not beneath the requested one.
    #[error("{0:?} is not part of what was asked for")]
    Foreign(String),
    /// The archive has more members than the limit.
    #[error("more than {ENTRIES_MAX} files")]
    Many,
    /// The names of folders exceed their limit.
    #[error("more than {} MiB of names of folders", FOLDER_NAMES_BYTES_MAX >> 20)]
    ManyFolders,
    /// A folder would replace something else.
    #[error("cannot overwrite non-directory {0:?} with directory")]
    NotFolder(String),
    /// Something else would replace a folder.
    #[error("cannot overwrite directory {0:?} with non-directory")]
    IsFolder(String),
    /// A hard link leads to a file that is not of this archive.
    #[error("refused the link {path:?} to {target:?}: that file is not of the archive")]
    Link {
        /// Name of the link.
        path: String,
        /// Target of the link.
        target: String,
    },
    /// A file cannot be created.
    #[error("cannot make {path}")]
    Make {
        /// Path in the archive.
        path: String,
        /// Cause of the error.
        #[source]
        source: Errno,
    },
    /// The content of a file cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// Path in the archive.
        path: String,
        /// Cause of the error.
        #[source]
        source: io::Error,
    },
}

/// Destination of an archive's members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placing {
    /// First component that every name has and that is removed; empty removes none.
    pub strip: Vec<u8>,
    /// Component that replaces the removed one; `None` unpacks into the folder itself.
    pub name: Option<OsString>,
}

/// Options for unpacking an archive.
#[derive(Debug, Clone, Default)]
pub struct Unpacking {
    /// Destination of the members.
    pub placing: Placing,
    /// True when owners are set as in the archive; otherwise files belong to the caller.
    pub keep_owners: bool,
    /// True when set-user-id bits, set-group-id bits and file capabilities are kept.
    pub keep_privileges: bool,
    /// True when device nodes are created; otherwise they are left out and counted.
    pub make_devices: bool,
}

/// Counts of what was unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Number of members of all kinds.
    pub entries: usize,
    /// Number of bytes of files.
    pub bytes: u64,
    /// Number of device nodes that were left out.
    pub devices_left_out: usize,
    /// Number of files and folders that lost set-user-id bits, set-group-id bits or file capabilities.
    pub privileges_left_out: usize,
}

/// Folder that was created, and the attributes that it gets when it is complete. There may be millions: only what is
/// needed then is kept of its member.
struct Made {
    path: PathBuf,
    /// Device and inode of the folder.
    identity: (u64, u64),
    attributes: Attributes,
}

/// Attributes that a file or folder gets from its member.
#[derive(Clone, Copy)]
struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, u32),
}

impl Attributes {
    fn of(member: &Member) -> Self {
        Self {
            mode: member.mode,
            uid: member.uid,
            gid: member.gid,
            mtime: member.mtime,
        }
    }
}

struct Unpacker<'a> {
    base: OwnedFd,
    how: &'a Unpacking,
    done: Unpacked,
    folders: Vec<Made>,
    /// Total length of the folders' names, bytes.
    folder_names_bytes: usize,
    /// Device and inode of this archive's files: the only ones that hard links may name.
    files: HashSet<(u64, u64)>,
    /// Folder of the last member, with its path.
    recent: Option<(Vec<OsString>, OwnedFd)>,
}

impl Unpacking {
    /// Unpacks `input` beneath the folder `base`.
    pub fn unpack(&self, input: impl Read, base: OwnedFd) -> Result<Unpacked, UnpackError> {
        let mut unpacker = Unpacker {
            base,
            how: self,
            done: Unpacked::default(),
            folders: Vec::new(),
            folder_names_bytes: 0,
            files: HashSet::new(),
            recent: None,
        };
        let mut tar = TarReader::new(input);
        while let Some(member) = tar.next_member()? {
            unpacker.make(member, &mut tar)?;
        }
        unpacker.finish()
    }

    /// Converts a name of the archive to path components beneath the folder; empty for the folder itself.
    fn place(&self, name: &[u8]) -> Result<Vec<OsString>, UnpackError> {
        let refused = || UnpackError::Name(shown_name(name));
        if name.len() > PATH_BYTES_MAX || name.contains(&0) {
            return Err(refused());
        }
        let mut parts = name
            .split(|byte| *byte == b'/')
            .filter(|part| !matches!(*part, b"" | b"."));
        let mut path: Vec<OsString> = Vec::new();
        if !self.placing.strip.is_empty() {
            match parts.next() {
                Some(first) if first == self.placing.strip => {}
                _ => return Err(UnpackError::Foreign(shown_name(name))),
            }
        }
        path.extend(self.placing.name.clone());
        for part in parts {
            if part == b".." {
                return Err(refused());
            }
            path.push(OsStr::from_bytes(part).into());
        }
        if path.len() > DEPTH_MAX {
            return Err(refused());
        }
        Ok(path)
    }
}

fn shown_name(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(PATH_BYTES_MAX)]).into_owned()
}

fn shown(path: &[OsString]) -> String {
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    parts.join("/")
}

fn failed(path: &[OsString]) -> impl Fn(Errno) -> UnpackError {
    move |source| UnpackError::Make {
        path: shown(path),
        source,
    }
}

impl Unpacker<'_> {
    fn make(&mut self, member: Member, content: &mut TarReader<impl Read>) -> Result<(), UnpackError> {
        self.done.entries += 1;
        if self.done.entries > ENTRIES_MAX {
            return Err(UnpackError::Many);
        }
        self.done.privileges_left_out += usize::from(self.loses_privileges(&member));
        let path = self.how.place(&member.path)?;
        let Some((name, parent)) = path.split_last() else {
            return if member.kind == b'5' {
                Ok(())
            } else {
                Err(UnpackError::IsFolder(".".into()))
            };
        };
        let folder = self.folder(parent)?;
        if member.kind == b'5' {
            return self.make_folder(&folder, name, &path, &member);
        }
        match member.kind {
            b'0' => self.make_file(&folder, name, &path, &member, content)?,
            b'1' => return self.make_link(&folder, name, &path, &member),
            b'2' => {
                self.clear(&folder, name, &path)?;
                rustix::fs::symlinkat(member.link.as_slice(), &folder, name).map_err(failed(&path))?;
            }
            b'3' | b'4' if !self.how.make_devices => {
                self.done.devices_left_out += 1;
                return Ok(());
            }
            b'3' | b'4' | b'6' => self.make_node(&folder, name, &path, &member)?,
            // Kinds that nobody writes: docker skips them as well.
            _ => return Ok(()),
        }
        if member.kind != b'0' {
            self.set_owner_and_times(&folder, name, &member)
                .map_err(failed(&path))?;
        }
        Ok(())
    }

    /// Opens the folder at `path`, and creates missing folders.
    fn folder(&mut self, path: &[OsString]) -> Result<OwnedFd, UnpackError> {
        if let Some((recent, folder)) = &self.recent
            && recent == path
        {
            return folder
                .try_clone()
                .map_err(|e| failed(path)(Errno::from_io_error(&e).unwrap_or(Errno::IO)));
        }
        let mut folder = self
            .base
            .try_clone()
            .map_err(|e| failed(path)(Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
        for (at, name) in path.iter().enumerate() {
            let so_far = &path[..=at];
            folder = match open_folder(&folder, name) {
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755)).map_err(failed(so_far))?;
                    open_folder(&folder, name)
                }
                opened => opened,
            }
            .map_err(|errno| match errno {
                Errno::NOTDIR | Errno::LOOP => UnpackError::NotFolder(shown(so_far)),
                errno => failed(so_far)(errno),
            })?;
        }
        self.recent = folder.try_clone().ok().map(|folder| (path.to_vec(), folder));
        Ok(folder)
    }

    fn make_folder(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &[OsString],
        member: &Member,
    ) -> Result<(), UnpackError> {
        // Private and writable until it is complete.
        match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
            Ok(()) => {
                let whole: PathBuf = path.iter().collect();
                self.folder_names_bytes += whole.as_os_str().len();
                if self.folder_names_bytes > FOLDER_NAMES_BYTES_MAX {
                    return Err(UnpackError::ManyFolders);
                }
                let folder = open_to_change(parent, name).map_err(failed(path))?;
                let identity = identity(&folder).map_err(failed(path))?;
                self.set_xattrs(folder, member);
                let attributes = Attributes::of(member);
                self.folders.push(Made {
                    path: whole,
                    identity,
                    attributes,
                });
                Ok(())
            }
            Err(Errno::EXIST) => match open_folder(parent, name) {
                Ok(_) => Ok(()),
                Err(Errno::NOTDIR | Errno::LOOP) => Err(UnpackError::NotFolder(shown(path))),
                Err(e) => Err(failed(path)(e)),
            },
            Err(e) => Err(failed(path)(e)),
        }
    }

    /// Removes a file that is in the way of anything but a folder.
    fn clear(&self, folder: &OwnedFd, name: &OsStr, path: &[OsString]) -> Result<(), UnpackError> {
        match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => Err(UnpackError::IsFolder(shown(path))),
            Err(e) => Err(failed(path)(e)),
        }
    }

    fn make_file(
        &mut self,
        folder: &OwnedFd,
        name: &OsStr,
        path: &[OsString],
        member: &Member,
        content: &mut TarReader<impl Read>,
    ) -> Result<(), UnpackError> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match self.clear(folder, name, path) {
            Ok(()) => {
                let flags = flags | OFlags::CREATE | OFlags::EXCL;
                rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(0o600)).map_err(failed(path))?
            }
            // Something is mounted on it, as on a container's /etc/hosts: the file stays, its content changes.
            Err(UnpackError::Make {
                source: Errno::BUSY, ..
            }) => {
                let file = rustix::fs::openat(folder, name, flags, Mode::empty()).map_err(failed(path))?;
                let stat = rustix::fs::fstat(&file).map_err(failed(path))?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Err(failed(path)(Errno::BUSY));
                }
                rustix::fs::ftruncate(&file, 0).map_err(failed(path))?;
                file
            }
            Err(error) => return Err(error),
        };
        let mut file = File::from(file);
        write_content(&mut file, member.size, content).map_err(|source| UnpackError::Write {
            path: shown(path),
            source,
        })?;
        self.done.bytes += member.size;
        self.files.insert(identity(&file).map_err(failed(path))?);
        self.set_owner_and_mode(&file, Attributes::of(member))
            .map_err(failed(path))?;
        self.set_xattrs(&file, member);
        rustix::fs::futimens(&file, &times(member.mtime)).map_err(failed(path))
    }

    fn make_link(
        &mut self,
        folder: &OwnedFd,
        name: &OsStr,
        path: &[OsString],
        member: &Member,
    ) -> Result<(), UnpackError> {
        let target = self.how.place(&member.link)?;
        let refused = || UnpackError::Link {
            path: shown(path),
            target: shown(&target),
        };
        let (target_name, parent) = target.split_last().ok_or_else(refused)?;
        let target_folder = self.folder(parent)?;
        let stat = rustix::fs::statat(&target_folder, target_name, AtFlags::SYMLINK_NOFOLLOW).map_err(|_| refused())?;
        if !self.files.contains(&(stat.st_dev, stat.st_ino)) {
            return Err(refused());
        }
        if target == path {
            return Ok(());
        }
        self.clear(folder, name, path)?;
        rustix::fs::linkat(&target_folder, target_name, folder, name, AtFlags::empty()).map_err(failed(path))
    }

    fn make_node(&self, folder: &OwnedFd, name: &OsStr, path: &[OsString], member: &Member) -> Result<(), UnpackError> {
        self.clear(folder, name, path)?;
        let kind = special_type(member.kind);
        let device = rustix::fs::makedev(member.device.0, member.device.1);
        let mode = Mode::from_raw_mode(self.mode(member.mode));
        rustix::fs::mknodat(folder, name, kind, mode, device).map_err(failed(path))
    }

    fn loses_privileges(&self, member: &Member) -> bool {
        let has_bits = matches!(member.kind, b'0' | b'5') && member.mode & SET_ID_BITS != 0;
        let has_capabilities = || member.xattrs.iter().any(|xattr| xattr.name == CAPABILITIES);
        !self.how.keep_privileges && (has_bits || has_capabilities())
    }

    fn mode(&self, mode: u32) -> u32 {
        mode & 0o7777 & if self.how.keep_privileges { !0 } else { !SET_ID_BITS }
    }

    /// Sets owner and times of a link or special file that was just created. Others who share the folder may have put
    /// another file in its place, perhaps a second name of a file that is not theirs: the owner of that file stays.
    fn set_owner_and_times(&self, folder: &OwnedFd, name: &OsStr, member: &Member) -> Result<(), Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(folder, name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != special_type(member.kind) || stat.st_nlink != 1 {
            return Err(Errno::STALE);
        }
        if self.how.keep_owners {
            let (uid, gid) = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
            rustix::fs::chownat(&file, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
        }
        rustix::fs::utimensat(&file, "", &times(member.mtime), AtFlags::EMPTY_PATH)
    }

    /// Sets owner and mode. The owner comes first: a change of owner clears set-user-id bits and capabilities.
    fn set_owner_and_mode(&self, file: impl AsFd, attributes: Attributes) -> Result<(), Errno> {
        if self.how.keep_owners {
            let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
            rustix::fs::fchown(&file, Some(uid), Some(gid))?;
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(self.mode(attributes.mode)))
    }

    fn set_xattrs(&self, file: impl AsFd, member: &Member) {
        for xattr in &member.xattrs {
            let is_taken = xattr.name.starts_with(b"user.") || (self.how.keep_privileges && xattr.name == CAPABILITIES);
            if is_taken {
                // On a filesystem without extended attributes they are lost, as everywhere on Linux.
                let _ = rustix::fs::fsetxattr(&file, xattr.name.as_slice(), &xattr.value, XattrFlags::empty());
            }
        }
    }

    /// Gives folders their final attributes, the innermost first: nothing is created in a folder after its time was
    /// set.
    fn finish(mut self) -> Result<Unpacked, UnpackError> {
        self.recent = None;
        for made in std::mem::take(&mut self.folders).into_iter().rev() {
            let path: Vec<OsString> = made.path.iter().map(Into::into).collect();
            let Some((name, parent)) = path.split_last() else {
                continue;
            };
            let parent = self.folder(parent)?;
            let set = open_to_change(&parent, name).and_then(|folder| {
                // A different folder is somebody else's by now.
                if identity(&folder)? != made.identity {
                    return Err(Errno::STALE);
                }
                self.set_owner_and_mode(&folder, made.attributes)?;
                rustix::fs::futimens(&folder, &times(made.attributes.mtime))
            });
            set.map_err(failed(&path))?;
        }
        Ok(self.done)
    }
}

fn open_folder(parent: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Opens a folder whose attributes are to change.
fn open_to_change(parent: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Device and inode of a file.
fn identity(file: impl AsFd) -> Result<(u64, u64), Errno> {
    let stat = rustix::fs::fstat(file)?;
    Ok((stat.st_dev, stat.st_ino))
}

fn times(mtime: (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime.0,
        tv_nsec: i64::from(mtime.1),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn special_type(kind: u8) -> FileType {
    match kind {
        b'2' => FileType::Symlink,
        b'3' => FileType::CharacterDevice,
        b'4' => FileType::BlockDevice,
        _ => FileType::Fifo,
    }
}

/// Writes `size` bytes; runs of zeros become holes, so that a sparse file does not fill the disk.
fn write_content(file: &mut File, size: u64, content: &mut TarReader<impl Read>) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut left = size;
    while left > 0 {
        // A hole of exabytes takes a few bytes of an archive, but hours to read as zeros.
        let hole = content.skip_hole();
        if hole > 0 {
            let step = i64::try_from(hole).map_err(|_| io::ErrorKind::FileTooLarge)?;
            file.seek(SeekFrom::Current(step))?;
            left -= hole;
            continue;
        }
        let wanted = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let part = &mut chunk[..wanted];
        content.read_exact(part)?;
        if part.iter().all(|byte| *byte == 0) {
            file.seek(SeekFrom::Current(part.len() as i64))?;
        } else {
            file.write_all(part)?;
        }
        left -= part.len() as u64;
    }
    file.set_len(size)
}

#[cfg(test)]
mod tests;
