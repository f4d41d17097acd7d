//! Memberships of pods in networks: connecting and disconnecting.

use std::net::IpAddr;

use capsid_vmm::segments::SEGMENTS_MAX;
use rusqlite::{Row, params};

use super::{State, StateError};
use crate::model::{ConnectTarget, Endpoint, NetworkConfig, NetworkMember, Pod, Subnet, free_address, mac_words};

impl State {
    /// Returns the pods that are on a network, by name; running or not. An implicit one has its container's name.
    pub(crate) fn members(&self, network: &str) -> Result<Vec<NetworkMember>, StateError> {
        let text = "SELECT pods.id, iif(pods.implicit, containers.name, pods.name) AS name, \
                    json_extract(pods.config, '$.network') AS config, memberships.network FROM memberships \
                    JOIN pods ON pods.id = memberships.pod \
                    LEFT JOIN containers ON pods.implicit AND containers.id = pods.id \
                    WHERE memberships.network = ?1 ORDER BY 2";
        let mut statement = self.0.prepare(text).map_err(StateError::Query)?;
        let rows = statement
            .query_map([network], |row| Ok(read_member(row)))
            .map_err(StateError::Query)?;
        rows.map(|row| row.map_err(StateError::Query)?).collect()
    }

    /// Connects the pod of this id to one more network, and assigns its addresses there. Returns its new state.
    pub(crate) fn connect(&self, id: &str, place: &ConnectTarget) -> Result<Pod, StateError> {
        let transaction = self.begin()?;
        let pod = self.member(id)?;
        let mut config = networks_of(&pod)?;
        if place.is_in(&config) {
            return Err(StateError::AlreadyOnNetwork {
                name: pod.name,
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
        self.set_networks(id, &config)?;
        let connected = self.pod(id)?;
        transaction.commit().map_err(StateError::Query)?;
        Ok(connected)
    }

    /// Disconnects the pod of this id from a network, and frees its addresses. Returns its new state.
    pub(crate) fn disconnect(&self, id: &str, place: &ConnectTarget) -> Result<Pod, StateError> {
        let transaction = self.begin()?;
        let pod = self.member(id)?;
        let mut config = networks_of(&pod)?;
        if !place.is_in(&config) {
            return Err(StateError::NotOnNetwork {
                name: pod.name,
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
        self.set_networks(id, &config)?;
        let disconnected = self.pod(id)?;
        transaction.commit().map_err(StateError::Query)?;
        Ok(disconnected)
    }

    /// Returns the pod of this full id, which may have been removed meanwhile with its container.
    fn member(&self, id: &str) -> Result<Pod, StateError> {
        match self.pod(id) {
            Err(StateError::UnknownPod(_)) => Err(StateError::UnknownMember(id.into())),
            found => found,
        }
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

/// Returns a pod's networks.
fn networks_of(pod: &Pod) -> Result<NetworkConfig, StateError> {
    let config = pod.config.network.clone();
    config.ok_or_else(|| StateError::WithoutNetwork(pod.name.clone()))
}

/// Checks that a machine's device has room for all networks.
fn check_count(config: &NetworkConfig) -> Result<(), StateError> {
    if config.endpoints.len() > SEGMENTS_MAX {
        return Err(StateError::TooManyNetworks);
    }
    Ok(())
}

/// Chooses an address of a subnet: the requested one, or the lowest free one.
fn choose_address(
    network: &str,
    subnet: &Subnet,
    wanted: &[IpAddr],
    members: &[NetworkMember],
) -> Result<IpAddr, StateError> {
    let has = |member: &&NetworkMember, address: &IpAddr| member.addresses().contains(address);
    if let Some(address) = wanted.iter().find(|address| subnet.network.contains(*address)) {
        return match members.iter().find(|member| has(member, address)) {
            None => Ok(*address),
            Some(member) => Err(StateError::AddressTaken {
                address: address.to_string(),
                user: member.name.clone(),
            }),
        };
    }
    let taken: Vec<IpAddr> = members.iter().flat_map(NetworkMember::addresses).copied().collect();
    free_address(subnet, &taken).ok_or_else(|| StateError::NoAddress {
        network: network.into(),
        subnet: subnet.network,
    })
}

fn read_member(row: &Row<'_>) -> Result<NetworkMember, StateError> {
    let id: String = row.get("id").map_err(StateError::Query)?;
    let fields = || -> Result<NetworkMember, Box<dyn std::error::Error + Send + Sync>> {
        let config: String = row.get("config")?;
        Ok(NetworkMember {
            id: id.clone(),
            name: row.get("name")?,
            network: row.get("network")?,
            config: serde_json::from_str(&config)?,
        })
    };
    fields().map_err(|source| StateError::Damaged { id: id.clone(), source })
}
