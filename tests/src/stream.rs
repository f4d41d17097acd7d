//! Reproducible bytes of every value, made on either side of a stream and compared by digest.

use std::io::{self, Write};

use sha2::{Digest, Sha256};

const BLOCK_BYTES: usize = 64 * 1024;

/// Stream of `total` bytes that follow from `seed`: xorshift64*, so no compression or repetition hides a lost block.
#[derive(Debug, Clone)]
pub struct Bytes {
    state: u64,
    left: u64,
}

impl Bytes {
    /// Creates the stream at its beginning.
    pub fn new(seed: u64, total: u64) -> Self {
        Self {
            state: seed | 1,
            left: total,
        }
    }

    /// Writes the whole stream.
    pub fn write_to(mut self, out: &mut impl Write) -> io::Result<()> {
        while let Some(block) = self.next_block() {
            out.write_all(&block)?;
        }
        out.flush()
    }

    /// Returns the digest of the whole stream, as 64 hexadecimal digits.
    pub fn digest(mut self) -> String {
        let mut digest = Sha256::new();
        while let Some(block) = self.next_block() {
            digest.update(&block);
        }
        hex::encode(digest.finalize())
    }

    fn next_block(&mut self) -> Option<Vec<u8>> {
        if self.left == 0 {
            return None;
        }
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        while block.len() < BLOCK_BYTES {
            self.state ^= self.state >> 12;
            self.state ^= self.state << 25;
            self.state ^= self.state >> 27;
            block.extend_from_slice(&self.state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
        }
        block.truncate(usize::try_from(self.left.min(BLOCK_BYTES as u64)).expect("a block fits"));
        self.left -= block.len() as u64;
        Some(block)
    }
}
