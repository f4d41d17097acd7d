//! Writer of tar archives: ustar headers, and PAX records (POSIX.1-2001) for what those headers cannot hold.

use std::io::{self, Read, Write};

use crate::reader::{BLOCK, Member};

/// Largest number of a header field with seven octal digits, and (below) with eleven.
const OCTAL_7_MAX: u64 = 0o777_7777;
const OCTAL_11_MAX: u64 = 0o777_7777_7777;
/// Length of the name field and of the link field, bytes.
const NAME_BYTES: usize = 100;
/// Number of bytes read at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// Writes an archive member by member.
#[derive(Debug)]
pub struct TarWriter<W> {
    output: W,
}

impl<W: Write> TarWriter<W> {
    /// Creates a writer that starts at the archive's first byte.
    pub fn new(output: W) -> Self {
        Self { output }
    }

    /// Adds a member with the first `member.size` bytes of `content`. Shorter content is padded with zeros: a file that
    /// shrank meanwhile must not shift what follows.
    pub fn append(&mut self, member: &Member, mut content: impl Read) -> io::Result<()> {
        let records = records(member);
        if !records.is_empty() {
            let extension = Member {
                path: b"PaxHeaders/record".to_vec(),
                kind: b'x',
                mode: 0o644,
                size: records.len() as u64,
                ..Member::default()
            };
            self.output.write_all(&header(&extension))?;
            self.output.write_all(&records)?;
            self.pad(extension.size)?;
        }
        self.output.write_all(&header(member))?;
        let mut left = member.size;
        let mut chunk = vec![0; CHUNK_BYTES.min(usize::try_from(left).unwrap_or(CHUNK_BYTES))];
        while left > 0 {
            let wanted = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = match content.read(&mut chunk[..wanted]) {
                Ok(0) => break,
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            self.output.write_all(&chunk[..count])?;
            left -= count as u64;
        }
        io::copy(&mut io::repeat(0).take(left), &mut self.output)?;
        self.pad(member.size)
    }

    /// Ends the archive with two blocks of zeros.
    pub fn finish(mut self) -> io::Result<W> {
        self.output.write_all(&[0; 2 * BLOCK])?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let bytes = (size.wrapping_neg() % BLOCK as u64) as usize;
        self.output.write_all(&[0; BLOCK][..bytes])
    }
}

/// PAX records for what the header of `member` cannot hold.
fn records(member: &Member) -> Vec<u8> {
    let mut records = Vec::new();
    let mut add = |key: &[u8], value: &[u8]| records.extend_from_slice(&record(key, value));
    if member.path.len() > NAME_BYTES {
        add(b"path", &member.path);
    }
    if member.link.len() > NAME_BYTES {
        add(b"linkpath", &member.link);
    }
    if member.size > OCTAL_11_MAX {
        add(b"size", member.size.to_string().as_bytes());
    }
    for (key, id) in [(&b"uid"[..], member.uid), (b"gid", member.gid)] {
        if u64::from(id) > OCTAL_7_MAX {
            add(key, id.to_string().as_bytes());
        }
    }
    if member.mtime.0 < 0 {
        add(b"mtime", member.mtime.0.to_string().as_bytes());
    }
    for xattr in &member.xattrs {
        add(&[b"SCHILY.xattr.", xattr.name.as_slice()].concat(), &xattr.value);
    }
    records
}

/// PAX record `LENGTH KEY=VALUE\n`; the length includes its own digits.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let body = [b" ", key, b"=", value, b"\n"].concat();
    let mut length = body.len() + 1;
    while length.to_string().len() + body.len() != length {
        length = length.to_string().len() + body.len();
    }
    [length.to_string().as_bytes(), &body].concat()
}

fn header(member: &Member) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut text = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    let octal = |digits: usize, value: u64, max: u64| {
        // A value that does not fit is in a PAX record.
        format!("{:0digits$o}", if value > max { 0 } else { value })
    };
    text(0, &member.path[..member.path.len().min(NAME_BYTES)]);
    text(100, octal(7, u64::from(member.mode), OCTAL_7_MAX).as_bytes());
    text(108, octal(7, u64::from(member.uid), OCTAL_7_MAX).as_bytes());
    text(116, octal(7, u64::from(member.gid), OCTAL_7_MAX).as_bytes());
    text(124, octal(11, member.size, OCTAL_11_MAX).as_bytes());
    let mtime = u64::try_from(member.mtime.0).unwrap_or(0);
    text(136, octal(11, mtime, OCTAL_11_MAX).as_bytes());
    text(148, b"        ");
    text(156, &[member.kind]);
    text(157, &member.link[..member.link.len().min(NAME_BYTES)]);
    text(257, b"ustar\x0000");
    text(329, octal(7, u64::from(member.device.0), OCTAL_7_MAX).as_bytes());
    text(337, octal(7, u64::from(member.device.1), OCTAL_7_MAX).as_bytes());
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
    block[154] = 0;
    block
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reader::{TarReader, Xattr};

    fn members() -> impl Strategy<Value = (Member, Vec<u8>)> {
        let bytes = |max: usize| proptest::collection::vec(1..=255u8, 1..max);
        let xattr = (bytes(9), proptest::collection::vec(any::<u8>(), 0..40)).prop_map(|(mut name, value)| {
            name.retain(|byte| *byte != b'=');
            Xattr { name, value }
        });
        let node = prop_oneof![Just(b'0'), Just(b'1'), Just(b'2'), Just(b'5')];
        let ids = (any::<u32>(), any::<u32>(), any::<i32>());
        let content = proptest::collection::vec(any::<u8>(), 0..2000);
        (bytes(300), node, bytes(300), ids, proptest::option::of(xattr), content).prop_map(
            |(path, kind, link, (uid, gid, mtime), xattr, mut content)| {
                content.truncate(if kind == b'0' { content.len() } else { 0 });
                let member = Member {
                    path,
                    kind,
                    link,
                    mode: 0o4755,
                    uid,
                    gid,
                    mtime: (i64::from(mtime), 0),
                    device: (0, 0),
                    size: content.len() as u64,
                    xattrs: xattr.into_iter().filter(|xattr| !xattr.name.is_empty()).collect(),
                };
                (member, content)
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(all in proptest::collection::vec(members(), 0..4)) {
            let mut tar = TarWriter::new(Vec::new());
            for (member, content) in &all {
                tar.append(member, content.as_slice()).unwrap();
            }
            let bytes = tar.finish().unwrap();
            let mut tar = TarReader::new(bytes.as_slice());
            for (member, content) in &all {
                let read = tar.next_member().unwrap().unwrap();
                let mut got = Vec::new();
                tar.read_to_end(&mut got).unwrap();
                prop_assert_eq!((&read, &got), (member, content));
            }
            prop_assert!(tar.next_member().unwrap().is_none());
        }
    }

    #[test]
    fn a_file_that_shrank_is_filled_up() {
        let member = Member {
            path: b"f".to_vec(),
            kind: b'0',
            size: 1000,
            ..Member::default()
        };
        let mut tar = TarWriter::new(Vec::new());
        tar.append(&member, &b"abc"[..]).unwrap();
        let bytes = tar.finish().unwrap();
        let mut tar = TarReader::new(bytes.as_slice());
        tar.next_member().unwrap().unwrap();
        let mut got = Vec::new();
        tar.read_to_end(&mut got).unwrap();
        assert_eq!((got.len(), &got[..3], got[999]), (1000, &b"abc"[..], 0));
    }
}
