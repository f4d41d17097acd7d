//! A user-defined network as the state knows it, and who is on it.

use std::net::IpAddr;

use ipnet::IpNet;
use rusqlite::{ErrorCode, Row, params};
use serde::{Deserialize, Serialize};

use super::{State, StateError};
use crate::plan::SubnetError;

/// A link that several pods are on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Network {
    /// 64 hexadecimal digits.
    pub id: String,
    pub name: String,
    /// Nanoseconds since 1970.
    pub created_ns: i64,
    pub config: NetworkSpec,
}

/// What was asked for, complete; nothing of it changes while the network is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkSpec {
    /// One of IPv4, or one of IPv6, or both in this order.
    pub subnets: Vec<Subnet>,
    /// Nothing leads out of it.
    pub internal: bool,
    /// `KEY[=VALUE]` each.
    pub labels: Vec<String>,
}

impl NetworkSpec {
    /// The subnet for addresses of the same kind as `address`.
    pub(crate) fn subnet_like(&self, address: IpAddr) -> Option<&Subnet> {
        let mut subnets = self.subnets.iter();
        subnets.find(|subnet| subnet.gateway.is_ipv4() == address.is_ipv4())
    }
}

/// Where a network's addresses are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Subnet {
    pub network: IpNet,
    /// The one address that is no pod's: names are asked for there, and it is the default route.
    pub gateway: IpAddr,
}

/// A pod's place on a user-defined network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    /// The network's id.
    pub network: String,
    /// The network's name, for messages.
    pub name: String,
    /// The pod's addresses in the order of the network's subnets. Until the pod is added to the state, those that were
    /// asked for.
    pub addresses: Vec<IpAddr>,
    /// Names that it has on this network beside its own.
    pub aliases: Vec<String>,
}

impl Endpoint {
    /// A place where nothing of its own is wanted.
    pub(crate) fn anywhere(network: &Network) -> Self {
        Self {
            network: network.id.clone(),
            name: network.name.clone(),
            addresses: Vec::new(),
            aliases: Vec::new(),
        }
    }

    /// Names that others on the network find the container or pod by, each once.
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
    /// Adds a network with the subnets that are chosen beside those that there are. Its name must be free.
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

    /// All networks, by name.
    pub(crate) fn networks(&self) -> Result<Vec<Network>, StateError> {
        self.select_networks("ORDER BY name", [])
    }

    /// A network by its whole id.
    pub(crate) fn network(&self, id: &str) -> Result<Network, StateError> {
        let found = self.select_networks("WHERE id = ?1", [id])?;
        let found = found.into_iter().next();
        found.ok_or_else(|| StateError::UnknownNetwork(id.into()))
    }

    /// A network by name, id, or an id's beginning.
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

    /// Forgets a network that nobody is on.
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
