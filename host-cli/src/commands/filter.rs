//! Rules of all `--filter` flags: as in docker, filters of different kinds must all match, and those of one kind are
//! alternatives, except for labels.

use std::mem::discriminant;

use anyhow::{Context as _, bail};

use crate::labels;

/// Splits a filter `name=value` into its two halves.
pub(super) fn halves(text: &str) -> anyhow::Result<(&str, &str)> {
    text.split_once('=')
        .with_context(|| format!("invalid filter {text:?}: write name=value"))
}

/// Parses the value of a filter that is true or false.
pub(super) fn truth(name: &str, value: &str) -> anyhow::Result<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "t" => Ok(true),
        "false" | "0" | "f" => Ok(false),
        _ => bail!("invalid filter {name}={value:?}: write true or false"),
    }
}

/// Whether all of these filters that concern labels match, and one of each other kind.
pub(super) fn pass<F>(filters: &[F], is_label: impl Fn(&F) -> bool, takes: impl Fn(&F) -> bool) -> bool {
    filters.iter().all(|filter| {
        takes(filter)
            || (!is_label(filter)
                && filters
                    .iter()
                    .any(|other| discriminant(other) == discriminant(filter) && takes(other)))
    })
}

/// Filter `label=KEY[=VALUE]`, or `label!=KEY[=VALUE]` for objects without such a label.
#[derive(Debug, PartialEq)]
pub(super) struct LabelFilter {
    wanted: String,
    is_excluded: bool,
}

impl LabelFilter {
    /// Creates the filter of this name, if it concerns labels.
    pub(super) fn parse(name: &str, value: &str) -> Option<Self> {
        let is_excluded = match name {
            "label" => false,
            "label!" => true,
            _ => return None,
        };
        Some(Self {
            wanted: value.into(),
            is_excluded,
        })
    }

    pub(super) fn takes(&self, labels: &[String]) -> bool {
        labels::are_chosen(labels, &self.wanted) != self.is_excluded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    enum Filter {
        Number(u8),
        Letter(char),
        Label(u8),
    }

    #[test]
    fn kinds_are_conjunctive_and_one_kind_is_disjunctive() {
        use Filter::{Label, Letter, Number};
        let pass = |filters: &[Filter]| {
            let takes = |filter: &Filter| matches!(filter, Number(1) | Letter('a') | Label(0..=5));
            super::pass(filters, |filter| matches!(filter, Label(_)), takes)
        };
        assert!(pass(&[]) && pass(&[Number(2), Number(1), Letter('a'), Letter('b')]));
        assert!(!pass(&[Number(1), Letter('b')]) && !pass(&[Number(2)]));
        assert!(pass(&[Label(1), Label(2)]) && !pass(&[Label(1), Label(6)]));
    }

    #[test]
    fn labels_are_chosen_and_excluded() {
        let labels = ["tier=back".to_owned(), "plain=".to_owned()];
        let takes = |name, value| LabelFilter::parse(name, value).unwrap().takes(&labels);
        assert!(takes("label", "tier") && takes("label", "tier=back") && takes("label", "plain"));
        assert!(!takes("label", "tier=front") && !takes("label!", "tier") && takes("label!", "tier=front"));
        assert_eq!(LabelFilter::parse("name", "x"), None);
        assert_eq!(halves("label!=a=b").unwrap(), ("label!", "a=b"));
        assert!(truth("dangling", "TRUE").unwrap() && !truth("dangling", "0").unwrap());
        assert!(truth("dangling", "maybe").is_err());
    }
}
