//! SQLite databases of Capsid, migrated to the version of this program. Many commands open a database at the same time.

use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, TransactionBehavior};

/// Time limit for waiting for another command's transaction, which takes milliseconds.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval between two attempts where SQLite does not wait by itself.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Configures an open database, and migrates it to the version of this program. `migrations` are one step each from the
/// version of their index to the next.
pub(crate) fn prepare(connection: &mut Connection, migrations: &[&str]) -> rusqlite::Result<()> {
    use_wal(connection)?;
    // FULL: a transaction that was acknowledged survives a power cut; NORMAL would lose the last ones in WAL mode.
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")?;
    if user_version(connection)? < migrations.len() as i64 {
        migrate(connection, migrations)?;
    }
    Ok(())
}

/// Switches the database to WAL mode. If two processes do so with a new database at once, both have read the old mode:
/// SQLite immediately reports one of them as busy, because waiting would never end (sqlite3_busy_handler: "the handler
/// might not be invoked"). That one has released its lock by then, and may try again.
pub(crate) fn use_wal(connection: &Connection) -> rusqlite::Result<()> {
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

/// Version of a database: the number of migrations that it has seen.
pub(crate) fn user_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Runs the missing migrations. Of two commands at once, the second finds the work of the first one done.
fn migrate(connection: &mut Connection, migrations: &[&str]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let from = usize::try_from(user_version(&transaction)?).unwrap_or(0);
    for step in migrations.iter().skip(from) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", migrations.len() as i64)?;
    transaction.commit()
}

/// Whether SQLite reports that a file is no database, or a damaged one.
pub fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt)
    )
}
