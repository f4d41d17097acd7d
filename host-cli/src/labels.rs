//! Labels as `key=value` words.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Merges the labels of a container, sorted by key: the image's, overlaid by the user's, of which the last one with a
/// key counts.
pub(crate) fn overlay(image: &BTreeMap<String, String>, user: &[String]) -> Vec<String> {
    let mut labels: BTreeMap<&str, &str> = image
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    labels.extend(user.iter().map(|label| label.split_once('=').unwrap_or((label, ""))));
    labels
        .into_iter()
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| format!("{key}={value}"))
        .collect()
}

/// Whether a filter `label=KEY` or `label=KEY=VALUE` matches these labels.
pub(crate) fn are_chosen(labels: &[String], wanted: &str) -> bool {
    labels
        .iter()
        .any(|label| label == wanted || (!wanted.contains('=') && label.split('=').next() == Some(wanted)))
}

/// Converts labels to the object that `inspect` shows.
pub(crate) fn object(labels: &[String]) -> Map<String, Value> {
    labels
        .iter()
        .map(|label| label.split_once('=').unwrap_or((label, "")))
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_labels_overlay_the_images() {
        let image = [("a", "1"), ("b", "x=y"), ("", "no key")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let user = ["a=2", "c", "d=1", "d=2"].map(str::to_owned);
        assert_eq!(overlay(&BTreeMap::from(image), &user), ["a=2", "b=x=y", "c=", "d=2"]);
        assert_eq!(overlay(&BTreeMap::new(), &[]), Vec::<String>::new());
    }
}
