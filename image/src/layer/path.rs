//! Conversion of names in a layer's tar to paths below the root.
//!
//! Tar names are arbitrary bytes. As in docker and containerd, a leading `/` means the root of the image, `.` and empty
//! components are dropped and `x/..` cancels out; a name that climbs above the root is refused. Symbolic links are not
//! considered here: the merge resolves them inside the root, see `tree`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::{COMPONENT_BYTES_MAX, PATH_BYTES_MAX, PATH_DEPTH_MAX};
use crate::text::printable;

/// Path below the root of an image: components joined by single `/`, none of them empty, `.` or `..`. The root itself
/// is the empty path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LayerPath(Vec<u8>);

/// Reason why a name in a layer is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum NameFault {
    /// The name has more `..` than components before them.
    #[error("leaves the image's root")]
    Escapes,
    /// The name has a NUL byte, which no Linux file name can contain.
    #[error("contains a NUL byte")]
    Nul,
    /// The name is longer than the limit.
    #[error("is longer than {PATH_BYTES_MAX} bytes")]
    Long,
    /// A component is longer than the limit.
    #[error("has a component longer than {COMPONENT_BYTES_MAX} bytes")]
    LongComponent,
    /// The name has more components than the limit.
    #[error("is deeper than {PATH_DEPTH_MAX} directories")]
    Deep,
    /// The name is `.wh.` without a valid file name after it.
    #[error("is not a valid whiteout")]
    Whiteout,
}

impl LayerPath {
    /// Converts a tar name to the path that it means.
    pub(crate) fn normalise(name: &[u8]) -> Result<Self, NameFault> {
        if name.len() > PATH_BYTES_MAX {
            return Err(NameFault::Long);
        }
        if name.contains(&0) {
            return Err(NameFault::Nul);
        }
        let mut parts: Vec<&[u8]> = Vec::new();
        for part in name.split(|&b| b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => {
                    parts.pop().ok_or(NameFault::Escapes)?;
                }
                part if part.len() > COMPONENT_BYTES_MAX => return Err(NameFault::LongComponent),
                part => parts.push(part),
            }
        }
        if parts.len() > PATH_DEPTH_MAX {
            return Err(NameFault::Deep);
        }
        Ok(Self(parts.join(&b'/')))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|&b| b == b'/').filter(|part| !part.is_empty())
    }

    /// Splits the path into the directory and the name in it; `None` for the root.
    pub(crate) fn split_last(&self) -> Option<(LayerPath, &[u8])> {
        if self.0.is_empty() {
            return None;
        }
        match self.0.iter().rposition(|&b| b == b'/') {
            Some(slash) => Some((Self(self.0[..slash].to_vec()), &self.0[slash + 1..])),
            None => Some((Self(Vec::new()), &self.0)),
        }
    }

    /// Path of the entry `name` of this directory.
    pub(crate) fn join(&self, name: &[u8]) -> Self {
        if self.0.is_empty() {
            Self(name.to_vec())
        } else {
            Self([&self.0, name].join(&b'/'))
        }
    }
}

impl fmt::Display for LayerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(if self.0.is_empty() { b"/" } else { &self.0 }, 300))
    }
}

impl fmt::Debug for LayerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn normalise(name: &[u8]) -> Result<Vec<u8>, NameFault> {
        LayerPath::normalise(name).map(|path| path.0)
    }

    #[test]
    fn names_mean_what_they_mean_to_docker() {
        assert_eq!(normalise(b"./"), Ok(b"".to_vec()));
        assert_eq!(normalise(b"/etc//passwd"), Ok(b"etc/passwd".to_vec()));
        assert_eq!(normalise(b"./a/../b/"), Ok(b"b".to_vec()));
        assert_eq!(normalise(b"caf\xe9"), Ok(b"caf\xe9".to_vec()));
        assert_eq!(normalise(b"../etc/passwd"), Err(NameFault::Escapes));
        assert_eq!(normalise(b"a/../../b"), Err(NameFault::Escapes));
        assert_eq!(normalise(b"a\0b"), Err(NameFault::Nul));
        assert_eq!(normalise(&[b'a'; 256]), Err(NameFault::LongComponent));
        assert_eq!(normalise(&b"a/".repeat(129)), Err(NameFault::Deep));
    }

    proptest! {
        #[test]
        fn normal_paths_stay_and_stay_inside(name in proptest::collection::vec(prop_oneof![Just(b'/'), Just(b'.'), any::<u8>()], 0..64)) {
            if let Ok(path) = LayerPath::normalise(&name) {
                prop_assert!(path.components().all(|part| !matches!(part, b"" | b"." | b"..")));
                prop_assert_eq!(LayerPath::normalise(path.as_bytes()), Ok(path.clone()));
            }
        }
    }
}
