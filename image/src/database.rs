//! A database of Capsid's, in SQLite, brought up to the version that this program knows. Many commands open it at once.

use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, TransactionBehavior};

/// How long a command waits for another one's transaction, which takes milliseconds.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// How often we look again where SQLite does not wait by itself.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Sets up an open database, and brings it up to the version that this program knows. `migrations` are one step each from
/// the version of their index to the next.
pub(crate) fn prepare(connection: &mut Connection, migrations: &[&str]) -> rusqlite::Result<()> {
    use_wal(connection)?;
    // FULL: a transaction that was acknowledged survives a power cut; NORMAL would lose the last ones in WAL mode.
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")?;
    if user_version(connection)? < migrations.len() as i64 {
        migrate(connection, migrations)?;
    }
    Ok(())
}

/// Two that change the mode of a new database at once have read it both: SQLite tells one of them at once that it is
/// busy, because waiting would be for ever (sqlite3_busy_handler: "the handler might not be invoked"). It has let go of
/// it then, and may try again.
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

/// Version of a database: how many migrations it has seen.
pub(crate) fn user_version(connection: &Connection) -> rusqlite::Result<i64> {
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

/// Whether SQLite says that a file is no database, or a damaged one.
pub fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt)
    )
}
