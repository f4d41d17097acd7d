//! Log of a container, in docker's json-file format: one JSON object per line, with the text, its stream and its time.
//!
//! ```text
//! log.json       {"log":"hello\n","stream":"stdout","time":"2026-02-03T04:05:06.000000007Z"}
//! log.json.1     the file before that, and so on
//! ```
//!
//! Text that is not UTF-8 is stored twice: as docker has it, with replacement characters, and exactly, as `raw` in
//! hexadecimal digits, which docker's tools ignore.

mod reader;
mod writer;

use serde::{Deserialize, Serialize};

pub(crate) use reader::{LogReader, Selection};
pub(crate) use writer::LogWriter;

/// Most bytes of one line; a longer one continues in the next object, as in docker.
pub(crate) const LINE_BYTES_MAX: usize = 16 << 10;

/// Output stream that a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogStream {
    Stdout,
    Stderr,
}

/// Line of the log file.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub log: String,
    pub stream: LogStream,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
    pub time: String,
}

impl Entry {
    /// Creates an entry for output bytes.
    pub(crate) fn new(bytes: &[u8], stream: LogStream, time: String) -> Self {
        let (log, raw) = match std::str::from_utf8(bytes) {
            Ok(text) => (text.to_owned(), None),
            Err(_) => (String::from_utf8_lossy(bytes).into_owned(), Some(hex::encode(bytes))),
        };
        Self { log, stream, raw, time }
    }

    /// Returns the exact output bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match self.raw.as_deref().map(hex::decode) {
            Some(Ok(bytes)) => bytes,
            _ => self.log.clone().into_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn bytes_come_back(bytes: Vec<u8>) {
            let entry = Entry::new(&bytes, LogStream::Stdout, String::new());
            let line = serde_json::to_string(&entry).unwrap();
            proptest::prop_assert!(!line.contains('\n'));
            let again: Entry = serde_json::from_str(&line).unwrap();
            proptest::prop_assert_eq!(again.bytes(), bytes);
        }
    }
}
