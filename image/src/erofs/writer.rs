//! Writes the metadata image from front to back.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use super::layout::{Layout, Tail};
use super::superblock::{Superblock, set_checksum};
use super::{BLOCK_BYTES, directory, inode};
use crate::tree::{Content, InodeId, Tree};

/// Writes the image of `tree` to the empty file `file` and returns its length. `blob_blocks` are the lengths of the
/// data blobs.
pub(crate) fn write_image(tree: &Tree, blob_blocks: &[u32], file: &File) -> io::Result<u64> {
    let layout = Layout::of(tree, blob_blocks.len());
    let superblock = Superblock {
        root_nid: layout.place(InodeId::ROOT).nid as u16,
        inode_count: layout.order.len() as u64,
        blocks: layout.blocks,
        blob_blocks,
    };
    let mut out = Output {
        out: BufWriter::with_capacity(1 << 20, file),
        position: 0,
    };
    out.put(&superblock.encode())?;
    for (index, &id) in layout.order.iter().enumerate() {
        write_inode(tree, &layout, id, index as u32 + 1, &mut out)?;
    }
    out.pad_to(layout.inodes_end)?;
    for &id in &layout.order {
        write_blocks(tree, &layout, id, &mut out)?;
    }
    let length = u64::from(layout.blocks) * BLOCK_BYTES;
    out.pad_to(length)?;
    out.out.flush()?;
    drop(out);

    let mut first_block = [0; BLOCK_BYTES as usize];
    file.read_exact_at(&mut first_block, 0)?;
    set_checksum(&mut first_block);
    file.write_all_at(&first_block, 0)?;
    (&*file).seek(SeekFrom::Start(length))?;
    Ok(length)
}

struct Output<'a> {
    out: BufWriter<&'a File>,
    position: u64,
}

impl Output<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.position += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn pad_to(&mut self, position: u64) -> io::Result<()> {
        const ZEROS: [u8; BLOCK_BYTES as usize] = [0; BLOCK_BYTES as usize];
        while self.position < position {
            let length = (position - self.position).min(BLOCK_BYTES) as usize;
            self.put(&ZEROS[..length])?;
        }
        Ok(())
    }
}

/// Writes an inode, and the data that lies beside it.
fn write_inode(tree: &Tree, layout: &Layout, id: InodeId, number: u32, out: &mut Output<'_>) -> io::Result<()> {
    let place = layout.place(id);
    out.pad_to(place.offset())?;
    let node = &tree[id];
    match &node.content {
        Content::Directory(entries) => {
            let size = directory::size(id, entries);
            out.put(&inode::encode(tree, node, place.tail, size.bytes(), number))?;
            if let Tail::Inline { .. } = place.tail {
                let bytes = encode_directory(tree, layout, id, entries);
                out.put(&bytes[(size.full_blocks * BLOCK_BYTES) as usize..])?;
            }
        }
        Content::Symlink(target) => {
            out.put(&inode::encode(tree, node, place.tail, target.len() as u64, number))?;
            if let Tail::Inline { .. } = place.tail {
                out.put(target)?;
            }
        }
        Content::File { blob, block, size } => {
            out.put(&inode::encode(tree, node, place.tail, *size, number))?;
            if place.tail == Tail::Chunk {
                out.pad_to(out.position.next_multiple_of(8))?;
                out.put(&inode::chunk_index(*blob, *block))?;
            }
        }
        Content::CharDevice { .. } | Content::BlockDevice { .. } | Content::Fifo => {
            out.put(&inode::encode(tree, node, place.tail, 0, number))?;
        }
    }
    Ok(())
}

/// Writes the blocks of a directory or link target that do not lie beside the inode, in the order in which the layout
/// counted them.
fn write_blocks(tree: &Tree, layout: &Layout, id: InodeId, out: &mut Output<'_>) -> io::Result<()> {
    let tail = layout.place(id).tail;
    let bytes = match &tree[id].content {
        Content::Directory(entries) => {
            let mut bytes = encode_directory(tree, layout, id, entries);
            if let Tail::Inline { .. } = tail {
                bytes.truncate((directory::size(id, entries).full_blocks * BLOCK_BYTES) as usize);
            }
            bytes
        }
        Content::Symlink(target) if matches!(tail, Tail::Blocks { .. }) => target.clone(),
        _ => return Ok(()),
    };
    out.put(&bytes)?;
    out.pad_to(out.position.next_multiple_of(BLOCK_BYTES))
}

fn encode_directory(tree: &Tree, layout: &Layout, id: InodeId, entries: &crate::tree::Directory) -> Vec<u8> {
    directory::encode(tree, id, entries, |id| u64::from(layout.place(id).nid))
}
