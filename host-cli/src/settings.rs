//! The configuration file, `config.toml`:
//!
//! ```toml
//! accel = "kvm"                            # auto, kvm or emulate
//! insecure_registries = ["build:5000"]     # plain HTTP allowed
//! ```

use std::io;
use std::path::PathBuf;

use crate::cli::AccelChoice;
use crate::folders;

/// What the file may say; all of it may be absent.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub accel: Option<AccelChoice>,
    #[serde(default)]
    pub insecure_registries: Vec<String>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not a valid configuration file")]
    Parse {
        path: PathBuf,
        #[source]
        source: toml::de::Error,
    },
}

/// Reads the file; without one everything is at its default.
pub(crate) fn read() -> Result<Settings, SettingsError> {
    let Some(path) = folders::config_file() else {
        return Ok(Settings::default());
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => toml::from_str(&text).map_err(|source| SettingsError::Parse { path, source }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Settings::default()),
        Err(source) => Err(SettingsError::Read { path, source }),
    }
}
