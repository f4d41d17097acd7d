//! `WWW-Authenticate`: the authorization that a registry asks for (RFC 9110, 11.6.1; docker's token specification).

use std::collections::HashMap;

use crate::limits::{CHALLENGE_BYTES_MAX, CHALLENGE_PARAMETERS_MAX};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl Challenge {
    /// Parses the first challenge of a header. `None` for an unknown scheme, a bearer challenge without realm, or a
    /// challenge that two parsers could understand differently: with a parameter twice, or over a limit.
    pub(super) fn parse(header: &str) -> Option<Self> {
        if header.len() > CHALLENGE_BYTES_MAX {
            return None;
        }
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut parameters = parameters(rest)?;
        let realm = parameters.remove("realm")?;
        Some(Self::Bearer {
            realm,
            service: parameters.remove("service"),
            scope: parameters.remove("scope"),
        })
    }
}

/// Parses `key=value` and `key="value"` separated by commas.
fn parameters(mut text: &str) -> Option<HashMap<String, String>> {
    let mut found = HashMap::new();
    loop {
        text = text.trim_start_matches([' ', ',', '\t']);
        if text.is_empty() {
            return Some(found);
        }
        let (key, rest) = text.split_once('=')?;
        let value = match rest.strip_prefix('"') {
            Some(quoted) => {
                let (value, rest) = unquote(quoted)?;
                text = rest;
                value
            }
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                text = &rest[end..];
                rest[..end].trim().to_owned()
            }
        };
        let is_new = found.insert(key.trim().to_ascii_lowercase(), value).is_none();
        if !is_new || found.len() > CHALLENGE_PARAMETERS_MAX {
            return None;
        }
    }
}

/// Splits off the string up to the closing quote; also returns the text after it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn challenges_of_real_registries() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        let bearer = Challenge::Bearer {
            realm: "https://auth.docker.io/token".into(),
            service: Some("registry.docker.io".into()),
            scope: Some("repository:a/b:pull,push".into()),
        };
        assert_eq!(Challenge::parse(hub), Some(bearer));
        assert_eq!(Challenge::parse("Basic realm=\"x\""), Some(Challenge::Basic));
        for bad in [
            "",
            "Negotiate",
            "Bearer",
            "Bearer realm",
            "Bearer realm=\"open",
            "Bearer service=\"x\"",
            "Bearer realm=\"https://a/\", realm=\"https://b/\"",
            "Bearer realm=\"https://a/\", REALM=b",
        ] {
            assert_eq!(Challenge::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_parsed_or_refused(text in ".*") {
            let _ = Challenge::parse(&text);
        }
    }
}
