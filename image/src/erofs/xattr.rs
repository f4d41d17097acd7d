//! Extended attributes, all of them beside their inode.

use capsid_archive::Xattr;

/// Length of the header: name filter, count of shared attributes, reserved bytes.
const HEADER_BYTES: usize = 12;

/// Splits a name into EROFS's number for its namespace, and the name without it.
fn split_namespace(name: &[u8]) -> Option<(u8, &[u8])> {
    match name {
        b"system.posix_acl_access" => Some((2, b"")),
        b"system.posix_acl_default" => Some((3, b"")),
        name => [(1, &b"user."[..]), (4, b"trusted."), (6, b"security.")]
            .into_iter()
            .find_map(|(number, prefix)| Some((number, name.strip_prefix(prefix)?))),
    }
}

/// Encodes attributes as they stand behind the inode; empty if there are none. The length is a multiple of 4 bytes.
pub(super) fn encode(xattrs: &[Xattr]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for xattr in xattrs {
        let Some((namespace, name)) = split_namespace(&xattr.name) else {
            continue;
        };
        if bytes.is_empty() {
            bytes.resize(HEADER_BYTES, 0);
        }
        // Lengths are below 256 and 65536: the converter keeps no longer ones.
        bytes.extend([name.len() as u8, namespace]);
        bytes.extend((xattr.value.len() as u16).to_le_bytes());
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(&xattr.value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// Value of `i_xattr_icount` for attributes of `bytes` encoded bytes.
pub(super) fn count_field(bytes: usize) -> u16 {
    if bytes == 0 {
        0
    } else {
        ((bytes - HEADER_BYTES) / 4 + 1) as u16
    }
}
