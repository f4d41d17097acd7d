//! Content digests.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// SHA-256 digest of some content: `sha256:` and 64 lower-case hexadecimal digits.
///
/// Paths in the store derive from this type alone, never from a string, so that a digest like `sha256:../../x`
/// (CVE-2024-3727) ends at [`Digest::from_str`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// Reason why a text is not a digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseDigestError {
    /// The text has no `algorithm:` before the digits.
    #[error("digest lacks an algorithm")]
    NoAlgorithm,
    /// The algorithm is not SHA-256.
    #[error("digest algorithm is not supported (only sha256 is)")]
    Algorithm,
    /// The digits are not 64 lower-case hexadecimal ones.
    #[error("digest is not 64 hexadecimal digits")]
    Digits,
}

impl Digest {
    /// Digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// All 64 hexadecimal digits, without the algorithm.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }

    pub(crate) fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    /// First 12 hexadecimal digits, as docker shows ids.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }

    /// Parses a digest from its 64 hexadecimal digits.
    pub fn from_hex(digits: &str) -> Result<Self, ParseDigestError> {
        if digits.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ParseDigestError::Digits);
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| ParseDigestError::Digits)?;
        Ok(Self(bytes))
    }
}

/// Digests bytes as they pass through.
#[derive(Clone, Default)]
pub(crate) struct Hasher(Sha256);

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (algorithm, digits) = text.split_once(':').ok_or(ParseDigestError::NoAlgorithm)?;
        if algorithm != "sha256" {
            return Err(ParseDigestError::Algorithm);
        }
        Self::from_hex(digits)
    }
}

impl TryFrom<String> for Digest {
    type Error = ParseDigestError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_what_could_become_a_path() {
        for text in [
            "",
            "sha256",
            "sha256:",
            "sha256:../../../etc/passwd",
            "sha512:00",
            "../x:00",
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
        assert!(format!("sha256:{}", "A".repeat(64)).parse::<Digest>().is_err());
        assert!(format!("sha256:{}/", "a".repeat(63)).parse::<Digest>().is_err());
    }

    proptest! {
        #[test]
        fn text_round_trips(bytes: [u8; 32]) {
            let digest = Digest(bytes);
            prop_assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in ".*") {
            if let Ok(digest) = text.parse::<Digest>() {
                prop_assert_eq!(digest.to_string(), text);
            }
        }
    }
}
