//! What is wrong with a layer.

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

/// Why a layer cannot be converted, or a stack of layers not merged. Crosses the pipe from the converter as JSON; every
/// text in it is printable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum LayerFault {
    /// The bytes are no tar in a compression that is known, or end too early.
    #[error("layer is not a valid tar archive: {reason}")]
    Read {
        /// The decoder's words.
        reason: String,
    },
    /// The tar ends within an entry.
    #[error("layer is truncated in entry {path:?}")]
    Truncated {
        /// The entry.
        path: String,
    },
    /// Over the limit on the expanded size, of the tar or of the files in it with their holes.
    #[error(
        "layer expands beyond the limit of {} GiB for a layer and {} GiB for its image",
        LAYER_EXPANDED_BYTES_MAX / GIB,
        IMAGE_EXPANDED_BYTES_MAX / GIB
    )]
    TooLarge,
    /// Over the limit on expansion.
    #[error("layer expands beyond the limit of {EXPANSION_RATIO_MAX}-fold (decompression bomb)")]
    Bomb,
    /// Over the limit on headers.
    #[error("layer has an entry with a header of more than {} MiB", TAR_HEADER_BYTES_MAX / MIB)]
    LongHeader,
    /// Over the limit on entries.
    #[error("layer has more than {LAYER_ENTRIES_MAX} entries")]
    TooManyEntries,
    /// A name that cannot be below the root.
    #[error("layer entry {path:?} {fault}")]
    Name {
        /// The name as in the tar.
        path: String,
        /// What is wrong with it.
        fault: NameFault,
    },
    /// A symbolic link without target, or with one longer than Linux takes.
    #[error("layer entry {path:?} has a link target that is empty, has a NUL byte or exceeds {PATH_BYTES_MAX} bytes")]
    SymlinkTarget {
        /// The entry.
        path: String,
    },
    /// Over the limit on extended attributes.
    #[error("layer entry {path:?} has more than {} KiB of extended attributes", XATTR_BYTES_MAX >> 10)]
    Xattrs {
        /// The entry.
        path: String,
    },
    /// An entry type that no image needs.
    #[error("layer entry {path:?} has the unsupported type {kind:?}")]
    Kind {
        /// The entry.
        path: String,
        /// Tar's type letter.
        kind: char,
    },
    /// A hard link to what is not there.
    #[error("layer entry {path:?} is a hard link to {target:?}, which does not exist")]
    LinkTarget {
        /// The entry.
        path: String,
        /// Its target.
        target: String,
    },
    /// A hard link to a directory.
    #[error("layer entry {path:?} is a hard link to the directory {target:?}")]
    LinkToDirectory {
        /// The entry.
        path: String,
        /// Its target.
        target: String,
    },
    /// An entry below something that is no directory.
    #[error("layer entry {path:?} lies below a file")]
    NotADirectory {
        /// The entry.
        path: String,
    },
    /// The root can only be a directory.
    #[error("layer replaces the root directory")]
    Root,
    /// Symbolic links in a circle.
    #[error("layer entry {path:?} goes through more than {LINKS_FOLLOWED_MAX} symbolic links")]
    TooManyLinks {
        /// The entry.
        path: String,
    },
    /// Over the limit on entries of all layers.
    #[error("the layers of the image have more than {IMAGE_ENTRIES_MAX} entries together")]
    TooManyImageEntries,
    /// Over the limit on files of an image.
    #[error("image has more than {ROOTFS_ENTRIES_MAX} files")]
    TooManyFiles,
    /// Over the limit on names of an image.
    #[error("image has more than {} MiB of names and attributes", ROOTFS_NAME_BYTES_MAX / MIB)]
    TooManyNames,
    /// An index that this crate did not write like that.
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
