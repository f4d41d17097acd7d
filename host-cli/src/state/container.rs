//! Container records of the state.

use std::sync::Once;

use capsid_protocol::ContainerSpec;
use prost::Message as _;
use rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY;
use rusqlite::{ErrorCode, OptionalExtension, Row, params};

use super::{State, StateError};
use super::{pod, volume};
use crate::error_text;
use crate::model::{Container, Exit, MachineSize, Status, Volume};

/// Containers, with the columns of their pods.
const TABLE: &str = "(SELECT containers.*, pods.name AS pod_name, pods.implicit AS pod_implicit, \
                     pods.created_ns AS pod_created_ns, pods.config AS pod_config, pods.status AS pod_status, \
                     pods.started_ns AS pod_started_ns, pods.finished_ns AS pod_finished_ns, pods.error AS pod_error, \
                     pods.supervisor_pid AS pod_supervisor_pid FROM containers JOIN pods ON pods.id = containers.pod)";

fn name_taken(name: &str, id: &str) -> StateError {
    StateError::NameTaken {
        name: name.into(),
        id: id.chars().take(12).collect(),
    }
}

impl State {
    /// Adds a container, its implicit pod, and the volumes that were created for it, all or nothing, and assigns the
    /// pod's addresses on user-defined networks. The container's name must be free.
    pub(crate) fn add(&self, container: &mut Container, volumes: &[Volume]) -> Result<(), StateError> {
        let transaction = self.begin()?;
        for made in volumes {
            volume::insert(&transaction, made)?;
        }
        // `container` is changed only when it was added: the caller may try again with another name.
        let mut pod = container.pod.clone();
        if pod.is_implicit {
            pod.name.clone_from(&container.name);
            self.insert_pod(&mut pod)?;
        }
        let text = serde_json::to_string(&container.config).map_err(|e| damaged(&container.id, e))?;
        let added = self.0.execute(
            "INSERT INTO containers (id, name, image, image_id, created_ns, spec, config, status, pod) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                container.id,
                container.name,
                container.image,
                container.image_id,
                container.created_ns,
                container.spec.encode_to_vec(),
                text,
                container.status.as_str(),
                pod.id,
            ],
        );
        self.name_error(added, &container.name)?;
        transaction.commit().map_err(StateError::Query)?;
        container.pod = pod;
        Ok(())
    }

    /// Returns an error when a container has this name.
    pub(crate) fn check_name_is_free(&self, name: &str) -> Result<(), StateError> {
        match self.id_of(name)? {
            Some(id) => Err(name_taken(name, &id)),
            None => Ok(()),
        }
    }

    fn id_of(&self, name: &str) -> Result<Option<String>, StateError> {
        let found = self
            .0
            .query_row("SELECT id FROM containers WHERE name = ?1", [name], |row| row.get(0));
        found.optional().map_err(StateError::Query)
    }

    /// Renames a container. The new name must be free.
    pub(crate) fn rename(&self, id: &str, name: &str) -> Result<(), StateError> {
        let renamed = self
            .0
            .execute("UPDATE containers SET name = ?2 WHERE id = ?1", params![id, name]);
        self.name_error(renamed, name)
    }

    fn name_error(&self, result: rusqlite::Result<usize>, name: &str) -> Result<(), StateError> {
        match result {
            Ok(_) => Ok(()),
            // The foreign key is the container's pod.
            Err(rusqlite::Error::SqliteFailure(e, _)) if e.extended_code == SQLITE_CONSTRAINT_FOREIGNKEY => {
                Err(StateError::PodGone)
            }
            Err(rusqlite::Error::SqliteFailure(e, _)) if e.code == ErrorCode::ConstraintViolation => {
                Err(name_taken(name, &self.id_of(name)?.unwrap_or_default()))
            }
            Err(e) => Err(StateError::Query(e)),
        }
    }

    /// Returns all containers that can be read, the newest first. A damaged row is reported, once, and does not hide
    /// the others.
    pub(crate) fn containers(&self) -> Result<Vec<Container>, StateError> {
        let mut readable = Vec::new();
        for row in self.rows("ORDER BY created_ns DESC, id", [])? {
            match row {
                Err(error @ StateError::Damaged { .. }) => report_damage(&error),
                row => readable.push(row?),
            }
        }
        Ok(readable)
    }

    /// Returns all containers, or an error when one cannot be read: for callers that remove what no container uses.
    pub(crate) fn all_containers(&self) -> Result<Vec<Container>, StateError> {
        self.select("ORDER BY created_ns DESC, id", [])
    }

    /// Returns containers whose supervisor must be alive, or was about to remove them.
    pub(crate) fn unfinished(&self) -> Result<Vec<Container>, StateError> {
        let clause = "WHERE status IN ('running', 'paused', 'restarting') \
                      OR (status = 'exited' AND config LIKE '%\"remove\":true%')";
        let rows = self.rows(clause, [])?;
        // A container that cannot be read cannot be ended either.
        Ok(rows.into_iter().filter_map(Result::ok).collect())
    }

    /// Returns the container with this full id.
    pub(crate) fn container(&self, id: &str) -> Result<Container, StateError> {
        let found = self.select("WHERE id = ?1", [id])?;
        found.into_iter().next().ok_or_else(|| StateError::Unknown(id.into()))
    }

    /// Returns a container by name, id, or id prefix.
    pub(crate) fn find(&self, word: &str) -> Result<Container, StateError> {
        let named = self.select("WHERE name = ?1 OR id = ?1", [word])?;
        if let Some(container) = named.into_iter().next() {
            return Ok(container);
        }
        if word.is_empty() || !word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(StateError::Unknown(word.into()));
        }
        let mut begun = self.select("WHERE substr(id, 1, length(?1)) = ?1 LIMIT 2", [word])?;
        match (begun.pop(), begun.is_empty()) {
            (Some(container), true) => Ok(container),
            (Some(_), false) => Err(StateError::Ambiguous(word.into())),
            (None, _) => Err(StateError::Unknown(word.into())),
        }
    }

    /// Returns the containers created from an image.
    pub(crate) fn users_of_image(&self, image_id: &str) -> Result<Vec<Container>, StateError> {
        self.select("WHERE image_id = ?1", [image_id])
    }

    pub(super) fn select(&self, clause: &str, parameters: impl rusqlite::Params) -> Result<Vec<Container>, StateError> {
        self.rows(clause, parameters)?.into_iter().collect()
    }

    /// Returns rows, each readable or damaged.
    fn rows(
        &self,
        clause: &str,
        parameters: impl rusqlite::Params,
    ) -> Result<Vec<Result<Container, StateError>>, StateError> {
        let text = format!("SELECT * FROM {TABLE} {clause}");
        let mut statement = self.0.prepare(&text).map_err(StateError::Query)?;
        let rows = statement
            .query_map(parameters, |row| Ok(read(row)))
            .map_err(StateError::Query)?;
        rows.collect::<Result<_, _>>().map_err(StateError::Query)
    }

    /// Records that the container runs under this supervisor.
    pub(crate) fn set_running(&self, id: &str, now_ns: i64, supervisor_pid: u32) -> Result<(), StateError> {
        self.update(
            "UPDATE containers SET status = 'running', started_ns = ?2, supervisor_pid = ?3, exit_code = 0, \
             oom_killed = 0, error = '' WHERE id = ?1",
            params![id, now_ns, supervisor_pid],
        )
    }

    /// Records an error of a container without changing its status.
    pub(crate) fn set_error(&self, id: &str, error: &str) -> Result<(), StateError> {
        self.update("UPDATE containers SET error = ?2 WHERE id = ?1", params![id, error])
    }

    /// Writes a container's spec and configuration, and nothing of its pod.
    pub(crate) fn set_plan(&self, container: &Container) -> Result<(), StateError> {
        let config = serde_json::to_string(&container.config).map_err(|e| damaged(&container.id, e))?;
        self.update(
            "UPDATE containers SET spec = ?2, config = ?3 WHERE id = ?1",
            params![container.id, container.spec.encode_to_vec(), config],
        )
    }

    /// Writes a container's spec and configuration, and the size of its implicit pod's next machine.
    pub(crate) fn set_plan_and_machine(&self, container: &Container, machine: MachineSize) -> Result<(), StateError> {
        let transaction = self.begin()?;
        self.set_plan(container)?;
        if container.pod.is_implicit {
            self.set_machine(&container.pod.id, machine)?;
        }
        transaction.commit().map_err(StateError::Query)
    }

    /// Changes a container's status and nothing else.
    pub(crate) fn set_status(&self, id: &str, status: Status) -> Result<(), StateError> {
        self.update(
            "UPDATE containers SET status = ?2 WHERE id = ?1",
            params![id, status.as_str()],
        )
    }

    /// Records that a container ended.
    pub(crate) fn set_exited(&self, id: &str, now_ns: i64, exit: &Exit, next: Status) -> Result<(), StateError> {
        self.update(
            "UPDATE containers SET status = ?2, finished_ns = ?3, exit_code = ?4, oom_killed = ?5, error = ?6, \
             supervisor_pid = 0 WHERE id = ?1",
            params![id, next.as_str(), now_ns, exit.code, exit.oom_killed, exit.error],
        )
    }

    /// Counts a restart by the restart policy.
    pub(crate) fn count_restart(&self, id: &str) -> Result<(), StateError> {
        self.update(
            "UPDATE containers SET restarts = restarts + 1 WHERE id = ?1",
            params![id],
        )
    }

    /// Removes a container's row, and that of its implicit pod, which frees the pod's addresses.
    pub(crate) fn remove(&self, id: &str) -> Result<(), StateError> {
        self.update("DELETE FROM containers WHERE id = ?1", params![id])
    }

    pub(super) fn update(&self, statement: &str, parameters: impl rusqlite::Params) -> Result<(), StateError> {
        self.0
            .execute(statement, parameters)
            .map(drop)
            .map_err(StateError::Query)
    }
}

/// Reports a damaged row, once per process, however often one is read.
fn report_damage(error: &StateError) {
    static REPORTED: Once = Once::new();
    REPORTED.call_once(|| error_text::print(error));
}

fn damaged(id: &str, source: impl std::error::Error + Send + Sync + 'static) -> StateError {
    StateError::Damaged {
        id: id.into(),
        source: Box::new(source),
    }
}

fn read(row: &Row<'_>) -> Result<Container, StateError> {
    let id: String = row.get("id").map_err(StateError::Query)?;
    let fields = || -> Result<Container, Box<dyn std::error::Error + Send + Sync>> {
        let spec: Vec<u8> = row.get("spec")?;
        let spec = ContainerSpec::decode(spec.as_slice())?;
        let config: String = row.get("config")?;
        let status: String = row.get("status")?;
        Ok(Container {
            id: id.clone(),
            name: row.get("name")?,
            pod: Box::new(pod::of_container(row, &spec)?),
            image: row.get("image")?,
            image_id: row.get("image_id")?,
            created_ns: row.get("created_ns")?,
            spec,
            config: serde_json::from_str(&config)?,
            status: status.parse()?,
            started_ns: row.get("started_ns")?,
            finished_ns: row.get("finished_ns")?,
            exit_code: row.get("exit_code")?,
            oom_killed: row.get("oom_killed")?,
            error: row.get("error")?,
            restarts: row.get("restarts")?,
            supervisor_pid: row.get("supervisor_pid")?,
        })
    };
    fields().map_err(|source| StateError::Damaged { id: id.clone(), source })
}
