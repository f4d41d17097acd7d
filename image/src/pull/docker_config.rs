//! Docker's `config.json`, with the entries of `docker login` and similar commands.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::CredentialsError;
use super::credentials::Secret;
use crate::limits::DOCKER_CONFIG_BYTES_MAX;

/// Base64 decoder that accepts missing padding: not every tool pads.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Mode bits that let the group or everybody read a file.
const READABLE_BY_OTHERS: u32 = 0o044;

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default)]
    creds_store: String,
    #[serde(skip)]
    path: PathBuf,
    /// Permission bits of the file.
    #[serde(skip)]
    mode: u32,
}

/// Entry for one registry. An empty string counts as none: so docker writes missing values.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

impl Entry {
    fn is_secret(&self) -> bool {
        [&self.auth, &self.password, &self.identitytoken]
            .iter()
            .any(|text| !text.is_empty())
    }
}

impl DockerConfig {
    /// Reads `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`; a missing file counts as an empty one.
    pub(super) fn read() -> Result<Self, CredentialsError> {
        let own = std::env::var_os("HOME").map(|home| Path::new(&home).join(".docker"));
        let Some(folder) = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from).or(own) else {
            return Ok(Self::default());
        };
        let path = folder.join("config.json");
        let mut bytes = Vec::new();
        let read = |file: File| {
            let mode = file.metadata()?.permissions().mode();
            file.take(DOCKER_CONFIG_BYTES_MAX).read_to_end(&mut bytes)?;
            Ok(mode)
        };
        match File::open(&path).and_then(read) {
            Ok(mode) => Self::parse(&bytes, path).map(|config| Self { mode, ..config }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(CredentialsError::ReadConfig { path, source }),
        }
    }

    fn parse(bytes: &[u8], path: PathBuf) -> Result<Self, CredentialsError> {
        match serde_json::from_slice::<Self>(bytes) {
            Ok(config) => Ok(Self { path, ..config }),
            // The parser's own message may quote a secret.
            Err(error) => Err(CredentialsError::ParseConfig {
                path,
                line: error.line(),
            }),
        }
    }

    /// Path of the file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file itself holds credentials and its mode lets others read it.
    pub(super) fn is_exposed(&self) -> bool {
        self.mode & READABLE_BY_OTHERS != 0 && self.auths.values().any(Entry::is_secret)
    }

    /// Name of the helper to ask: the registry's own before the one for all registries.
    pub(super) fn helper(&self, server: &str) -> Option<&str> {
        let own = entry(&self.cred_helpers, server).map(String::as_str);
        own.or(Some(&self.creds_store)).filter(|name| !name.is_empty())
    }

    /// Secret for a server in the file itself.
    pub(super) fn secret(&self, server: &str) -> Result<Option<Secret>, CredentialsError> {
        let Some(entry) = entry(&self.auths, server) else {
            return Ok(None);
        };
        if !entry.identitytoken.is_empty() {
            return Ok(Some(Secret::Identity(entry.identitytoken.clone())));
        }
        if !entry.auth.is_empty() {
            let secret = decode(&entry.auth).ok_or_else(|| CredentialsError::DecodeConfig {
                path: self.path.clone(),
            });
            return secret.map(Some);
        }
        Ok((!entry.username.is_empty()).then(|| Secret::Password {
            username: entry.username.clone(),
            password: entry.password.clone(),
        }))
    }
}

/// Finds the value for a server, whose name may be written as an address: `https://HOST/v1/`.
fn entry<'a, T>(map: &'a BTreeMap<String, T>, server: &str) -> Option<&'a T> {
    let matching = || map.iter().find(|(key, _)| host(key) == host(server));
    map.get(server).or_else(|| matching().map(|(_, value)| value))
}

fn host(server: &str) -> &str {
    let name = server.strip_prefix("https://").or(server.strip_prefix("http://"));
    let name = name.unwrap_or(server).split('/').next().unwrap_or_default();
    match name {
        "docker.io" | "registry-1.docker.io" => "index.docker.io",
        name => name,
    }
}

/// Decodes `base64(USER:PASSWORD)`; old versions of docker ended it with a zero byte.
fn decode(auth: &str) -> Option<Secret> {
    let text = String::from_utf8(BASE64.decode(auth).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    Some(Secret::Password {
        username: username.to_owned(),
        password: password.trim_end_matches('\0').to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(text: &str) -> DockerConfig {
        DockerConfig::parse(text.as_bytes(), "config.json".into()).unwrap()
    }

    fn secret(config: &DockerConfig, server: &str) -> String {
        match config.secret(server).unwrap() {
            None => "none".into(),
            Some(Secret::Identity(token)) => format!("identity {token}"),
            Some(Secret::Password { username, password }) => format!("{username} {password}"),
        }
    }

    #[test]
    fn entries_are_found_under_every_name_that_docker_writes() {
        // printf 'user:secret' | base64
        let config = config(
            r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dXNlcjpzZWNyZXQ="}, "a:5000": {"auth": "dXNlcjpzZWNyZXQ"},
                "https://b.example/v2/": {"username": "u", "password": "p"}, "c": {"identitytoken": "t", "auth": "x"}, "d": {}}}"#,
        );
        for (server, wanted) in [
            ("https://index.docker.io/v1/", "user secret"),
            ("a:5000", "user secret"),
            ("a", "none"),
            ("b.example", "u p"),
            ("c", "identity t"),
            ("d", "none"),
        ] {
            assert_eq!(secret(&config, server), wanted, "{server}");
        }
    }

    #[test]
    fn a_registrys_own_helper_comes_first() {
        let config = config(r#"{"credHelpers": {"a": "own", "b": ""}, "credsStore": "all"}"#);
        assert_eq!(config.helper("a"), Some("own"));
        assert_eq!(config.helper("c"), Some("all"));
        assert_eq!(config.helper("b"), None);
        assert_eq!(self::config("{}").helper("a"), None);
    }

    #[test]
    fn a_file_with_secrets_is_exposed_by_its_mode() {
        let secrets = r#"{"auths": {"a": {"auth": "dXNlcjpzZWNyZXQ="}}}"#;
        let helpers = r#"{"auths": {"a": {}}, "credsStore": "all"}"#;
        for (text, mode, exposed) in [
            (secrets, 0o100_644, true),
            (secrets, 0o100_640, true),
            (secrets, 0o100_604, true),
            (secrets, 0o100_600, false),
            (helpers, 0o100_644, false),
        ] {
            let config = DockerConfig { mode, ..config(text) };
            assert_eq!(config.is_exposed(), exposed, "{mode:o} {text}");
        }
    }

    #[test]
    fn an_error_tells_no_secret() {
        let error = DockerConfig::parse(br#"{"auths": "secret"}"#, "config.json".into())
            .err()
            .unwrap();
        assert!(!error.to_string().contains("secret"), "{error}");
        let config = config(r####"{"auths": {"a": {"auth": "###"}, "b": {"auth": "dXNlcg=="}}}"####);
        assert!(config.secret("a").is_err());
        assert!(config.secret("b").is_err());
    }

    proptest! {
        #[test]
        fn any_entry_is_decoded_or_refused(auth in ".*") {
            let _ = decode(&auth);
        }
    }
}
