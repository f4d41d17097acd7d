//! Compressions of layers and archives that docker reads (`pkg/archive` of moby). They are detected by their first
//! bytes, because the media type of a layer, or the name of a file, is a claim.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;

use crate::limits::{XZ_MEMORY_KIB_MAX, ZSTD_WINDOW_LOG_MAX};

/// Format of compressed bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// gzip, RFC 1952; any number of members.
    Gzip,
    /// bzip2; any number of streams.
    Bzip2,
    /// xz, <https://tukaani.org/xz/xz-file-format.txt>; any number of streams.
    Xz,
    /// Zstandard, RFC 8878; any number of frames.
    Zstd,
}

impl Compression {
    /// Number of leading bytes that identify a compression.
    pub const MAGIC_BYTES: usize = 4;

    /// Compression that starts with these bytes; `None` for uncompressed content.
    #[must_use]
    pub fn of(magic: [u8; Self::MAGIC_BYTES]) -> Option<Self> {
        match magic {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [b'B', b'Z', b'h', b'1'..=b'9'] => Some(Self::Bzip2),
            [0xfd, b'7', b'z', b'X'] => Some(Self::Xz),
            // A skippable frame (0x184D2A5?) may come first, as the tools of zstd:chunked write it.
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Name of the compression, as media types end with it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }

    /// Returns a reader of the decompressed bytes. Memory is bounded; the caller must bound the amount of output.
    ///
    /// # Errors
    /// If the decoder cannot be created.
    pub fn reader<'a>(self, input: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(input)),
            Self::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
            Self::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(input, true, XZ_MEMORY_KIB_MAX)),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Box::new(decoder)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magics_are_told_apart() {
        assert_eq!(Compression::of([0x1f, 0x8b, 8, 0]), Some(Compression::Gzip));
        assert_eq!(Compression::of(*b"BZh9"), Some(Compression::Bzip2));
        assert_eq!(Compression::of(*b"\xfd7zX"), Some(Compression::Xz));
        assert_eq!(Compression::of([0x28, 0xb5, 0x2f, 0xfd]), Some(Compression::Zstd));
        assert_eq!(Compression::of(*b"BZh0"), None);
        assert_eq!(Compression::of(*b"etc/"), None);
    }

    /// Tests `xz` data whose block header asks for a dictionary of 1.5 GiB, which is always refused.
    #[test]
    fn a_dictionary_that_is_too_large_is_refused() {
        let mut bytes = HELLO_XZ.to_vec();
        // The dictionary's size in the block header, and the header's checksum.
        bytes[16] = 39;
        let sum = crc32(&bytes[12..20]);
        bytes[20..24].copy_from_slice(&sum.to_le_bytes());
        let mut out = Vec::new();
        let error = Compression::Xz
            .reader(&bytes[..])
            .unwrap()
            .read_to_end(&mut out)
            .unwrap_err();
        assert!(error.to_string().contains("memory"), "{error}");
    }

    #[test]
    fn xz_and_bzip2_are_read() {
        for (compression, bytes) in [(Compression::Xz, &HELLO_XZ[..]), (Compression::Bzip2, &HELLO_BZ2[..])] {
            for times in [1, 2] {
                let (all, mut out) = (bytes.repeat(times), Vec::new());
                compression.reader(&all[..]).unwrap().read_to_end(&mut out).unwrap();
                assert_eq!(out, b"hello\n".repeat(times));
                assert!(
                    compression
                        .reader(&all[..all.len() - 9])
                        .unwrap()
                        .read_to_end(&mut out)
                        .is_err()
                );
            }
        }
    }

    /// CRC-32 of IEEE 802.3, as xz's headers contain it.
    fn crc32(bytes: &[u8]) -> u32 {
        let step = |sum: u32, byte: &u8| {
            (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
                (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg())
            })
        };
        !bytes.iter().fold(u32::MAX, step)
    }

    /// Output of `echo hello | xz -0`.
    #[rustfmt::skip]
    const HELLO_XZ: [u8; 64] = [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x04, 0xe6, 0xd6, 0xb4, 0x46, 0x02, 0x00, 0x21, 0x01, 0x0c, 0x00, 0x00, 0x00, 0x8f, 0x98, 0x41, 0x9c, 0x01, 0x00, 0x05, 0x68, 0x65, 0x6c, 0x6c, 0x6f, 0x0a, 0x00, 0x00, 0x00, 0xa5, 0x60, 0x97, 0xf1, 0x94, 0xf6, 0xfd, 0xe0, 0x00, 0x01, 0x1e, 0x06, 0xc1, 0x2f, 0xa4, 0x1d, 0x1f, 0xb6, 0xf3, 0x7d, 0x01, 0x00, 0x00, 0x00, 0x00, 0x04, 0x59, 0x5a];
    /// Output of `echo hello | bzip2`.
    #[rustfmt::skip]
    const HELLO_BZ2: [u8; 42] = [0x42, 0x5a, 0x68, 0x39, 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, 0xc1, 0xc0, 0x80, 0xe2, 0x00, 0x00, 0x01, 0x41, 0x00, 0x00, 0x10, 0x02, 0x44, 0xa0, 0x00, 0x30, 0xcd, 0x00, 0xc3, 0x46, 0x29, 0x97, 0x17, 0x72, 0x45, 0x38, 0x50, 0x90, 0xc1, 0xc0, 0x80, 0xe2];
}
