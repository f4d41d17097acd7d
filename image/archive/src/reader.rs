//! Streaming reader of tar archives with the semantics of Go's `archive/tar`, which are docker's.
//!
//! This is own code because the `tar` crate (0.4.46) splits PAX records at newlines and reads headers without a limit.
//! Formats: V7, ustar, star, GNU (long names, base-256 numbers, sparse files) and PAX. Every header is bounded before
//! it is read.

use std::io::{self, Read};

use crate::limits::{SPARSE_FRAGMENTS_MAX, TAR_HEADER_BYTES_MAX, TAR_HEADERS_BYTES_MAX};
use crate::pax::{Pax, decimal};
use crate::sparse::{Fragment, SparseMap, SparseSource, pairs};

pub(crate) const BLOCK: usize = 512;

/// Extended attribute. The namespace is part of the name, as in `security.capability`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// Name with its namespace.
    pub name: Vec<u8>,
    /// Value of the attribute: any bytes.
    pub value: Vec<u8>,
}

/// Entry of an archive. Its content is read from the [`TarReader`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    /// Name as in the archive.
    pub path: Vec<u8>,
    /// Type letter: `0` file, `1` hard link, `2` symbolic link, `3` and `4` devices, `5` directory, `6` FIFO.
    pub kind: u8,
    /// Target of a link.
    pub link: Vec<u8>,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// User id of the owner.
    pub uid: u32,
    /// Group id of the owner.
    pub gid: u32,
    /// Modification time: seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Length of the content.
    pub size: u64,
    /// Extended attributes, with namespaces in their names.
    pub xattrs: Vec<Xattr>,
}

/// Reason why an archive cannot be read further.
#[derive(Debug, thiserror::Error)]
pub enum ReadTarError {
    /// The input cannot be read.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// The archive ends early.
    #[error("archive ends within an entry")]
    Truncated,
    /// A header has a wrong checksum.
    #[error("bad header checksum")]
    Checksum,
    /// A header exceeds its limit, or all headers before a member exceed theirs together.
    #[error("header is longer than {} MiB, or those of one file together than {} MiB", TAR_HEADER_BYTES_MAX >> 20, TAR_HEADERS_BYTES_MAX >> 20)]
    LongHeader,
    /// A PAX header is malformed.
    #[error("malformed PAX header")]
    Pax,
    /// The map of a sparse file is malformed.
    #[error("malformed sparse file map")]
    Sparse,
    /// A field of a header is invalid.
    #[error("invalid {0}")]
    Field(&'static str),
}

/// Number of digits of the largest number in a sparse map.
const DECIMAL_DIGITS_MAX: usize = 20;

/// Reads an archive member by member.
pub struct TarReader<R> {
    input: R,
    /// Stored bytes of the current member that are still unread.
    stored_left: u64,
    /// Zeros between the stored bytes and the next header.
    padding: u64,
    content: Content,
}

/// Content of the current member, as [`Read`] returns it.
struct Content {
    position: u64,
    size: u64,
    sparse: Option<SparseMap>,
}

/// Extension headers that precede a member's own header.
#[derive(Default)]
struct Extensions {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Pax,
}

impl<R: Read> TarReader<R> {
    /// Creates a reader that starts at the archive's first byte.
    pub fn new(input: R) -> Self {
        Self {
            input,
            stored_left: 0,
            padding: 0,
            content: Content {
                position: 0,
                size: 0,
                sparse: None,
            },
        }
    }

    /// Returns the input at its current position.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// Input of the reader, for a caller that moves it by the result of [`TarReader::take_rest`].
    pub fn input_mut(&mut self) -> &mut R {
        &mut self.input
    }

    /// Distance to the next header; the caller skips that much of the input. `None` for a hostile size.
    pub fn take_rest(&mut self) -> Option<u64> {
        let rest = self.stored_left.checked_add(self.padding)?;
        (self.stored_left, self.padding) = (0, 0);
        Some(rest)
    }

    /// Returns the next member and skips unread content of the last one. `None` at the end marker or the end of the
    /// input.
    pub fn next_member(&mut self) -> Result<Option<Member>, ReadTarError> {
        let mut extensions = Extensions::default();
        let mut extended = false;
        let mut headers_bytes = 0;
        loop {
            self.skip_rest()?;
            let Some(header) = self.header()? else {
                return if extended {
                    Err(ReadTarError::Truncated)
                } else {
                    Ok(None)
                };
            };
            let kind = header[156];
            if !matches!(kind, b'x' | b'g' | b'L' | b'K') {
                return self.member(&header, extensions).map(Some);
            }
            extended = kind != b'g';
            let size = number(&header[124..136]).and_then(|n| u64::try_from(n).ok());
            let size = size.ok_or(ReadTarError::Field("size"))?;
            // An archive of headers alone would be read forever, and its headers kept in memory.
            headers_bytes = size.saturating_add(headers_bytes).saturating_add(BLOCK as u64);
            if headers_bytes > TAR_HEADERS_BYTES_MAX {
                return Err(ReadTarError::LongHeader);
            }
            let bytes = self.extension(size)?;
            match kind {
                b'x' => extensions.pax = Pax::parse(&bytes).map_err(|_| ReadTarError::Pax)?,
                b'L' => extensions.long_name = Some(until_nul(&bytes).to_vec()),
                b'K' => extensions.long_link = Some(until_nul(&bytes).to_vec()),
                // Global records describe no file; docker and containerd skip them.
                _ => {}
            }
        }
    }

    fn member(&mut self, header: &[u8; BLOCK], extensions: Extensions) -> Result<Member, ReadTarError> {
        let Extensions {
            long_name,
            long_link,
            pax,
        } = extensions;
        let path = long_name.or(pax.path).unwrap_or_else(|| header_name(header));
        let link = long_link
            .or(pax.link_path)
            .unwrap_or_else(|| until_nul(&header[157..257]).to_vec());
        let kind = match header[156] {
            0 if path.ends_with(b"/") => b'5',
            0 | b'7' | b'S' => b'0',
            kind => kind,
        };
        let stored = match pax.size {
            Some(size) => size,
            None => u64::try_from(field(header, 124..136, "size")?).map_err(|_| ReadTarError::Field("size"))?,
        };
        // Links, devices and directories have no content, whatever their size field says, as in Go.
        let stored = if matches!(kind, b'1'..=b'6') { 0 } else { stored };
        self.stored_left = stored;
        self.padding = stored.wrapping_neg() % BLOCK as u64;
        let sparse = if header[156] == b'S' {
            Some(self.old_sparse_map(header)?)
        } else {
            match pax.sparse.source(stored).ok_or(ReadTarError::Sparse)? {
                SparseSource::Dense => None,
                SparseSource::Map(map) => Some(map),
                SparseSource::InData { size } => Some(self.sparse_map_in_data(size)?),
            }
        };
        let size = sparse.as_ref().map_or(stored, SparseMap::size);
        self.content = Content {
            position: 0,
            size,
            sparse,
        };

        let id = |range, name| -> Result<u32, ReadTarError> {
            u32::try_from(field(header, range, name)?).map_err(|_| ReadTarError::Field(name))
        };
        let device = if matches!(kind, b'3' | b'4') {
            (id(329..337, "device number")?, id(337..345, "device number")?)
        } else {
            (0, 0)
        };
        Ok(Member {
            path,
            kind,
            link,
            mode: (field(header, 100..108, "mode")? & 0o7777) as u32,
            uid: pax.uid.map_or_else(|| id(108..116, "uid"), Ok)?,
            gid: pax.gid.map_or_else(|| id(116..124, "gid"), Ok)?,
            mtime: pax
                .mtime
                .map_or_else(|| field(header, 136..148, "mtime").map(|seconds| (seconds, 0)), Ok)?,
            device,
            size,
            xattrs: pax.xattrs,
        })
    }

    /// Reads the map of the `S` header and its continuation blocks, which precede the data.
    fn old_sparse_map(&mut self, header: &[u8; BLOCK]) -> Result<SparseMap, ReadTarError> {
        let size = sparse_number(&header[483..495])?;
        let mut fragments = Vec::new();
        add_fragments(&header[386..482], &mut fragments)?;
        let mut extended = header[482] != 0;
        while extended {
            let block = self.block()?.ok_or(ReadTarError::Truncated)?;
            add_fragments(&block[..504], &mut fragments)?;
            extended = block[504] != 0;
        }
        SparseMap::new(fragments, size, self.stored_left).ok_or(ReadTarError::Sparse)
    }

    /// Reads a map in format 1.0: decimal lines (number of fragments, then offset and length of each) padded to a
    /// block.
    fn sparse_map_in_data(&mut self, size: u64) -> Result<SparseMap, ReadTarError> {
        let mut numbers: Vec<u64> = Vec::new();
        let mut digits = Vec::with_capacity(DECIMAL_DIGITS_MAX);
        loop {
            if self.stored_left < BLOCK as u64 {
                return Err(ReadTarError::Sparse);
            }
            let block = self.block()?.ok_or(ReadTarError::Truncated)?;
            self.stored_left -= BLOCK as u64;
            for byte in block {
                if byte != b'\n' {
                    // A line without an end would be kept in memory whole (CVE-2025-58183 is this bug in Go's reader).
                    if digits.len() == DECIMAL_DIGITS_MAX {
                        return Err(ReadTarError::Sparse);
                    }
                    digits.push(byte);
                    continue;
                }
                numbers.push(decimal(&digits).ok_or(ReadTarError::Sparse)?);
                digits.clear();
                let count = numbers[0];
                if count > SPARSE_FRAGMENTS_MAX as u64 {
                    return Err(ReadTarError::Sparse);
                }
                if numbers.len() as u64 == 1 + 2 * count {
                    let fragments = pairs(&numbers[1..]).ok_or(ReadTarError::Sparse)?;
                    return SparseMap::new(fragments, size, self.stored_left).ok_or(ReadTarError::Sparse);
                }
            }
        }
    }

    /// Reads the next header; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, ReadTarError> {
        let Some(block) = self.block()? else { return Ok(None) };
        if block.iter().all(|&b| b == 0) {
            return Ok(None);
        }
        // The sum counts the checksum field itself as spaces; old tars summed signed bytes.
        let sum = |value: fn(u8) -> i64| -> i64 {
            let bytes = block.iter().enumerate();
            bytes
                .map(|(at, &b)| if (148..156).contains(&at) { 32 } else { value(b) })
                .sum()
        };
        let stored = number(&block[148..156]).ok_or(ReadTarError::Checksum)?;
        if stored != sum(i64::from) && stored != sum(|b| i64::from(b as i8)) {
            return Err(ReadTarError::Checksum);
        }
        Ok(Some(block))
    }

    /// Reads the content of an extension header of `size` bytes.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, ReadTarError> {
        if size > TAR_HEADER_BYTES_MAX {
            return Err(ReadTarError::LongHeader);
        }
        let mut bytes = vec![0; size as usize];
        self.exact(&mut bytes)?;
        self.padding = size.wrapping_neg() % BLOCK as u64;
        Ok(bytes)
    }

    fn skip_rest(&mut self) -> Result<(), ReadTarError> {
        let mut left = self
            .stored_left
            .checked_add(self.padding)
            .ok_or(ReadTarError::Field("size"))?;
        let mut buffer = [0; 16 << 10];
        while left > 0 {
            let length = left.min(buffer.len() as u64) as usize;
            self.exact(&mut buffer[..length])?;
            left -= length as u64;
        }
        (self.stored_left, self.padding) = (0, 0);
        self.content = Content {
            position: 0,
            size: 0,
            sparse: None,
        };
        Ok(())
    }

    /// Reads the next 512 bytes; `None` at the end of the input.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, ReadTarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(ReadTarError::Truncated),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ReadTarError::Read(error)),
            }
        }
        Ok(Some(block))
    }

    fn exact(&mut self, buffer: &mut [u8]) -> Result<(), ReadTarError> {
        self.input.read_exact(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ReadTarError::Truncated,
            _ => ReadTarError::Read(error),
        })
    }
}

impl<R: Read> TarReader<R> {
    /// Skips the hole at the current position, if there is one, and returns its length.
    pub fn skip_hole(&mut self) -> u64 {
        let content = &mut self.content;
        let hole = match &content.sparse {
            Some(map) if content.position < content.size => map.stretch(content.position),
            _ => return 0,
        };
        match hole {
            (length, false) => {
                content.position += length;
                length
            }
            (_, true) => 0,
        }
    }
}

/// Reads the content of the current member, with zeros for holes. Ends early if the archive does.
impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let content = &mut self.content;
        let (left, is_data) = match &content.sparse {
            _ if content.position == content.size => return Ok(0),
            Some(map) => map.stretch(content.position),
            None => (content.size - content.position, true),
        };
        let length = left.min(buffer.len() as u64) as usize;
        let count = if is_data {
            let count = self.input.read(&mut buffer[..length])?;
            self.stored_left -= count as u64;
            count
        } else {
            buffer[..length].fill(0);
            length
        };
        content.position += count as u64;
        Ok(count)
    }
}

/// Name in the header itself, with the prefix of ustar or star.
fn header_name(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&header[..100]);
    if &header[257..263] != b"ustar\0" {
        return name.to_vec();
    }
    let prefix_end = if &header[508..512] == b"tar\0" {
        345 + 131
    } else {
        345 + 155
    };
    match until_nul(&header[345..prefix_end]) {
        b"" => name.to_vec(),
        prefix => [prefix, b"/", name].concat(),
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len())]
}

fn field(header: &[u8; BLOCK], range: std::ops::Range<usize>, name: &'static str) -> Result<i64, ReadTarError> {
    number(&header[range]).ok_or(ReadTarError::Field(name))
}

/// Parses a numeric field: octal digits with spaces or NULs around them (blank is 0), or base-256 if the first bit is
/// set.
fn number(bytes: &[u8]) -> Option<i64> {
    if bytes[0] & 0x80 != 0 {
        let negative = bytes[0] & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (at, &byte) in bytes.iter().enumerate() {
            let byte = if at == 0 && !negative { byte & 0x7f } else { byte };
            value = value << 8 | i128::from(byte);
        }
        return i64::try_from(value).ok();
    }
    let digits = until_nul(bytes.trim_ascii_start()).trim_ascii_end();
    if digits.is_empty() {
        return Some(0);
    }
    digits.iter().all(|b| matches!(b, b'0'..=b'7')).then_some(())?;
    i64::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

fn sparse_number(bytes: &[u8]) -> Result<u64, ReadTarError> {
    number(bytes)
        .and_then(|n| u64::try_from(n).ok())
        .ok_or(ReadTarError::Sparse)
}

/// Adds the used (offset, length) pairs of a header's table, 12 bytes for each number.
fn add_fragments(table: &[u8], fragments: &mut Vec<Fragment>) -> Result<(), ReadTarError> {
    for pair in table.chunks_exact(24).take_while(|pair| pair[0] != 0) {
        let (offset, length) = (sparse_number(&pair[..12])?, sparse_number(&pair[12..])?);
        fragments.push(Fragment { offset, length });
    }
    if fragments.len() > SPARSE_FRAGMENTS_MAX {
        Err(ReadTarError::Sparse)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
