//! Mount table of the host: the location of a file within its filesystem, whatever paths lead to it.
//!
//! A bind mount gives a folder a second path. Device and inode show that two paths are the same folder, but not that
//! one lies in the other. The table shows both: each mount names its filesystem and the folder of it that it shows.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags};

const TABLE: &str = "/proc/self/mountinfo";

/// Location within a filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileLocation {
    /// Device number, `major:minor`.
    device: String,
    path: PathBuf,
}

/// Relation of one location to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relation {
    /// Both are the same.
    Is,
    /// Contains the other.
    Holds,
    /// Lies inside the other.
    In,
}

impl Relation {
    /// Compares two paths, both absolute and without links.
    pub(crate) fn of_paths(one: &Path, other: &Path) -> Option<Self> {
        match (one.starts_with(other), other.starts_with(one)) {
            (true, true) => Some(Self::Is),
            (false, true) => Some(Self::Holds),
            (true, false) => Some(Self::In),
            (false, false) => None,
        }
    }
}

impl FileLocation {
    /// Compares two locations; locations on different filesystems have no relation.
    pub(crate) fn relation_to(&self, other: &Self) -> Option<Relation> {
        if self.device == other.device {
            Relation::of_paths(&self.path, &other.path)
        } else {
            None
        }
    }
}

/// Line of the mount table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    id: u64,
    /// Folder of the filesystem that the mount shows.
    pub(crate) place: FileLocation,
    point: PathBuf,
    /// Type of the filesystem.
    pub(crate) kind: String,
}

/// All mounts that this process sees.
#[derive(Debug)]
pub(crate) struct MountTable(Vec<Mount>);

impl MountTable {
    /// Reads the mount table of this process.
    pub(crate) fn read() -> io::Result<Self> {
        Ok(Self::parse(&std::fs::read(TABLE)?))
    }

    fn parse(table: &[u8]) -> Self {
        Self(table.split(|byte| *byte == b'\n').filter_map(parse_line).collect())
    }

    /// Finds the mount that contains `path`, and the location within it. The path is absolute and without links; its
    /// end need not exist.
    pub(crate) fn find(&self, path: &Path) -> io::Result<Option<(&Mount, FileLocation)>> {
        let id = mount_id(path)?;
        // The last matching mount covers the others.
        let mount = self.0.iter().rev().find(|mount| mount.id == id);
        Ok(mount.and_then(|mount| {
            let inner = path.strip_prefix(&mount.point).ok()?;
            let place = FileLocation {
                device: mount.place.device.clone(),
                path: mount.place.path.join(inner),
            };
            Some((mount, place))
        }))
    }

    /// Returns the mounts below `path`.
    pub(crate) fn below<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = &'a Mount> {
        self.0
            .iter()
            .filter(move |mount| mount.point.starts_with(path) && mount.point != path)
    }
}

/// Returns the mount id of the deepest folder of `path` that exists.
fn mount_id(path: &Path) -> io::Result<u64> {
    let mut error = io::ErrorKind::NotFound.into();
    for existing in path.ancestors() {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        match rustix::fs::statx(CWD, existing, flags, StatxFlags::MNT_ID) {
            Ok(found) if found.stx_mask & StatxFlags::MNT_ID.bits() == 0 => {
                return Err(io::ErrorKind::Unsupported.into());
            }
            Ok(found) => return Ok(found.stx_mnt_id),
            Err(errno) => error = errno.into(),
        }
    }
    Err(error)
}

/// Parses `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [FIELDS...] - TYPE SOURCE OPTIONS` (proc_pid_mountinfo(5)).
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|byte| *byte == b' ');
    let text = |word: &[u8]| std::str::from_utf8(word).ok().map(str::to_owned);
    let id = text(words.next()?)?.parse().ok()?;
    let device = text(words.nth(1)?)?;
    let (root, point) = (unescape(words.next()?), unescape(words.next()?));
    let kind = text(words.skip_while(|word| *word != b"-").nth(1)?)?;
    Some(Mount {
        id,
        place: FileLocation { device, path: root },
        point,
        kind,
    })
}

/// Replaces octal escapes, which stand for blanks, line ends and backslashes.
fn unescape(word: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&first, after)) = rest.split_first() {
        let escaped = (first == b'\\').then(|| after.get(..3)).flatten();
        let value = escaped.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        (rest, _) = match value {
            Some(value) => (&after[3..], bytes.push(value)),
            None => (after, bytes.push(first)),
        };
    }
    PathBuf::from(OsStr::from_bytes(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "\
        20 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
        21 20 0:21 / /proc rw,nosuid shared:5 - proc proc rw\n\
        30 20 8:1 /home/u/.local /mnt/a\\040b rw shared:1 master:2 - ext4 /dev/sda1 rw\n\
        broken\n";

    fn place(device: &str, path: &str) -> FileLocation {
        FileLocation {
            device: device.into(),
            path: path.into(),
        }
    }

    #[test]
    fn lines_are_read_and_odd_ones_passed_over() {
        let table = MountTable::parse(LINES.as_bytes());
        assert_eq!(table.0.len(), 3);
        assert_eq!(table.0[1].kind, "proc");
        let alias = &table.0[2];
        assert_eq!((alias.id, alias.point.as_path()), (30, Path::new("/mnt/a b")));
        assert_eq!(alias.place, place("8:1", "/home/u/.local"));
        let below: Vec<u64> = table.below(Path::new("/mnt")).map(|mount| mount.id).collect();
        assert_eq!(below, [30]);
        assert_eq!(table.below(Path::new("/mnt/a b")).count(), 0);
    }

    #[test]
    fn places_are_compared_within_a_filesystem() {
        let of = |one, other| place("8:1", one).relation_to(&place("8:1", other));
        assert_eq!(of("/a", "/a"), Some(Relation::Is));
        assert_eq!(of("/", "/a/b"), Some(Relation::Holds));
        assert_eq!(of("/a/b", "/a"), Some(Relation::In));
        assert_eq!(of("/ab", "/a"), None);
        assert_eq!(place("8:1", "/a").relation_to(&place("8:2", "/a")), None);
    }

    /// Tests this host: a file in a mount, one that does not exist, and the root of another filesystem.
    #[test]
    fn a_path_has_a_place() {
        let table = MountTable::read().unwrap();
        let (mount, place) = table.find(Path::new("/proc/absent/deep")).unwrap().unwrap();
        assert_eq!((mount.kind.as_str(), place.path), ("proc", "/absent/deep".into()));
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        let find = |path: &Path| table.find(path).unwrap().unwrap().1;
        assert_eq!(find(&real.join("x")).relation_to(&find(&real)), Some(Relation::In));
    }
}
