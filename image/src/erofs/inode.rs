//! Inodes, all in the extended form: 32-bit ids, 64-bit times and sizes.

use super::layout::Tail;
use super::{BLOCK_BYTES, xattr};
use crate::tree::{Content, Inode, Tree};

pub(super) const INODE_BYTES: u64 = 64;

const EXTENDED: u16 = 1;
const LAYOUT_PLAIN: u16 = 0;
const LAYOUT_INLINE: u16 = 2;
const LAYOUT_CHUNKS: u16 = 4;
/// Flag for chunks with 8-byte indexes, which name a device, instead of bare block numbers.
const CHUNK_INDEXES: u32 = 0x20;
/// Address for "no block", which mkfs.erofs writes where no address is needed.
const NO_BLOCK: u32 = u32::MAX;

/// Encodes an inode and its attributes. `size` is the length of the content, `number` is the `st_ino` for old programs.
pub(super) fn encode(tree: &Tree, inode: &Inode, tail: Tail, size: u64, number: u32) -> Vec<u8> {
    let attributes = &inode.attributes;
    let xattrs = xattr::encode(&attributes.xattrs);
    let (type_bits, union) = match &inode.content {
        Content::Directory(_) => (0o040_000, address(tail)),
        Content::File { .. } => (0o100_000, file_union(tail, size)),
        Content::Symlink(_) => (0o120_000, address(tail)),
        Content::CharDevice { major, minor } => (0o020_000, device_number(*major, *minor)),
        Content::BlockDevice { major, minor } => (0o060_000, device_number(*major, *minor)),
        Content::Fifo => (0o010_000, 0),
    };
    let layout = match tail {
        Tail::None | Tail::Blocks { .. } => LAYOUT_PLAIN,
        Tail::Inline { .. } => LAYOUT_INLINE,
        Tail::Chunk => LAYOUT_CHUNKS,
    };
    let mut bytes = Vec::with_capacity(INODE_BYTES as usize + xattrs.len());
    bytes.extend((EXTENDED | layout << 1).to_le_bytes());
    bytes.extend(xattr::count_field(xattrs.len()).to_le_bytes());
    bytes.extend((type_bits | attributes.mode).to_le_bytes());
    bytes.extend([0; 2]);
    bytes.extend(size.to_le_bytes());
    bytes.extend(union.to_le_bytes());
    bytes.extend(number.to_le_bytes());
    bytes.extend(attributes.uid.to_le_bytes());
    bytes.extend(attributes.gid.to_le_bytes());
    bytes.extend(attributes.mtime.to_le_bytes());
    bytes.extend(attributes.mtime_nsec.to_le_bytes());
    bytes.extend(inode.link_count(tree).to_le_bytes());
    bytes.resize(INODE_BYTES as usize, 0);
    bytes.extend(xattrs);
    bytes
}

/// Index of a file's only chunk: the 1-based device and the block within it.
pub(super) fn chunk_index(blob: u16, block: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[2..4].copy_from_slice(&(blob + 1).to_le_bytes());
    bytes[4..].copy_from_slice(&block.to_le_bytes());
    bytes
}

fn address(tail: Tail) -> u32 {
    match tail {
        Tail::Inline { block } | Tail::Blocks { block } => block,
        Tail::None | Tail::Chunk => NO_BLOCK,
    }
}

/// Union field of a file's inode: the format of one chunk as large as the file, so that one index suffices.
fn file_union(tail: Tail, size: u64) -> u32 {
    match tail {
        Tail::Chunk => CHUNK_INDEXES | size.div_ceil(BLOCK_BYTES).next_power_of_two().trailing_zeros(),
        _ => NO_BLOCK,
    }
}

/// Device number in the format of Linux's `new_encode_dev`.
fn device_number(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xfff00) << 12
}
