//! Detach keys, which leave a container running and give the terminal back.

use std::str::FromStr;

/// Sequence of keys, and how much of it has been typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DetachKeys {
    sequence: Vec<u8>,
    typed: usize,
}

/// Meaning of typed bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    /// Bytes for the container.
    Bytes(Vec<u8>),
    /// Complete detach sequence.
    Detach,
}

impl Default for DetachKeys {
    /// Returns docker's keys, Ctrl-P Ctrl-Q.
    fn default() -> Self {
        Self {
            sequence: vec![0x10, 0x11],
            typed: 0,
        }
    }
}

impl FromStr for DetachKeys {
    type Err = String;

    /// Parses `ctrl-p,ctrl-q` or single characters, separated by commas; an empty text means no keys.
    fn from_str(text: &str) -> Result<Self, String> {
        let key = |word: &str| match (word.strip_prefix("ctrl-"), word.as_bytes()) {
            (Some(rest), _) => match rest.as_bytes() {
                [letter @ b'a'..=b'z'] => Ok(letter - b'a' + 1),
                [sign @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => Ok(sign & 0x1f),
                _ => Err(format!(
                    "{word:?} is no key: write ctrl- and a letter or one of @ [ \\ ] ^ _"
                )),
            },
            (None, [byte]) => Ok(*byte),
            _ => Err(format!("{word:?} is no key: write one character, or ctrl- and one")),
        };
        let words = text.split(',').filter(|word| !word.is_empty());
        Ok(Self {
            sequence: words.map(key).collect::<Result<_, _>>()?,
            typed: 0,
        })
    }
}

impl DetachKeys {
    /// Processes typed bytes. An incomplete sequence is passed to the container whole.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Typed {
        let mut passed = Vec::with_capacity(bytes.len() + self.typed);
        for byte in bytes {
            if self.sequence.get(self.typed) == Some(byte) {
                self.typed += 1;
                if self.is_complete() {
                    return Typed::Detach;
                }
                continue;
            }
            passed.extend_from_slice(&self.sequence[..self.typed]);
            self.typed = usize::from(self.sequence.first() == Some(byte));
            if self.typed == 0 {
                passed.push(*byte);
            }
        }
        Typed::Bytes(passed)
    }

    /// Whether all keys have been typed.
    pub(crate) fn is_complete(&self) -> bool {
        !self.sequence.is_empty() && self.typed == self.sequence.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_detaches_also_in_pieces() {
        let mut keys = DetachKeys::default();
        assert_eq!(keys.take(b"a\x10"), Typed::Bytes(b"a".to_vec()));
        assert_eq!(keys.take(b"\x11"), Typed::Detach);
    }

    #[test]
    fn what_only_begins_like_it_arrives() {
        let mut keys = DetachKeys::default();
        assert_eq!(keys.take(b"\x10x\x10\x10"), Typed::Bytes(b"\x10x\x10".to_vec()));
        assert_eq!(keys.take(b"\x11"), Typed::Detach);
    }

    #[test]
    fn words_for_keys() {
        assert_eq!("ctrl-p,ctrl-q".parse(), Ok(DetachKeys::default()));
        assert!("ctrl-1".parse::<DetachKeys>().is_err());
        let mut none: DetachKeys = "".parse().unwrap();
        assert_eq!(none.take(b"\x10\x11"), Typed::Bytes(b"\x10\x11".to_vec()));
    }
}
