//! Labels as `key=value` words.

use serde_json::{Map, Value};

/// Whether a filter `label=KEY` or `label=KEY=VALUE` chooses what has these.
pub(crate) fn are_chosen(labels: &[String], wanted: &str) -> bool {
    labels
        .iter()
        .any(|label| label == wanted || (!wanted.contains('=') && label.split('=').next() == Some(wanted)))
}

/// As `inspect` shows them.
pub(crate) fn object(labels: &[String]) -> Map<String, Value> {
    labels
        .iter()
        .map(|label| label.split_once('=').unwrap_or((label, "")))
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect()
}
