//! Restart policies, as docker writes them.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Restart policy: whether a container that ended is started again.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    #[default]
    No,
    /// Restarts after an exit code other than 0, at most so many times; 0 is without limit.
    OnFailure {
        retries_max: u32,
    },
    Always,
    /// Restarts like `Always`, except for a container that the user stopped.
    UnlessStopped,
}

impl RestartPolicy {
    /// Returns the maximum number of restarts; 0 is without limit, or no restart at all.
    pub(crate) fn retries_max(self) -> u32 {
        match self {
            Self::OnFailure { retries_max } => retries_max,
            _ => 0,
        }
    }
}

impl std::fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::No => "no",
            Self::OnFailure { .. } => "on-failure",
            Self::Always => "always",
            Self::UnlessStopped => "unless-stopped",
        })
    }
}

impl FromStr for RestartPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "no" => Ok(Self::No),
            None if text == "always" => Ok(Self::Always),
            None if text == "unless-stopped" => Ok(Self::UnlessStopped),
            None if text == "on-failure" => Ok(Self::OnFailure { retries_max: 0 }),
            Some(("on-failure", count)) => count
                .parse()
                .map(|retries_max| Self::OnFailure { retries_max })
                .map_err(|_| format!("{count:?} is not a number of retries")),
            _ => Err("write no, on-failure[:RETRIES], always or unless-stopped".into()),
        }
    }
}
