//! Where a copy goes: docker's rules for what is at a path.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use capsid_archive::Placing;
use capsid_protocol::spec::Unpack;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::beneath::Root;

/// Why nothing can be copied there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TargetError {
    /// A folder that is not there.
    #[error("{0}: no such directory")]
    NoFolder(String),
    /// A file where a folder must be.
    #[error("{0}: not a directory")]
    NotFolder(String),
    /// A folder onto a file.
    #[error("{0}: cannot copy directory")]
    FolderToFile(String),
    /// It cannot be looked at.
    #[error("{path}")]
    Open { path: String, source: Errno },
}

/// The folder that the archive is unpacked in, and what becomes of its names.
pub(crate) fn find(root: &Root, unpack: &Unpack) -> Result<(OwnedFd, Placing), TargetError> {
    let path = Path::new(OsStr::from_bytes(&unpack.path));
    let shown = || path.display().to_string();
    let failed = |source| TargetError::Open { path: shown(), source };
    let open = |path: &Path| root.open(path, OFlags::PATH);
    let wants_folder = unpack.path.ends_with(b"/") || unpack.path.ends_with(b"/.");
    let placing = |name: Option<&OsStr>| Placing {
        strip: unpack.top.clone(),
        name: name.map(OsStr::to_owned),
    };
    let own_name = Some(OsStr::from_bytes(&unpack.top)).filter(|_| !unpack.content_only);
    match open(path) {
        Ok(found) => {
            let stat = rustix::fs::fstat(&found).map_err(failed)?;
            let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            match (is_folder, unpack.top.is_empty()) {
                (true, true) => Ok((found, Placing::default())),
                (true, false) => Ok((found, placing(own_name))),
                (false, true) => Err(TargetError::NotFolder(shown())),
                (false, false) if unpack.is_folder => Err(TargetError::FolderToFile(shown())),
                (false, false) if wants_folder => Err(TargetError::NotFolder(shown())),
                (false, false) => {
                    let (folder, name) = root.parent_of_existing(path).map_err(failed)?;
                    Ok((folder, placing(Some(&name))))
                }
            }
        }
        Err(Errno::NOENT) if unpack.top.is_empty() || (wants_folder && !unpack.is_folder) => {
            Err(TargetError::NoFolder(shown()))
        }
        Err(Errno::NOENT) => {
            // Only the last component may be missing, and gets the new name.
            let name = path.file_name().ok_or_else(|| failed(Errno::NOENT))?;
            let parent = path.parent().unwrap_or(Path::new("/"));
            let folder = root.open(parent, OFlags::PATH | OFlags::DIRECTORY);
            let folder = folder.map_err(|errno| match errno {
                Errno::NOENT => TargetError::NoFolder(parent.display().to_string()),
                Errno::NOTDIR => TargetError::NotFolder(parent.display().to_string()),
                errno => failed(errno),
            })?;
            Ok((folder, placing(Some(name))))
        }
        Err(Errno::NOTDIR) => Err(TargetError::NotFolder(shown())),
        Err(errno) => Err(failed(errno)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::Mode;

    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("folder")).unwrap();
        fs::write(dir.path().join("file"), "f").unwrap();
        std::os::unix::fs::symlink("/file", dir.path().join("folder/link")).unwrap();
        let folder = rustix::fs::open(dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        (dir, Root::new(folder))
    }

    fn unpack(path: &str, is_folder: bool, content_only: bool) -> Unpack {
        Unpack {
            path: path.into(),
            top: b"src".to_vec(),
            is_folder,
            content_only,
            keep_owners: false,
        }
    }

    /// The inode of the folder, and the new name.
    fn found(root: &Root, unpack: &Unpack) -> (u64, Option<String>) {
        let (folder, placing) = find(root, unpack).unwrap();
        assert_eq!(placing.strip, unpack.top);
        let name = placing.name.map(|name| name.into_string().unwrap());
        (rustix::fs::fstat(folder).unwrap().st_ino, name)
    }

    #[test]
    fn dockers_rules() {
        use std::os::unix::fs::MetadataExt;
        let (dir, root) = root();
        let top = fs::metadata(dir.path()).unwrap().ino();
        let folder = fs::metadata(dir.path().join("folder")).unwrap().ino();
        let named = |name: &str| Some(name.to_owned());
        assert_eq!(found(&root, &unpack("/folder", false, false)), (folder, named("src")));
        assert_eq!(found(&root, &unpack("/folder/", true, false)), (folder, named("src")));
        assert_eq!(found(&root, &unpack("/folder", true, true)), (folder, None));
        assert_eq!(found(&root, &unpack("/file", false, false)), (top, named("file")));
        // What a link leads to is overwritten, not the link.
        assert_eq!(
            found(&root, &unpack("/folder/link", false, false)),
            (top, named("file"))
        );
        assert_eq!(found(&root, &unpack("/new", false, false)), (top, named("new")));
        assert_eq!(found(&root, &unpack("/new/", true, false)), (top, named("new")));
        let refused = |unpack: Unpack| find(&root, &unpack).unwrap_err();
        assert!(matches!(
            refused(unpack("/new/", false, false)),
            TargetError::NoFolder(_)
        ));
        assert!(matches!(
            refused(unpack("/none/new", false, false)),
            TargetError::NoFolder(_)
        ));
        assert!(matches!(
            refused(unpack("/file", true, false)),
            TargetError::FolderToFile(_)
        ));
        assert!(matches!(
            refused(unpack("/file/", false, false)),
            TargetError::NotFolder(_)
        ));
        let archive = |path: &str| Unpack {
            path: path.into(),
            ..Unpack::default()
        };
        assert!(matches!(refused(archive("/file")), TargetError::NotFolder(_)));
        assert!(matches!(refused(archive("/new")), TargetError::NoFolder(_)));
        find(&root, &archive("/folder")).unwrap();
    }
}
