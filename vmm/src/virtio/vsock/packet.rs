//! Packet header on the wire (virtio 1.3, section 5.10.6). The payload follows it, in as many descriptors as the driver
//! uses (Linux 6.12.117 and later split large ones).

/// Size of a header in bytes.
pub(super) const HEADER_BYTES: usize = 44;

/// Context id of the host.
pub(super) const HOST_CID: u64 = 2;

/// Socket type `VIRTIO_VSOCK_TYPE_STREAM`.
pub(super) const TYPE_STREAM: u16 = 1;

/// Flag `VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE`: the sender of the packet will not receive any more.
pub(super) const SHUTDOWN_RECEIVE: u32 = 1;
/// Flag `VIRTIO_VSOCK_SHUTDOWN_F_SEND`: the sender of the packet will not send any more.
pub(super) const SHUTDOWN_SEND: u32 = 2;

/// Operation of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// Requests a connection.
    Request,
    /// Accepts a connection.
    Response,
    /// Reports that the stream does not exist, or not any more.
    Reset,
    /// Ends one or both directions, as the flags say.
    Shutdown,
    /// Carries payload.
    ReadWrite,
    /// Carries nothing but the credit in the header.
    CreditUpdate,
    /// Requests a credit update.
    CreditRequest,
}

impl Operation {
    /// Operation with this number.
    pub(super) fn from_wire(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::ReadWrite,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }

    fn to_wire(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Reset => 3,
            Self::Shutdown => 4,
            Self::ReadWrite => 5,
            Self::CreditUpdate => 6,
            Self::CreditRequest => 7,
        }
    }
}

/// Header as the guest wrote it: nothing in it is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RawHeader {
    pub(super) source_cid: u64,
    pub(super) target_cid: u64,
    pub(super) source_port: u32,
    pub(super) target_port: u32,
    pub(super) payload_bytes: u32,
    pub(super) kind: u16,
    pub(super) operation: u16,
    pub(super) flags: u32,
    pub(super) credit: Credit,
}

/// Credit: number of bytes that the sender of a packet can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Credit {
    /// Size of its buffer for the stream in bytes (`buf_alloc`).
    pub(super) buffer_bytes: u32,
    /// Number of bytes that have left that buffer since the stream began, modulo 2^32 (`fwd_cnt`).
    pub(super) forwarded: u32,
}

impl RawHeader {
    /// Decodes the fields.
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Self {
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        let half = |at: usize| u16::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        Self {
            source_cid: long(0),
            target_cid: long(8),
            source_port: word(16),
            target_port: word(20),
            payload_bytes: word(24),
            kind: half(28),
            operation: half(30),
            flags: word(32),
            credit: Credit {
                buffer_bytes: word(36),
                forwarded: word(40),
            },
        }
    }
}

/// Key of a stream: a port on the host and one in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct StreamKey {
    pub(super) host_port: u32,
    pub(super) guest_port: u32,
}

/// Header from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) stream: StreamKey,
    pub(super) operation: Operation,
    pub(super) flags: u32,
    pub(super) payload_bytes: u32,
    pub(super) credit: Credit,
}

impl Header {
    /// Makes the header of a reset of `stream`.
    pub(super) fn reset(stream: StreamKey) -> Self {
        Self {
            stream,
            operation: Operation::Reset,
            flags: 0,
            payload_bytes: 0,
            credit: Credit::default(),
        }
    }

    /// Encodes the header for the guest `guest_cid`.
    pub(super) fn encode(&self, guest_cid: u64) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &HOST_CID.to_le_bytes());
        put(8, &guest_cid.to_le_bytes());
        put(16, &self.stream.host_port.to_le_bytes());
        put(20, &self.stream.guest_port.to_le_bytes());
        put(24, &self.payload_bytes.to_le_bytes());
        put(28, &TYPE_STREAM.to_le_bytes());
        put(30, &self.operation.to_wire().to_le_bytes());
        put(32, &self.flags.to_le_bytes());
        put(36, &self.credit.buffer_bytes.to_le_bytes());
        put(40, &self.credit.forwarded.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_the_specification_puts_them() {
        let header = Header {
            stream: StreamKey {
                host_port: 0x0101_0202,
                guest_port: 0x0303_0404,
            },
            operation: Operation::Shutdown,
            flags: SHUTDOWN_SEND,
            payload_bytes: 0x0506,
            credit: Credit {
                buffer_bytes: 0x0708,
                forwarded: 0x090a,
            },
        };
        let bytes = header.encode(7);
        assert_eq!(bytes[..16], [2, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[16..24], [2, 2, 1, 1, 4, 4, 3, 3]);
        assert_eq!(bytes[24..32], [6, 5, 0, 0, 1, 0, 4, 0]);
        assert_eq!(bytes[32..], [2, 0, 0, 0, 8, 7, 0, 0, 10, 9, 0, 0]);
        let decoded = RawHeader::decode(&bytes);
        assert_eq!((decoded.source_cid, decoded.target_cid), (HOST_CID, 7));
        assert_eq!((decoded.source_port, decoded.target_port), (0x0101_0202, 0x0303_0404));
        assert_eq!(Operation::from_wire(decoded.operation), Some(Operation::Shutdown));
        assert_eq!((decoded.flags, decoded.payload_bytes), (SHUTDOWN_SEND, 0x0506));
        assert_eq!(decoded.credit, header.credit);
    }

    #[test]
    fn every_operation_has_its_number() {
        for number in 0..=u16::MAX {
            if let Some(operation) = Operation::from_wire(number) {
                assert_eq!(operation.to_wire(), number);
            } else {
                assert!(number == 0 || number > 7);
            }
        }
    }
}
