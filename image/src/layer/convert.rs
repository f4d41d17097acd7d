//! Conversion of a layer: its bytes in, its data blob and index out, in a single streaming pass.

use std::fs::File;
use std::io::{self, BufWriter, Read};

use super::data::{AppendError, DataWriter};
use super::entry::{Action, Attributes, Entry, Node};
use super::expand::{Expanded, Watch};
use super::fault::LayerFault;
use super::index::IndexWriter;
use super::path::{LayerPath, NameFault};
use crate::digest::Digest;
use crate::limits::{COMPONENT_BYTES_MAX, LAYER_ENTRIES_MAX, PATH_BYTES_MAX, XATTR_BYTES_MAX};
use crate::text::printable;
use capsid_archive::{Member, ReadTarError, TarReader, Xattr};

/// Result of a conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConvertedLayer {
    /// Digest of the layer's tar.
    pub diff_id: Digest,
    /// Length of the layer's tar, bytes.
    pub expanded_bytes: u64,
    /// Length of the data blob, bytes.
    pub data_bytes: u64,
    /// Number of entries of the layer's tar.
    pub entries: u64,
}

/// Error of a conversion.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConvertLayerError {
    #[error(transparent)]
    Fault(#[from] LayerFault),
    #[error("cannot write the layer's data")]
    WriteData(#[source] io::Error),
    #[error("cannot write the layer's index")]
    WriteIndex(#[source] io::Error),
}

/// Converts the layer read from `input`, compressed or not. Neither its tar nor the contents of its files, holes
/// included, may exceed `expanded_bytes_max`.
pub(crate) fn convert_layer(
    input: impl Read,
    data: File,
    index: File,
    expanded_bytes_max: u64,
) -> Result<ConvertedLayer, ConvertLayerError> {
    let expanded = Expanded::new(input, expanded_bytes_max)?;
    let watch = expanded.watch();
    let mut tar = TarReader::new(expanded);
    let mut data = DataWriter::new(data, expanded_bytes_max);
    let mut index =
        IndexWriter::new(BufWriter::with_capacity(1 << 20, index)).map_err(ConvertLayerError::WriteIndex)?;
    let mut entries = 0;
    while let Some(member) = tar.next_member().map_err(|error| read_fault(error, &watch))? {
        entries += 1;
        if entries > LAYER_ENTRIES_MAX {
            return Err(LayerFault::TooManyEntries.into());
        }
        if let Some(entry) = convert_member(member, &mut tar, &mut data, &watch)? {
            index.append(&entry).map_err(ConvertLayerError::WriteIndex)?;
        }
    }
    let (diff_id, expanded_bytes) = tar.into_inner().finish()?;
    let data_bytes = data.finish().map_err(ConvertLayerError::WriteData)?;
    index.finish().map_err(ConvertLayerError::WriteIndex)?;
    Ok(ConvertedLayer {
        diff_id,
        expanded_bytes,
        data_bytes,
        entries,
    })
}

/// Converts one member: returns its index entry, and appends its content to the data blob.
fn convert_member(
    member: Member,
    tar: &mut TarReader<Expanded<'_>>,
    data: &mut DataWriter,
    watch: &Watch,
) -> Result<Option<Entry>, ConvertLayerError> {
    let shown = || printable(&member.path, 300);
    let name_fault = |fault| LayerFault::Name { path: shown(), fault };
    let path = LayerPath::normalise(&member.path).map_err(name_fault)?;
    if let Some(whiteout) = whiteout(&path).map_err(name_fault)? {
        return Ok(whiteout);
    }
    let node = match member.kind {
        b'0' => {
            let block = data.append(tar, member.size).map_err(|error| match error {
                AppendError::Read(error) => watch.fault(error).into(),
                AppendError::TooLarge => LayerFault::TooLarge.into(),
                AppendError::Truncated => LayerFault::Truncated { path: shown() }.into(),
                AppendError::Write(error) => ConvertLayerError::WriteData(error),
            })?;
            Node::File {
                block,
                size: member.size,
            }
        }
        b'1' => {
            let target = LayerPath::normalise(&member.link).map_err(|fault| LayerFault::Name {
                path: printable(&member.link, 300),
                fault,
            })?;
            return Ok(Some(Entry {
                path,
                action: Action::Link(target),
            }));
        }
        b'2' => Node::Symlink(symlink_target(&member)?),
        b'3' => Node::CharDevice {
            major: member.device.0,
            minor: member.device.1,
        },
        b'4' => Node::BlockDevice {
            major: member.device.0,
            minor: member.device.1,
        },
        b'5' => Node::Directory,
        b'6' => Node::Fifo,
        kind => {
            return Err(LayerFault::Kind {
                path: shown(),
                kind: kind.escape_ascii().next().map_or('?', char::from),
            }
            .into());
        }
    };
    let xattrs = keep_xattrs(&member)?;
    let (mtime, mtime_nsec) = member.mtime;
    let attributes = Attributes {
        mode: member.mode as u16,
        uid: member.uid,
        gid: member.gid,
        mtime,
        mtime_nsec,
        xattrs,
    };
    Ok(Some(Entry {
        path,
        action: Action::Make(attributes, node),
    }))
}

/// Checks for a whiteout: `Some` if the last component makes the entry one. It holds the entry of the whiteout, or
/// `None` for AUFS's own bookkeeping (`.wh..wh.aufs`, `.wh..wh.plnk`), which docker skips.
fn whiteout(path: &LayerPath) -> Result<Option<Option<Entry>>, NameFault> {
    let Some((directory, name)) = path.split_last() else {
        return Ok(None);
    };
    let Some(hidden) = name.strip_prefix(b".wh.") else {
        return Ok(None);
    };
    match hidden {
        b".wh..opq" => Ok(Some(Some(Entry {
            path: directory,
            action: Action::Opaque,
        }))),
        b"" | b"." | b".." => Err(NameFault::Whiteout),
        hidden if hidden.starts_with(b".wh.") => Ok(Some(None)),
        hidden => Ok(Some(Some(Entry {
            path: directory.join(hidden),
            action: Action::Whiteout,
        }))),
    }
}

fn symlink_target(member: &Member) -> Result<Vec<u8>, LayerFault> {
    let target = &member.link;
    if target.is_empty() || target.len() >= PATH_BYTES_MAX || target.contains(&0) {
        return Err(LayerFault::SymlinkTarget {
            path: printable(&member.path, 300),
        });
    }
    Ok(target.clone())
}

/// Attributes that the rootfs keeps, sorted by name: those of namespaces that EROFS can hold, without
/// `trusted.overlay.*`, which would let a layer imitate overlayfs's own whiteouts and redirects in the guest.
fn keep_xattrs(member: &Member) -> Result<Vec<Xattr>, LayerFault> {
    let kept = |xattr: &&Xattr| {
        let name = xattr.name.as_slice();
        let known = [&b"user."[..], b"trusted.", b"security."]
            .iter()
            .any(|p| name.len() > p.len() && name.starts_with(p));
        let acl = matches!(name, b"system.posix_acl_access" | b"system.posix_acl_default");
        (known || acl) && !name.starts_with(b"trusted.overlay.")
    };
    let mut xattrs: Vec<Xattr> = member.xattrs.iter().filter(kept).cloned().collect();
    let bytes: usize = xattrs
        .iter()
        .map(|xattr| xattr.name.len() + xattr.value.len() + 8)
        .sum();
    let valid = |xattr: &Xattr| xattr.name.len() <= COMPONENT_BYTES_MAX && !xattr.name.contains(&0);
    if bytes > XATTR_BYTES_MAX || !xattrs.iter().all(valid) {
        return Err(LayerFault::Xattrs {
            path: printable(&member.path, 300),
        });
    }
    xattrs.sort();
    Ok(xattrs)
}

fn read_fault(error: ReadTarError, watch: &Watch) -> LayerFault {
    match error {
        ReadTarError::Read(error) => watch.fault(error),
        ReadTarError::LongHeader => LayerFault::LongHeader,
        error => watch.misread(&error),
    }
}
