//! Block request, parsed once from its chain (virtio 1.3, section 5.2.6). No I/O here.

use crate::limits::{BLOCK_DISCARD_SECTORS_MAX, BLOCK_DISCARD_SEGMENTS_MAX, BLOCK_REQUEST_BYTES_MAX};
use crate::virtio::chain::{Buffers, Chain};

/// Size of a sector in bytes, the unit of every position on the wire.
pub const SECTOR_BYTES: u64 = 512;

/// Status of a request that was done.
pub(super) const STATUS_OK: u8 = 0;
/// Status of a request that failed.
pub(super) const STATUS_IOERR: u8 = 1;
/// Status of a request that the device does not support.
pub(super) const STATUS_UNSUPPORTED: u8 = 2;

/// Length of the serial number in an answer, in bytes (`VIRTIO_BLK_ID_BYTES`).
pub(super) const SERIAL_BYTES: usize = 20;

const HEADER_BYTES: usize = 16;
const SEGMENT_BYTES: usize = 16;
const SEGMENT_UNMAP: u32 = 1;

/// Properties of a disk that requests must respect.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    /// Capacity of the disk in bytes.
    pub(super) capacity_bytes: u64,
    /// Whether writes of any kind are refused.
    pub(super) readonly: bool,
}

/// Range of bytes on the disk, within its capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    /// Offset of the first byte.
    pub(super) offset: u64,
    /// Number of bytes.
    pub(super) bytes: u64,
}

/// Command of a request; every position is within the disk, every length as required.
#[derive(Debug)]
pub(super) enum Command<'m> {
    /// Reads from disk to memory.
    Read { offset: u64, target: Buffers<'m> },
    /// Writes from memory to disk.
    Write { offset: u64, source: Buffers<'m> },
    /// Makes earlier writes durable.
    Flush,
    /// Returns the serial number.
    Serial { target: Buffers<'m> },
    /// Discards ranges, whose contents no longer matter.
    Discard(Vec<Range>),
    /// Makes the contents of ranges zero; the flag of each permits freeing the space.
    WriteZeroes(Vec<(Range, bool)>),
    /// Refuses the request with a status that is known already.
    Refuse { status: u8 },
}

/// Request with the place of its answer.
#[derive(Debug)]
pub(super) struct BlockRequest<'m> {
    pub(super) command: Command<'m>,
    /// Place of the status, one byte.
    pub(super) status: Buffers<'m>,
}

/// Error of a chain that cannot even be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum RequestError {
    #[error("no room for a header")]
    NoHeader,
    #[error("no room for a status")]
    NoStatus,
}

impl<'m> BlockRequest<'m> {
    /// Parses `chain` for a disk of this geometry.
    pub(super) fn parse(chain: Chain<'m>, geometry: Geometry) -> Result<Self, RequestError> {
        let Chain {
            mut readable,
            mut writable,
            ..
        } = chain;
        let header: [u8; HEADER_BYTES] = readable.take_array().ok_or(RequestError::NoHeader)?;
        // The status is the last writable byte, wherever the descriptors' borders are (2.7.4.1: no assumptions).
        let data_bytes = writable.len().checked_sub(1).ok_or(RequestError::NoStatus)?;
        let target = writable.split_front(data_bytes).ok_or(RequestError::NoStatus)?;
        let status = writable;
        let command = Command::parse(&header, readable, target, geometry);
        Ok(Self { command, status })
    }
}

impl<'m> Command<'m> {
    fn parse(header: &[u8; HEADER_BYTES], source: Buffers<'m>, target: Buffers<'m>, geometry: Geometry) -> Self {
        let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = *header;
        let kind = u32::from_le_bytes([k0, k1, k2, k3]);
        let sector = u64::from_le_bytes(sector);
        match kind {
            // VIRTIO_BLK_T_IN
            0 => match data_range(sector, target.len(), geometry) {
                Some(range) => Self::Read {
                    offset: range.offset,
                    target,
                },
                None => Self::failed(),
            },
            // VIRTIO_BLK_T_OUT
            1 if geometry.readonly => Self::failed(),
            1 => match data_range(sector, source.len(), geometry) {
                Some(range) => Self::Write {
                    offset: range.offset,
                    source,
                },
                None => Self::failed(),
            },
            // VIRTIO_BLK_T_FLUSH
            4 => Self::Flush,
            // VIRTIO_BLK_T_GET_ID
            8 if target.len() >= SERIAL_BYTES => Self::Serial { target },
            8 => Self::failed(),
            // VIRTIO_BLK_T_DISCARD
            11 => match segments(source, geometry) {
                // "the device MUST set the status byte to VIRTIO_BLK_S_UNSUPP if the unmap flag is set" (5.2.6.2)
                Ok(list) if list.iter().any(|segment| segment.flags != 0) => Self::unsupported(),
                Ok(list) => Self::Discard(list.iter().map(|segment| segment.range).collect()),
                Err(status) => Self::Refuse { status },
            },
            // VIRTIO_BLK_T_WRITE_ZEROES
            13 => match segments(source, geometry) {
                Ok(list) if list.iter().any(|segment| segment.flags & !SEGMENT_UNMAP != 0) => Self::unsupported(),
                Ok(list) => {
                    let zeroes = |segment: &Segment| (segment.range, segment.flags & SEGMENT_UNMAP != 0);
                    Self::WriteZeroes(list.iter().map(zeroes).collect())
                }
                Err(status) => Self::Refuse { status },
            },
            _ => Self::unsupported(),
        }
    }

    fn failed() -> Self {
        Self::Refuse { status: STATUS_IOERR }
    }

    fn unsupported() -> Self {
        Self::Refuse {
            status: STATUS_UNSUPPORTED,
        }
    }
}

fn data_range(sector: u64, bytes: usize, geometry: Geometry) -> Option<Range> {
    if bytes > BLOCK_REQUEST_BYTES_MAX || !(bytes as u64).is_multiple_of(SECTOR_BYTES) {
        return None;
    }
    range_within(sector, bytes as u64, geometry)
}

fn range_within(sector: u64, bytes: u64, geometry: Geometry) -> Option<Range> {
    let offset = sector.checked_mul(SECTOR_BYTES)?;
    let end = offset.checked_add(bytes)?;
    (end <= geometry.capacity_bytes).then_some(Range { offset, bytes })
}

struct Segment {
    range: Range,
    flags: u32,
}

fn segments(mut source: Buffers<'_>, geometry: Geometry) -> Result<Vec<Segment>, u8> {
    let count = source.len() / SEGMENT_BYTES;
    let most = BLOCK_DISCARD_SEGMENTS_MAX as usize;
    if geometry.readonly || count == 0 || count > most || !source.len().is_multiple_of(SEGMENT_BYTES) {
        return Err(STATUS_IOERR);
    }
    let mut list = Vec::with_capacity(count);
    while let Some([s0, s1, s2, s3, s4, s5, s6, s7, c0, c1, c2, c3, f0, f1, f2, f3]) =
        source.take_array::<SEGMENT_BYTES>()
    {
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let sectors = u32::from_le_bytes([c0, c1, c2, c3]);
        if sectors > BLOCK_DISCARD_SECTORS_MAX {
            return Err(STATUS_IOERR);
        }
        let bytes = u64::from(sectors) * SECTOR_BYTES;
        let range = range_within(sector, bytes, geometry).ok_or(STATUS_IOERR)?;
        list.push(Segment {
            range,
            flags: u32::from_le_bytes([f0, f1, f2, f3]),
        });
    }
    Ok(list)
}
