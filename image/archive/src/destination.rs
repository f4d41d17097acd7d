//! Rules for where a copy is put: those of docker (`docker cp`, "Extended description").

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::unpack::Placing;

/// Kind of the file at the path that something is copied to; links are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// No file at the path.
    Nothing,
    /// A folder at the path.
    Folder,
    /// Any other kind of file at the path.
    File,
}

/// File or folder that is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied<'a> {
    /// First component of every name in the archive; empty if only the content of a folder is copied.
    pub top: &'a [u8],
    /// True when a folder is copied, not a file.
    pub is_folder: bool,
    /// True when somebody else made the archive: its names are used unchanged.
    pub is_foreign: bool,
}

/// Place that a copy is put at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Inside the folder at the path.
    Inside(Placing),
    /// Inside the folder that contains the path, under the path's own name.
    Beside(Placing),
}

/// Error of a copy without a valid destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// Nothing exists at the path, and only a folder would do.
    #[error("no such directory")]
    NoFolder,
    /// Something else exists where a folder is required.
    #[error("not a directory")]
    NotFolder,
    /// A folder cannot replace a file.
    #[error("cannot copy a directory to a file")]
    FolderToFile,
}

/// Determines the destination of a copy. `wants_folder`: the path ends in `/` or `/.`; `own_name`: the path's last
/// component.
pub fn destination(
    found: Found,
    wants_folder: bool,
    own_name: Option<&OsStr>,
    copied: Copied<'_>,
) -> Result<Destination, DestinationError> {
    let placing = |name: Option<OsString>| Placing {
        strip: copied.top.to_vec(),
        name,
    };
    let beside = || {
        let name = own_name.ok_or(DestinationError::NoFolder)?.to_owned();
        Ok(Destination::Beside(placing(Some(name))))
    };
    match (found, copied.is_folder) {
        (Found::Folder, _) if copied.is_foreign => Ok(Destination::Inside(Placing::default())),
        (Found::Nothing, _) if copied.is_foreign => Err(DestinationError::NoFolder),
        (Found::File, _) if copied.is_foreign => Err(DestinationError::NotFolder),
        (Found::Folder, _) => {
            let top = (!copied.top.is_empty()).then(|| OsStr::from_bytes(copied.top).to_owned());
            Ok(Destination::Inside(placing(top)))
        }
        (Found::File, true) => Err(DestinationError::FolderToFile),
        (Found::File, false) if wants_folder => Err(DestinationError::NotFolder),
        (Found::Nothing, false) if wants_folder => Err(DestinationError::NoFolder),
        (Found::File | Found::Nothing, _) => beside(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_rules() {
        let name = Some(OsStr::new("dst"));
        let of = |is_folder| Copied {
            top: b"src",
            is_folder,
            is_foreign: false,
        };
        let content = Copied { top: b"", ..of(true) };
        let foreign = Copied {
            is_foreign: true,
            ..content
        };
        let placing = |strip: &[u8], name: Option<&str>| Placing {
            strip: strip.to_vec(),
            name: name.map(OsString::from),
        };
        let go = |found, wants_folder, copied| destination(found, wants_folder, name, copied);
        let inside = |strip: &[u8], name| Ok(Destination::Inside(placing(strip, name)));
        let beside = |strip: &[u8]| Ok(Destination::Beside(placing(strip, Some("dst"))));
        assert_eq!(go(Found::Folder, false, of(false)), inside(b"src", Some("src")));
        assert_eq!(go(Found::Folder, true, of(true)), inside(b"src", Some("src")));
        assert_eq!(go(Found::Folder, false, content), inside(b"", None));
        assert_eq!(go(Found::Folder, false, foreign), inside(b"", None));
        assert_eq!(go(Found::File, false, of(false)), beside(b"src"));
        assert_eq!(go(Found::Nothing, false, of(false)), beside(b"src"));
        assert_eq!(go(Found::Nothing, true, of(true)), beside(b"src"));
        assert_eq!(go(Found::Nothing, false, content), beside(b""));
        assert_eq!(go(Found::Nothing, true, of(false)), Err(DestinationError::NoFolder));
        assert_eq!(go(Found::Nothing, false, foreign), Err(DestinationError::NoFolder));
        assert_eq!(go(Found::File, false, foreign), Err(DestinationError::NotFolder));
        assert_eq!(go(Found::File, true, of(false)), Err(DestinationError::NotFolder));
        assert_eq!(go(Found::File, false, of(true)), Err(DestinationError::FolderToFile));
    }
}
