//! Data blob of a layer: the contents of its files, each starting at a 4 KiB boundary.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use capsid_archive::TarReader;

/// Block size of EROFS, bytes.
pub(crate) const BLOCK_BYTES: u64 = 4096;

const BUFFER_BYTES: usize = 1 << 20;

/// Writer that appends file contents. Runs of zeros become holes of the blob, so sparse files stay sparse on the host.
pub(crate) struct DataWriter {
    blob: File,
    buffer: Vec<u8>,
    /// Number of bytes in the buffer.
    buffered: usize,
    /// Offset of the buffer in the blob; a multiple of the block size.
    position: u64,
    /// Number of apparent bytes that may still be appended, holes included.
    bytes_left: u64,
}

/// Content of a file, which may have holes.
pub(crate) trait Content: Read {
    /// Skips the hole at the current position, if there is one, and returns its length.
    fn skip_hole(&mut self) -> u64;
}

impl<R: Read> Content for TarReader<R> {
    fn skip_hole(&mut self) -> u64 {
        TarReader::skip_hole(self)
    }
}

/// Error of [`DataWriter::append`].
pub(crate) enum AppendError {
    /// The content could not be read.
    Read(io::Error),
    /// The blob could not be written.
    Write(io::Error),
    /// The content ended early.
    Truncated,
    /// The blob would exceed its limit. Nothing of the content was read.
    TooLarge,
}

impl DataWriter {
    /// Creates a writer to the empty file `blob`, for at most `bytes_max` bytes of content.
    pub(crate) fn new(blob: File, bytes_max: u64) -> Self {
        Self {
            blob,
            buffer: vec![0; BUFFER_BYTES],
            buffered: 0,
            position: 0,
            bytes_left: bytes_max,
        }
    }

    /// Copies exactly `size` bytes of `content` to the blob and returns the block where they begin. The time depends on
    /// what the content holds, not on its holes.
    pub(crate) fn append(&mut self, content: &mut impl Content, size: u64) -> Result<u32, AppendError> {
        self.bytes_left = self.bytes_left.checked_sub(size).ok_or(AppendError::TooLarge)?;
        let start = self.position + self.buffered as u64;
        let mut left = size;
        while left > 0 {
            let hole = content.skip_hole().min(left);
            if hole > 0 {
                self.append_hole(hole).map_err(AppendError::Write)?;
                left -= hole;
                continue;
            }
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
        // A layer has at most 10 GiB and a million files, each padded to a block: its blocks fit in 32 bits.
        Ok((start / BLOCK_BYTES) as u32)
    }

    /// Writes the remaining bytes and returns the length of the blob, a multiple of the block size.
    pub(crate) fn finish(mut self) -> io::Result<u64> {
        self.flush()?;
        self.blob.set_len(self.position)?;
        Ok(self.position)
    }

    /// Appends zeros, which take no space in the blob where they fill blocks.
    fn append_hole(&mut self, bytes: u64) -> io::Result<()> {
        let room = (self.buffer.len() - self.buffered) as u64;
        if bytes <= room {
            self.append_zeros(bytes as usize);
            return Ok(());
        }
        let before = self.buffered;
        self.pad();
        let left = bytes - (self.buffered - before) as u64;
        self.flush()?;
        self.position += left - left % BLOCK_BYTES;
        self.append_zeros((left % BLOCK_BYTES) as usize);
        Ok(())
    }

    fn append_zeros(&mut self, count: usize) {
        self.buffer[self.buffered..self.buffered + count].fill(0);
        self.buffered += count;
    }

    fn pad(&mut self) {
        // The buffer's length is a multiple of the block size, so the padded length fits.
        self.append_zeros(self.buffered.next_multiple_of(BLOCK_BYTES as usize) - self.buffered);
    }

    /// Writes the buffer, which is full or padded to a block, and leaves out runs of zeros.
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
    use std::time::{Duration, Instant};

    impl Content for &[u8] {
        fn skip_hole(&mut self) -> u64 {
            0
        }
    }

    /// Content that is a hole, then the byte 1.
    struct Sparse {
        hole: u64,
    }

    impl Read for Sparse {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            assert_eq!(self.hole, 0, "a hole is not read");
            buffer[0] = 1;
            Ok(1)
        }
    }

    impl Content for Sparse {
        fn skip_hole(&mut self) -> u64 {
            std::mem::take(&mut self.hole)
        }
    }

    #[test]
    fn holes_take_no_time_and_count() {
        let start = Instant::now();
        let file = tempfile::tempfile().unwrap();
        let mut writer = DataWriter::new(file.try_clone().unwrap(), 1 << 40);
        for hole in [0, 1, 4095, 4096, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (1 << 39) + 5] {
            let block = writer.append(&mut Sparse { hole }, hole + 1).ok().unwrap();
            let at = u64::from(block) * BLOCK_BYTES + hole;
            writer.flush().unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            assert_eq!(byte, [1], "behind a hole of {hole} bytes");
        }
        for size in [1 << 40, (1 << 63) - 1, u64::MAX] {
            let refused = writer.append(&mut Sparse { hole: size - 1 }, size);
            assert!(matches!(refused, Err(AppendError::TooLarge)), "{size}");
        }
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }

    #[test]
    fn contents_are_aligned_and_zeros_are_holes() {
        let file = tempfile::tempfile().unwrap();
        let mut writer = DataWriter::new(file.try_clone().unwrap(), u64::MAX);
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
