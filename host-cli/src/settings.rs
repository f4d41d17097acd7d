//! The configuration file, `config.toml`:
//!
//! ```toml
//! accel = "kvm"                            # auto, kvm or emulate
//! insecure_registries = ["build:5000"]     # plain HTTP allowed
//! require = ["landlock", "userns"]         # layers of confinement without which nothing starts
//!
//! [registries."registry.example:5000"]
//! token_realms = ["auth.example"]          # HOST or HOST:PORT: its users' credentials may go there
//! ```

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use capsid_image::TokenHost;
use capsid_jail::Layer;

use crate::folders;
use crate::model::AccelChoice;

/// Contents of the file; every field may be absent.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub accel: Option<AccelChoice>,
    #[serde(default)]
    pub insecure_registries: Vec<String>,
    #[serde(default, deserialize_with = "layers")]
    pub require: Vec<Layer>,
    /// Settings by the registry's name, as in references: `docker.io`, `HOST:PORT`.
    #[serde(default)]
    pub registries: BTreeMap<String, RegistrySettings>,
}

/// Settings of one registry.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RegistrySettings {
    /// Token services that may issue tokens for the registry.
    #[serde(default)]
    pub token_realms: Vec<TokenHost>,
}

impl Settings {
    /// Returns the token services by registry.
    pub(crate) fn token_realms(&self) -> BTreeMap<String, Vec<TokenHost>> {
        let registries = self.registries.iter();
        registries
            .map(|(name, registry)| (name.clone(), registry.token_realms.clone()))
            .collect()
    }
}

fn layers<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Layer>, D::Error> {
    let names: Vec<String> = serde::Deserialize::deserialize(from)?;
    let layers = names.iter().map(|name| name.parse());
    layers.collect::<Result<_, _>>().map_err(serde::de::Error::custom)
}

/// Reason why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not a valid configuration file: line {line}: {reason}")]
    Parse {
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        reason: String,
    },
}

impl SettingsError {
    /// Error of `text`, the file's content, on one line.
    fn parse(path: PathBuf, text: &str, error: &toml::de::Error) -> Self {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        Self::Parse {
            path,
            line: before.matches('\n').count() + 1,
            reason: error.message().replace('\n', ", "),
        }
    }
}

/// Reads the file; without one, all settings have their defaults.
pub(crate) fn read() -> Result<Settings, SettingsError> {
    let Some(path) = folders::config_file() else {
        return Ok(Settings::default());
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => toml::from_str(&text).map_err(|error| SettingsError::parse(path, &text, &error)),
        Err(e) if e.kind() == io::ErrorKind::NotFound && folders::named_config_file().is_none() => {
            Ok(Settings::default())
        }
        Err(source) => Err(SettingsError::Read { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_documented_and_the_example_is_valid() {
        let page = include_str!("../../docs/configuration.md");
        let example = page
            .split("```toml")
            .nth(1)
            .and_then(|rest| rest.split("```").next())
            .unwrap();
        let settings: Settings = toml::from_str(example).unwrap();
        assert_eq!(settings.registries.len(), 1);
        let unknown = toml::from_str::<Settings>("unknown = 1").unwrap_err().to_string();
        let keys: Vec<&str> = unknown.split('`').skip(3).step_by(2).collect();
        assert!(keys.len() >= 4, "{unknown}");
        for key in keys {
            assert!(
                page.contains(&format!("`{key}`")) || page.contains(&format!("[{key}.")),
                "{key}"
            );
        }
    }

    #[test]
    fn a_mistake_is_told_on_one_line() {
        let text = "accel = \"kvm\"\nacel = 1\n";
        let error = toml::from_str::<Settings>(text).unwrap_err();
        let shown = SettingsError::parse("/etc/c.toml".into(), text, &error).to_string();
        assert!(
            shown.starts_with("/etc/c.toml is not a valid configuration file: line 2: unknown field `acel`"),
            "{shown}"
        );
        assert!(!shown.contains('\n'), "{shown}");
    }

    #[test]
    fn a_registry_has_token_realms() {
        let text = r#"
            insecure_registries = ["build:5000"]
            [registries."registry.example:5000"]
            token_realms = ["auth.example", "auth.example:8443"]
        "#;
        let settings: Settings = toml::from_str(text).unwrap();
        let hosts = ["auth.example", "auth.example:8443"].map(|host| host.parse().unwrap());
        assert_eq!(settings.token_realms()["registry.example:5000"], hosts);
        for bad in [
            "token_realms = [\"https://auth.example\"]",
            "token-realms = []",
            "token_realms = \"a\"",
        ] {
            let text = format!("[registries.\"a\"]\n{bad}\n");
            assert!(toml::from_str::<Settings>(&text).is_err(), "{bad}");
        }
    }

    #[test]
    fn layers_are_required_by_name() {
        let settings: Settings = toml::from_str("require = [\"landlock\", \"userns\"]").unwrap();
        assert_eq!(settings.require, [Layer::Landlock, Layer::UserNamespace]);
        let wrong = toml::from_str::<Settings>("require = [\"selinux\"]").unwrap_err();
        assert!(wrong.to_string().contains("selinux"), "{wrong}");
    }
}
