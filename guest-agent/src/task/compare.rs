//! Changes that a container has made: its overlay's upper folder against the image, as `diff` reports them.
//!
//! Both are read from mounts of the container's disks that nobody else sees. In the upper folder a removed name is a
//! character device with number 0, and a folder that replaces the image's has the attribute `trusted.overlay.opaque`
//! (kernel documentation, `filesystems/overlayfs.rst`).

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use capsid_protocol::ContainerSpec;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::disk::{self, DiskError};
use crate::limits::VOLUME_BOUNDS;

/// Error of listing the differences.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompareError {
    /// A folder of the overlay cannot be read.
    #[error("cannot read {path}")]
    Read { path: String, source: Errno },
    /// The output cannot be written.
    #[error("cannot find out what changed")]
    Write(#[source] io::Error),
    /// There are more differences than anybody reads.
    #[error("more than {} files, or folders within folders, have changed", VOLUME_BOUNDS.entries)]
    Many,
}

/// Upper and lower folder of the overlay, and the paths that the agent itself made in the upper one.
pub(crate) struct Disks {
    upper: OwnedFd,
    lower: OwnedFd,
    /// Paths that were made as targets of mounts.
    targets: BTreeSet<Vec<u8>>,
}

/// State of the comparison: remaining entries, and the lines found so far.
struct Walk {
    entries_left: usize,
    lines: Vec<u8>,
}

impl Disks {
    /// Mounts the disks of `spec`'s root once more.
    pub(crate) fn open(spec: &ContainerSpec) -> Result<Self, DiskError> {
        let (lower, upper) = disk::layers(&spec.root)?;
        let mounts = spec.mounts.iter().map(|mount| &mount.target);
        let files = spec.files.iter().map(|file| &file.path);
        let devices = spec.devices.iter().map(|device| &device.path);
        let targets = mounts.chain(files).chain(devices).map(|path| path.clone().into_bytes());
        Ok(Self {
            upper,
            lower,
            targets: targets.collect(),
        })
    }

    /// Writes the changes to `to`.
    pub(crate) fn compare(&self, to: &mut impl Write) -> Result<(), CompareError> {
        let mut walk = Walk {
            entries_left: VOLUME_BOUNDS.entries,
            lines: Vec::new(),
        };
        self.folder(&mut walk, &self.upper, Some(&self.lower), b"", VOLUME_BOUNDS.depth)?;
        to.write_all(&walk.lines)
            .and_then(|()| to.flush())
            .map_err(CompareError::Write)
    }

    /// Compares one folder. `lower` is the image's folder at the same path.
    fn folder(
        &self,
        walk: &mut Walk,
        upper: &OwnedFd,
        lower: Option<&OwnedFd>,
        path: &[u8],
        depth: usize,
    ) -> Result<(), CompareError> {
        let depth = depth.checked_sub(1).ok_or(CompareError::Many)?;
        let failed = |source| CompareError::Read {
            path: String::from_utf8_lossy(path).into_owned(),
            source,
        };
        let names = names(upper, walk).map_err(failed)?;
        if let Some(lower) = lower.filter(|_| is_opaque(upper)) {
            for name in self::names(lower, walk).map_err(failed)?.difference(&names) {
                walk.record(b'D', &join(path, name))?;
            }
        }
        for name in &names {
            let stat = rustix::fs::statat(upper, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW);
            let stat = match stat {
                // Removed since the folder was read.
                Err(Errno::NOENT) => continue,
                stat => stat.map_err(failed)?,
            };
            self.entry(walk, (upper, lower), name, &join(path, name), &stat, depth)?;
        }
        Ok(())
    }

    fn entry(
        &self,
        walk: &mut Walk,
        (upper, lower): (&OwnedFd, Option<&OwnedFd>),
        name: &[u8],
        path: &[u8],
        stat: &Stat,
        depth: usize,
    ) -> Result<(), CompareError> {
        let name = OsStr::from_bytes(name);
        let kind = FileType::from_raw_mode(stat.st_mode);
        let before = lower.and_then(|lower| rustix::fs::statat(lower, name, AtFlags::SYMLINK_NOFOLLOW).ok());
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            return match before {
                Some(_) => walk.record(b'D', path),
                None => Ok(()),
            };
        }
        let letter = if before.is_some() { b'C' } else { b'A' };
        if kind != FileType::Directory {
            let is_ours = letter == b'A' && stat.st_size == 0 && self.targets.contains(path);
            return if is_ours { Ok(()) } else { walk.record(letter, path) };
        }
        let at = walk.lines.len();
        walk.record(letter, path)?;
        let end = walk.lines.len();
        let below = open(upper, name).map_err(|source| CompareError::Read {
            path: String::from_utf8_lossy(path).into_owned(),
            source,
        })?;
        let before_is_folder =
            before.is_some_and(|before| FileType::from_raw_mode(before.st_mode) == FileType::Directory);
        let below_lower = lower
            .filter(|_| before_is_folder)
            .and_then(|lower| open(lower, name).ok());
        self.folder(walk, &below, below_lower.as_ref(), path, depth)?;
        // A folder in which nothing changed was only passed through, or made as the target of a mount.
        let is_same =
            |before: &Stat| (before.st_mode, before.st_uid, before.st_gid) == (stat.st_mode, stat.st_uid, stat.st_gid);
        let is_nothing = match &before {
            Some(before) => is_same(before),
            None => self.leads_to_target(path),
        };
        if walk.lines.len() == end && is_nothing {
            walk.lines.truncate(at);
        }
        Ok(())
    }

    /// Whether a mount's target is at or below `path`.
    fn leads_to_target(&self, path: &[u8]) -> bool {
        let is_below = |target: &Vec<u8>| {
            target
                .strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        self.targets.iter().any(is_below)
    }
}

impl Walk {
    fn record(&mut self, letter: u8, path: &[u8]) -> Result<(), CompareError> {
        self.entries_left = self.entries_left.checked_sub(1).ok_or(CompareError::Many)?;
        self.lines.push(letter);
        self.lines.extend_from_slice(path);
        self.lines.push(0);
        Ok(())
    }
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    [path, b"/", name].concat()
}

fn open(folder: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

fn names(folder: &OwnedFd, walk: &Walk) -> Result<BTreeSet<Vec<u8>>, Errno> {
    let mut names = BTreeSet::new();
    for entry in Dir::read_from(folder)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.insert(name);
        }
        if names.len() > walk.entries_left {
            return Err(Errno::NOSPC);
        }
    }
    Ok(names)
}

fn is_opaque(folder: &OwnedFd) -> bool {
    let mut value = [0; 1];
    let read = rustix::fs::fgetxattr(folder, c"trusted.overlay.opaque", &mut value[..]);
    matches!((read, value), (Ok(1), [b'y' | b'x']))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn disks(dir: &Path, targets: &[&str]) -> Disks {
        let open = |name: &str| super::open(fs::File::open(dir).unwrap(), OsStr::new(name)).unwrap();
        Disks {
            upper: open("upper"),
            lower: open("lower"),
            targets: targets.iter().map(|target| target.as_bytes().to_vec()).collect(),
        }
    }

    #[test]
    fn added_and_changed_files_are_told_with_their_folders() {
        let dir = tempfile::tempdir().unwrap();
        for path in [
            "upper/etc",
            "lower/etc",
            "upper/new",
            "upper/dev",
            "upper/a/b",
            "lower/var",
            "upper/var",
        ] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        for path in ["upper/etc/passwd", "lower/etc/passwd", "upper/new/file"] {
            fs::write(dir.path().join(path), "x").unwrap();
        }
        fs::write(dir.path().join("upper/etc/hosts"), "").unwrap();
        let mut output = Vec::new();
        disks(dir.path(), &["/dev", "/etc/hosts", "/a/b"])
            .compare(&mut output)
            .unwrap();
        assert_eq!(
            String::from_utf8(output).unwrap(),
            "C/etc\0C/etc/passwd\0A/new\0A/new/file\0"
        );
    }
}
