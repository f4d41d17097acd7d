//! PAX extended headers (POSIX.1-2001, `pax` "Extended Header"): `LENGTH KEY=VALUE\n` records.
//!
//! Records are delimited by their length and by nothing else: the value of `SCHILY.xattr.security.capability` is binary
//! and may contain newlines. A reader that splits lines instead can be made to see other names and sizes than docker.

use crate::limits::XATTRS_MAX;
use crate::reader::Xattr;
use crate::sparse::SparseFormat;

/// Records of one extended header. Later records win; an empty value revokes a record.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pax {
    pub path: Option<Vec<u8>>,
    pub link_path: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<(i64, u32)>,
    pub xattrs: Vec<Xattr>,
    pub sparse: SparseFormat,
}

/// Error of a malformed record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MalformedPax;

impl Pax {
    pub(crate) fn parse(mut bytes: &[u8]) -> Result<Self, MalformedPax> {
        let mut pax = Self::default();
        while !bytes.is_empty() {
            let (record, rest) = split_record(bytes).ok_or(MalformedPax)?;
            bytes = rest;
            let equals = record.iter().position(|&b| b == b'=').ok_or(MalformedPax)?;
            pax.set(&record[..equals], &record[equals + 1..])?;
        }
        Ok(pax)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), MalformedPax> {
        let text = || Some(value.to_vec()).filter(|value| !value.is_empty());
        match key {
            b"path" => self.path = text(),
            b"linkpath" => self.link_path = text(),
            b"size" => self.size = number(value)?,
            b"uid" => self.uid = number(value)?,
            b"gid" => self.gid = number(value)?,
            b"mtime" => {
                self.mtime = if value.is_empty() {
                    None
                } else {
                    Some(time(value).ok_or(MalformedPax)?)
                }
            }
            b"GNU.sparse.name" => self.path = text(),
            key => match (key.strip_prefix(b"SCHILY.xattr."), key.strip_prefix(b"GNU.sparse.")) {
                (Some(name), _) => self.set_xattr(name, value)?,
                (_, Some(field)) => self.sparse.set(field, value).ok_or(MalformedPax)?,
                _ => {}
            },
        }
        Ok(())
    }

    fn set_xattr(&mut self, name: &[u8], value: &[u8]) -> Result<(), MalformedPax> {
        self.xattrs.retain(|xattr| xattr.name != name);
        if self.xattrs.len() == XATTRS_MAX {
            return Err(MalformedPax);
        }
        self.xattrs.push(Xattr {
            name: name.to_vec(),
            value: value.to_vec(),
        });
        Ok(())
    }
}

/// Splits off the first record, without its length and newline; also returns the bytes after it.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|&b| b == b' ')?;
    let length: usize = decimal(&bytes[..space])?;
    let record = bytes.get(space + 1..length)?;
    let record = record.strip_suffix(b"\n")?;
    Some((record, &bytes[length..]))
}

fn number<T: std::str::FromStr>(value: &[u8]) -> Result<Option<T>, MalformedPax> {
    if value.is_empty() {
        Ok(None)
    } else {
        decimal(value).map(Some).ok_or(MalformedPax)
    }
}

/// Parses a number that consists of digits only: no sign, no space.
pub(crate) fn decimal<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Parses seconds since 1970 with a fraction, as in `-1.25`; digits beyond nanoseconds are cut off.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|&b| b == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    let seconds: i64 = decimal(whole)?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanoseconds = fraction
        .iter()
        .chain(std::iter::repeat(&b'0'))
        .take(9)
        .fold(0, |n, d| n * 10 + u32::from(d - b'0'));
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let mut length = body.len() + 1;
        while length.to_string().len() + body.len() != length {
            length = length.to_string().len() + body.len();
        }
        [length.to_string().as_bytes(), &body].concat()
    }

    #[test]
    fn values_may_hold_newlines_and_records() {
        let smuggled = [b"\n\n".as_slice(), &record("path", b"evil")].concat();
        let bytes = [
            record("SCHILY.xattr.user.a", &smuggled),
            record("path", b"good"),
            record("uid", b"70000"),
        ]
        .concat();
        let pax = Pax::parse(&bytes).unwrap();
        assert_eq!((pax.path.as_deref(), pax.uid), (Some(&b"good"[..]), Some(70_000)));
        assert_eq!(
            pax.xattrs,
            [Xattr {
                name: b"user.a".to_vec(),
                value: smuggled
            }]
        );
    }

    #[test]
    fn times_round_down() {
        assert_eq!(time(b"12"), Some((12, 0)));
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"12.1234567899"), Some((12, 123_456_789)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"-3"), Some((-3, 0)));
        for bad in [&b"x"[..], b"1.x", b"+1", b"1e9", b"--1"] {
            assert_eq!(time(bad), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Pax::parse(&bytes);
        }
    }
}
