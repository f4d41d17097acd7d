//! Folder of the container that a copy is written to.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use capsid_archive::{Copied, Destination, DestinationError, Found, Placing, destination};
use capsid_protocol::spec::Unpack;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::beneath::Root;

/// Reason why nothing can be copied to the target.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TargetError {
    /// Docker's rules refuse the target.
    #[error("{path}")]
    Refused { path: String, source: DestinationError },
    /// The target cannot be opened.
    #[error("{path}")]
    Open { path: String, source: Errno },
}

/// Opens the folder that the archive is unpacked in, and returns the placing of its names.
pub(crate) fn find(root: &Root, unpack: &Unpack) -> Result<(OwnedFd, Placing), TargetError> {
    let path = Path::new(OsStr::from_bytes(&unpack.path));
    let shown = || path.display().to_string();
    let failed = |source| TargetError::Open { path: shown(), source };
    let refused = |source| TargetError::Refused { path: shown(), source };
    let found = match root.open(path, OFlags::PATH) {
        Ok(found) => Some(found),
        Err(Errno::NOENT) => None,
        Err(Errno::NOTDIR) => return Err(refused(DestinationError::NotFolder)),
        Err(errno) => return Err(failed(errno)),
    };
    let kind = match &found {
        None => Found::Nothing,
        Some(found) => match FileType::from_raw_mode(rustix::fs::fstat(found).map_err(failed)?.st_mode) {
            FileType::Directory => Found::Folder,
            _ => Found::File,
        },
    };
    let copied = Copied {
        top: &unpack.top,
        is_folder: unpack.is_folder,
        is_foreign: unpack.is_foreign,
    };
    let wants_folder = unpack.path.ends_with(b"/") || unpack.path.ends_with(b"/.");
    match (
        destination(kind, wants_folder, path.file_name(), copied).map_err(refused)?,
        found,
    ) {
        (Destination::Inside(placing), Some(folder)) => Ok((folder, placing)),
        // The file that a link leads to is overwritten, not the link.
        (Destination::Beside(placing), Some(_)) => {
            let (folder, name) = root.parent_of_existing(path).map_err(failed)?;
            let name = Some(name);
            Ok((folder, Placing { name, ..placing }))
        }
        (Destination::Inside(placing) | Destination::Beside(placing), None) => {
            let parent = path.parent().unwrap_or(Path::new("/"));
            let folder = root.open(parent, OFlags::PATH | OFlags::DIRECTORY);
            let folder = folder.map_err(|errno| match errno {
                Errno::NOENT => refused(DestinationError::NoFolder),
                Errno::NOTDIR => refused(DestinationError::NotFolder),
                errno => failed(errno),
            })?;
            Ok((folder, placing))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use rustix::fs::Mode;

    use super::*;

    #[test]
    fn a_link_at_the_target_is_written_through_beneath_the_root() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("folder")).unwrap();
        fs::write(dir.path().join("file"), "f").unwrap();
        std::os::unix::fs::symlink("/../../file", dir.path().join("folder/link")).unwrap();
        let folder = rustix::fs::open(dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let root = Root::new(folder);
        let find = |path: &str| {
            let unpack = Unpack {
                path: path.into(),
                top: b"src".to_vec(),
                ..Unpack::default()
            };
            let (folder, placing) = super::find(&root, &unpack)?;
            let name = placing.name.unwrap().into_string().unwrap();
            Ok::<_, TargetError>((rustix::fs::fstat(folder).unwrap().st_ino, name))
        };
        let top = fs::metadata(dir.path()).unwrap().ino();
        let folder = fs::metadata(dir.path().join("folder")).unwrap().ino();
        assert_eq!(find("/folder/link").unwrap(), (top, "file".into()));
        assert_eq!(find("/folder/new").unwrap(), (folder, "new".into()));
        assert_eq!(find("/folder").unwrap(), (folder, "src".into()));
        assert!(matches!(
            find("/none/new"),
            Err(TargetError::Refused {
                source: DestinationError::NoFolder,
                ..
            })
        ));
    }
}
