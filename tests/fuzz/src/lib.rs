//! Shared parts of the fuzz targets: a guest that is played by the fuzzer's bytes.
//!
//! | target | reads | must reach |
//! |---|---|---|
//! | `frames` | messages of an agent or a host | the codec of every message |
//! | `documents` | manifests, configs and references of images | the parsers |
//! | `challenges` | challenges of a registry for credentials | the parser, the decision on the token realm |
//! | `layer` | a layer, packed or not | index, tree and EROFS writer |
//! | `block` | the requests of a guest | every kind of request |
//! | `vsock` | the packets of a guest | every operation |
//! | `net` | the frames of a guest and of its network | every protocol, names, answers; frames that leave are compared with [`passt`] |
//! | `switch` | the frames of a network's member | neighbours, names, other members |
//! | `registers` | registers in any order, rings of any shape | every device behind virtio-mmio |
//! | `vhost-user` | the messages of QEMU, or of an attacker who controls it | every message, rings |
//! | `files` | requests for files of the host | every request that the file server admits |
//! | `unpack` | an archive of a container, for `cp` | every kind of member |
//!
//! Most devices are given well-formed rings, whose chains are the fuzzer's: a ring that is refused at once would leave
//! the code behind it untouched. The rings themselves are the fuzzer's in `registers`, `vhost-user` and `files`.
//! `tests/scripts/fuzz` ends with an error when a target does not reach what it is for.

pub mod frame;
pub mod passt;

use capsid_vmm::virtio::test_driver::Part;

/// Bytes of the fuzzer, taken from the front. After the last one, zeros follow.
#[derive(Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    /// Whether all bytes are used up.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes `count` bytes, or as many as are left.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Takes one byte.
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// Takes a little-endian number of `N` bytes.
    pub fn number<const N: usize>(&mut self) -> u64 {
        self.take(N)
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    /// Builds a chain of descriptors: mostly of buffers that are in memory, sometimes of any.
    pub fn parts(&mut self) -> Vec<Part> {
        let count = 1 + self.byte() % 6;
        (0..count).map(|_| self.part()).collect()
    }

    fn part(&mut self) -> Part {
        let kind = self.byte();
        let (address, bytes) = if kind & 0x0e == 0 {
            (self.number::<8>(), self.number::<4>() as u32)
        } else {
            // Anywhere from the free memory on, in units that keep alignments likely.
            (0x10000 + (self.number::<2>() << 4), self.number::<2>() as u32)
        };
        (address, bytes, kind & 1 == 1)
    }
}
