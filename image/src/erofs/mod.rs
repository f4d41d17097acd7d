//! EROFS: the metadata image of a rootfs, whose file contents lie in data blobs behind it.
//!
//! ```text
//! block 0        1024: superblock, 1152: device table, then inodes (root first, for its number has 16 bits)
//! ...            inodes with their attributes, link targets and short directories
//! ...            blocks of longer directories
//! end            blob 1, blob 2, ... (not written here; each device slot holds its blob's first block)
//! ```
//! On-disk structures as in Linux 6.12 `fs/erofs/erofs_fs.h`. A kernel that mounts the concatenation without `device=`
//! options takes the slots' addresses for positions on the same disk (`erofs_map_dev`, "flatdev").

mod directory;
mod inode;
mod layout;
mod superblock;
mod writer;
mod xattr;

pub(crate) use writer::write_image;

/// Block size of the filesystem; also the alignment of data blobs.
pub(crate) const BLOCK_BYTES: u64 = crate::layer::data::BLOCK_BYTES;
