//! State of containers in SQLite: one file in the data folder, which many commands use at once.
//!
//! ```text
//! data/containers.db         rows: what containers are, and how they ended
//! data/containers/ID/        what a container keeps: scratch disk, logs
//! data/volumes/NAME/         a volume's disk: see `volumes`
//! run/pods/ID/lock           held by whoever changes or runs the container: see `container_lock`
//! run/pods/ID/socket         its supervisor listens here: see `control`; both also for a pod that is not implicit
//! ```
//!
//! Every container has a pod: one that was created before it, or an implicit one with the container's id, whose row
//! comes and goes with the container's.
//!
//! A row is added before any command shows the container, and the container's folder is complete by then. When a row
//! says that a container runs while nobody holds its lock, the supervisor was killed: `recovery` updates the row.
//! Before anything is created or removed on disk, its name is recorded in the table `pending`: `recovery` removes what
//! is recorded there and has no row, and nothing else.

mod container;
mod membership;
mod pending;
mod pod;
#[cfg(test)]
pub(crate) mod tests;
mod user_network;
mod volume;

use std::path::Path;

use capsid_image::{DatabaseSpec, Directory, DirectoryError, Links, is_damage};
use capsid_vmm::segments::SEGMENTS_MAX;
use ipnet::IpNet;
use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::folders;
use crate::model::SubnetError;

pub(crate) use pending::{Pending, Step};

/// Database of containers, pods, volumes and networks.
pub(crate) const DATABASE: DatabaseSpec = DatabaseSpec {
    name: "containers.db",
    table: "containers",
    describes: &["containers", "volumes"],
    migrations: &MIGRATIONS,
};

/// Migrations of the database: each leads from the version of its index to the next.
const MIGRATIONS: [&str; 8] = [
    "
    CREATE TABLE containers (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        image TEXT NOT NULL,
        image_id TEXT NOT NULL,
        created_ns INTEGER NOT NULL,
        spec BLOB NOT NULL,
        config TEXT NOT NULL,
        status TEXT NOT NULL,
        started_ns INTEGER NOT NULL DEFAULT 0,
        finished_ns INTEGER NOT NULL DEFAULT 0,
        exit_code INTEGER NOT NULL DEFAULT 0,
        oom_killed INTEGER NOT NULL DEFAULT 0,
        error TEXT NOT NULL DEFAULT '',
        restarts INTEGER NOT NULL DEFAULT 0,
        supervisor_pid INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE INDEX containers_by_image ON containers (image_id);
",
    "
    CREATE TABLE volumes (
        name TEXT PRIMARY KEY,
        created_ns INTEGER NOT NULL,
        labels TEXT NOT NULL,
        anonymous INTEGER NOT NULL
    ) STRICT;
",
    "
    CREATE TABLE pods (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        created_ns INTEGER NOT NULL,
        config TEXT NOT NULL,
        status TEXT NOT NULL,
        started_ns INTEGER NOT NULL DEFAULT 0,
        finished_ns INTEGER NOT NULL DEFAULT 0,
        error TEXT NOT NULL DEFAULT '',
        supervisor_pid INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    ALTER TABLE containers ADD COLUMN pod TEXT REFERENCES pods (id);
    CREATE INDEX containers_by_pod ON containers (pod);
",
    // A membership's pod is a pod, or a container that is a pod of its own. The membership's row is deleted with
    // theirs, whoever deletes it.
    "
    CREATE TABLE networks (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        created_ns INTEGER NOT NULL,
        config TEXT NOT NULL
    ) STRICT;
    CREATE TABLE memberships (
        network TEXT NOT NULL REFERENCES networks (id),
        pod TEXT NOT NULL,
        ipv4 TEXT,
        ipv6 TEXT,
        PRIMARY KEY (network, pod)
    ) STRICT;
    CREATE UNIQUE INDEX memberships_by_ipv4 ON memberships (network, ipv4);
    CREATE UNIQUE INDEX memberships_by_ipv6 ON memberships (network, ipv6);
    CREATE INDEX memberships_by_pod ON memberships (pod);
    CREATE TRIGGER container_leaves AFTER DELETE ON containers BEGIN
        DELETE FROM memberships WHERE pod = OLD.id;
    END;
    CREATE TRIGGER pod_leaves AFTER DELETE ON pods BEGIN
        DELETE FROM memberships WHERE pod = OLD.id;
    END;
",
    // A membership was one user-defined network or the own link. Now it is any number of networks beside that link. A
    // damaged row stays as it is: it is reported where it is read.
    "
    UPDATE containers SET config = json_set(
        config,
        '$.network.own_link', json(iif(ifnull(json_type(config, '$.network.joined'), 'null') = 'null', 'true', 'false')),
        '$.network.joined', json(iif(ifnull(json_type(config, '$.network.joined'), 'null') = 'null', '[]',
                                     json_array(json_extract(config, '$.network.joined'))))
    ) WHERE CASE WHEN json_valid(config) THEN json_type(config, '$.network') = 'object' END;
    UPDATE pods SET config = json_set(
        config,
        '$.network.own_link', json(iif(ifnull(json_type(config, '$.network.joined'), 'null') = 'null', 'true', 'false')),
        '$.network.joined', json(iif(ifnull(json_type(config, '$.network.joined'), 'null') = 'null', '[]',
                                     json_array(json_extract(config, '$.network.joined'))))
    ) WHERE CASE WHEN json_valid(config) THEN json_type(config, '$.network') = 'object' END;
",
    // Names of what is being created or removed on disk. An inserted row ends the creation, a deleted one begins the
    // removal.
    "
    CREATE TABLE pending (
        kind TEXT NOT NULL,
        name TEXT NOT NULL,
        step TEXT NOT NULL,
        PRIMARY KEY (kind, name)
    ) STRICT, WITHOUT ROWID;
    CREATE TRIGGER container_made AFTER INSERT ON containers BEGIN
        DELETE FROM pending WHERE kind = 'container' AND name = NEW.id;
    END;
    CREATE TRIGGER container_removed AFTER DELETE ON containers BEGIN
        INSERT OR REPLACE INTO pending VALUES ('container', OLD.id, 'remove');
    END;
    CREATE TRIGGER volume_made AFTER INSERT ON volumes BEGIN
        DELETE FROM pending WHERE kind = 'volume' AND name = NEW.name;
    END;
    CREATE TRIGGER volume_removed AFTER DELETE ON volumes BEGIN
        INSERT OR REPLACE INTO pending VALUES ('volume', OLD.name, 'remove');
    END;
    CREATE TRIGGER pod_removed AFTER DELETE ON pods BEGIN
        INSERT OR REPLACE INTO pending VALUES ('pod', OLD.id, 'remove');
    END;
    CREATE TRIGGER network_removed AFTER DELETE ON networks BEGIN
        INSERT OR REPLACE INTO pending VALUES ('network', OLD.id, 'remove');
    END;
",
    // Volumes from before this version count as prepared: containers have used them.
    "
    ALTER TABLE volumes ADD COLUMN prepared INTEGER NOT NULL DEFAULT 0;
    UPDATE volumes SET prepared = 1;
",
    // A container without a pod gets an implicit one, with its id, which takes over its machine and its networks. The
    // host name of such a pod is still in the container's spec alone. A damaged row stays as it is.
    "
    ALTER TABLE pods ADD COLUMN implicit INTEGER NOT NULL DEFAULT 0;
    INSERT INTO pods (id, name, created_ns, config, status, implicit)
        SELECT id, '/' || id, created_ns, CASE WHEN json_valid(config) THEN json_object(
            'machine', json_extract(config, '$.machine'),
            'accelerator', json_extract(config, '$.accelerator'),
            'kernel', json_extract(config, '$.kernel'),
            'labels', json('[]'),
            'hostname', '',
            'shares_pids', json('false'),
            'shm_bytes', 0,
            'sysctls', json('[]'),
            'limits', json('{}'),
            'shares', json(ifnull(config -> '$.shares', '[]')),
            'network', json(ifnull(config -> '$.network', 'null'))
        ) ELSE config END, 'Created', 1 FROM containers WHERE pod IS NULL;
    UPDATE containers SET pod = id WHERE pod IS NULL;
    UPDATE containers SET config = json_remove(config, '$.machine', '$.accelerator', '$.kernel', '$.network')
        WHERE json_valid(config);
    DROP TRIGGER container_leaves;
    CREATE TRIGGER container_leaves AFTER DELETE ON containers BEGIN
        DELETE FROM pods WHERE id = OLD.pod AND implicit;
    END;
    DROP TRIGGER pod_removed;
    CREATE TRIGGER pod_removed AFTER DELETE ON pods WHEN NOT OLD.implicit BEGIN
        INSERT OR REPLACE INTO pending VALUES ('pod', OLD.id, 'remove');
    END;
",
];

/// Error when the state cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error(transparent)]
    Open(#[from] DirectoryError),
    #[error("the state in containers.db cannot be read or written{}", cure(.0))]
    Query(#[source] rusqlite::Error),
    #[error("the state of container {id} is damaged")]
    Damaged {
        id: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the name {name:?} is already in use by container {id}: remove or rename that container first")]
    NameTaken { name: String, id: String },
    #[error("no such container: {0}")]
    Unknown(String),
    #[error("{0} is the beginning of several containers' ids: say more of it")]
    Ambiguous(String),
    #[error("the name {0:?} is already in use by another pod: remove that pod first")]
    PodNameTaken(String),
    #[error("the pod was removed meanwhile")]
    PodGone,
    #[error("no such pod: {0}")]
    UnknownPod(String),
    #[error("{0} is the beginning of several pods' ids: say more of it")]
    AmbiguousPod(String),
    #[error("the state of network {id} is damaged")]
    DamagedNetwork {
        id: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("network with name {0} already exists")]
    NetworkNameTaken(String),
    #[error("network {0} not found")]
    UnknownNetwork(String),
    #[error("{0} is the beginning of several networks' ids: say more of it")]
    AmbiguousNetwork(String),
    #[error("network {name} is used by {users}: disconnect or remove them first")]
    NetworkUsed { name: String, users: String },
    #[error("address {address} is already in use by {user}")]
    AddressTaken { address: String, user: String },
    #[error("no such container or pod: {0}")]
    UnknownMember(String),
    #[error("{name} is on network {network} already: disconnect it first to give it another place there")]
    AlreadyOnNetwork { name: String, network: String },
    #[error("{name} is not on network {network}: see its NetworkSettings in `inspect`")]
    NotOnNetwork { name: String, network: String },
    #[error("a container or pod is on {SEGMENTS_MAX} networks at most")]
    TooManyNetworks,
    #[error("{0} was made with --network none, so its machine has no network device: make it again without")]
    WithoutNetwork(String),
    #[error("container {container} has the networks of its pod: name the pod, {pod}")]
    PodsNetworks { container: String, pod: String },
    #[error("network {network} has no free address in {subnet}")]
    NoAddress { network: String, subnet: IpNet },
    #[error(transparent)]
    Subnet(#[from] SubnetError),
}

/// Returns a hint about what helps against an error of SQLite.
fn cure(error: &rusqlite::Error) -> &'static str {
    if is_damage(error) {
        ": restore it from a backup of the data directory, or run `capsid system recover`"
    } else {
        ""
    }
}

/// Open state database.
#[derive(Debug)]
pub(crate) struct State(Connection);

impl State {
    /// Opens `containers.db` in the data folder, and migrates it to this version.
    pub(crate) fn open(data: &Path) -> Result<Self, StateError> {
        let directory = Directory::open(data, &folders::DATA, Links::Follow)?;
        Ok(Self(directory.open_database(&DATABASE)?))
    }

    /// Whether the database can only be read.
    pub(crate) fn is_read_only(&self) -> bool {
        self.0.is_readonly(rusqlite::MAIN_DB).unwrap_or(false)
    }

    /// Begins a writing transaction: what it reads stays true until it is committed.
    fn begin(&self) -> Result<Transaction<'_>, StateError> {
        Transaction::new_unchecked(&self.0, TransactionBehavior::Immediate).map_err(StateError::Query)
    }
}
