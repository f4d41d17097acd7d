//! Health of a container, as its supervisor last found it: `data/containers/ID/health.json`, docker's `State.Health`.
//!
//! Overwritten by each check and read by `ps` and `inspect`. The file is not part of the state: the next check writes
//! the same again, so nothing is synced, and a file that is missing or cut means that no check has ended yet.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use capsid_image::own_file;
use serde::{Deserialize, Serialize};

use crate::store_folder;

/// Number of checks that are remembered: docker's.
const LOG_MAX: usize = 5;

/// Verdict of the checks, in docker's words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    #[default]
    Starting,
    Healthy,
    Unhealthy,
}

impl Verdict {
    /// Returns docker's word for the verdict, as `ps` shows it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// Health in the form of docker's `State.Health`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Health {
    pub status: Verdict,
    pub failing_streak: u32,
    pub log: Vec<Check>,
}

/// Check that ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Check {
    pub start: String,
    pub end: String,
    pub exit_code: i32,
    pub output: String,
}

impl Health {
    /// Adds a check, and returns whether the verdict has changed. `counts`: whether a failure counts, which it does not
    /// in the start period.
    pub(crate) fn take(&mut self, check: Check, retries: u32, counts: bool) -> bool {
        let before = self.status;
        if check.exit_code == 0 {
            self.failing_streak = 0;
            self.status = Verdict::Healthy;
        } else if counts || before != Verdict::Starting {
            self.failing_streak = self.failing_streak.saturating_add(1);
            if self.failing_streak >= retries {
                self.status = Verdict::Unhealthy;
            }
        }
        self.log.push(check);
        let excess = self.log.len().saturating_sub(LOG_MAX);
        self.log.drain(..excess);
        self.status != before
    }

    /// Reads the result of a container's last check.
    pub(crate) fn read(data: &Path, id: &str) -> Self {
        let mut bytes = Vec::new();
        let read = own_file::read(&path(data, id)).and_then(|mut file| file.read_to_end(&mut bytes));
        if read.is_err() {
            return Self::default();
        }
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Writes the health for other processes, whole or not at all.
    pub(crate) fn write(&self, data: &Path, id: &str) -> io::Result<()> {
        let path = path(data, id);
        let mut file = tempfile::NamedTempFile::new_in(store_folder::all(data).join(id))?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.persist(path).map(drop).map_err(|e| e.error)
    }
}

fn path(data: &Path, id: &str) -> PathBuf {
    store_folder::all(data).join(id).join("health.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(exit_code: i32) -> Check {
        Check {
            start: String::new(),
            end: String::new(),
            exit_code,
            output: String::new(),
        }
    }

    #[test]
    fn verdicts_are_dockers() {
        let mut health = Health::default();
        assert!(!health.take(check(1), 2, false));
        assert_eq!((health.status, health.failing_streak), (Verdict::Starting, 0));
        assert!(!health.take(check(1), 2, true));
        assert!(health.take(check(1), 2, true));
        assert_eq!((health.status, health.failing_streak), (Verdict::Unhealthy, 2));
        assert!(health.take(check(0), 2, true));
        assert_eq!((health.status, health.failing_streak), (Verdict::Healthy, 0));
        // The first success ended the start period.
        assert!(!health.take(check(1), 2, false));
        assert_eq!(health.failing_streak, 1);
        for _ in 0..9 {
            health.take(check(0), 2, true);
        }
        assert_eq!(health.log.len(), LOG_MAX);
    }

    #[test]
    fn it_is_left_and_found() {
        let data = tempfile::tempdir().unwrap();
        store_folder::make(data.path(), "c").unwrap();
        assert_eq!(Health::read(data.path(), "c"), Health::default());
        let mut health = Health::default();
        health.take(check(0), 1, true);
        health.write(data.path(), "c").unwrap();
        assert_eq!(Health::read(data.path(), "c"), health);
    }
}
