//! Filters of `capsid images --filter`.

use std::collections::HashMap;

use anyhow::{Context as _, bail};
use capsid_image::{Image, Reference, Store};
use regex_lite::Regex;

use super::filter::{self, LabelFilter};
use crate::clock;

/// Filter of images.
#[derive(Debug)]
pub(super) enum ImageFilter {
    /// Images older than the one of this name.
    Before(String),
    /// Images newer than the one of this name.
    Since(String),
    Reference(ReferencePattern),
    Dangling(bool),
    Label(LabelFilter),
}

impl ImageFilter {
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let (name, value) = filter::halves(text)?;
        if let Some(label) = LabelFilter::parse(name, value) {
            return Ok(Self::Label(label));
        }
        Ok(match name {
            "before" => Self::Before(value.into()),
            "since" => Self::Since(value.into()),
            "reference" => Self::Reference(ReferencePattern::parse(value)?),
            "dangling" => Self::Dangling(filter::truth(name, value)?),
            other => bail!("there is no filter {other:?}: use before, since, reference, dangling, label or label!"),
        })
    }
}

/// Filters with the data of the store that they need.
#[derive(Debug)]
pub(super) struct ImageFilters {
    filters: Vec<ImageFilter>,
    /// Time in nanoseconds since 1970 at which images that filters name were created.
    made_ns: HashMap<String, i64>,
}

impl ImageFilters {
    pub(super) fn new(filters: Vec<ImageFilter>, store: &Store) -> anyhow::Result<Self> {
        let mut made_ns = HashMap::new();
        for filter in &filters {
            if let ImageFilter::Before(name) | ImageFilter::Since(name) = filter {
                let image = store.find(name)?.with_context(|| format!("no such image: {name}"))?;
                made_ns.insert(name.clone(), created_ns(&image));
            }
        }
        Ok(Self { filters, made_ns })
    }

    /// Whether an image is listed under one of its names, or without one.
    pub(super) fn take(&self, name: Option<&Reference>, image: &Image) -> bool {
        let takes = |filter: &ImageFilter| match filter {
            ImageFilter::Before(other) => self.made_ns.get(other).is_some_and(|at| created_ns(image) < *at),
            ImageFilter::Since(other) => self.made_ns.get(other).is_some_and(|at| created_ns(image) > *at),
            ImageFilter::Reference(pattern) => name.is_some_and(|name| pattern.takes(name)),
            ImageFilter::Dangling(wanted) => image.references.is_empty() == *wanted,
            ImageFilter::Label(label) => {
                let labels = image.config.labels.iter();
                label.takes(&labels.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>())
            }
        };
        filter::pass(&self.filters, |filter| matches!(filter, ImageFilter::Label(_)), takes)
    }
}

fn created_ns(image: &Image) -> i64 {
    image.config.created.as_deref().and_then(clock::parse).unwrap_or(0)
}

/// Pattern of a reference as in docker: `*` and `?` match anything but a slash, `[a-c]` one character.
#[derive(Debug)]
pub(super) struct ReferencePattern(Regex);

impl ReferencePattern {
    pub(super) fn parse(pattern: &str) -> anyhow::Result<Self> {
        let wrong = || format!("invalid pattern {pattern:?} of a reference");
        let mut regex = String::from("^");
        let mut rest = pattern.chars();
        while let Some(c) = rest.next() {
            match c {
                '*' => regex.push_str("[^/]*"),
                '?' => regex.push_str("[^/]"),
                '[' => {
                    let class: String = rest.by_ref().take_while(|c| *c != ']').collect();
                    let (negated, class) = class.strip_prefix('^').map_or(("", &*class), |class| ("^", class));
                    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
                    if class.is_empty() || !class.chars().all(is_plain) {
                        bail!(wrong());
                    }
                    regex.push_str(&format!("[{negated}{class}]"));
                }
                '\\' => regex.push_str(&regex_lite::escape(&rest.next().with_context(wrong)?.to_string())),
                c => regex.push_str(&regex_lite::escape(c.encode_utf8(&mut [0; 4]))),
            }
        }
        regex.push('$');
        Ok(Self(Regex::new(&regex).with_context(wrong)?))
    }

    /// Whether the name matches this pattern, with its tag or without.
    pub(super) fn takes(&self, name: &Reference) -> bool {
        self.0.is_match(&name.to_string()) || self.0.is_match(&name.familiar_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read() {
        for text in [
            "before=a",
            "since=a:1",
            "reference=a*",
            "dangling=true",
            "label=a",
            "label!=a=b",
        ] {
            assert!(ImageFilter::parse(text).is_ok(), "{text}");
        }
        for text in [
            "a",
            "color=red",
            "dangling=maybe",
            "reference=[",
            "reference=[]",
            "reference=a\\",
        ] {
            assert!(ImageFilter::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn references_are_found_as_docker_finds_them() {
        let takes = |pattern: &str, name: &str| {
            let name: Reference = name.parse().unwrap();
            ReferencePattern::parse(pattern).unwrap().takes(&name)
        };
        assert!(takes("busybox", "busybox:1") && takes("busy*:*", "busybox:1") && takes("b?sy[a-c]ox", "busybox"));
        assert!(
            takes("*/redis", "bitnami/redis:7") && takes("[^x]*:1.0", "a:1.0") && takes("ghcr.io/*/*", "ghcr.io/a/b")
        );
        assert!(
            !takes("busy", "busybox") && !takes("*", "bitnami/redis") && !takes("a.b", "acb") && !takes("*:2", "a:1")
        );
    }
}
