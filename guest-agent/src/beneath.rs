//! Paths of the container, resolved beneath its root.
//!
//! The threat: every folder, file and link below the root comes from an image that nobody trusts. A link may name
//! `/proc/1/root`, `..` in any number, or an absolute path, to have the agent write, mount or read outside of the
//! root. So no path of a container is ever given to a plain system call: `openat2(RESOLVE_IN_ROOT)` makes the kernel
//! itself treat the root folder as `/` for every component and link, and refuse magic links. Where something missing
//! is made, links are followed by hand, one component at a time, with the same meaning. Nothing else runs in the tree
//! meanwhile (the container's first process is the one that resolves), so there is no race to lose. A process that
//! joins a running container makes nothing; it opens, with the kernel's resolution alone.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::limits::{LINKS_MAX, OPEN_RETRIES};

/// Folder that is `/` for every path resolved in it.
#[derive(Debug)]
pub(crate) struct Root {
    folder: OwnedFd,
}

/// Kind of entry to create for a missing path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    Folder,
    File,
    Nothing,
}

impl Root {
    /// Makes `folder` the root.
    pub(crate) fn new(folder: OwnedFd) -> Self {
        Self { folder }
    }

    /// Returns the root folder itself.
    pub(crate) fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// Opens an existing path.
    pub(crate) fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let open = || {
            rustix::fs::openat2(
                &self.folder,
                path,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
            )
        };
        // EAGAIN: something was renamed while a `..` was walked (`openat2(2)`).
        let retries = (0..OPEN_RETRIES).map(|_| open());
        retries
            .into_iter()
            .find(|result| !matches!(result, Err(Errno::AGAIN)))
            .unwrap_or(Err(Errno::AGAIN))
    }

    /// Opens an existing path as a reference (`O_PATH`); `None` if there is nothing.
    pub(crate) fn find(&self, path: &Path) -> Result<Option<OwnedFd>, Errno> {
        match self.open(path, OFlags::PATH) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Opens the folder `path` as a reference; missing folders are created, its parents too (mode 0755).
    pub(crate) fn folder_at(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let real = self.make(path, Missing::Folder)?;
        self.open(&real, OFlags::PATH | OFlags::DIRECTORY)
    }

    /// Opens the file `path` as a reference; a missing file is created empty, with its parents.
    pub(crate) fn file_at(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let real = self.make(path, Missing::File)?;
        self.open(&real, OFlags::PATH)
    }

    /// Opens the parent folder of `path`, created if missing, and returns the name of `path` in it. A link at `path`
    /// itself is not followed.
    pub(crate) fn parent_of(&self, path: &Path) -> Result<(OwnedFd, OsString), Errno> {
        let name = path.file_name().ok_or(Errno::INVAL)?.to_owned();
        let folder = self.folder_at(path.parent().unwrap_or(Path::new("/")))?;
        Ok((folder, name))
    }

    /// Opens the parent folder of the entry that `path` leads to, and returns its name there: links are followed.
    /// Creates nothing.
    pub(crate) fn parent_of_existing(&self, path: &Path) -> Result<(OwnedFd, OsString), Errno> {
        let real = self.make(path, Missing::Nothing)?;
        let name = real.file_name().ok_or(Errno::ISDIR)?.to_owned();
        let parent = real.parent().unwrap_or(Path::new("/"));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // No links are left by now. A link that somebody puts there meanwhile is not followed out of the root either.
        self.open(parent, flags).map(|folder| (folder, name))
    }

    /// Reads a regular file of at most `bytes_max` bytes; `None` if there is nothing, `EFBIG` over the limit.
    pub(crate) fn read(&self, path: &Path, bytes_max: usize) -> Result<Option<Vec<u8>>, Errno> {
        // NONBLOCK: a FIFO in its place must not hang us.
        let file = match self.open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(e) => return Err(e),
        };
        if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(Errno::INVAL);
        }
        let mut content = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match rustix::io::read(&file, &mut buffer)? {
                0 => return Ok(Some(content)),
                n if content.len() + n > bytes_max => return Err(Errno::FBIG),
                n => content.extend_from_slice(&buffer[..n]),
            }
        }
    }

    /// Walks `path`, follows links beneath the root, and creates missing entries. Returns the path without links.
    fn make(&self, path: &Path, last: Missing) -> Result<PathBuf, Errno> {
        let mut todo: VecDeque<OsString> = components(path).collect();
        let mut real = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                real.pop();
                continue;
            }
            let parent = self.open(&real, OFlags::PATH | OFlags::DIRECTORY)?;
            match rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::LOOP);
                    }
                    let to = rustix::fs::readlinkat(&parent, &name, Vec::new())?;
                    let to = PathBuf::from(OsString::from_vec(to.into_bytes()));
                    if to.is_absolute() {
                        real = PathBuf::from("/");
                    }
                    for component in components(&to).collect::<Vec<_>>().into_iter().rev() {
                        todo.push_front(component);
                    }
                }
                Ok(_) => real.push(&name),
                Err(Errno::NOENT) if last != Missing::Nothing => {
                    let is_file = todo.is_empty() && last == Missing::File;
                    make_one(&parent, &name, is_file)?;
                    real.push(&name);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(real)
    }
}

/// Creates one empty file or folder.
fn make_one(parent: &OwnedFd, name: &OsString, is_file: bool) -> Result<(), Errno> {
    if !is_file {
        return rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755));
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
}

/// Yields the names of a path, `..` included.
fn components(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|c| match c {
        Component::Normal(name) => Some(OsString::from_vec(name.as_bytes().to_vec())),
        Component::ParentDir => Some("..".into()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Creates a root folder inside a temporary folder, whose other files are "outside".
    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::write(dir.path().join("secret"), "s").unwrap();
        let folder =
            rustix::fs::open(dir.path().join("root"), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        (dir, Root::new(folder))
    }

    #[test]
    fn links_and_dots_do_not_leave_the_root() {
        let (dir, root) = root();
        symlink("../../../secret", dir.path().join("root/relative")).unwrap();
        symlink(dir.path().join("secret"), dir.path().join("root/absolute")).unwrap();
        for path in ["/relative", "/absolute", "/../secret"] {
            assert_eq!(root.read(Path::new(path), 10).unwrap(), None, "{path}");
        }
    }

    #[test]
    fn a_missing_target_behind_a_hostile_link_is_made_inside() {
        let (dir, root) = root();
        let outside = dir.path().join("outside");
        symlink(&outside, dir.path().join("root/escape")).unwrap();
        root.folder_at(Path::new("/escape/a/b")).unwrap();
        assert!(!outside.exists());
        let inside = dir.path().join("root").join(outside.strip_prefix("/").unwrap());
        assert!(inside.join("a/b").is_dir());
    }

    #[test]
    fn a_dangling_link_to_a_file_is_filled_at_its_end() {
        let (dir, root) = root();
        fs::create_dir(dir.path().join("root/etc")).unwrap();
        symlink("../run/resolve/stub.conf", dir.path().join("root/etc/resolv.conf")).unwrap();
        root.file_at(Path::new("/etc/resolv.conf")).unwrap();
        assert!(dir.path().join("root/run/resolve/stub.conf").is_file());
    }

    #[test]
    fn a_circle_of_links_is_an_error() {
        let (dir, root) = root();
        symlink("b", dir.path().join("root/a")).unwrap();
        symlink("a", dir.path().join("root/b")).unwrap();
        assert_eq!(root.folder_at(Path::new("/a")).unwrap_err(), Errno::LOOP);
    }

    #[test]
    fn reads_are_bounded_and_of_regular_files_only() {
        let (dir, root) = root();
        fs::write(dir.path().join("root/big"), vec![0; 11]).unwrap();
        fs::create_dir(dir.path().join("root/folder")).unwrap();
        let fifo = dir.path().join("root/fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert_eq!(root.read(Path::new("/big"), 10).unwrap_err(), Errno::FBIG);
        assert!(root.read(Path::new("/folder"), 10).is_err());
        assert_eq!(root.read(Path::new("/fifo"), 10).unwrap_err(), Errno::INVAL);
    }
}
