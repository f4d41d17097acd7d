//! Index of a layer: its entries in the order of the tar, as bytes.
//!
//! ```text
//! "CAPSIDLX" version:u32   then entries   then END
//! entry: action:u8 path:bytes fields...      bytes: length:u32 then that many bytes; integers little-endian
//! ```
//! An index is written by one converter and read by another. Both are confined, and the reader trusts nothing: an index
//! of a subverted converter can only spoil the images that have its layer.

use std::io::{self, Read, Write};

use super::entry::{Action, Attributes, Entry, Node};
use super::path::LayerPath;
use crate::limits::{LAYER_ENTRIES_MAX, PATH_BYTES_MAX, XATTR_BYTES_MAX};
use capsid_archive::Xattr;

const MAGIC: [u8; 12] = *b"CAPSIDLX\x01\0\0\0";

const DIRECTORY: u8 = 1;
const FILE: u8 = 2;
const SYMLINK: u8 = 3;
const CHAR_DEVICE: u8 = 4;
const BLOCK_DEVICE: u8 = 5;
const FIFO: u8 = 6;
const LINK: u8 = 7;
const WHITEOUT: u8 = 8;
const OPAQUE: u8 = 9;
const END: u8 = 0xff;

/// Reason why an index cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadIndexError {
    #[error("cannot read the layer's index")]
    Read(#[source] io::Error),
    #[error("the layer's index is damaged")]
    Damaged,
}

/// Writer of an index.
pub(crate) struct IndexWriter<W> {
    out: W,
}

impl<W: Write> IndexWriter<W> {
    pub(crate) fn new(mut out: W) -> io::Result<Self> {
        out.write_all(&MAGIC)?;
        Ok(Self { out })
    }

    pub(crate) fn append(&mut self, entry: &Entry) -> io::Result<()> {
        match &entry.action {
            Action::Make(attributes, node) => {
                self.head(kind_of(node), &entry.path)?;
                self.attributes(attributes)?;
                self.node(node)
            }
            Action::Link(target) => {
                self.head(LINK, &entry.path)?;
                self.bytes(target.as_bytes())
            }
            Action::Whiteout => self.head(WHITEOUT, &entry.path),
            Action::Opaque => self.head(OPAQUE, &entry.path),
        }
    }

    /// Ends the index; an index without an end marker is damaged.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[END])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn head(&mut self, kind: u8, path: &LayerPath) -> io::Result<()> {
        self.out.write_all(&[kind])?;
        self.bytes(path.as_bytes())
    }

    fn attributes(&mut self, attributes: &Attributes) -> io::Result<()> {
        self.u32(attributes.mode.into())?;
        self.u32(attributes.uid)?;
        self.u32(attributes.gid)?;
        self.out.write_all(&attributes.mtime.to_le_bytes())?;
        self.u32(attributes.mtime_nsec)?;
        self.u32(attributes.xattrs.len() as u32)?;
        for xattr in &attributes.xattrs {
            self.bytes(&xattr.name)?;
            self.bytes(&xattr.value)?;
        }
        Ok(())
    }

    fn node(&mut self, node: &Node) -> io::Result<()> {
        match node {
            Node::Directory | Node::Fifo => Ok(()),
            Node::File { block, size } => {
                self.u32(*block)?;
                self.out.write_all(&size.to_le_bytes())
            }
            Node::Symlink(target) => self.bytes(target),
            Node::CharDevice { major, minor } | Node::BlockDevice { major, minor } => {
                self.u32(*major)?;
                self.u32(*minor)
            }
        }
    }

    fn u32(&mut self, value: u32) -> io::Result<()> {
        self.out.write_all(&value.to_le_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.u32(bytes.len() as u32)?;
        self.out.write_all(bytes)
    }
}

fn kind_of(node: &Node) -> u8 {
    match node {
        Node::Directory => DIRECTORY,
        Node::File { .. } => FILE,
        Node::Symlink(_) => SYMLINK,
        Node::CharDevice { .. } => CHAR_DEVICE,
        Node::BlockDevice { .. } => BLOCK_DEVICE,
        Node::Fifo => FIFO,
    }
}

/// Reader of an index, entry by entry.
pub(crate) struct IndexReader<R> {
    input: R,
    entries: u64,
}

impl<R: Read> IndexReader<R> {
    pub(crate) fn new(mut input: R) -> Result<Self, ReadIndexError> {
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic).map_err(read_error)?;
        if magic != MAGIC {
            return Err(ReadIndexError::Damaged);
        }
        Ok(Self { input, entries: 0 })
    }

    /// Reads the next entry; `None` after the last one.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, ReadIndexError> {
        let kind = self.array::<1>()?[0];
        if kind == END {
            return Ok(None);
        }
        self.entries += 1;
        if self.entries > LAYER_ENTRIES_MAX {
            return Err(ReadIndexError::Damaged);
        }
        let path = self.path()?;
        let action = match kind {
            LINK => Action::Link(self.path()?),
            WHITEOUT => Action::Whiteout,
            OPAQUE => Action::Opaque,
            kind => {
                let attributes = self.attributes()?;
                Action::Make(attributes, self.node(kind)?)
            }
        };
        Ok(Some(Entry { path, action }))
    }

    fn attributes(&mut self) -> Result<Attributes, ReadIndexError> {
        let mode = u16::try_from(self.u32()?).map_err(|_| ReadIndexError::Damaged)?;
        let (uid, gid) = (self.u32()?, self.u32()?);
        let mtime = i64::from_le_bytes(self.array()?);
        let mtime_nsec = self.u32()?;
        let count = self.u32()?;
        if mode > 0o7777 || mtime_nsec >= 1_000_000_000 || count as usize > XATTR_BYTES_MAX {
            return Err(ReadIndexError::Damaged);
        }
        let mut xattrs = Vec::new();
        let mut bytes = 0;
        for _ in 0..count {
            let xattr = Xattr {
                name: self.bytes(255)?,
                value: self.bytes(XATTR_BYTES_MAX)?,
            };
            bytes += xattr.name.len() + xattr.value.len();
            if bytes > XATTR_BYTES_MAX {
                return Err(ReadIndexError::Damaged);
            }
            xattrs.push(xattr);
        }
        Ok(Attributes {
            mode,
            uid,
            gid,
            mtime,
            mtime_nsec,
            xattrs,
        })
    }

    fn node(&mut self, kind: u8) -> Result<Node, ReadIndexError> {
        Ok(match kind {
            DIRECTORY => Node::Directory,
            FILE => Node::File {
                block: self.u32()?,
                size: u64::from_le_bytes(self.array()?),
            },
            SYMLINK => Node::Symlink(self.bytes(PATH_BYTES_MAX)?),
            CHAR_DEVICE => Node::CharDevice {
                major: self.u32()?,
                minor: self.u32()?,
            },
            BLOCK_DEVICE => Node::BlockDevice {
                major: self.u32()?,
                minor: self.u32()?,
            },
            FIFO => Node::Fifo,
            _ => return Err(ReadIndexError::Damaged),
        })
    }

    fn path(&mut self) -> Result<LayerPath, ReadIndexError> {
        let bytes = self.bytes(PATH_BYTES_MAX)?;
        LayerPath::normalise(&bytes).map_err(|_| ReadIndexError::Damaged)
    }

    fn bytes(&mut self, bytes_max: usize) -> Result<Vec<u8>, ReadIndexError> {
        let length = self.u32()? as usize;
        if length > bytes_max {
            return Err(ReadIndexError::Damaged);
        }
        let mut bytes = vec![0; length];
        self.input.read_exact(&mut bytes).map_err(read_error)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, ReadIndexError> {
        self.array().map(u32::from_le_bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadIndexError> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(read_error)?;
        Ok(bytes)
    }
}

fn read_error(error: io::Error) -> ReadIndexError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ReadIndexError::Damaged,
        _ => ReadIndexError::Read(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn path() -> impl Strategy<Value = LayerPath> {
        vec("[a-c]{1,3}", 0..4).prop_map(|parts| LayerPath::normalise(parts.join("/").as_bytes()).unwrap())
    }

    fn attributes() -> impl Strategy<Value = Attributes> {
        let xattr = ("[a-z.]{1,9}", vec(any::<u8>(), 0..9)).prop_map(|(name, value)| Xattr {
            name: name.into_bytes(),
            value,
        });
        (
            0..=0o7777u16,
            any::<u32>(),
            any::<u32>(),
            any::<i64>(),
            0..1_000_000_000u32,
            vec(xattr, 0..3),
        )
            .prop_map(|(mode, uid, gid, mtime, mtime_nsec, xattrs)| Attributes {
                mode,
                uid,
                gid,
                mtime,
                mtime_nsec,
                xattrs,
            })
    }

    fn node() -> impl Strategy<Value = Node> {
        prop_oneof![
            Just(Node::Directory),
            Just(Node::Fifo),
            (any::<u32>(), any::<u64>()).prop_map(|(block, size)| Node::File { block, size }),
            vec(any::<u8>(), 1..20).prop_map(Node::Symlink),
            (any::<u32>(), any::<u32>()).prop_map(|(major, minor)| Node::CharDevice { major, minor }),
            (any::<u32>(), any::<u32>()).prop_map(|(major, minor)| Node::BlockDevice { major, minor }),
        ]
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let action = prop_oneof![
            (attributes(), node()).prop_map(|(attributes, node)| Action::Make(attributes, node)),
            path().prop_map(Action::Link),
            Just(Action::Whiteout),
            Just(Action::Opaque),
        ];
        (path(), action).prop_map(|(path, action)| Entry { path, action })
    }

    fn read_all(bytes: &[u8]) -> Result<Vec<Entry>, ReadIndexError> {
        let mut reader = IndexReader::new(bytes)?;
        let mut entries = Vec::new();
        while let Some(entry) = reader.next()? {
            entries.push(entry);
        }
        Ok(entries)
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(entries in vec(entry(), 0..8)) {
            let mut writer = IndexWriter::new(Vec::new()).unwrap();
            for entry in &entries {
                writer.append(entry).unwrap();
            }
            let bytes = writer.finish().unwrap();
            prop_assert_eq!(read_all(&bytes).unwrap(), entries);
            prop_assert!(read_all(&bytes[..bytes.len() - 1]).is_err());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..256)) {
            let _ = read_all(&[&MAGIC[..], &bytes].concat());
        }
    }
}
