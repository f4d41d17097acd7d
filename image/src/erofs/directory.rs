//! Directories: blocks of fixed-size entries followed by their names, all in byte order.

use super::BLOCK_BYTES;
use crate::tree::{Content, Directory, InodeId, Tree};

const ENTRY_BYTES: usize = 12;

/// Entry to be written: `.`, `..` or a child.
struct Line<'a> {
    name: &'a [u8],
    id: InodeId,
}

/// Distribution of a directory's entries over blocks.
pub(super) struct DirectorySize {
    /// Number of blocks that are full, or padded because the next name did not fit.
    pub full_blocks: u64,
    /// Length of the last block, bytes.
    pub tail_bytes: u64,
}

impl DirectorySize {
    pub(super) fn bytes(&self) -> u64 {
        self.full_blocks * BLOCK_BYTES + self.tail_bytes
    }
}

/// Entries of a directory in order. `.` and `..` stand among the names, because some names sort before them.
fn lines<'a>(id: InodeId, directory: &'a Directory) -> impl Iterator<Item = Line<'a>> {
    let mut dots = [
        Line { name: b".", id },
        Line {
            name: b"..",
            id: directory.parent,
        },
    ]
    .into_iter()
    .peekable();
    let mut children = directory.children().map(|(name, id)| Line { name, id }).peekable();
    std::iter::from_fn(move || match (dots.peek(), children.peek()) {
        (Some(dot), Some(child)) if dot.name < child.name => dots.next(),
        (Some(_), None) => dots.next(),
        _ => children.next(),
    })
}

/// Entries of a directory, block by block.
fn blocks<'a>(id: InodeId, directory: &'a Directory) -> impl Iterator<Item = Vec<Line<'a>>> {
    let mut lines = lines(id, directory).peekable();
    std::iter::from_fn(move || {
        let mut block = Vec::new();
        let mut bytes = 0;
        while let Some(line) = lines.next_if(|line| bytes + ENTRY_BYTES + line.name.len() <= BLOCK_BYTES as usize) {
            bytes += ENTRY_BYTES + line.name.len();
            block.push(line);
        }
        (!block.is_empty()).then_some(block)
    })
}

pub(super) fn size(id: InodeId, directory: &Directory) -> DirectorySize {
    let mut size = DirectorySize {
        full_blocks: 0,
        tail_bytes: 0,
    };
    for (index, block) in blocks(id, directory).enumerate() {
        size.full_blocks = index as u64;
        size.tail_bytes = block.iter().map(|line| (ENTRY_BYTES + line.name.len()) as u64).sum();
    }
    size
}

/// Encodes a whole directory; every block but the last is padded. `nid` returns an inode's number.
pub(super) fn encode(tree: &Tree, id: InodeId, directory: &Directory, nid: impl Fn(InodeId) -> u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for block in blocks(id, directory) {
        bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES as usize), 0);
        let mut name_offset = block.len() * ENTRY_BYTES;
        for line in &block {
            bytes.extend(nid(line.id).to_le_bytes());
            bytes.extend((name_offset as u16).to_le_bytes());
            bytes.extend([file_type(&tree[line.id].content), 0]);
            name_offset += line.name.len();
        }
        for line in &block {
            bytes.extend_from_slice(line.name);
        }
    }
    bytes
}

/// Type byte of an entry, as in `include/linux/fs_types.h`.
fn file_type(content: &Content) -> u8 {
    match content {
        Content::File { .. } => 1,
        Content::Directory(_) => 2,
        Content::CharDevice { .. } => 3,
        Content::BlockDevice { .. } => 4,
        Content::Fifo => 5,
        Content::Symlink(_) => 7,
    }
}
