//! Token services that may act for a registry, and so receive its users' credentials.

use std::net::IpAddr;
use std::str::FromStr;

use reqwest::Url;
use serde::Deserialize;

use super::RegistryError;
use crate::text::printable;

/// Host of a token service as a user names it: `HOST` or `HOST:PORT`. Without a port, the scheme's default port
/// applies.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct TokenHost {
    host: String,
    port: Option<u16>,
}

/// Reason why a text names no token service.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("invalid token realm {text:?}: write HOST or HOST:PORT")]
pub struct ParseTokenHostError {
    /// Text that could not be parsed.
    text: String,
}

impl FromStr for TokenHost {
    type Err = ParseTokenHostError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseTokenHostError {
            text: printable(text.as_bytes(), 255),
        };
        let is_bare = text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte));
        if !is_bare {
            return Err(error());
        }
        let url = Url::parse(&format!("https://{text}/")).map_err(|_| error())?;
        // In an IPv6 address, colons end with the bracket.
        let names_port = text.rsplit(']').next().is_some_and(|rest| rest.contains(':'));
        match url.host_str() {
            Some(host) => Ok(Self {
                host: host.to_owned(),
                port: url.port_or_known_default().filter(|_| names_port),
            }),
            None => Err(error()),
        }
    }
}

impl TryFrom<String> for TokenHost {
    type Error = ParseTokenHostError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl TokenHost {
    fn is_of(&self, url: &Url) -> bool {
        let default = if url.scheme() == "https" { 443 } else { 80 };
        url.host_str() == Some(&self.host) && url.port_or_known_default() == Some(self.port.unwrap_or(default))
    }
}

/// Token services of registries that have them on another host. `ghcr.io`, `quay.io`, `gcr.io`, `*.pkg.dev`,
/// `*.azurecr.io`, `nvcr.io` and `public.ecr.aws` have them on their own.
const BUILT_IN: [(&str, &str); 5] = [
    // docs.docker.com, "Registry authentication".
    ("docker.io", "auth.docker.io"),
    ("registry.hub.docker.com", "auth.docker.io"),
    // docs.gitlab.com, "GitLab container registry administration": `auth_token_realm` is GitLab's own address.
    ("registry.gitlab.com", "gitlab.com"),
    // www.docker.elastic.co; its challenge names https://docker-auth.elastic.co/auth.
    ("docker.elastic.co", "docker-auth.elastic.co"),
    // LinuxServer.io's name for its images at GitHub; its challenge names https://ghcr.io/token.
    ("lscr.io", "ghcr.io"),
];

/// Origin of a registry, and the token services that the user allows for it.
#[derive(Debug)]
pub(super) struct RealmPolicy {
    /// Name of the registry as users write it.
    pub registry: String,
    /// Origin of the registry.
    pub base: Url,
    /// Whether the registry's certificate was checked.
    pub is_verified: bool,
    /// Token services that the user named for the registry.
    pub named: Vec<TokenHost>,
}

/// Token service that may be asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Realm {
    pub url: Url,
    pub trust: Trust,
}

/// Reason why a token service may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// The service is of the registry's own origin.
    Own,
    /// The service is another port of the registry's host, or belongs to a well-known registry.
    Known,
    /// The user named the service.
    Named,
}

impl RealmPolicy {
    /// Allows the realm of a challenge from the registry's own origin, or refuses it. Credentials make no difference: a
    /// request without them would still be a request that the registry chose (SSRF).
    ///
    /// Any port of the registry's host is allowed where both are checked by certificate, which vouches for the host and
    /// not for a port (GitLab's registry is often `HOST:5050` with the realm at `HOST`). Without a certificate another
    /// port may be another user's.
    pub(super) fn admit(&self, realm: &str) -> Result<Realm, RegistryError> {
        let invalid = RegistryError::Protocol {
            what: "invalid token realm",
        };
        let Some(url) = Url::parse(realm).ok().filter(|url| url.has_host()) else {
            return Err(invalid);
        };
        // The client would send them as credentials, besides ours.
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid);
        }
        let is_private = url.scheme() == "https" || (url.scheme() == "http" && self.base.scheme() == "http");
        if !is_private {
            return Err(RegistryError::PlainRealm { realm: origin(&url) });
        }
        match self.trust(&url) {
            Some(trust) => Ok(Realm { url, trust }),
            None => Err(RegistryError::ForeignRealm {
                realm: origin(&url),
                registry: self.registry.clone(),
                host: authority(&url),
            }),
        }
    }

    fn trust(&self, url: &Url) -> Option<Trust> {
        let built_in = || {
            let mut known = BUILT_IN.iter().filter(|(registry, _)| *registry == self.registry);
            let is_of = |host: &str| url.host_str() == Some(host) && url.port_or_known_default() == Some(443);
            known.any(|(_, host)| url.scheme() == "https" && is_of(host))
        };
        let same_host = || {
            let both_https = url.scheme() == "https" && self.base.scheme() == "https";
            both_https && self.is_verified && url.host() == self.base.host() && !is_loopback(url)
        };
        if url.origin() == self.base.origin() {
            Some(Trust::Own)
        } else if self.named.iter().any(|named| named.is_of(url)) {
            Some(Trust::Named)
        } else {
            (same_host() || built_in()).then_some(Trust::Known)
        }
    }
}

/// Whether a URL names this host: its ports belong to different users.
pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Scheme, host and port of a URL, fit for a terminal.
pub(super) fn origin(url: &Url) -> String {
    printable(format!("{}://{}", url.scheme(), authority(url)).as_bytes(), 300)
}

fn authority(url: &Url) -> String {
    let host = printable(url.host_str().unwrap_or_default().as_bytes(), 255);
    url.port().map_or(host.clone(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(registry: &str, base: &str, named: &[&str]) -> RealmPolicy {
        RealmPolicy {
            registry: registry.into(),
            base: base.parse().unwrap(),
            is_verified: true,
            named: named.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    #[track_caller]
    fn check(policy: &RealmPolicy, admitted: &[&str], refused: &[&str]) {
        for realm in admitted {
            assert!(policy.admit(realm).is_ok(), "{realm}: {:?}", policy.admit(realm));
        }
        for realm in refused {
            assert!(policy.admit(realm).is_err(), "{realm}: {:?}", policy.admit(realm));
        }
    }

    #[test]
    fn credentials_go_to_the_registrys_host_and_named_ones() {
        check(
            &policy(
                "registry.example.org",
                "https://registry.example.org/",
                &["auth.example.org", "tokens.test:8443"],
            ),
            &[
                "https://registry.example.org/token",
                "https://REGISTRY.example.org:5001/token",
                "https://auth.example.org/token?account=x",
                "https://tokens.test:8443/",
            ],
            &[
                "http://registry.example.org/token",
                "http://auth.example.org/token",
                "https://auth.example.org:444/token",
                "https://tokens.test/",
                "https://evil.example.org/token",
                "https://registry.example.org.evil.example/token",
                "https://registry.example.org@evil.example/token",
                "https://user@registry.example.org/token",
                "https://registry.example.org./token",
                "ftp://registry.example.org/token",
                "file:///etc/passwd",
                "data:text/plain,x",
                "//registry.example.org/token",
                "/token",
                "",
            ],
        );
    }

    #[test]
    fn well_known_token_services_speak_for_their_own_registry_alone() {
        let hub = policy("docker.io", "https://registry-1.docker.io/", &[]);
        check(
            &hub,
            &["https://auth.docker.io/token"],
            &[
                "http://auth.docker.io/token",
                "https://auth.docker.io:8443/token",
                "https://evil.docker.io/",
                "https://gitlab.com/",
            ],
        );
        check(
            &policy("x.docker.io", "https://x.docker.io/", &[]),
            &[],
            &["https://auth.docker.io/token"],
        );
        check(
            &policy("registry.gitlab.com", "https://registry.gitlab.com/", &[]),
            &["https://gitlab.com/jwt/auth"],
            &[],
        );
    }

    #[test]
    fn another_port_is_another_origin_where_no_certificate_tells() {
        let refused = [
            "http://127.0.0.1:5001/token",
            "https://127.0.0.1:5001/token",
            "https://127.0.0.1/token",
        ];
        check(
            &policy("127.0.0.1:5000", "http://127.0.0.1:5000/", &[]),
            &["http://127.0.0.1:5000/token"],
            &refused,
        );
        check(
            &policy("127.0.0.1:5000", "https://127.0.0.1:5000/", &[]),
            &["https://127.0.0.1:5000/token"],
            &refused,
        );
        check(
            &policy("127.0.0.1:5000", "http://127.0.0.1:5000/", &["127.0.0.1:5001"]),
            &["http://127.0.0.1:5001/token", "https://127.0.0.1:5001/token"],
            &["http://localhost:5001/token"],
        );
        let unverified = RealmPolicy {
            is_verified: false,
            ..policy("build:5000", "https://build:5000/", &[])
        };
        check(
            &unverified,
            &["https://build:5000/token"],
            &["https://build:5001/token", "http://build:5000/token"],
        );
    }

    #[test]
    fn token_hosts_are_hosts() {
        for good in ["a", "a.b:1", "[::1]", "[::1]:5000", "10.0.0.1"] {
            assert!(good.parse::<TokenHost>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "https://a",
            "a/b",
            "a@b",
            "a?b",
            "a#b",
            "a:99999",
            "a b",
            "*.a",
            "a:b",
            "\u{202e}a",
        ] {
            assert!(bad.parse::<TokenHost>().is_err(), "{bad}");
        }
        let explicit: TokenHost = "a:443".parse().unwrap();
        assert!(explicit.is_of(&"https://a/".parse().unwrap()) && !explicit.is_of(&"http://a/".parse().unwrap()));
    }
}
