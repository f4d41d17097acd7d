//! Layout of the metadata image: inode numbers and the blocks of directories.
//!
//! An inode's number is its place, in units of 32 bytes, so places are fixed before the first entry is written. Inodes
//! are placed in depth-first order, the files of a directory behind it: inodes that are looked up together lie
//! together.

use super::directory;
use super::inode::INODE_BYTES;
use super::superblock::inodes_offset;
use super::{BLOCK_BYTES, xattr};
use crate::tree::{Content, InodeId, Tree};

const NID_BYTES: u64 = 32;

/// Data that follows an inode and its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// No data: devices, FIFOs, empty files.
    None,
    /// Index of the one chunk, 8 bytes, 8-aligned.
    Chunk,
    /// Target of a link, or the last part of a directory, whose other blocks begin at `block`.
    Inline { block: u32 },
    /// All data in separate blocks, from this one on.
    Blocks { block: u32 },
}

#[derive(Debug, Clone, Copy)]
pub(super) struct InodePlace {
    /// Byte offset of the inode divided by 32.
    pub nid: u32,
    pub tail: Tail,
}

pub(super) struct Layout {
    /// Inodes in their order on the disk.
    pub order: Vec<InodeId>,
    places: Vec<InodePlace>,
    /// End offset of the inodes, a block boundary.
    pub inodes_end: u64,
    /// Number of blocks of the whole metadata image.
    pub blocks: u32,
}

impl Layout {
    pub(super) fn of(tree: &Tree, blobs: usize) -> Self {
        let order = depth_first(tree);
        let unplaced = InodePlace {
            nid: 0,
            tail: Tail::None,
        };
        let mut places = vec![unplaced; tree.index_bound()];
        let mut offset = inodes_offset(blobs);
        let mut long_blocks = 0;
        for &id in &order {
            let inode = &tree[id];
            let core = INODE_BYTES + xattr::encode(&inode.attributes.xattrs).len() as u64;
            let (tail, tail_bytes, blocks) = match &inode.content {
                Content::File { size: 0, .. } => (Tail::None, 0, 0),
                Content::File { .. } => (Tail::Chunk, core.next_multiple_of(8) - core + 8, 0),
                Content::CharDevice { .. } | Content::BlockDevice { .. } | Content::Fifo => (Tail::None, 0, 0),
                Content::Symlink(target) => inline(core, 0, target.len() as u64),
                Content::Directory(entries) => {
                    let size = directory::size(id, entries);
                    inline(core, size.full_blocks, size.tail_bytes)
                }
            };
            offset = fit(offset, core, &tail, tail_bytes);
            // At most a million inodes of at most 68 KiB each: 31 bits of 32-byte units.
            places[id.index()] = InodePlace {
                nid: (offset / NID_BYTES) as u32,
                tail: tail.starting_at(long_blocks),
            };
            long_blocks += blocks as u32;
            offset += core + tail_bytes;
        }
        let inodes_end = offset.next_multiple_of(BLOCK_BYTES);
        let first_long_block = (inodes_end / BLOCK_BYTES) as u32;
        for place in &mut places {
            place.tail = place.tail.shifted_by(first_long_block);
        }
        Self {
            order,
            places,
            inodes_end,
            blocks: first_long_block + long_blocks,
        }
    }

    pub(super) fn place(&self, id: InodeId) -> InodePlace {
        self.places[id.index()]
    }
}

impl InodePlace {
    /// Byte offset of the inode.
    pub(super) fn offset(&self) -> u64 {
        u64::from(self.nid) * NID_BYTES
    }
}

impl Tail {
    fn starting_at(self, first: u32) -> Self {
        match self {
            Tail::Inline { .. } => Tail::Inline { block: first },
            Tail::Blocks { .. } => Tail::Blocks { block: first },
            other => other,
        }
    }

    fn shifted_by(self, blocks: u32) -> Self {
        match self {
            Tail::Inline { block } => Tail::Inline { block: block + blocks },
            Tail::Blocks { block } => Tail::Blocks { block: block + blocks },
            other => other,
        }
    }
}

/// Keeps the last part beside the inode if both fit in one block, as the kernel requires for inline data.
fn inline(core: u64, full_blocks: u64, tail_bytes: u64) -> (Tail, u64, u64) {
    if core + tail_bytes <= BLOCK_BYTES {
        (Tail::Inline { block: 0 }, tail_bytes, full_blocks)
    } else {
        (Tail::Blocks { block: 0 }, 0, full_blocks + 1)
    }
}

/// Next place for an inode: 32-aligned, its fixed part in one block, and inline data in the same block as its start.
fn fit(offset: u64, core: u64, tail: &Tail, tail_bytes: u64) -> u64 {
    let offset = offset.next_multiple_of(NID_BYTES);
    let in_block = offset % BLOCK_BYTES;
    let together = match tail {
        Tail::Inline { .. } => core + tail_bytes,
        _ => INODE_BYTES,
    };
    if in_block + together > BLOCK_BYTES {
        offset.next_multiple_of(BLOCK_BYTES)
    } else {
        offset
    }
}

/// Lists every inode once: a directory, then its children that are not directories, then each subdirectory likewise.
fn depth_first(tree: &Tree) -> Vec<InodeId> {
    let mut order = Vec::new();
    let mut seen = vec![false; tree.index_bound()];
    let mut pending = vec![InodeId::ROOT];
    while let Some(id) = pending.pop() {
        order.push(id);
        let Content::Directory(directory) = &tree[id].content else {
            continue;
        };
        for (_, child) in directory.children() {
            if !matches!(tree[child].content, Content::Directory(_)) && !seen[child.index()] {
                seen[child.index()] = true;
                order.push(child);
            }
        }
        let is_directory = |child: &InodeId| matches!(tree[*child].content, Content::Directory(_));
        pending.extend(directory.children().map(|(_, child)| child).rev().filter(is_directory));
    }
    order
}
