//! A database of Capsid's, in SQLite, brought up to the version that this program knows. Many commands open it at once.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, TransactionBehavior};

/// How long a command waits for another one's transaction, which takes milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// How often we look again where SQLite does not wait by itself.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenDatabaseError {
    /// A later program has written it.
    #[error("its version is {found}, and this program knows {known}")]
    Newer {
        /// The database's version.
        found: i64,
        /// The last one that is known here.
        known: i64,
    },
    /// SQLite.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

/// Opens the database at `path`, which is made when it is not there. `migrations` are one step each from the version of
/// their index to the next.
///
/// # Errors
/// [`OpenDatabaseError`].
pub fn open_database(path: &Path, migrations: &[&str]) -> Result<Connection, OpenDatabaseError> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let found = user_version(&connection)?;
    let known = migrations.len() as i64;
    if found > known {
        return Err(OpenDatabaseError::Newer { found, known });
    }
    use_wal(&connection)?;
    // FULL: a transaction that was acknowledged survives a power cut; NORMAL would lose the last ones in WAL mode.
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")?;
    if found < known {
        migrate(&mut connection, migrations)?;
    }
    Ok(connection)
}

/// Two that change the mode of a new database at once have read it both: SQLite tells one of them at once that it is
/// busy, because waiting would be for ever (sqlite3_busy_handler: "the handler might not be invoked"). It has let go of
/// it then, and may try again.
fn use_wal(connection: &Connection) -> rusqlite::Result<()> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        match connection.execute_batch("PRAGMA journal_mode = WAL;") {
            Err(rusqlite::Error::SqliteFailure(error, _))
                if error.code == ErrorCode::DatabaseBusy && Instant::now() < deadline =>
            {
                std::thread::sleep(LOOK_EVERY);
            }
            changed => return changed,
        }
    }
}

fn user_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Two commands may come here at once: the second finds the first one's work done.
fn migrate(connection: &mut Connection, migrations: &[&str]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let from = usize::try_from(user_version(&transaction)?).unwrap_or(0);
    for step in migrations.iter().skip(from) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", migrations.len() as i64)?;
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn many_that_come_to_a_new_database_at_once_all_open_it() {
        for _ in 0..50 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("new.db");
            let at_once = Barrier::new(8);
            let open = || {
                at_once.wait();
                open_database(&path, &["CREATE TABLE things (name TEXT) STRICT;"]).unwrap();
            };
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(open);
                }
            });
        }
    }

    #[test]
    fn what_a_later_program_wrote_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new.db");
        let steps = [
            "CREATE TABLE one (name TEXT) STRICT;",
            "CREATE TABLE two (name TEXT) STRICT;",
        ];
        drop(open_database(&path, &steps).unwrap());
        let error = open_database(&path, &steps[..1]).unwrap_err();
        assert!(matches!(error, OpenDatabaseError::Newer { found: 2, known: 1 }));
        open_database(&path, &steps)
            .unwrap()
            .execute("INSERT INTO two VALUES ('x')", [])
            .unwrap();
    }
}
