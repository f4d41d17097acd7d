//! Platforms: operating system, architecture and variant, with Go's names.

use std::fmt;
use std::str::FromStr;

/// Platform that an image was built for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    /// Operating system: `linux`.
    pub os: String,
    /// Architecture: `amd64`, `arm64`, ...
    pub architecture: String,
    /// Variant of ARM: `v7`, `v8`, ...
    pub variant: Option<String>,
}

/// Reason why a text is not a platform.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("invalid platform {text:?}: expected OS/ARCH[/VARIANT], for example linux/amd64")]
pub struct ParsePlatformError {
    text: String,
}

impl Platform {
    /// Platform of this machine.
    pub fn host() -> Self {
        Self {
            os: "linux".into(),
            architecture: architecture_of(std::env::consts::ARCH).into(),
            variant: None,
        }
    }

    /// Creates a platform from the fields of a document.
    pub(crate) fn from_parts(os: &str, architecture: &str) -> Result<Self, ParsePlatformError> {
        let text = format!("{os}/{architecture}");
        let parsed: Self = text.parse()?;
        // A slash within a field would shift the parts.
        if parsed.variant.is_some() {
            Err(ParsePlatformError { text })
        } else {
            Ok(parsed)
        }
    }

    /// Whether an image built for `built` runs where `self` is wanted: x86-64 machines run programs for 32-bit x86 too.
    pub fn accepts(&self, built: &Platform) -> bool {
        let is_32_bit = self.os == built.os && self.architecture == "amd64" && built.architecture == "386";
        is_32_bit || self.matches(built)
    }

    /// Whether `built` is this platform. A variant that either side leaves out matches.
    pub fn matches(&self, built: &Platform) -> bool {
        self.os == built.os
            && self.architecture == built.architecture
            && match (&self.variant, &built.variant) {
                (Some(wanted), Some(built)) => wanted == built,
                _ => true,
            }
    }
}

/// Go's name for an architecture; names as `uname -m` prints them are accepted too.
fn architecture_of(name: &str) -> &str {
    match name {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "i386" | "i686" | "x86" => "386",
        "powerpc64le" => "ppc64le",
        other => other,
    }
}

impl FromStr for Platform {
    type Err = ParsePlatformError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParsePlatformError {
            text: text.chars().take(80).collect(),
        };
        let word = |part: &str| {
            let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            !part.is_empty() && part.len() <= 32 && part.chars().all(good)
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(|part| word(part)) {
            return Err(refuse());
        }
        let (os, architecture, variant) = match parts[..] {
            [architecture] if architecture != "linux" => ("linux", architecture, None),
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant.to_owned())),
            _ => return Err(refuse()),
        };
        let architecture = architecture_of(&architecture.to_ascii_lowercase()).to_owned();
        Ok(Self {
            os: os.to_ascii_lowercase(),
            architecture,
            variant,
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_64_bit_machine_runs_32_bit_images() {
        let platform = |text: &str| text.parse::<Platform>().unwrap();
        assert!(platform("amd64").accepts(&platform("386")));
        assert!(!platform("amd64").matches(&platform("386")));
        assert!(!platform("386").accepts(&platform("amd64")));
        assert!(!platform("arm64").accepts(&platform("386")));
    }

    #[test]
    fn parses_as_docker_does() {
        assert_eq!("linux/amd64".parse::<Platform>().unwrap().to_string(), "linux/amd64");
        assert_eq!("arm64".parse::<Platform>().unwrap().to_string(), "linux/arm64");
        assert_eq!("linux/x86_64".parse::<Platform>().unwrap().to_string(), "linux/amd64");
        assert_eq!(
            "linux/arm/v7".parse::<Platform>().unwrap().variant.as_deref(),
            Some("v7")
        );
        for bad in ["", "/", "linux/", "a/b/c/d", "linux/a b", "linux"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }
}
