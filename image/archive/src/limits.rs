//! Limits on what an archive can make its reader spend, each with its reason.

/// Longest PAX header or GNU long name of a tar, bytes: Go's reader, and so docker's, has the same limit.
pub const TAR_HEADER_BYTES_MAX: u64 = 1 << 20;

/// Longest total of such headers of one member, bytes: a long name, a long link, a PAX header and a global one, each of
/// the largest size.
pub const TAR_HEADERS_BYTES_MAX: u64 = 4 * TAR_HEADER_BYTES_MAX;

/// Largest number of extended attributes of one member: ext4 has room for some dozens.
pub const XATTRS_MAX: usize = 256;

/// Largest number of fragments of one sparse file in a tar. GNU tar writes one per hole; its own map must also fit the
/// limit on a header.
pub const SPARSE_FRAGMENTS_MAX: usize = 64 << 10;

/// Largest number of entries of one archive that is unpacked or packed: a full desktop root has about 400 000.
pub const ENTRIES_MAX: usize = 4_000_000;

/// Longest total of the folder names of an archive that is unpacked, bytes: each is kept until the folder is complete.
pub const FOLDER_NAMES_BYTES_MAX: usize = 64 << 20;

/// Deepest nesting of folders: each level is one open descriptor, and a process has 1024.
pub const DEPTH_MAX: usize = 256;

/// Longest path, bytes: `PATH_MAX` of Linux.
pub const PATH_BYTES_MAX: usize = 4_096;

/// Longest extended attributes of one file, bytes: `XATTR_LIST_MAX` and `XATTR_SIZE_MAX` of Linux.
pub const XATTR_BYTES_MAX: usize = 64 << 10;
