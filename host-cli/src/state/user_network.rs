//! A network of the user's own as the state knows it, and who is on it.

use std::net::IpAddr;

use ipnet::IpNet;
use rusqlite::{ErrorCode, Row, params};
use serde::{Deserialize, Serialize};

use super::network::NetworkConfig;
use super::{State, StateError};
use crate::plan::{SubnetError, free_address};

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
    /// The one address that is no pod's: names are asked for there, and it is the way out.
    pub gateway: IpAddr,
}

/// A pod's place on a network of the user's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Joined {
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

impl Joined {
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

/// Who is on a network.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Member {
    /// Of the pod, or of the container that is a pod of its own.
    pub id: String,
    pub name: String,
    /// The network's id.
    pub network: String,
    /// All its networks.
    pub config: NetworkConfig,
}

impl Member {
    /// Its addresses on the network.
    pub(crate) fn addresses(&self) -> &[IpAddr] {
        let mut joined = self.config.joined.iter();
        let place = joined.find(|joined| joined.network == self.network);
        place.map_or(&[], |place| &place.addresses)
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

    /// The pods, and the containers without one, that are on a network, by name; running or not.
    pub(crate) fn members(&self, network: &str) -> Result<Vec<Member>, StateError> {
        let text = "SELECT memberships.pod AS id, coalesce(containers.name, pods.name) AS name, \
                    json_extract(coalesce(containers.config, pods.config), '$.network') AS config, memberships.network FROM memberships \
                    LEFT JOIN containers ON containers.id = memberships.pod LEFT JOIN pods ON pods.id = memberships.pod \
                    WHERE memberships.network = ?1 ORDER BY 2";
        let mut statement = self.0.prepare(text).map_err(StateError::Query)?;
        let rows = statement
            .query_map([network], |row| Ok(read_member(row)))
            .map_err(StateError::Query)?;
        rows.map(|row| row.map_err(StateError::Query)?).collect()
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

    /// Gives a pod that is being added its places on the user's networks that it is to be on.
    pub(super) fn join_all(&self, pod: &str, config: &mut NetworkConfig) -> Result<(), StateError> {
        let mac = config.mac;
        let mut places = config.joined.iter_mut();
        places.try_for_each(|joined| self.join(pod, mac, joined))
    }

    /// Gives a pod its place on a user's network: the addresses that were asked for, or the lowest free ones. Within a
    /// transaction that began as a writer's, so that nobody else takes them meanwhile.
    fn join(&self, pod: &str, mac: [u8; 6], joined: &mut Joined) -> Result<(), StateError> {
        let network = match self.network(&joined.network) {
            Err(StateError::UnknownNetwork(_)) => return Err(StateError::UnknownNetwork(joined.name.clone())),
            network => network?,
        };
        let members = self.members(&network.id)?;
        if let Some(member) = members.iter().find(|member| member.config.mac == mac) {
            return Err(StateError::AddressTaken {
                address: super::mac_words(mac),
                user: member.name.clone(),
            });
        }
        let address = |subnet| choose_address(&network.name, subnet, &joined.addresses, &members);
        joined.addresses = network.config.subnets.iter().map(address).collect::<Result<_, _>>()?;
        let of_kind = |is_v4: bool| {
            let mut addresses = joined.addresses.iter();
            addresses.find(|a| a.is_ipv4() == is_v4).map(ToString::to_string)
        };
        self.update(
            "INSERT INTO memberships (network, pod, ipv4, ipv6) VALUES (?1, ?2, ?3, ?4)",
            params![network.id, pod, of_kind(true), of_kind(false)],
        )
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

/// An address of this subnet: the one that is wanted, or the lowest free one.
fn choose_address(network: &str, subnet: &Subnet, wanted: &[IpAddr], members: &[Member]) -> Result<IpAddr, StateError> {
    let has = |member: &&Member, address: &IpAddr| member.addresses().contains(address);
    if let Some(address) = wanted.iter().find(|address| subnet.network.contains(*address)) {
        return match members.iter().find(|member| has(member, address)) {
            None => Ok(*address),
            Some(member) => Err(StateError::AddressTaken {
                address: address.to_string(),
                user: member.name.clone(),
            }),
        };
    }
    let taken: Vec<IpAddr> = members.iter().flat_map(Member::addresses).copied().collect();
    free_address(subnet, &taken).ok_or_else(|| StateError::NoAddress {
        network: network.into(),
        subnet: subnet.network,
    })
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

fn read_member(row: &Row<'_>) -> Result<Member, StateError> {
    let id: String = row.get("id").map_err(StateError::Query)?;
    let fields = || -> Result<Member, Box<dyn std::error::Error + Send + Sync>> {
        let config: String = row.get("config")?;
        Ok(Member {
            id: id.clone(),
            name: row.get("name")?,
            network: row.get("network")?,
            config: serde_json::from_str(&config)?,
        })
    };
    fields().map_err(|source| StateError::Damaged { id: id.clone(), source })
}
