//! User-defined network in the state.

use std::net::IpAddr;

use ipnet::IpNet;
use rusqlite::{ErrorCode, Row, params};
use serde::{Deserialize, Serialize};

use super::{State, StateError};
use crate::plan::SubnetError;

/// User-defined network: a link that several pods are on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Network {
    /// Id of 64 hexadecimal digits.
    pub id: String,
    pub name: String,
    /// Time of the creation in nanoseconds since 1970.
    pub created_ns: i64,
    pub config: NetworkSpec,
}

/// Options of a network, complete. They do not change while the network exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkSpec {
    /// Subnets: one of IPv4, or one of IPv6, or both in this order.
    pub subnets: Vec<Subnet>,
    /// Whether the network is internal: nothing leads out of it.
    pub internal: bool,
    /// Labels, `KEY[=VALUE]` each.
    pub labels: Vec<String>,
}

impl NetworkSpec {
    /// Returns the subnet of the same IP version as `address`.
    pub(crate) fn subnet_like(&self, address: IpAddr) -> Option<&Subnet> {
        let mut subnets = self.subnets.iter();
        subnets.find(|subnet| subnet.gateway.is_ipv4() == address.is_ipv4())
    }
}

/// Subnet that a network's addresses are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Subnet {
    pub network: IpNet,
    /// Gateway, the one address that no pod has: the resolver and the default route.
    pub gateway: IpAddr,
}

/// Endpoint of a pod on a user-defined network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    /// Id of the network.
    pub network: String,
    /// Name of the network, for messages.
    pub name: String,
    /// Addresses of the pod in the order of the network's subnets. Until the pod is added to the state, the requested
    /// ones.
    pub addresses: Vec<IpAddr>,
    /// Aliases: names of the pod on this network in addition to its own.
    pub aliases: Vec<String>,
}

impl Endpoint {
    /// Returns an endpoint without requested addresses or aliases.
    pub(crate) fn anywhere(network: &Network) -> Self {
        Self {
            network: network.id.clone(),
            name: network.name.clone(),
            addresses: Vec::new(),
            aliases: Vec::new(),
        }
    }

    /// Returns the names that others on the network find the container or pod by, each once.
    pub(crate) fn dns_names(&self, name: &str, id: &str, hostname: &str) -> Vec<String> {
        let mut names = vec![name.to_owned()];
        names.extend(self.aliases.iter().cloned());
        names.push(id.chars().take(12).collect());
        names.push(hostname.into());
        let mut unique: Vec<String> = Vec::new();
        for name in names {
            if !unique.contains(&name) {
                unique.push(name);
            }
        }
        unique
    }
}

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
