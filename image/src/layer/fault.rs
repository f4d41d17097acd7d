//! Faults of layers.

use serde::{Deserialize, Serialize};

use super::path::NameFault;
use crate::limits::{
    EXPANSION_RATIO_MAX, IMAGE_ENTRIES_MAX, IMAGE_EXPANDED_BYTES_MAX, LAYER_ENTRIES_MAX, LAYER_EXPANDED_BYTES_MAX,
    LINKS_FOLLOWED_MAX, PATH_BYTES_MAX, ROOTFS_ENTRIES_MAX, ROOTFS_NAME_BYTES_MAX, TAR_HEADER_BYTES_MAX,
    XATTR_BYTES_MAX,
};
use crate::text::printable;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// Reason why a layer cannot be converted, or a stack of layers cannot be merged. Crosses the pipe from the converter
/// as JSON; every text in it is printable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum LayerFault {
    /// The bytes are not a tar in a known compression, or end too early.
    #[error("layer is not a valid tar archive: {reason}")]
    Read {
        /// Message of the decoder.
        reason: String,
    },
    /// The tar ends within an entry.
    #[error("layer is truncated in entry {path:?}")]
    Truncated {
        /// Name of the entry in the tar.
        path: String,
    },
    /// The expanded size exceeds its limit: of the tar, or of the files in it with their holes.
    #[error(
        "layer expands beyond the limit of {} GiB for a layer and {} GiB for its image",
        LAYER_EXPANDED_BYTES_MAX / GIB,
        IMAGE_EXPANDED_BYTES_MAX / GIB
    )]
    TooLarge,
    /// The expansion ratio exceeds its limit.
    #[error("layer expands beyond the limit of {EXPANSION_RATIO_MAX}-fold (decompression bomb)")]
    Bomb,
    /// A header exceeds its limit.
    #[error("layer has an entry with a header of more than {} MiB", TAR_HEADER_BYTES_MAX / MIB)]
    LongHeader,
    /// The layer exceeds the limit on entries.
    #[error("layer has more than {LAYER_ENTRIES_MAX} entries")]
    TooManyEntries,
    /// An entry has a name that cannot be below the root.
    #[error("layer entry {path:?} {fault}")]
    Name {
        /// Name as in the tar.
        path: String,
        /// Fault of the name.
        fault: NameFault,
    },
    /// A symbolic link has no target, or a longer one than Linux accepts.
    #[error("layer entry {path:?} has a link target that is empty, has a NUL byte or exceeds {PATH_BYTES_MAX} bytes")]
    SymlinkTarget {
        /// Name of the entry in the tar.
        path: String,
    },
    /// The extended attributes of an entry exceed their limit.
    #[error("layer entry {path:?} has more than {} KiB of extended attributes", XATTR_BYTES_MAX >> 10)]
    Xattrs {
        /// Name of the entry in the tar.
        path: String,
    },
    /// An entry has a type that no image needs.
    #[error("layer entry {path:?} has the unsupported type {kind:?}")]
    Kind {
        /// Name of the entry in the tar.
        path: String,
        /// Type letter of the tar.
        kind: char,
    },
    /// A hard link has a target that does not exist.
    #[error("layer entry {path:?} is a hard link to {target:?}, which does not exist")]
    LinkTarget {
        /// Name of the entry in the tar.
        path: String,
        /// Target of the link.
        target: String,
    },
    /// A hard link leads to a directory.
    #[error("layer entry {path:?} is a hard link to the directory {target:?}")]
    LinkToDirectory {
        /// Name of the entry in the tar.
        path: String,
        /// Target of the link.
        target: String,
    },
    /// An entry is below something that is not a directory.
    #[error("layer entry {path:?} lies below a file")]
    NotADirectory {
        /// Name of the entry in the tar.
        path: String,
    },
    /// An entry replaces the root, which can only be a directory.
    #[error("layer replaces the root directory")]
    Root,
    /// A path has too many symbolic links, as in a loop.
    #[error("layer entry {path:?} goes through more than {LINKS_FOLLOWED_MAX} symbolic links")]
    TooManyLinks {
        /// Name of the entry in the tar.
        path: String,
    },
    /// All layers together exceed the limit on entries.
    #[error("the layers of the image have more than {IMAGE_ENTRIES_MAX} entries together")]
    TooManyImageEntries,
    /// The image exceeds the limit on files.
    #[error("image has more than {ROOTFS_ENTRIES_MAX} files")]
    TooManyFiles,
    /// The image exceeds the limit on names.
    #[error("image has more than {} MiB of names and attributes", ROOTFS_NAME_BYTES_MAX / MIB)]
    TooManyNames,
    /// An index is damaged: this crate did not write it like that.
    #[error("the stored index of a layer is damaged")]
    Index,
}

impl LayerFault {
    pub(crate) fn read(error: impl std::fmt::Display) -> Self {
        Self::Read {
            reason: printable(error.to_string().as_bytes(), 200),
        }
    }
}
