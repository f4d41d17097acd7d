//! Pods in the state: those that users create, and the implicit ones, which are added and removed with their containers.

use capsid_protocol::ContainerSpec;
use prost::Message as _;
use rusqlite::{ErrorCode, Row, params};

use super::{State, StateError};
use crate::model::{Container, MachineSize, NetworkConfig, Pod};

type Unreadable = Box<dyn std::error::Error + Send + Sync>;

/// Pods, an implicit one with name and spec of its container.
const TABLE: &str = "(SELECT pods.id, iif(pods.implicit, containers.name, pods.name) AS name, pods.implicit, \
                     pods.created_ns, pods.config, pods.status, pods.started_ns, pods.finished_ns, pods.error, \
                     pods.supervisor_pid, containers.spec FROM pods \
                     LEFT JOIN containers ON pods.implicit AND containers.id = pods.id)";

impl State {
    /// Adds a pod, and assigns its addresses on user-defined networks. The name must be free among pods.
    pub(crate) fn add_pod(&self, pod: &mut Pod) -> Result<(), StateError> {
        let transaction = self.begin()?;
        // `pod` is changed only when it was added: the caller may try again with another name.
        let mut added = pod.clone();
        self.insert_pod(&mut added)?;
        transaction.commit().map_err(StateError::Query)?;
        *pod = added;
        Ok(())
    }

    /// Inserts the row of a pod, and assigns its addresses.
    pub(super) fn insert_pod(&self, pod: &mut Pod) -> Result<(), StateError> {
        if let Some(network) = &mut pod.config.network {
            self.join_all(&pod.id, network)?;
        }
        let text = serde_json::to_string(&pod.config).map_err(|e| damaged(&pod.id, e))?;
        // An implicit pod has its container's name. No user can give this one to another pod.
        let own_name = format!("/{}", pod.id);
        let added = self.0.execute(
            "INSERT INTO pods (id, name, created_ns, config, status, implicit) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                pod.id,
                if pod.is_implicit { &own_name } else { &pod.name },
                pod.created_ns,
                text,
                pod.status.as_str(),
                pod.is_implicit
            ],
        );
        match added {
            Ok(_) => Ok(()),
            Err(rusqlite::Error::SqliteFailure(e, _)) if e.code == ErrorCode::ConstraintViolation => {
                Err(StateError::PodNameTaken(pod.name.clone()))
            }
            Err(e) => Err(StateError::Query(e)),
        }
    }

    /// Returns all pods that are not implicit, the newest first.
    pub(crate) fn pods(&self) -> Result<Vec<Pod>, StateError> {
        self.select_pods("WHERE NOT implicit ORDER BY created_ns DESC, id", [])
    }

    /// Returns the pod with this full id, implicit or not.
    pub(crate) fn pod(&self, id: &str) -> Result<Pod, StateError> {
        let found = self.select_pods("WHERE id = ?1", [id])?;
        found
            .into_iter()
            .next()
            .ok_or_else(|| StateError::UnknownPod(id.into()))
    }

    /// Returns a pod that is not implicit by name, id, or id prefix.
    pub(crate) fn find_pod(&self, word: &str) -> Result<Pod, StateError> {
        let named = self.select_pods("WHERE NOT implicit AND (name = ?1 OR id = ?1)", [word])?;
        if let Some(pod) = named.into_iter().next() {
            return Ok(pod);
        }
        let begun = "WHERE NOT implicit AND ?1 != '' AND substr(id, 1, length(?1)) = ?1 LIMIT 2";
        let mut begun = self.select_pods(begun, [word])?;
        match (begun.pop(), begun.is_empty()) {
            (Some(pod), true) => Ok(pod),
            (Some(_), false) => Err(StateError::AmbiguousPod(word.into())),
            (None, _) => Err(StateError::UnknownPod(word.into())),
        }
    }

    /// Returns the pod whose networks a container's or pod's name stands for. A container in a pod that is not implicit
    /// has none of its own.
    pub(crate) fn find_member(&self, word: &str) -> Result<Pod, StateError> {
        let container = match self.find(word) {
            Err(StateError::Unknown(_)) => None,
            found => Some(found?),
        };
        // A whole name has precedence over an id prefix.
        let container = match container {
            Some(container) if container.name == word || container.id == word => return networked(container),
            container => container,
        };
        match (self.find_pod(word), container) {
            (Ok(pod), Some(container)) if !pod.is_called(word) => networked(container),
            (Err(StateError::UnknownPod(_)), Some(container)) => networked(container),
            (Err(StateError::UnknownPod(_)), None) => Err(StateError::UnknownMember(word.into())),
            (found, _) => found,
        }
    }

    /// Writes a pod's networks, and nothing else of its row.
    pub(super) fn set_networks(&self, id: &str, config: &NetworkConfig) -> Result<(), StateError> {
        let text = serde_json::to_string(config).map_err(|e| damaged(id, e))?;
        self.update(
            "UPDATE pods SET config = json_set(config, '$.network', json(?2)) WHERE id = ?1",
            params![id, text],
        )
    }

    /// Writes the size of a pod's next machine, and nothing else of its row.
    pub(super) fn set_machine(&self, id: &str, machine: MachineSize) -> Result<(), StateError> {
        let text = serde_json::to_string(&machine).map_err(|e| damaged(id, e))?;
        self.update(
            "UPDATE pods SET config = json_set(config, '$.machine', json(?2)) WHERE id = ?1",
            params![id, text],
        )
    }

    /// Returns the containers of a pod, the oldest first.
    pub(crate) fn containers_of(&self, pod: &str) -> Result<Vec<Container>, StateError> {
        self.select("WHERE pod = ?1 ORDER BY created_ns, id", [pod])
    }

    /// Records that this supervisor starts the pod's machine.
    pub(crate) fn set_pod_running(&self, id: &str, now_ns: i64, supervisor_pid: u32) -> Result<(), StateError> {
        self.update(
            "UPDATE pods SET status = 'Running', started_ns = ?2, supervisor_pid = ?3, error = '' WHERE id = ?1",
            params![id, now_ns, supervisor_pid],
        )
    }

    /// Records that the pod's machine ended.
    pub(crate) fn set_pod_exited(&self, id: &str, now_ns: i64, error: &str) -> Result<(), StateError> {
        self.update(
            "UPDATE pods SET status = 'Exited', finished_ns = ?2, error = ?3, supervisor_pid = 0 WHERE id = ?1",
            params![id, now_ns, error],
        )
    }

    /// Removes the row of a pod without containers, which frees its addresses.
    pub(crate) fn remove_pod(&self, id: &str) -> Result<(), StateError> {
        self.update("DELETE FROM pods WHERE id = ?1", params![id])
    }

    fn select_pods(&self, clause: &str, parameters: impl rusqlite::Params) -> Result<Vec<Pod>, StateError> {
        let text = format!("SELECT * FROM {TABLE} {clause}");
        let mut statement = self.0.prepare(&text).map_err(StateError::Query)?;
        let rows = statement
            .query_map(parameters, |row| Ok(read(row)))
            .map_err(StateError::Query)?;
        rows.map(|row| row.map_err(StateError::Query)?).collect()
    }
}

/// Returns the implicit pod of a container.
fn networked(container: Container) -> Result<Pod, StateError> {
    match container.explicit_pod() {
        Some(pod) => Err(StateError::PodsNetworks {
            container: container.name.clone(),
            pod: pod.name.clone(),
        }),
        None => Ok(*container.pod),
    }
}

fn damaged(id: &str, source: impl std::error::Error + Send + Sync + 'static) -> StateError {
    StateError::Damaged {
        id: id.into(),
        source: Box::new(source),
    }
}

fn read(row: &Row<'_>) -> Result<Pod, StateError> {
    let id: String = row.get("id").map_err(StateError::Query)?;
    let fields = || -> Result<Pod, Unreadable> {
        let spec: Option<Vec<u8>> = row.get("spec")?;
        let spec = spec.map(|spec| ContainerSpec::decode(spec.as_slice())).transpose()?;
        columns(row, id.clone(), "", spec.as_ref())
    };
    fields().map_err(|source| StateError::Damaged { id: id.clone(), source })
}

/// Reads the pod of a container from the container's row, where its columns have a prefix.
pub(super) fn of_container(row: &Row<'_>, spec: &ContainerSpec) -> Result<Pod, Unreadable> {
    let pod = columns(row, row.get("pod")?, "pod_", Some(spec))?;
    Ok(match pod.is_implicit {
        true => Pod {
            name: row.get("name")?,
            ..pod
        },
        false => pod,
    })
}

/// Reads a pod from the columns with this prefix. `spec` is that of an implicit pod's container.
fn columns(row: &Row<'_>, id: String, prefix: &str, spec: Option<&ContainerSpec>) -> Result<Pod, Unreadable> {
    let column = |name: &str| format!("{prefix}{name}");
    let config: String = row.get(&*column("config"))?;
    let status: String = row.get(&*column("status"))?;
    let mut pod = Pod {
        id,
        name: row.get(&*column("name"))?,
        is_implicit: row.get(&*column("implicit"))?,
        created_ns: row.get(&*column("created_ns"))?,
        config: serde_json::from_str(&config)?,
        status: status.parse()?,
        started_ns: row.get(&*column("started_ns"))?,
        finished_ns: row.get(&*column("finished_ns"))?,
        error: row.get(&*column("error"))?,
        supervisor_pid: row.get(&*column("supervisor_pid"))?,
    };
    if let Some(spec) = spec.filter(|_| pod.is_implicit) {
        pod.config.hostname.clone_from(&spec.hostname);
    }
    Ok(pod)
}
