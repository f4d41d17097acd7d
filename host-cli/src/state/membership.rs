//! Memberships of pods in networks: connecting and disconnecting.

use std::net::IpAddr;

use capsid_vmm::segments::SEGMENTS_MAX;
use rusqlite::{Row, params};

use super::{State, StateError};
use crate::model::{ConnectTarget, Endpoint, Member, NetworkConfig, Owner, Subnet, free_address, mac_words};

impl State {
    /// Returns the pods, and the containers without one, that are on a network, by name; running or not.
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

    /// Connects the container or pod of this id to one more network, and assigns its addresses there. Returns its new
    /// state.
    pub(crate) fn connect(&self, id: &str, place: &ConnectTarget) -> Result<Owner, StateError> {
        let transaction = self.begin()?;
        let owner = self.owner(id)?;
        let mut config = self.networks_of(&owner)?;
        if place.is_in(&config) {
            return Err(StateError::AlreadyOnNetwork {
                name: owner.name().into(),
                network: place.name().into(),
            });
        }
        match place {
            ConnectTarget::OwnLink => config.own_link = true,
            ConnectTarget::UserDefined(wanted) => {
                let mut endpoint = wanted.clone();
                self.join(id, config.mac, &mut endpoint)?;
                config.endpoints.push(endpoint);
                check_count(&config)?;
            }
        }
        self.set_networks(&owner, &config)?;
        let connected = self.owner(id)?;
        transaction.commit().map_err(StateError::Query)?;
        Ok(connected)
    }

    /// Disconnects the container or pod of this id from a network, and frees its addresses. Returns its new state.
    pub(crate) fn disconnect(&self, id: &str, place: &ConnectTarget) -> Result<Owner, StateError> {
        let transaction = self.begin()?;
        let owner = self.owner(id)?;
        let mut config = self.networks_of(&owner)?;
        if !place.is_in(&config) {
            return Err(StateError::NotOnNetwork {
                name: owner.name().into(),
                network: place.name().into(),
            });
        }
        match place {
            ConnectTarget::OwnLink => config.own_link = false,
            ConnectTarget::UserDefined(left) => {
                config.endpoints.retain(|endpoint| endpoint.network != left.network);
                let statement = "DELETE FROM memberships WHERE network = ?1 AND pod = ?2";
                self.update(statement, [&left.network, id])?;
            }
        }
        self.set_networks(&owner, &config)?;
        let disconnected = self.owner(id)?;
        transaction.commit().map_err(StateError::Query)?;
        Ok(disconnected)
    }

    /// Assigns endpoints on all its user-defined networks to a pod that is being added.
    pub(super) fn join_all(&self, pod: &str, config: &mut NetworkConfig) -> Result<(), StateError> {
        check_count(config)?;
        let mac = config.mac;
        let mut places = config.endpoints.iter_mut();
        places.try_for_each(|endpoint| self.join(pod, mac, endpoint))
    }

    /// Assigns a pod's endpoint on a user-defined network: the requested addresses, or the lowest free ones. Runs
    /// within a transaction that began as a writer's, so that nobody else takes the addresses meanwhile.
    fn join(&self, pod: &str, mac: [u8; 6], endpoint: &mut Endpoint) -> Result<(), StateError> {
        let network = match self.network(&endpoint.network) {
            Err(StateError::UnknownNetwork(_)) => return Err(StateError::UnknownNetwork(endpoint.name.clone())),
            network => network?,
        };
        let members = self.members(&network.id)?;
        if let Some(member) = members.iter().find(|member| member.config.mac == mac) {
            return Err(StateError::AddressTaken {
                address: mac_words(mac),
                user: member.name.clone(),
            });
        }
        let address = |subnet| choose_address(&network.name, subnet, &endpoint.addresses, &members);
        endpoint.addresses = network.config.subnets.iter().map(address).collect::<Result<_, _>>()?;
        let of_kind = |is_v4: bool| {
            let mut addresses = endpoint.addresses.iter();
            addresses.find(|a| a.is_ipv4() == is_v4).map(ToString::to_string)
        };
        self.update(
            "INSERT INTO memberships (network, pod, ipv4, ipv6) VALUES (?1, ?2, ?3, ?4)",
            params![network.id, pod, of_kind(true), of_kind(false)],
        )
    }
}

/// Checks that a machine's device has room for all networks.
fn check_count(config: &NetworkConfig) -> Result<(), StateError> {
    if config.endpoints.len() > SEGMENTS_MAX {
        return Err(StateError::TooManyNetworks);
    }
    Ok(())
}

/// Chooses an address of a subnet: the requested one, or the lowest free one.
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
