//! Configuration space: the disk's properties for the driver (`struct virtio_blk_config`, virtio 1.3, section 5.2.4).

use super::request::{Geometry, SECTOR_BYTES};
use crate::limits::{
    BLOCK_DISCARD_SECTORS_MAX, BLOCK_DISCARD_SEGMENTS_MAX, BLOCK_SEGMENT_BYTES_MAX, BLOCK_SEGMENTS_MAX,
};

/// Size of the configuration space in bytes, up to the fields of write-zeroes.
pub(super) const BYTES: usize = 60;

/// Size of a logical block, 512 bytes: a host file need not be a multiple of more, and every file system copes.
const LOGICAL_BLOCK_BYTES: u32 = 512;

/// Exponent for physical blocks of 4096 bytes (2^3 logical ones), so that file systems align to the host's pages.
const PHYSICAL_BLOCK_EXPONENT: u8 = 3;

/// Alignment of discards: they are useful only in whole pages of the host's file system.
const DISCARD_ALIGNMENT_SECTORS: u32 = 8;

pub(super) fn encode(geometry: Geometry) -> [u8; BYTES] {
    let mut config = [0; BYTES];
    let mut put = |offset: usize, bytes: &[u8]| config[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, &(geometry.capacity_bytes / SECTOR_BYTES).to_le_bytes());
    put(8, &BLOCK_SEGMENT_BYTES_MAX.to_le_bytes());
    put(12, &BLOCK_SEGMENTS_MAX.to_le_bytes());
    put(20, &LOGICAL_BLOCK_BYTES.to_le_bytes());
    put(24, &[PHYSICAL_BLOCK_EXPONENT]);
    if !geometry.readonly {
        put(36, &BLOCK_DISCARD_SECTORS_MAX.to_le_bytes());
        put(40, &BLOCK_DISCARD_SEGMENTS_MAX.to_le_bytes());
        put(44, &DISCARD_ALIGNMENT_SECTORS.to_le_bytes());
        put(48, &BLOCK_DISCARD_SECTORS_MAX.to_le_bytes());
        put(52, &BLOCK_DISCARD_SEGMENTS_MAX.to_le_bytes());
        put(56, &[1]);
    }
    config
}
