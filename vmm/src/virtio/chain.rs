//! Descriptor chain as pieces of host memory: bounded, in range, readable part first.

use std::collections::VecDeque;

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};

use crate::limits::CHAIN_SLICES_MAX;

/// Chain of buffers that the guest made available as one.
#[derive(Debug, Default)]
pub(crate) struct Chain<'m> {
    /// Buffers that the device may read.
    pub(crate) readable: Buffers<'m>,
    /// Buffers that the device may write.
    pub(crate) writable: Buffers<'m>,
}

/// Reason why a chain is not served: a mistake of the guest; the queue itself is fine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChainError {
    /// A readable descriptor follows a writable one (virtio 1.3, section 2.7.4.2: device-readable descriptors come
    /// first).
    #[error("a readable descriptor follows a writable one")]
    Order,
    /// A descriptor lies outside of guest memory.
    #[error("a descriptor lies outside of guest memory")]
    Address,
    /// The chain has more than [`CHAIN_SLICES_MAX`] descriptors.
    #[error("more than {CHAIN_SLICES_MAX} descriptors")]
    TooMany,
}

/// Takes the next chain off `queue`: returns its head, and the chain itself unless it is broken.
///
/// # Errors
/// If the queue itself is unusable.
#[allow(clippy::type_complexity)]
pub(crate) fn pop<'m>(
    queue: &mut Queue,
    memory: &'m GuestMemoryMmap,
) -> Result<Option<(u16, Result<Chain<'m>, ChainError>)>, virtio_queue::Error> {
    let Some(descriptors) = queue.iter(memory)?.next() else {
        return Ok(None);
    };
    Ok(Some((descriptors.head_index(), Chain::collect(descriptors, memory))))
}

/// Chain as the guest wrote it, for a device that resolves it again later.
#[derive(Debug)]
pub(crate) struct Descriptors {
    /// Index of the first descriptor, which identifies the chain to the guest.
    pub(crate) head: u16,
    parts: Result<Vec<Part>, ChainError>,
}

/// One descriptor of a chain.
#[derive(Debug, Clone, Copy)]
struct Part {
    address: GuestAddress,
    bytes: u32,
    is_writable: bool,
}

impl Descriptors {
    /// Takes the next chain off `queue`.
    ///
    /// # Errors
    /// If the queue itself is unusable.
    pub(crate) fn pop(queue: &mut Queue, memory: &GuestMemoryMmap) -> Result<Option<Self>, virtio_queue::Error> {
        let Some(descriptors) = queue.iter(memory)?.next() else {
            return Ok(None);
        };
        let head = descriptors.head_index();
        let mut parts = Vec::new();
        for descriptor in descriptors {
            if parts.len() == CHAIN_SLICES_MAX {
                let parts = Err(ChainError::TooMany);
                return Ok(Some(Self { head, parts }));
            }
            parts.push(Part {
                address: descriptor.addr(),
                bytes: descriptor.len(),
                is_writable: descriptor.is_write_only(),
            });
        }
        Ok(Some(Self { head, parts: Ok(parts) }))
    }

    /// Resolves the descriptors to pieces of guest memory.
    pub(crate) fn chain<'m>(&self, memory: &'m GuestMemoryMmap) -> Result<Chain<'m>, ChainError> {
        let mut chain = Chain::default();
        let parts = self.parts.as_ref().map_err(|error| *error)?;
        parts.iter().try_for_each(|part| chain.push(*part, memory))?;
        Ok(chain)
    }
}

impl<'m> Chain<'m> {
    fn collect(
        descriptors: DescriptorChain<&'m GuestMemoryMmap>,
        memory: &'m GuestMemoryMmap,
    ) -> Result<Self, ChainError> {
        let mut chain = Self::default();
        for descriptor in descriptors {
            let part = Part {
                address: descriptor.addr(),
                bytes: descriptor.len(),
                is_writable: descriptor.is_write_only(),
            };
            chain.push(part, memory)?;
        }
        Ok(chain)
    }

    fn push(&mut self, part: Part, memory: &'m GuestMemoryMmap) -> Result<(), ChainError> {
        let buffers = if part.is_writable {
            &mut self.writable
        } else if self.writable.slices.is_empty() {
            &mut self.readable
        } else {
            return Err(ChainError::Order);
        };
        for slice in memory.get_slices(part.address, part.bytes as usize) {
            buffers.push(slice.map_err(|_| ChainError::Address)?);
        }
        match self.readable.slices.len() + self.writable.slices.len() {
            ..=CHAIN_SLICES_MAX => Ok(()),
            _ => Err(ChainError::TooMany),
        }
    }
}

/// Pieces of guest memory, used from front to back. The guest may change their bytes at any time.
#[derive(Debug, Default)]
pub(crate) struct Buffers<'m> {
    slices: VecDeque<VolatileSlice<'m>>,
    bytes: usize,
}

impl<'m> Buffers<'m> {
    /// Appends a piece.
    pub(crate) fn push(&mut self, slice: VolatileSlice<'m>) {
        // No overflow: a chain is shorter than 2^32 bytes, and `usize` has 64 bits.
        self.bytes += slice.len();
        self.slices.push_back(slice);
    }

    /// Appends all pieces of `other`.
    pub(crate) fn append(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.slices.extend(other.slices);
    }

    /// Number of bytes left.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// Pieces of memory left.
    pub(crate) fn slices(&self) -> impl Iterator<Item = &VolatileSlice<'m>> {
        self.slices.iter()
    }

    /// Splits off the first `bytes`; `None` if there are fewer.
    pub(crate) fn split_front(&mut self, bytes: usize) -> Option<Self> {
        if bytes > self.bytes {
            return None;
        }
        let mut front = Self::default();
        while front.bytes < bytes {
            let slice = self.slices.pop_front()?;
            self.bytes -= slice.len();
            let missing = bytes - front.bytes;
            if slice.len() <= missing {
                front.push(slice);
                continue;
            }
            let (first, rest) = slice.split_at(missing).ok()?;
            front.push(first);
            self.bytes += rest.len();
            self.slices.push_front(rest);
        }
        Some(front)
    }

    /// Drops the first `bytes`, at most all.
    pub(crate) fn skip(&mut self, bytes: usize) {
        let _ = self.split_front(bytes.min(self.bytes));
    }

    /// Takes the next `N` bytes out of guest memory; `None` if there are fewer.
    pub(crate) fn take_array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.split_front(N)?.copy_to(&mut bytes);
        Some(bytes)
    }

    /// Copies as much as fits from guest memory; returns the number of bytes. The pieces remain.
    pub(crate) fn copy_to(&self, mut target: &mut [u8]) -> usize {
        let mut copied = 0;
        for slice in &self.slices {
            let count = slice.copy_to(target);
            target = &mut target[count..];
            copied += count;
        }
        copied
    }

    /// Copies as much as fits to guest memory; returns the number of bytes. The pieces remain.
    pub(crate) fn copy_from(&self, mut source: &[u8]) -> usize {
        let mut copied = 0;
        for slice in &self.slices {
            let count = source.len().min(slice.len());
            slice.copy_from(&source[..count]);
            source = &source[count..];
            copied += count;
        }
        copied
    }

    /// Writes zeros everywhere.
    pub(crate) fn zero(&self) {
        const ZEROS: [u8; 4096] = [0; 4096];
        for slice in &self.slices {
            let mut offset = 0;
            while offset < slice.len() {
                let count = ZEROS.len().min(slice.len() - offset);
                // In range by the line above, and writes to a mapping of our own do not fail.
                let _ = slice.write(&ZEROS[..count], offset);
                offset += count;
            }
        }
    }
}
