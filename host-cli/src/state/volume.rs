//! Volume in the state.

use rusqlite::{OptionalExtension, Row, params};

use super::{State, StateError};
use crate::model::{Container, Volume};

const COLUMNS: &str = "name, created_ns, labels, anonymous, prepared";
impl State {
    /// Adds a volume, unless there is one of that name.
    pub(crate) fn add_volume(&self, volume: &Volume) -> Result<(), StateError> {
        insert(&self.0, volume)
    }

    /// Returns all volumes, by name.
    pub(crate) fn volumes(&self) -> Result<Vec<Volume>, StateError> {
        let text = format!("SELECT {COLUMNS} FROM volumes ORDER BY name");
        let mut statement = self.0.prepare(&text).map_err(StateError::Query)?;
        let rows = statement.query_map([], read).map_err(StateError::Query)?;
        rows.collect::<Result<_, _>>().map_err(StateError::Query)
    }

    /// Returns a volume by its name.
    pub(crate) fn volume(&self, name: &str) -> Result<Option<Volume>, StateError> {
        let text = format!("SELECT {COLUMNS} FROM volumes WHERE name = ?1");
        let found = self.0.query_row(&text, [name], read).optional();
        found.map_err(StateError::Query)
    }

    /// Returns the containers that have the volume, running or not.
    pub(crate) fn users_of_volume(&self, name: &str) -> Result<Vec<Container>, StateError> {
        let mut containers = self.all_containers()?;
        containers.retain(|container| container.config.mounts.iter().any(|mount| mount.volume == name));
        Ok(containers)
    }

    /// Records that a volume is prepared.
    pub(crate) fn set_volume_prepared(&self, name: &str) -> Result<(), StateError> {
        let statement = "UPDATE volumes SET prepared = 1 WHERE name = ?1 AND NOT prepared";
        let updated = self.0.execute(statement, [name]);
        updated.map(drop).map_err(StateError::Query)
    }

    /// Removes a volume's row.
    pub(crate) fn remove_volume(&self, name: &str) -> Result<(), StateError> {
        let removed = self.0.execute("DELETE FROM volumes WHERE name = ?1", [name]);
        removed.map(drop).map_err(StateError::Query)
    }

    /// Removes the rows of a container and of volumes, all or nothing.
    pub(crate) fn remove_with_volumes(&self, id: &str, volumes: &[String]) -> Result<(), StateError> {
        let transaction = self.0.unchecked_transaction().map_err(StateError::Query)?;
        self.remove(id)?;
        for name in volumes {
            self.remove_volume(name)?;
        }
        transaction.commit().map_err(StateError::Query)
    }
}

/// Adds a volume's row, also within a transaction of the caller.
pub(super) fn insert(connection: &rusqlite::Connection, volume: &Volume) -> Result<(), StateError> {
    let statement =
        "INSERT OR IGNORE INTO volumes (name, created_ns, labels, anonymous, prepared) VALUES (?1, ?2, ?3, ?4, ?5)";
    // Strings always have a JSON form.
    let labels = serde_json::json!(volume.labels).to_string();
    let row = params![
        volume.name,
        volume.created_ns,
        labels,
        volume.anonymous,
        volume.prepared
    ];
    connection.execute(statement, row).map(drop).map_err(StateError::Query)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Volume> {
    let labels: String = row.get("labels")?;
    Ok(Volume {
        name: row.get("name")?,
        created_ns: row.get("created_ns")?,
        // Only this module writes them.
        labels: serde_json::from_str(&labels).unwrap_or_default(),
        anonymous: row.get("anonymous")?,
        prepared: row.get("prepared")?,
    })
}
