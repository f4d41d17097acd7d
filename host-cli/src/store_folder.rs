//! Folder of a container on disk: `data/containers/ID/`.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Returns the folder of all containers.
pub(crate) fn all(data: &Path) -> PathBuf {
    data.join("containers")
}

/// Returns the path of a container's scratch disk.
pub(crate) fn scratch(data: &Path, id: &str) -> PathBuf {
    all(data).join(id).join("scratch.ext4")
}

/// Returns the path of a container's log; older ones have `.1`, `.2`... behind the name.
pub(crate) fn log(data: &Path, id: &str) -> PathBuf {
    all(data).join(id).join("log.json")
}

/// Creates a container's folder.
pub(crate) fn make(data: &Path, id: &str) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.mode(0o700).recursive(true).create(all(data))?;
    // An existing folder is not the new container's.
    builder.recursive(false).create(all(data).join(id))
}

/// Removes a container's folder with its contents.
pub(crate) fn remove(data: &Path, id: &str) -> io::Result<()> {
    match std::fs::remove_dir_all(all(data).join(id)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
