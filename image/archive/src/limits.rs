//! Bounds on what an archive can make its reader spend, each with its reason.

/// One PAX header or GNU long name of a tar, bytes: Go's reader, and so docker's, has the same bound.
pub const TAR_HEADER_BYTES_MAX: u64 = 1 << 20;

/// All such headers of one member, bytes: a long name, a long link, a PAX header and a global one, each of the largest.
pub const TAR_HEADERS_BYTES_MAX: u64 = 4 * TAR_HEADER_BYTES_MAX;

/// Extended attributes of one member: ext4 has room for some dozens.
pub const XATTRS_MAX: usize = 256;

/// Fragments of one sparse file of a tar. GNU tar writes one per hole; its own map must fit a header's bound too.
pub const SPARSE_FRAGMENTS_MAX: usize = 64 << 10;

/// Entries of one archive that is unpacked or packed: a full desktop root has about 400 000.
pub const ENTRIES_MAX: usize = 4_000_000;

/// Names of all folders of an archive that is unpacked, bytes: each is remembered until all is in it.
pub const FOLDER_NAMES_BYTES_MAX: usize = 64 << 20;

/// Folders within folders: each is one open descriptor, and a process has 1024.
pub const DEPTH_MAX: usize = 256;

/// Bytes of a path, `PATH_MAX` of Linux.
pub const PATH_BYTES_MAX: usize = 4_096;

/// Extended attributes of one file, bytes: `XATTR_LIST_MAX` and `XATTR_SIZE_MAX` of Linux.
pub const XATTR_BYTES_MAX: usize = 64 << 10;
