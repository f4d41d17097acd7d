//! Expansion of a layer's bytes, as stored or sent, to its tar.
//!
//! The media type of a layer is a claim; the first bytes decide. Expanded bytes are counted, digested and limited, so a
//! bomb ends at its limit and not at the end of the disk.

use std::cell::RefCell;
use std::io::{self, BufReader, Cursor, Read};
use std::rc::Rc;

use super::fault::LayerFault;
use crate::compression::Compression;
use crate::digest::{Digest, Hasher};
use crate::limits::{EXPANSION_RATIO_MAX, RATIO_FREE_BYTES};

const READ_BYTES: usize = 256 << 10;

/// Reader that counts the bytes read through it.
struct Counted<R> {
    input: R,
    bytes: Rc<RefCell<Meter>>,
}

/// Progress of the expansion, and the fault that stopped it.
#[derive(Default)]
struct Meter {
    compressed_bytes: u64,
    expanded_bytes: u64,
    fault: Option<LayerFault>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.bytes.borrow_mut().compressed_bytes += count as u64;
        Ok(count)
    }
}

/// Tar inside a layer, as a reader that digests and limits what passes.
pub(crate) struct Expanded<'a> {
    input: Box<dyn Read + 'a>,
    hasher: Hasher,
    meter: Rc<RefCell<Meter>>,
    bytes_max: u64,
}

/// Observes one [`Expanded`] while another reader owns it.
#[derive(Clone)]
pub(crate) struct Watch(Rc<RefCell<Meter>>);

impl<'a> Expanded<'a> {
    /// Detects the compression of `input` by its first bytes and chooses the decoder. Plain tars have their magic at
    /// 257, but old ones have none, so uncompressed bytes are passed on as a tar and the tar reader checks them.
    pub(crate) fn new(input: impl Read + 'a, bytes_max: u64) -> Result<Self, LayerFault> {
        let meter = Rc::new(RefCell::new(Meter::default()));
        let mut input = Counted {
            input,
            bytes: meter.clone(),
        };
        let mut magic = [0; Compression::MAGIC_BYTES];
        let length = read_up_to(&mut input, &mut magic).map_err(LayerFault::read)?;
        let input = BufReader::with_capacity(READ_BYTES, Cursor::new(magic[..length].to_vec()).chain(input));
        let input: Box<dyn Read + 'a> = match Compression::of(magic) {
            Some(compression) => compression.reader(input).map_err(LayerFault::read)?,
            None => Box::new(input),
        };
        Ok(Self {
            input,
            hasher: Hasher::default(),
            meter,
            bytes_max,
        })
    }

    pub(crate) fn watch(&self) -> Watch {
        Watch(self.meter.clone())
    }

    /// Reads to the end and returns the digest of everything that passed, the layer's `diff_id`, and its length.
    pub(crate) fn finish(mut self) -> Result<(Digest, u64), LayerFault> {
        let watch = self.watch();
        let mut buffer = vec![0; 64 << 10];
        while self.read(&mut buffer).map_err(|error| watch.fault(error))? > 0 {}
        let bytes = self.meter.borrow().expanded_bytes;
        Ok((self.hasher.finish(), bytes))
    }
}

impl Read for Expanded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        let mut meter = self.meter.borrow_mut();
        meter.expanded_bytes += count as u64;
        let ratio = meter.expanded_bytes / meter.compressed_bytes.max(1);
        if meter.expanded_bytes > self.bytes_max {
            meter.fault = Some(LayerFault::TooLarge);
        } else if meter.expanded_bytes > RATIO_FREE_BYTES && ratio > EXPANSION_RATIO_MAX {
            meter.fault = Some(LayerFault::Bomb);
        }
        if meter.fault.is_some() {
            Err(io::Error::other("limit"))
        } else {
            Ok(count)
        }
    }
}

impl Watch {
    /// Actual cause of `error`, a failed read: one of our limits, or the layer's bytes.
    pub(crate) fn fault(&self, error: io::Error) -> LayerFault {
        let fault = self.0.borrow_mut().fault.take();
        fault.unwrap_or_else(|| self.misread(&error))
    }

    /// Fault of what was read last: an error with its place in the tar.
    pub(crate) fn misread(&self, error: &dyn std::error::Error) -> LayerFault {
        let offset = self.0.borrow().expanded_bytes;
        LayerFault::read(format_args!("{error} (at byte {offset} of the tar)"))
    }
}

fn read_up_to(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn expand(bytes: &[u8]) -> Result<(Vec<u8>, Digest), LayerFault> {
        let mut expanded = Expanded::new(bytes, u64::MAX)?;
        let watch = expanded.watch();
        let mut out = Vec::new();
        expanded.read_to_end(&mut out).map_err(|error| watch.fault(error))?;
        Ok((out, expanded.finish()?.0))
    }

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9][..], &zstd(b"hello")].concat();
        let cases = [
            b"hello".to_vec(),
            gzip(b"hello"),
            [gzip(b"he"), gzip(b"llo")].concat(),
            zstd(b"hello"),
            [zstd(b"he"), zstd(b"llo")].concat(),
            skippable,
        ];
        for case in cases {
            let (bytes, digest) = expand(&case).unwrap();
            assert_eq!((bytes.as_slice(), digest), (&b"hello"[..], Digest::of(b"hello")));
        }
        assert_eq!(expand(b"").unwrap().0, b"");
    }

    #[test]
    fn truncation_is_an_error() {
        let whole = gzip(&[7; 100_000]);
        assert!(matches!(
            expand(&whole[..whole.len() / 2]),
            Err(LayerFault::Read { .. })
        ));
        let whole = zstd::encode_all(&[7; 100_000][..], 1).unwrap();
        assert!(matches!(
            expand(&whole[..whole.len() / 2]),
            Err(LayerFault::Read { .. })
        ));
    }

    #[test]
    fn a_bomb_ends_at_the_ratio() {
        let bomb = zstd::encode_all(io::repeat(0).take(4 * RATIO_FREE_BYTES), 1).unwrap();
        let mut expanded = Expanded::new(&bomb[..], u64::MAX).unwrap();
        let watch = expanded.watch();
        let error = io::copy(&mut expanded, &mut io::sink()).unwrap_err();
        assert_eq!(watch.fault(error), LayerFault::Bomb);
    }
}
