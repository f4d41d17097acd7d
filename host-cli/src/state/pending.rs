//! Names of what is being created or removed on disk: all that recovery may remove.
//!
//! A record is written before the first file is created, or together with the removal of the row (by a trigger). It
//! ends with the row that is added, or after the last file is removed. So a crash leaves either a record or nothing,
//! and what nobody recorded is not Capsid's to remove.

use rusqlite::params;

use super::{State, StateError};

/// Kind of a recorded name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pending {
    /// A container's data folder, and its run folder.
    Container,
    /// A volume's folder.
    Volume,
    /// A pod's run folder.
    Pod,
    /// A network's run folder.
    Network,
}

impl Pending {
    fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Volume => "volume",
            Self::Pod => "pod",
            Self::Network => "network",
        }
    }
}

/// Operation that a record announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Make,
    Remove,
}

impl State {
    /// Records that something of this name is about to be created.
    pub(crate) fn record(&self, kind: Pending, name: &str) -> Result<(), StateError> {
        self.update(
            "INSERT OR IGNORE INTO pending VALUES (?1, ?2, 'make')",
            params![kind.as_str(), name],
        )
    }

    /// Returns the recorded names of a kind.
    pub(crate) fn pending(&self, kind: Pending) -> Result<Vec<(String, Step)>, StateError> {
        let text = "SELECT name, step = 'make' FROM pending WHERE kind = ?1 ORDER BY name";
        let mut statement = self.0.prepare_cached(text).map_err(StateError::Query)?;
        let rows = statement
            .query_map([kind.as_str()], |row| {
                let step = if row.get(1)? { Step::Make } else { Step::Remove };
                Ok((row.get(0)?, step))
            })
            .map_err(StateError::Query)?;
        rows.collect::<Result<_, _>>().map_err(StateError::Query)
    }

    /// Deletes a record: nothing of this name is left. A record that cannot be deleted, as on a full disk, does no
    /// harm: the next command checks it again.
    pub(crate) fn finish_pending(&self, kind: Pending, name: &str) {
        let _ = self.update(
            "DELETE FROM pending WHERE kind = ?1 AND name = ?2",
            params![kind.as_str(), name],
        );
    }
}
