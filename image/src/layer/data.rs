//! The data blob of a layer: the contents of its files, each from a 4 KiB boundary on.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// EROFS block size, bytes.
pub(crate) const BLOCK_BYTES: u64 = 4096;

const BUFFER_BYTES: usize = 1 << 20;

/// Appends file contents. Runs of zeros become holes of the blob, so sparse files stay sparse on the host.
pub(crate) struct DataWriter {
    blob: File,
    buffer: Vec<u8>,
    /// Length of what the buffer holds.
    buffered: usize,
    /// Where the buffer goes in the blob; a multiple of the block size.
    position: u64,
}

/// What stopped [`DataWriter::append`].
pub(crate) enum AppendError {
    /// The content could not be read.
    Read(io::Error),
    /// The blob could not be written.
    Write(io::Error),
    /// The content ended early.
    Truncated,
}

impl DataWriter {
    pub(crate) fn new(blob: File) -> Self {
        Self {
            blob,
            buffer: vec![0; BUFFER_BYTES],
            buffered: 0,
            position: 0,
        }
    }

    /// Copies exactly `size` bytes of `content` to the blob and tells the block where they begin.
    pub(crate) fn append(&mut self, content: &mut impl Read, size: u64) -> Result<u32, AppendError> {
        let start = self.position + self.buffered as u64;
        let mut left = size;
        while left > 0 {
            if self.buffered == self.buffer.len() {
                self.flush().map_err(AppendError::Write)?;
            }
            let room = (self.buffer.len() - self.buffered).min(usize::try_from(left).unwrap_or(usize::MAX));
            match content.read(&mut self.buffer[self.buffered..self.buffered + room]) {
                Ok(0) => return Err(AppendError::Truncated),
                Ok(count) => {
                    self.buffered += count;
                    left -= count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(AppendError::Read(error)),
            }
        }
        self.pad();
        // A layer is at most 10 GiB, so its blocks fit in 32 bits.
        Ok((start / BLOCK_BYTES) as u32)
    }

    /// Writes the rest and tells the length of the blob, a multiple of the block size.
    pub(crate) fn finish(mut self) -> io::Result<u64> {
        self.flush()?;
        self.blob.set_len(self.position)?;
        Ok(self.position)
    }

    fn pad(&mut self) {
        // The buffer's length is a multiple of the block size, so the padded length fits.
        let padded = self.buffered.next_multiple_of(BLOCK_BYTES as usize);
        self.buffer[self.buffered..padded].fill(0);
        self.buffered = padded;
    }

    /// Writes the buffer, which is full or padded to a block, leaving out stretches of zeros.
    fn flush(&mut self) -> io::Result<()> {
        const STRETCH: usize = 64 << 10;
        let mut from = 0;
        for (index, stretch) in self.buffer[..self.buffered].chunks(STRETCH).enumerate() {
            let at = index * STRETCH;
            if stretch.iter().all(|&byte| byte == 0) {
                self.blob
                    .write_all_at(&self.buffer[from..at], self.position + from as u64)?;
                from = at + stretch.len();
            }
        }
        self.blob
            .write_all_at(&self.buffer[from..self.buffered], self.position + from as u64)?;
        self.position += self.buffered as u64;
        self.buffered = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_aligned_and_zeros_are_holes() {
        let file = tempfile::tempfile().unwrap();
        let mut writer = DataWriter::new(file.try_clone().unwrap());
        let big = [vec![1u8; 5000], vec![0; 3 << 20], vec![2; 10]].concat();
        let mut append = |bytes: &[u8]| writer.append(&mut &bytes[..], bytes.len() as u64).ok().unwrap();
        assert_eq!(
            (append(b"hello"), append(b""), append(&big), append(b"x")),
            (0, 1, 1, 771)
        );
        assert!(matches!(writer.append(&mut &b"ab"[..], 3), Err(AppendError::Truncated)));
        let length = DataWriter::finish(writer).unwrap();
        let mut all = vec![0; length as usize];
        file.read_exact_at(&mut all, 0).unwrap();
        assert_eq!(&all[..5], b"hello");
        assert_eq!(&all[4096..4096 + big.len()], &big[..]);
        assert_eq!(all[771 * 4096], b'x');
        assert!(rustix::fs::fstat(&file).unwrap().st_blocks * 512 < 1 << 20);
    }
}
