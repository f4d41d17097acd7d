//! User-defined network in the state.

use rusqlite::{ErrorCode, Row, params};

use super::{State, StateError};
use crate::model::{Network, Subnet, SubnetError};

const COLUMNS: &str = "id, name, created_ns, config";
impl State {
    /// Adds a network with subnets that `choose` picks beside those of the existing networks. The name must be free.
    pub(crate) fn add_network(
        &self,
        network: &mut Network,
        choose: impl FnOnce(&[Network]) -> Result<Vec<Subnet>, SubnetError>,
    ) -> Result<(), StateError> {
        let transaction = self.begin()?;
        network.config.subnets = choose(&self.networks()?)?;
        let config = serde_json::to_string(&network.config).map_err(|e| damaged(&network.id, e))?;
        let added = self.0.execute(
            "INSERT INTO networks (id, name, created_ns, config) VALUES (?1, ?2, ?3, ?4)",
            params![network.id, network.name, network.created_ns, config],
        );
        match added {
            Ok(_) => transaction.commit().map_err(StateError::Query),
            Err(rusqlite::Error::SqliteFailure(e, _)) if e.code == ErrorCode::ConstraintViolation => {
                Err(StateError::NetworkNameTaken(network.name.clone()))
            }
            Err(e) => Err(StateError::Query(e)),
        }
    }

    /// Returns all networks, by name.
    pub(crate) fn networks(&self) -> Result<Vec<Network>, StateError> {
        self.select_networks("ORDER BY name", [])
    }

    /// Returns the network with this full id.
    pub(crate) fn network(&self, id: &str) -> Result<Network, StateError> {
        let found = self.select_networks("WHERE id = ?1", [id])?;
        let found = found.into_iter().next();
        found.ok_or_else(|| StateError::UnknownNetwork(id.into()))
    }

    /// Returns a network by name, id, or id prefix.
    pub(crate) fn find_network(&self, word: &str) -> Result<Network, StateError> {
        let named = self.select_networks("WHERE name = ?1 OR id = ?1 ORDER BY name != ?1", [word])?;
        if let Some(network) = named.into_iter().next() {
            return Ok(network);
        }
        let mut begun = self.select_networks("WHERE ?1 != '' AND substr(id, 1, length(?1)) = ?1 LIMIT 2", [word])?;
        match (begun.pop(), begun.is_empty()) {
            (Some(network), true) => Ok(network),
            (Some(_), false) => Err(StateError::AmbiguousNetwork(word.into())),
            (None, _) => Err(StateError::UnknownNetwork(word.into())),
        }
    }

    /// Removes the row of a network without members.
    pub(crate) fn remove_network(&self, network: &Network) -> Result<(), StateError> {
        let transaction = self.begin()?;
        let members = self.members(&network.id)?;
        if !members.is_empty() {
            let users: Vec<String> = members.into_iter().map(|member| member.name).collect();
            return Err(StateError::NetworkUsed {
                name: network.name.clone(),
                users: users.join(", "),
            });
        }
        self.update("DELETE FROM networks WHERE id = ?1", [&network.id])?;
        transaction.commit().map_err(StateError::Query)
    }

    fn select_networks(&self, clause: &str, parameters: impl rusqlite::Params) -> Result<Vec<Network>, StateError> {
        let text = format!("SELECT {COLUMNS} FROM networks {clause}");
        let mut statement = self.0.prepare(&text).map_err(StateError::Query)?;
        let rows = statement
            .query_map(parameters, |row| Ok(read(row)))
            .map_err(StateError::Query)?;
        rows.map(|row| row.map_err(StateError::Query)?).collect()
    }
}

fn damaged(id: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StateError {
    StateError::DamagedNetwork {
        id: id.into(),
        source: source.into(),
    }
}

fn read(row: &Row<'_>) -> Result<Network, StateError> {
    let id: String = row.get("id").map_err(StateError::Query)?;
    let config: String = row.get("config").map_err(StateError::Query)?;
    Ok(Network {
        name: row.get("name").map_err(StateError::Query)?,
        created_ns: row.get("created_ns").map_err(StateError::Query)?,
        config: serde_json::from_str(&config).map_err(|e| damaged(&id, e))?,
        id,
    })
}
