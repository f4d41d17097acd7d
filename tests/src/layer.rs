//! Layers as tar archives, good and hostile: no entry that a test asks for is refused or repaired here.

use std::io::Read;

use tar::{Builder, EntryType, Header};

/// Default time of modification of files.
const MTIME: u64 = 1_700_000_000;

/// Layer being written.
pub struct Layer {
    archive: Builder<Vec<u8>>,
}

/// Entry of a layer, with all fields that tests vary.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// Name as written, even if no file could have it.
    pub name: &'a str,
    /// Type.
    pub kind: EntryType,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Target of links.
    pub link: &'a str,
    /// Major and minor of devices.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: &'a [(&'a str, &'a [u8])],
    /// Contents.
    pub content: &'a [u8],
}

impl Default for Entry<'_> {
    fn default() -> Self {
        Self {
            name: "",
            kind: EntryType::Regular,
            mode: 0o644,
            uid: 0,
            gid: 0,
            link: "",
            device: (0, 0),
            xattrs: &[],
            content: &[],
        }
    }
}

impl Default for Layer {
    fn default() -> Self {
        Self::new()
    }
}

impl Layer {
    /// Creates an empty layer.
    pub fn new() -> Self {
        Self {
            archive: Builder::new(Vec::new()),
        }
    }

    /// Adds any entry.
    pub fn entry(mut self, entry: &Entry<'_>) -> Self {
        self.append(entry, entry.content.len() as u64, entry.content);
        self
    }

    /// Adds a folder.
    pub fn folder(self, name: &str) -> Self {
        self.entry(&Entry {
            name,
            kind: EntryType::Directory,
            mode: 0o755,
            ..Entry::default()
        })
    }

    /// Adds a file.
    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.entry(&Entry {
            name,
            content: content.as_ref(),
            ..Entry::default()
        })
    }

    /// Adds a program.
    pub fn program(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.entry(&Entry {
            name,
            mode: 0o755,
            content: content.as_ref(),
            ..Entry::default()
        })
    }

    /// Adds a symbolic link.
    pub fn symlink(self, name: &str, link: &str) -> Self {
        self.entry(&Entry {
            name,
            kind: EntryType::Symlink,
            mode: 0o777,
            link,
            ..Entry::default()
        })
    }

    /// Adds a hard link.
    pub fn hardlink(self, name: &str, link: &str) -> Self {
        self.entry(&Entry {
            name,
            kind: EntryType::Link,
            link,
            ..Entry::default()
        })
    }

    /// Adds a file of zeroes without holding them in memory twice.
    pub fn zeroes(mut self, name: &str, bytes: u64) -> Self {
        self.append(
            &Entry {
                name,
                ..Entry::default()
            },
            bytes,
            std::io::repeat(0).take(bytes),
        );
        self
    }

    /// Adds an entry whose header claims more bytes than follow.
    pub fn liar(mut self, name: &str, claimed_bytes: u64) -> Self {
        self.append(
            &Entry {
                name,
                ..Entry::default()
            },
            claimed_bytes,
            std::io::empty(),
        );
        self
    }

    /// Returns the archive's bytes.
    pub fn finish(self) -> Vec<u8> {
        self.archive.into_inner().expect("memory does not fail")
    }

    fn append(&mut self, entry: &Entry<'_>, size: u64, content: impl Read) {
        let mut extensions: Vec<(String, Vec<u8>)> = Vec::new();
        if entry.name.len() > 100 {
            extensions.push(("path".to_owned(), entry.name.into()));
        }
        if entry.link.len() > 100 {
            extensions.push(("linkpath".to_owned(), entry.link.into()));
        }
        for (name, value) in entry.xattrs {
            extensions.push((format!("SCHILY.xattr.{name}"), value.to_vec()));
        }
        if !extensions.is_empty() {
            let records = extensions.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
            self.archive
                .append_pax_extensions(records)
                .expect("memory does not fail");
        }
        let mut header = Header::new_ustar();
        let ustar = header.as_ustar_mut().expect("made as ustar");
        put(&mut ustar.name, entry.name);
        put(&mut ustar.linkname, entry.link);
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(entry.uid);
        header.set_gid(entry.gid);
        header.set_mtime(MTIME);
        header.set_size(size);
        header.set_device_major(entry.device.0).expect("ustar has devices");
        header.set_device_minor(entry.device.1).expect("ustar has devices");
        header.set_cksum();
        self.archive.append(&header, content).expect("memory does not fail");
    }
}

/// Writes as many bytes as the field holds; `tar`'s own setters refuse names that leave the root.
fn put(field: &mut [u8; 100], text: &str) {
    let kept = text.len().min(field.len());
    field[..kept].copy_from_slice(&text.as_bytes()[..kept]);
}

/// Returns bytes that no compression shortens (xorshift).
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ (seed + 1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}
