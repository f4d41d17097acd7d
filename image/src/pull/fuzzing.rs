//! Decision on a token realm, checked against a second, simpler parser.

use super::challenge::Challenge;
use super::realm::{RealmPolicy, Trust};

/// Test case: a registry, its origin, whether its certificate is checked, a token service that the user named, and the
/// beginnings of addresses that may get credentials. A port and a path follow them.
type Case = (&'static str, &'static str, bool, &'static str, &'static [&'static str]);

const CASES: [Case; 4] = [
    (
        "docker.io",
        "https://registry-1.docker.io/",
        true,
        "a.test",
        &[
            "https://registry-1.docker.io",
            "https://auth.docker.io/",
            "https://a.test/",
        ],
    ),
    (
        "r.test:5000",
        "https://r.test:5000/",
        true,
        "a.test:8443",
        &["https://r.test", "https://a.test:8443/"],
    ),
    (
        "r.test:5000",
        "https://r.test:5000/",
        false,
        "a.test",
        &["https://r.test:5000/", "https://a.test/"],
    ),
    (
        "[::1]:5000",
        "http://[::1]:5000/",
        true,
        "a.test",
        &["http://[::1]:5000/", "http://a.test/", "https://a.test/"],
    ),
];

/// Parses a challenge, and decides for some registries whether its token service may be asked.
pub(crate) fn challenge(header: &str) {
    let Some(Challenge::Bearer { realm, .. }) = Challenge::parse(header) else {
        return;
    };
    for (registry, base, is_verified, named, allowed) in CASES {
        let policy = RealmPolicy {
            registry: registry.into(),
            base: base.parse().expect("an address"),
            is_verified,
            named: vec![named.parse().expect("a host")],
        };
        match policy.admit(&realm) {
            Err(error) => assert!(!error.to_string().chars().any(char::is_control), "{error:?}"),
            Ok(admitted) => {
                // The address that the client sends its request to.
                let target = admitted.url.as_str();
                let follows = |start: &&str| {
                    target
                        .strip_prefix(*start)
                        .is_some_and(|rest| start.ends_with('/') || rest.starts_with([':', '/']))
                };
                assert!(allowed.iter().any(follows), "{target} for {registry}");
                assert!(
                    admitted.trust != Trust::Own || target.starts_with(base),
                    "{target} for {registry}"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::challenge;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn two_readers_agree_on_realms(
            scheme in "https?|HTTPS|ftp",
            user in "([a-z.]{1,8}(:5000)?@)?",
            host in "r[.]test|a[.]test|auth[.]docker[.]io|registry-1[.]docker[.]io|\\[::1\\]|r[.]test[.]?[a-z]?|[ -~]{0,9}",
            port in "(:(443|80|5000|8443|5001))?",
            path in "/[ -~]{0,9}",
        ) {
            challenge(&format!("Bearer realm=\"{scheme}://{user}{host}{port}{path}\""));
        }
    }
}
