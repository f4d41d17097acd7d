//! Entries of a layer's index: changes to the tree of the layers below.

use capsid_archive::Xattr;

use super::path::LayerPath;

/// Permission bits, owner, time and extended attributes: everything that an inode carries besides its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// Permission bits with setuid, setgid and sticky: `mode & 0o7777`.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Modification time, seconds since 1970.
    pub mtime: i64,
    pub mtime_nsec: u32,
    pub xattrs: Vec<Xattr>,
}

/// Entry of a layer's index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub path: LayerPath,
    pub action: Action,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Creates (or replaces) an inode at the path.
    Make(Attributes, Node),
    /// Gives the file at this path one more name.
    Link(LayerPath),
    /// Removes what lower layers have at the path.
    Whiteout,
    /// Removes what lower layers have in the directory.
    Opaque,
}

/// Content of an inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    Directory,
    /// File of `size` bytes of the layer's data blob, from its 4 KiB block `block` on.
    File {
        block: u32,
        size: u64,
    },
    Symlink(Vec<u8>),
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
}

impl Attributes {
    /// Attributes of a directory that no entry of any layer describes: root's, 0755, 1970.
    pub(crate) fn implied_directory() -> Self {
        Self {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            mtime_nsec: 0,
            xattrs: Vec::new(),
        }
    }
}
