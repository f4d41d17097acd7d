//! Image configs: an image's own description of how to run it.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::digest::Digest;
use crate::json::{self, JsonError};
use crate::limits::{CONFIG_BYTES_MAX, CONFIG_LABEL_BYTES_MAX, CONFIG_LIST_MAX, CONFIG_STRING_BYTES_MAX, LAYERS_MAX};
use crate::platform::{ParsePlatformError, Platform};

/// Parsed config of an image. Every value comes from the image's author and is hostile: it is a proposal, and the plan
/// decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// Value of `ENTRYPOINT`.
    pub entrypoint: Vec<String>,
    /// Value of `CMD`.
    pub cmd: Vec<String>,
    /// Variables of `ENV`, as `NAME=value`.
    pub env: Vec<String>,
    /// Value of `USER`: names or numbers, `user[:group]`. Empty means root.
    pub user: String,
    /// Value of `WORKDIR`. Empty means `/`.
    pub working_dir: String,
    /// Value of `STOPSIGNAL`.
    pub stop_signal: Option<String>,
    /// Paths of `VOLUME`.
    pub volumes: Vec<String>,
    /// Labels of `LABEL`.
    pub labels: BTreeMap<String, String>,
    /// Ports of `EXPOSE`, as `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// Value of `SHELL`.
    pub shell: Vec<String>,
    /// Value of `HEALTHCHECK`; the test is empty if the image has none.
    pub healthcheck: Healthcheck,
    /// Platform that the image was built for.
    pub platform: Platform,
    /// Creation time in RFC 3339, as the author wrote it.
    pub created: Option<String>,
    /// Digests of the layers' tars, bottom first.
    pub diff_ids: Vec<Digest>,
}

/// Health check that an image wants for its containers. A number of 0 means unspecified.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Healthcheck {
    /// Command of the check: `NONE`, or `CMD` or `CMD-SHELL` and their arguments.
    pub test: Vec<String>,
    /// Time between two checks, nanoseconds.
    pub interval_ns: u64,
    /// Time limit of a check, nanoseconds.
    pub timeout_ns: u64,
    /// Start period, in which failures do not count, nanoseconds.
    pub start_period_ns: u64,
    /// Number of consecutive failures that is too many.
    pub retries: u32,
}

/// Reason why an image config is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The config exceeds the limit on its length.
    #[error("image config is longer than {} MiB", CONFIG_BYTES_MAX >> 20)]
    TooLong,
    /// The config is not strict JSON of the right shape.
    #[error("image config is malformed")]
    Json(#[from] JsonError),
    /// The config has no valid `os` or `architecture`.
    #[error("image config names no valid platform")]
    Platform(#[from] ParsePlatformError),
    /// The value of `rootfs.type` is not `layers`.
    #[error("image config has the rootfs type {kind:?}")]
    RootfsType {
        /// Value of `rootfs.type`.
        kind: String,
    },
    /// The config exceeds the limit on layers.
    #[error("image config names more than {LAYERS_MAX} layers")]
    TooManyLayers,
    /// A list of the config exceeds its limit.
    #[error("image config has more than {CONFIG_LIST_MAX} entries in {field}")]
    LongList {
        /// Name of the field.
        field: &'static str,
    },
    /// A text of the config exceeds its limit.
    #[error("image config has a text of more than {bytes_max} bytes in {field}")]
    LongText {
        /// Name of the field.
        field: &'static str,
        /// Limit on the length of the text, bytes.
        bytes_max: usize,
    },
    /// A text has a NUL byte, which no argument, variable or path can contain.
    #[error("image config has a NUL byte in {field}")]
    Nul {
        /// Name of the field.
        field: &'static str,
    },
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default, deserialize_with = "null_is_default")]
    architecture: String,
    #[serde(default, deserialize_with = "null_is_default")]
    os: String,
    variant: Option<String>,
    created: Option<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    config: RawRun,
    rootfs: RawRootfs,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, deserialize_with = "null_is_default")]
    diff_ids: Vec<Digest>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct RawRun {
    #[serde(deserialize_with = "null_is_default")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    user: String,
    #[serde(deserialize_with = "null_is_default")]
    working_dir: String,
    stop_signal: Option<String>,
    #[serde(deserialize_with = "null_is_default")]
    volumes: BTreeMap<String, serde_json::Value>,
    #[serde(deserialize_with = "null_is_default")]
    labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_default")]
    exposed_ports: BTreeMap<String, serde_json::Value>,
    #[serde(deserialize_with = "null_is_default")]
    shell: Vec<String>,
    healthcheck: Option<RawHealthcheck>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawHealthcheck {
    #[serde(default, deserialize_with = "null_is_default")]
    test: Vec<String>,
    #[serde(default)]
    interval: i64,
    #[serde(default)]
    timeout: i64,
    #[serde(default)]
    start_period: i64,
    #[serde(default)]
    retries: i64,
}

impl RawHealthcheck {
    /// Converts the check; a negative or too large number counts as unspecified.
    fn read(self) -> Healthcheck {
        let time = |ns| u64::try_from(ns).unwrap_or(0);
        Healthcheck {
            test: self.test,
            interval_ns: time(self.interval),
            timeout_ns: time(self.timeout),
            start_period_ns: time(self.start_period),
            retries: u32::try_from(self.retries).unwrap_or(0),
        }
    }
}

/// Platform of a config; as with docker, missing parts default to those of this machine.
fn platform(os: &str, architecture: &str) -> Result<Platform, ParsePlatformError> {
    let host = Platform::host();
    let or_host = |word: &str, host: String| if word.is_empty() { host } else { word.into() };
    Platform::from_parts(&or_host(os, host.os), &or_host(architecture, host.architecture))
}

/// Reads `null` as the default value: Go writes `null` for an empty list.
fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl ImageConfig {
    /// Parses a config.
    ///
    /// # Errors
    /// [`ConfigError`] for anything that is not a config of the image specification.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        if bytes.len() as u64 > CONFIG_BYTES_MAX {
            return Err(ConfigError::TooLong);
        }
        let raw: Raw = json::parse(bytes)?;
        if raw.rootfs.kind != "layers" {
            return Err(ConfigError::RootfsType { kind: raw.rootfs.kind });
        }
        if raw.rootfs.diff_ids.len() > LAYERS_MAX {
            return Err(ConfigError::TooManyLayers);
        }
        let mut platform = platform(&raw.os, &raw.architecture)?;
        platform.variant = raw.variant.filter(|variant| !variant.is_empty());
        let run = raw.config;
        let config = Self {
            entrypoint: run.entrypoint,
            cmd: run.cmd,
            env: run.env,
            user: run.user,
            working_dir: run.working_dir,
            stop_signal: run.stop_signal.filter(|signal| !signal.is_empty()),
            volumes: run.volumes.into_keys().collect(),
            labels: run.labels,
            exposed_ports: run.exposed_ports.into_keys().collect(),
            shell: run.shell,
            healthcheck: run.healthcheck.map(RawHealthcheck::read).unwrap_or_default(),
            platform,
            created: raw.created,
            diff_ids: raw.rootfs.diff_ids,
        };
        config.check()?;
        Ok(config)
    }

    /// Refuses lists and texts over their limits, and NUL bytes.
    fn check(&self) -> Result<(), ConfigError> {
        let lists = [
            ("Entrypoint", &self.entrypoint),
            ("Cmd", &self.cmd),
            ("Env", &self.env),
            ("Volumes", &self.volumes),
            ("ExposedPorts", &self.exposed_ports),
            ("Shell", &self.shell),
            ("Healthcheck", &self.healthcheck.test),
        ];
        for (field, list) in lists {
            check_length(field, list.len())?;
            list.iter().try_for_each(|text| check_text(field, text))?;
        }
        check_length("Labels", self.labels.len())?;
        let labels = self.labels.iter().flat_map(|(name, value)| [name, value]);
        for text in labels {
            check_bytes("Labels", text, CONFIG_LABEL_BYTES_MAX)?;
        }
        let texts = [
            ("User", Some(&self.user)),
            ("WorkingDir", Some(&self.working_dir)),
            ("StopSignal", self.stop_signal.as_ref()),
            ("variant", self.platform.variant.as_ref()),
            ("created", self.created.as_ref()),
        ];
        for (field, text) in texts {
            text.map_or(Ok(()), |text| check_text(field, text))?;
        }
        Ok(())
    }
}

fn check_length(field: &'static str, length: usize) -> Result<(), ConfigError> {
    if length > CONFIG_LIST_MAX {
        return Err(ConfigError::LongList { field });
    }
    Ok(())
}

fn check_text(field: &'static str, text: &str) -> Result<(), ConfigError> {
    if text.contains('\0') {
        return Err(ConfigError::Nul { field });
    }
    check_bytes(field, text, CONFIG_STRING_BYTES_MAX)
}

fn check_bytes(field: &'static str, text: &str, bytes_max: usize) -> Result<(), ConfigError> {
    if text.len() > bytes_max {
        return Err(ConfigError::LongText { field, bytes_max });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_of_go_are_empty() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Env":["A=b"],"Cmd":["sh"],"Entrypoint":null,
            "Healthcheck":{"Test":["CMD","true"],"Interval":5000000000,"Retries":-1},
            "Volumes":{"/data":{}},"Labels":null,"ExposedPorts":{"80/tcp":{}},"User":"1000:1000","StopSignal":""},
            "rootfs":{"type":"layers","diff_ids":[]},"history":[{}]}"#;
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        assert_eq!((config.cmd, config.entrypoint), (vec!["sh".to_owned()], vec![]));
        assert_eq!(
            (config.volumes, config.exposed_ports),
            (vec!["/data".to_owned()], vec!["80/tcp".to_owned()])
        );
        let check = Healthcheck {
            test: vec!["CMD".into(), "true".into()],
            interval_ns: 5_000_000_000,
            ..Healthcheck::default()
        };
        assert_eq!(config.healthcheck, check);
        assert_eq!((config.user.as_str(), config.stop_signal), ("1000:1000", None));
        assert_eq!(config.platform.to_string(), "linux/amd64");
    }

    #[test]
    fn odd_configs_are_refused() {
        let rootfs = r#""rootfs":{"type":"layers","diff_ids":[]}"#;
        for text in [
            String::new(),
            "[]".into(),
            format!(r#"{{"os":"linux","architecture":"../x",{rootfs}}}"#),
            format!(r#"{{"os":"linux","architecture":"amd64","config":{{"Cmd":["a\u0000b"]}},{rootfs}}}"#),
            r#"{"os":"linux","architecture":"amd64","rootfs":{"type":"x"}}"#.into(),
        ] {
            assert!(ImageConfig::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_platform_that_is_not_named_is_this_machines() {
        let rootfs = r#""rootfs":{"type":"layers","diff_ids":[]}"#;
        let platform = |fields: &str| {
            let text = format!("{{{fields}{rootfs}}}");
            ImageConfig::parse(text.as_bytes()).unwrap().platform.to_string()
        };
        let host = Platform::host();
        assert_eq!(platform(""), host.to_string());
        assert_eq!(platform(r#""os":"linux","architecture":"","#), host.to_string());
        assert_eq!(platform(r#""os":null,"architecture":"riscv64","#), "linux/riscv64");
    }

    #[test]
    fn long_lists_and_texts_are_refused() {
        let refusal = |run: serde_json::Value| {
            let rootfs = serde_json::json!({"type": "layers", "diff_ids": []});
            let config = serde_json::json!({"os": "linux", "architecture": "amd64", "config": run, "rootfs": rootfs});
            ImageConfig::parse(config.to_string().as_bytes())
                .err()
                .map(|error| error.to_string())
        };
        let list = |count| vec!["A=b"; count];
        let map = |count| serde_json::Value::from_iter((0..count).map(|index| (format!("{index}/tcp"), "x")));
        assert_eq!(refusal(serde_json::json!({"Env": list(CONFIG_LIST_MAX)})), None);
        for field in ["Env", "Cmd", "Entrypoint", "Shell"] {
            let reported = refusal(serde_json::json!({field: list(CONFIG_LIST_MAX + 1)})).unwrap();
            assert!(
                reported.contains("more than 4096 entries") && reported.contains(field),
                "{reported}"
            );
        }
        for field in ["Labels", "Volumes", "ExposedPorts"] {
            let reported = refusal(serde_json::json!({field: map(CONFIG_LIST_MAX + 1)})).unwrap();
            assert!(
                reported.contains("more than 4096 entries") && reported.contains(field),
                "{reported}"
            );
        }
        let long = "x".repeat(CONFIG_STRING_BYTES_MAX + 1);
        for field in ["User", "WorkingDir", "StopSignal"] {
            let reported = refusal(serde_json::json!({field: long})).unwrap();
            assert!(
                reported.contains("more than 131072 bytes") && reported.contains(field),
                "{reported}"
            );
        }
        assert_eq!(refusal(serde_json::json!({"Labels": {"bom": long}})), None);
    }
}
