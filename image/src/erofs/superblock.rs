//! The superblock and the device table.

use super::BLOCK_BYTES;

const MAGIC: u32 = 0xe0f5_e1e2;
/// Offset of the superblock on the disk.
const SUPERBLOCK_OFFSET: usize = 1024;
const SUPERBLOCK_BYTES: usize = 128;
const SLOT_BYTES: usize = 128;
const TABLE_OFFSET: usize = SUPERBLOCK_OFFSET + SUPERBLOCK_BYTES;

const COMPAT_CHECKSUM: u32 = 1;
/// Flag for inodes with modification times.
const COMPAT_MTIME: u32 = 2;
const INCOMPAT_CHUNKED_FILE: u32 = 4;
const INCOMPAT_DEVICE_TABLE: u32 = 8;

/// Fixed identifier, so that the same layers give the same bytes.
const UUID: [u8; 16] = *b"capsid-rootfs-v1";
const VOLUME_NAME: [u8; 16] = *b"capsid-rootfs\0\0\0";

/// Values of the superblock for one image.
pub(super) struct Superblock<'a> {
    pub root_nid: u16,
    pub inode_count: u64,
    /// Number of blocks of the metadata image.
    pub blocks: u32,
    /// Number of blocks of each data blob, in the order of the disk.
    pub blob_blocks: &'a [u32],
}

/// Offset of the first inode: behind the device table.
pub(super) fn inodes_offset(blobs: usize) -> u64 {
    (TABLE_OFFSET + blobs * SLOT_BYTES) as u64
}

impl Superblock<'_> {
    /// Encodes the first bytes of the disk up to [`inodes_offset`], without the checksum.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; inodes_offset(self.blob_blocks.len()) as usize];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        let sb = SUPERBLOCK_OFFSET;
        let has_blobs = !self.blob_blocks.is_empty();
        let incompat = if has_blobs {
            INCOMPAT_CHUNKED_FILE | INCOMPAT_DEVICE_TABLE
        } else {
            0
        };
        put(sb, &MAGIC.to_le_bytes());
        put(sb + 8, &(COMPAT_CHECKSUM | COMPAT_MTIME).to_le_bytes());
        put(sb + 12, &[BLOCK_BYTES.trailing_zeros() as u8]);
        put(sb + 14, &self.root_nid.to_le_bytes());
        put(sb + 16, &self.inode_count.to_le_bytes());
        put(sb + 36, &self.blocks.to_le_bytes());
        put(sb + 48, &UUID);
        put(sb + 64, &VOLUME_NAME);
        put(sb + 80, &incompat.to_le_bytes());
        put(sb + 86, &(self.blob_blocks.len() as u16).to_le_bytes());
        put(sb + 88, &((TABLE_OFFSET / SLOT_BYTES) as u16).to_le_bytes());
        let mut first_block = self.blocks;
        for (slot, &blocks) in self.blob_blocks.iter().enumerate() {
            let at = TABLE_OFFSET + slot * SLOT_BYTES;
            put(at + 64, &blocks.to_le_bytes());
            put(at + 68, &first_block.to_le_bytes());
            first_block += blocks;
        }
        bytes
    }
}

/// Writes the checksum: CRC-32C of the first block from the superblock on, without the final inversion.
pub(super) fn set_checksum(first_block: &mut [u8]) {
    let checksum = !crc32c::crc32c(&first_block[SUPERBLOCK_OFFSET..]);
    first_block[SUPERBLOCK_OFFSET + 4..SUPERBLOCK_OFFSET + 8].copy_from_slice(&checksum.to_le_bytes());
}
