//! Filter `--filter name=PATTERN` as in docker: a regular expression, for a name with or without a leading slash.

use anyhow::Context as _;
use regex_lite::Regex;

/// Regular expression that names are matched with.
#[derive(Debug)]
pub(super) struct NamePattern(Regex);

impl NamePattern {
    pub(super) fn parse(pattern: &str) -> anyhow::Result<Self> {
        let regex = Regex::new(pattern).with_context(|| format!("invalid filter name={pattern:?}"))?;
        Ok(Self(regex))
    }

    pub(super) fn takes(&self, name: &str) -> bool {
        self.0.is_match(name) || self.0.is_match(&format!("/{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_as_docker_finds_them() {
        let takes = |pattern: &str, name: &str| NamePattern::parse(pattern).unwrap().takes(name);
        assert!(takes("we", "web") && takes("^web$", "web") && takes("^/web$", "web") && takes("w.b|x", "web"));
        assert!(!takes("^web$", "web2") && !takes("^eb", "web") && !takes("/eb", "web"));
        assert!(NamePattern::parse("we(b").is_err());
    }
}
