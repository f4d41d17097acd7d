//! Databases of a directory. They are opened only if they are the ones that were made there.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};

use super::marker::{Marker, is_identity};
use super::{DatabaseSpec, Directory, DirectoryError, DirectorySpec, lock};
use crate::database;
use crate::own_file::{self, Fault};

/// `application_id` of Capsid's databases, "CPSD": it lets `file` and other tools recognize them.
const APPLICATION_ID: i64 = 0x4350_5344;
/// Suffixes of the files that SQLite keeps beside a database.
pub(super) const SIDE_FILES: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Identity that a database carries.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    directory: String,
    database: String,
}

impl Directory {
    /// Opens one of the directory's databases, migrated to this version. A database that the marker does not list is
    /// created, or taken over from an older release.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub fn open_database(&self, spec: &DatabaseSpec) -> Result<Connection, DirectoryError> {
        let path = self.path.join(spec.name);
        let listed = self.marker.lists(spec.name);
        if self.is_read_only() {
            return self.open_to_read(&path, spec);
        }
        if !listed && let Some(made) = self.make_database(&path, spec)? {
            return Ok(made);
        }
        check_files(&path)?;
        let mut connection = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        check_version(&path, &connection, spec)?;
        match identity(&connection).map_err(|e| sqlite(&path, e))? {
            Some(found) if found.is(&self.marker, spec) => {}
            _ => return Err(fault(&path, Fault::Identity)),
        }
        database::prepare(&mut connection, spec.migrations).map_err(|e| sqlite(&path, e))?;
        Ok(connection)
    }

    /// Opens a database of a read-only directory, without a migration.
    fn open_to_read(&self, path: &Path, spec: &DatabaseSpec) -> Result<Connection, DirectoryError> {
        let refused = |reason: String| DirectoryError::ReadOnly {
            path: self.path.clone(),
            reason,
        };
        if !self.marker.lists(spec.name) {
            return Err(refused(format!("its database {} is yet to be made", spec.name)));
        }
        check_files(path)?;
        let connection = connect_to_read(path)?;
        let unfinished = |error: rusqlite::Error| match error.sqlite_error_code() {
            Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly) => refused(format!(
                "its database {} has changes that an ended command has left unfinished",
                spec.name
            )),
            _ => sqlite(path, error),
        };
        let version = database::user_version(&connection).map_err(unfinished)?;
        check_version(path, &connection, spec)?;
        if version < spec.migrations.len() as i64 {
            return Err(refused(format!(
                "its database {} is of an older version of capsid",
                spec.name
            )));
        }
        match identity(&connection).map_err(|e| sqlite(path, e))? {
            Some(found) if found.is(&self.marker, spec) => Ok(connection),
            _ => Err(fault(path, Fault::Identity)),
        }
    }

    /// Creates a database and lists it in the marker; `None` if another command has listed it meanwhile.
    fn make_database(&self, path: &Path, spec: &DatabaseSpec) -> Result<Option<Connection>, DirectoryError> {
        let failed = |source| DirectoryError::Use {
            path: self.path.clone(),
            source,
        };
        let _lock = lock(&self.file).map_err(failed)?;
        let mut marker = Marker::read(&self.path)?.unwrap_or_else(|| self.marker.clone());
        if marker.lists(spec.name) {
            return Ok(None);
        }
        let mut connection = match check_files(path) {
            Err(DirectoryError::Fault {
                fault: fault @ (Fault::Missing | Fault::Empty),
                ..
            }) => {
                refuse_loss(&self.path, spec, fault)?;
                connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?
            }
            checked => {
                checked?;
                let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
                check_version(path, &connection, spec)?;
                check_unlisted(&self.path, &connection, &marker, spec)?;
                connection
            }
        };
        database::use_wal(&connection).map_err(|e| sqlite(path, e))?;
        stamp(&mut connection, &marker, spec).map_err(|e| sqlite(path, e))?;
        database::prepare(&mut connection, spec.migrations).map_err(|e| sqlite(path, e))?;
        marker.databases.push(spec.name.into());
        marker.write(&self.path, &self.file).map_err(failed)?;
        Ok(Some(connection))
    }
}

impl Identity {
    fn is(&self, marker: &Marker, spec: &DatabaseSpec) -> bool {
        self.directory == marker.identity && self.database == spec.name
    }
}

/// Identity that the databases of a directory without marker carry; `None` if an older release made them.
pub(super) fn older_identity(path: &Path, spec: &DirectorySpec) -> Result<Option<String>, DirectoryError> {
    let is_there = |database: &&DatabaseSpec| std::fs::symlink_metadata(path.join(database.name)).is_ok();
    if !spec.databases.iter().any(|database| is_there(&database)) {
        return match (spec.is_older)(path) {
            true => Ok(None),
            false => Err(DirectoryError::NotOurs { path: path.into() }),
        };
    }
    let mut common: Option<String> = None;
    for database in spec.databases {
        let file = path.join(database.name);
        if !is_there(&database) {
            refuse_loss(path, database, Fault::Missing)?;
            continue;
        }
        check_files(&file)?;
        let connection = connect(&file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        check_version(&file, &connection, database)?;
        check_integrity(&file, &connection)?;
        let found = identity(&connection).map_err(|e| sqlite(&file, e))?;
        let is_one = |found: &Identity| {
            found.database == database.name
                && is_identity(&found.directory)
                && common.as_ref().is_none_or(|common| *common == found.directory)
        };
        match found {
            Some(found) if is_one(&found) => common = Some(found.directory),
            Some(_) => return Err(fault(&file, Fault::Identity)),
            None if has_table(&connection, database.table).map_err(|e| sqlite(&file, e))? => {}
            None => return Err(DirectoryError::NotOurs { path: path.into() }),
        }
    }
    Ok(common)
}

/// State of a database, as a recovery finds it.
#[derive(Debug)]
pub(super) enum Soundness {
    /// Never created, and needed by nothing.
    Absent,
    /// Sound, of an older release, without an identity.
    Older,
    /// Sound, with the identity of its directory.
    Listable(String),
    /// Missing or unusable.
    Lost,
}

impl Soundness {
    /// Identity of a sound database, if it has one; `None` if the database is not sound.
    pub(super) fn identity(&self) -> Option<Option<String>> {
        match self {
            Self::Older => Some(None),
            Self::Listable(identity) => Some(Some(identity.clone())),
            Self::Absent | Self::Lost => None,
        }
    }
}

/// Checks a database as a whole.
pub(super) fn judge(
    directory: &Path,
    spec: &DatabaseSpec,
    marker: Option<&Marker>,
) -> Result<Soundness, DirectoryError> {
    let path = directory.join(spec.name);
    let is_listed = marker.is_some_and(|marker| marker.lists(spec.name));
    if !is_listed && std::fs::symlink_metadata(&path).is_err() {
        return refuse_loss(directory, spec, Fault::Missing).map(|()| Soundness::Absent);
    }
    check_files(&path)?;
    let connection = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    check_version(&path, &connection, spec)?;
    check_integrity(&path, &connection)?;
    match identity(&connection).map_err(|e| sqlite(&path, e))? {
        Some(found) if found.database == spec.name && marker.is_none_or(|marker| found.is(marker, spec)) => {
            Ok(Soundness::Listable(found.directory))
        }
        // A backup that is older than the marker.
        None if has_table(&connection, spec.table).map_err(|e| sqlite(&path, e))? => Ok(Soundness::Older),
        _ => Ok(Soundness::Lost),
    }
}

/// Checks a database that no marker lists: one of an older release, or of a command that was killed before it listed
/// it.
fn check_unlisted(
    directory: &Path,
    connection: &Connection,
    marker: &Marker,
    spec: &DatabaseSpec,
) -> Result<(), DirectoryError> {
    let path = directory.join(spec.name);
    let failed = |e| sqlite(&path, e);
    match identity(connection).map_err(failed)? {
        Some(found) if found.is(marker, spec) => Ok(()),
        Some(_) => Err(fault(&path, Fault::Identity)),
        None if has_table(connection, spec.table).map_err(failed)? => check_integrity(&path, connection),
        None if is_blank(connection).map_err(failed)? => refuse_loss(directory, spec, Fault::Empty),
        None => Err(fault(&path, Fault::Identity)),
    }
}

/// Refuses to start with a new database while there is something that only the lost one described.
fn refuse_loss(directory: &Path, spec: &DatabaseSpec, lost: Fault) -> Result<(), DirectoryError> {
    let is_something = |name: &str| {
        let entries = std::fs::read_dir(directory.join(name));
        entries.is_ok_and(|mut entries| entries.next().is_some())
    };
    if spec.describes.iter().any(|name| is_something(name)) {
        return Err(fault(&directory.join(spec.name), lost));
    }
    Ok(())
}

/// Checks a database's files before SQLite opens them.
fn check_files(path: &Path) -> Result<(), DirectoryError> {
    own_file::check(path).map_err(|found| fault(path, found))?;
    for end in SIDE_FILES {
        let side = side_file(path, end);
        match own_file::check(&side) {
            // SQLite empties and removes them as needed.
            Ok(()) | Err(Fault::Missing | Fault::Empty) => {}
            Err(found) => return Err(fault(&side, found)),
        }
    }
    Ok(())
}

/// Path of a file that SQLite keeps beside a database.
pub(super) fn side_file(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn connect(path: &Path, access: OpenFlags) -> Result<Connection, DirectoryError> {
    let flags = access | OpenFlags::SQLITE_OPEN_NOFOLLOW | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|e| sqlite(path, e))?;
    connection
        .busy_timeout(database::BUSY_TIMEOUT)
        .map_err(|e| sqlite(path, e))?;
    Ok(connection)
}

/// Opens a database in a read-only place. Without a write-ahead log nobody else has it open, and SQLite needs no shared
/// memory beside it.
fn connect_to_read(path: &Path) -> Result<Connection, DirectoryError> {
    if std::fs::symlink_metadata(side_file(path, SIDE_FILES[0])).is_ok() {
        return connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY);
    }
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-._".contains(byte);
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        match is_plain(byte) {
            true => uri.push(char::from(*byte)),
            false => uri += &format!("%{byte:02x}"),
        }
    }
    uri += "?immutable=1";
    connect(
        Path::new(&uri),
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI,
    )
}

fn check_version(path: &Path, connection: &Connection, spec: &DatabaseSpec) -> Result<(), DirectoryError> {
    let found = database::user_version(connection).map_err(|e| sqlite(path, e))?;
    let known = spec.migrations.len() as i64;
    if found > known {
        let path = path.into();
        return Err(DirectoryError::Newer { path, found, known });
    }
    Ok(())
}

/// Checks the whole content of a database that is to be taken over.
fn check_integrity(path: &Path, connection: &Connection) -> Result<(), DirectoryError> {
    let verdict: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|e| sqlite(path, e))?;
    if verdict == "ok" {
        return Ok(());
    }
    Err(fault(path, Fault::Damaged(verdict)))
}

fn has_table(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    connection
        .prepare("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1")?
        .exists([name])
}

fn is_blank(connection: &Connection) -> rusqlite::Result<bool> {
    Ok(!connection.prepare("SELECT 1 FROM sqlite_schema")?.exists([])?)
}

fn identity(connection: &Connection) -> rusqlite::Result<Option<Identity>> {
    if !has_table(connection, "identity")? {
        return Ok(None);
    }
    connection
        .query_row("SELECT directory, database FROM identity", [], |row| {
            Ok(Identity {
                directory: row.get(0)?,
                database: row.get(1)?,
            })
        })
        .optional()
}

/// Writes a directory's identity into a database that has none.
fn stamp(connection: &mut Connection, marker: &Marker, spec: &DatabaseSpec) -> rusqlite::Result<()> {
    if identity(connection)?.is_some() {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.execute_batch(
        "CREATE TABLE IF NOT EXISTS identity (directory TEXT NOT NULL, database TEXT NOT NULL) STRICT;",
    )?;
    transaction.execute("INSERT INTO identity VALUES (?1, ?2)", [&marker.identity, spec.name])?;
    transaction.commit()
}

fn fault(path: &Path, fault: Fault) -> DirectoryError {
    let path = path.into();
    DirectoryError::Fault { path, fault }
}

/// Converts an error of SQLite; a file that SQLite cannot read is a fault of the file.
fn sqlite(path: &Path, source: rusqlite::Error) -> DirectoryError {
    match source.sqlite_error_code() {
        _ if database::is_damage(&source) => fault(path, Fault::Damaged(source.to_string())),
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            fault(path, Fault::Unreadable(std::io::Error::other(source)))
        }
        _ => DirectoryError::Sqlite {
            path: path.into(),
            source,
        },
    }
}
