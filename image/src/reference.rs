//! Names of images, as docker writes them.

use std::fmt;
use std::str::FromStr;

use crate::digest::{Digest, ParseDigestError};
use crate::text::printable;

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_NAMESPACE: &str = "library";
const DEFAULT_TAG: &str = "latest";
/// Longest name, bytes, as in docker's grammar.
const NAME_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;

/// Location of an image: registry, repository, and a tag or digest.
///
/// `busybox` means `docker.io/library/busybox:latest`. A first part with a dot or colon, or `localhost`, is a registry.
/// With both tag and digest the digest counts and the tag is dropped, as docker does.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    version: Version,
}

/// Tag or digest that follows the name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// Tag, written `:tag`.
    Tag(String),
    /// Digest, written `@sha256:...`.
    Digest(Digest),
}

/// Reason why a text is not a reference.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseReferenceError {
    /// The text does not match docker's grammar.
    #[error("invalid reference format: {text:?}")]
    Format {
        /// Text that could not be parsed.
        text: String,
    },
    /// The text matches docker's grammar, except for upper-case letters.
    #[error("invalid reference format: {text:?}: repository name must be lowercase")]
    Uppercase {
        /// Text that could not be parsed.
        text: String,
    },
    /// The part after `@` is not a digest.
    #[error("invalid reference format: {text:?}")]
    Digest {
        /// Text that could not be parsed.
        text: String,
        /// Cause of the error.
        #[source]
        source: ParseDigestError,
    },
}

impl Reference {
    /// Name of the registry as users write it: `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Name of the repository within the registry: `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Tag or digest of the reference.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// Tag of the reference, if it names one.
    pub fn tag(&self) -> Option<&str> {
        match &self.version {
            Version::Tag(tag) => Some(tag),
            Version::Digest(_) => None,
        }
    }

    /// Digest of the reference, if it names one.
    pub fn digest(&self) -> Option<Digest> {
        match &self.version {
            Version::Tag(_) => None,
            Version::Digest(digest) => Some(*digest),
        }
    }

    /// Complete name: `docker.io/library/busybox:latest`.
    pub fn canonical(&self) -> String {
        format!("{}/{}{}", self.registry, self.repository, self.version)
    }

    /// Name without tag or digest as docker shows it: `busybox`.
    pub fn familiar_name(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return format!("{}/{}", self.registry, self.repository);
        }
        let library = self
            .repository
            .strip_prefix("library/")
            .filter(|rest| !rest.contains('/'));
        library.unwrap_or(&self.repository).to_owned()
    }

    /// Reference to a digest in the same repository.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            version: Version::Digest(digest),
            ..self.clone()
        }
    }

    /// Registry and repository, without tag or digest.
    pub(crate) fn canonical_name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Version::Tag(tag) => write!(f, ":{tag}"),
            Version::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.familiar_name(), self.version)
    }
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown = || printable(text.as_bytes(), 300);
        let refuse = || ParseReferenceError::Format { text: shown() };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let parsed = digest
                    .parse()
                    .map_err(|source| ParseReferenceError::Digest { text: shown(), source });
                (rest, Some(parsed?))
            }
            None => (text, None),
        };
        let (registry, rest) = match rest.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
            _ => (DEFAULT_REGISTRY, rest),
        };
        let registry = if registry == "index.docker.io" {
            DEFAULT_REGISTRY
        } else {
            registry
        };
        let (repository, tag) = match rest.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, None),
        };
        if registry.len() + repository.len() > NAME_BYTES_MAX || !is_registry(registry) || !tag.is_none_or(is_tag) {
            return Err(refuse());
        }
        if !repository.split('/').all(is_component) {
            let lowered = repository.to_ascii_lowercase();
            let only_case = lowered.split('/').all(is_component);
            return Err(if only_case {
                ParseReferenceError::Uppercase { text: shown() }
            } else {
                refuse()
            });
        }
        let repository = if registry == DEFAULT_REGISTRY && !repository.contains('/') {
            format!("{DEFAULT_NAMESPACE}/{repository}")
        } else {
            repository.to_owned()
        };
        let version = match digest {
            Some(digest) => Version::Digest(digest),
            None => Version::Tag(tag.unwrap_or(DEFAULT_TAG).to_owned()),
        };
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            version,
        })
    }
}

/// Whether a text is a host name, an IPv4 or a bracketed IPv6 address, with an optional port.
fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => ("v6", port),
            _ => return false,
        },
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let port = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u16>().is_ok());
    port && host.split('.').all(label)
}

/// Whether a text is lower-case letters and digits with single `.`, one or two `_`, or dashes between them.
fn is_component(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !word(first) || !word(last) {
        return false;
    }
    let separators = bytes.split(|&b| word(b)).filter(|run| !run.is_empty());
    separators
        .into_iter()
        .all(|run| matches!(run, b"." | b"_" | b"__") || run.iter().all(|&b| b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= TAG_BYTES_MAX
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(text: &str) -> Result<String, ParseReferenceError> {
        text.parse::<Reference>().map(|reference| reference.canonical())
    }

    #[test]
    fn short_names_are_dockers() {
        for (text, whole, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
            (
                "docker.io/busybox",
                "docker.io/library/busybox:latest",
                "busybox:latest",
            ),
            (
                "index.docker.io/library/busybox",
                "docker.io/library/busybox:latest",
                "busybox:latest",
            ),
            (
                "bitnami/redis",
                "docker.io/bitnami/redis:latest",
                "bitnami/redis:latest",
            ),
            ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c", "localhost:5000/a/b:c"),
            (
                "ghcr.io/a__b/c.d-e",
                "ghcr.io/a__b/c.d-e:latest",
                "ghcr.io/a__b/c.d-e:latest",
            ),
            ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
        ] {
            assert_eq!(canonical(text).as_deref(), Ok(whole), "{text}");
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), familiar);
        }
    }

    #[test]
    fn a_digest_wins_over_a_tag() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let reference: Reference = format!("busybox:1@{digest}").parse().unwrap();
        assert_eq!(reference.to_string(), format!("busybox@{digest}"));
        assert_eq!(reference.digest().unwrap().to_string(), digest);
    }

    #[test]
    fn what_docker_refuses_is_refused() {
        let long_tag = format!("a:{}", "t".repeat(129));
        for bad in [
            "",
            "/",
            "a/",
            "a//b",
            "-a",
            "a-",
            "a___b",
            "a:",
            "a:-",
            "a b",
            "a@b",
            "a@sha256:00",
            "../a",
            "a/../b",
            "localhost:99999/a",
            "localhost:+80/a",
            "evil\u{1b}[31m",
            long_tag.as_str(),
        ] {
            assert!(canonical(bad).is_err(), "{bad:?}");
        }
        assert!(matches!(
            canonical("Busybox"),
            Err(ParseReferenceError::Uppercase { .. })
        ));
    }

    proptest! {
        #[test]
        fn canonical_and_familiar_forms_parse_to_the_same(text in "([a-z]{1,5}(\\.[a-z]{2})?(:[0-9]{1,4})?/)?[a-z0-9]{1,6}(/[a-z._-]{1,4})?(:[A-Za-z0-9._-]{1,5})?") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(&reference.canonical().parse::<Reference>().unwrap(), &reference);
                prop_assert_eq!(&reference.to_string().parse::<Reference>().unwrap(), &reference);
            }
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in ".*") {
            let _ = text.parse::<Reference>();
        }
    }
}
