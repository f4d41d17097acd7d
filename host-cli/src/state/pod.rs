//! Pod of several containers in the state. A container without a pod is one of its own, and has no such row.

use rusqlite::{ErrorCode, Row, params};

use super::{State, StateError};
use crate::model::{Container, Pod};

const COLUMNS: &str = "id, name, created_ns, config, status, started_ns, finished_ns, error, supervisor_pid";
impl State {
    /// Adds a pod, and assigns its addresses on user-defined networks. The name must be free among pods.
    pub(crate) fn add_pod(&self, pod: &mut Pod) -> Result<(), StateError> {
        let transaction = self.begin()?;
        // `pod` is changed only when it was added: the caller may try again with another name.
        let mut config = pod.config.clone();
        if let Some(network) = &mut config.network {
            self.join_all(&pod.id, network)?;
        }
        let text = serde_json::to_string(&config).map_err(|e| damaged(&pod.id, e))?;
        let added = self.0.execute(
            "INSERT INTO pods (id, name, created_ns, config, status) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![pod.id, pod.name, pod.created_ns, text, pod.status.as_str()],
        );
        match added {
            Ok(_) => transaction.commit().map_err(StateError::Query)?,
            Err(rusqlite::Error::SqliteFailure(e, _)) if e.code == ErrorCode::ConstraintViolation => {
                return Err(StateError::PodNameTaken(pod.name.clone()));
            }
            Err(e) => return Err(StateError::Query(e)),
        }
        pod.config = config;
        Ok(())
    }

    /// Returns all pods, the newest first.
    pub(crate) fn pods(&self) -> Result<Vec<Pod>, StateError> {
        self.select_pods("ORDER BY created_ns DESC, id", [])
    }

    /// Returns the pod with this full id.
    pub(crate) fn pod(&self, id: &str) -> Result<Pod, StateError> {
        let found = self.select_pods("WHERE id = ?1", [id])?;
        found
            .into_iter()
            .next()
            .ok_or_else(|| StateError::UnknownPod(id.into()))
    }

    /// Returns a pod by name, id, or id prefix.
    pub(crate) fn find_pod(&self, word: &str) -> Result<Pod, StateError> {
        let named = self.select_pods("WHERE name = ?1 OR id = ?1", [word])?;
        if let Some(pod) = named.into_iter().next() {
            return Ok(pod);
        }
        let mut begun = self.select_pods("WHERE ?1 != '' AND substr(id, 1, length(?1)) = ?1 LIMIT 2", [word])?;
        match (begun.pop(), begun.is_empty()) {
            (Some(pod), true) => Ok(pod),
            (Some(_), false) => Err(StateError::AmbiguousPod(word.into())),
            (None, _) => Err(StateError::UnknownPod(word.into())),
        }
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
        let text = format!("SELECT {COLUMNS} FROM pods {clause}");
        let mut statement = self.0.prepare(&text).map_err(StateError::Query)?;
        let rows = statement
            .query_map(parameters, |row| Ok(read(row)))
            .map_err(StateError::Query)?;
        rows.map(|row| row.map_err(StateError::Query)?).collect()
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
    let fields = || -> Result<Pod, Box<dyn std::error::Error + Send + Sync>> {
        let config: String = row.get("config")?;
        let status: String = row.get("status")?;
        Ok(Pod {
            id: id.clone(),
            name: row.get("name")?,
            created_ns: row.get("created_ns")?,
            config: serde_json::from_str(&config)?,
            status: status.parse()?,
            started_ns: row.get("started_ns")?,
            finished_ns: row.get("finished_ns")?,
            error: row.get("error")?,
            supervisor_pid: row.get("supervisor_pid")?,
        })
    };
    fields().map_err(|source| StateError::Damaged { id: id.clone(), source })
}
