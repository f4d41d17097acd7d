//! Disk slots: one block device whose disks are plugged and unplugged while the machine runs, and the messages by which
//! a supervisor does so.
//!
//! The guest sees one huge disk. It is divided into slots of [`SLOT_BYTES`]; slot n begins at n times that. Slot 0
//! stays empty, so that a slot's number can be that of a partition of the guest's. The supervisor plugs a disk into a
//! slot and unplugs it again; the guest is told by other means how long that disk is (`BLKPG_ADD_PARTITION` of Linux
//! makes a device of it). Bytes outside of the disks cannot be read or written. A change of capacity, the other way to
//! add disks to a machine, does not reach the guest of every VMM; and a machine has few windows for devices.
//!
//! Each change is one message on a `SOCK_SEQPACKET` UNIX socket, answered by one byte: [`DONE`] or [`REFUSED`].
//!
//! | bytes | what |
//! |---|---|
//! | 0 | 1: a disk comes; 2: it goes |
//! | 1 | bit 0: read-only; bit 1: flushes are not synced |
//! | 2-3 | slot, little endian |
//! | 4-7 | zero |
//! | 8.. | length of each of its files, 8 bytes, little endian; the files are descriptors beside the message |

/// Size of a slot in bytes: 1 TiB.
pub const SLOT_BYTES: u64 = 1 << 40;
/// Number of slots, including the empty slot 0: Linux numbers partitions up to 255 (`DISK_MAX_PARTS`).
pub const SLOTS: u16 = 256;
/// Maximum number of files of one disk, which are passed in one message: `SCM_MAX_FD` of Linux.
pub const FILES_MAX: usize = 253;
/// Answer to a change that was done.
pub const DONE: u8 = 0;
/// Answer to a change that was refused; nothing has changed.
pub const REFUSED: u8 = 1;

/// Maximum length of a message in bytes.
pub(crate) const MESSAGE_BYTES_MAX: usize = HEADER_BYTES + FILES_MAX * LENGTH_BYTES;

const HEADER_BYTES: usize = 8;
const LENGTH_BYTES: usize = 8;
const PLUG: u8 = 1;
const UNPLUG: u8 = 2;
const READONLY: u8 = 1;
const IGNORE_FLUSH: u8 = 2;

/// Change of the disk in a slot: plugged or unplugged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Plugs a disk into an empty slot.
    Plug {
        /// Number of the slot, 1 to 255.
        slot: u16,
        /// Whether writes, discards and write-zeroes are refused.
        readonly: bool,
        /// Whether flushes are answered without syncing.
        ignore_flush: bool,
        /// Length of each of the disk's files, in disk order; the files come beside the message.
        lengths: Vec<u64>,
    },
    /// Unplugs the disk of a slot.
    Unplug {
        /// Number of the slot, 1 to 255.
        slot: u16,
    },
}

impl Change {
    /// Encodes the change as a message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, flags, slot, lengths) = match self {
            Self::Plug {
                slot,
                readonly,
                ignore_flush,
                lengths,
            } => {
                let flags = if *readonly { READONLY } else { 0 } | if *ignore_flush { IGNORE_FLUSH } else { 0 };
                (PLUG, flags, *slot, lengths.as_slice())
            }
            Self::Unplug { slot } => (UNPLUG, 0, *slot, &[][..]),
        };
        let [low, high] = slot.to_le_bytes();
        let mut bytes = vec![kind, flags, low, high, 0, 0, 0, 0];
        bytes.extend(lengths.iter().flat_map(|length| length.to_le_bytes()));
        bytes
    }

    /// Decodes a message; `None` for bytes that are no change, or that name a slot that does not exist.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[kind, flags, low, high, 0, 0, 0, 0], rest) = bytes.split_first_chunk::<HEADER_BYTES>()? else {
            return None;
        };
        let slot = Some(u16::from_le_bytes([low, high])).filter(|slot| (1..SLOTS).contains(slot))?;
        let (lengths, []) = rest.as_chunks::<LENGTH_BYTES>() else {
            return None;
        };
        match kind {
            PLUG if flags & !(READONLY | IGNORE_FLUSH) == 0 => Some(Self::Plug {
                slot,
                readonly: flags & READONLY != 0,
                ignore_flush: flags & IGNORE_FLUSH != 0,
                lengths: lengths.iter().map(|length| u64::from_le_bytes(*length)).collect(),
            }),
            UNPLUG if flags == 0 && lengths.is_empty() => Some(Self::Unplug { slot }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_survive_the_socket() {
        let changes = [
            Change::Plug {
                slot: 255,
                readonly: true,
                ignore_flush: false,
                lengths: vec![4096, 1 << 40],
            },
            Change::Unplug { slot: 1 },
        ];
        for change in changes {
            assert_eq!(Change::decode(&change.encode()), Some(change));
        }
    }

    #[test]
    fn other_bytes_are_no_change() {
        let good = Change::Unplug { slot: 1 }.encode();
        for (at, byte) in [(0, 3), (1, 1), (2, 0), (3, 1), (4, 1)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(Change::decode(&bad), None, "{bad:?}");
        }
        assert_eq!(Change::decode(&good[..7]), None);
        assert_eq!(Change::decode(&[&good[..], &[0; 8]].concat()), None);
        assert_eq!(Change::decode(&[&good[..], &[0; 3]].concat()), None);
    }
}
