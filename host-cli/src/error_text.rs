//! Text of an error for its reader.

use std::error::Error;

/// Longest error text, bytes: a few lines of a terminal; the cut removes the innermost causes.
const BYTES_MAX: usize = 4096;

/// Prints an error for the user.
pub(crate) fn print(error: &(dyn Error + 'static)) {
    eprintln!("capsid: {}", describe(error));
}

/// Describes an error and its causes on one line, without repetitions. The texts may quote an image, a registry or the
/// user: nothing in them reaches the terminal raw.
pub(crate) fn describe(error: &(dyn Error + 'static)) -> String {
    let mut words: Vec<String> = Vec::new();
    for cause in anyhow::Chain::new(error) {
        let text = match cause.downcast_ref::<rusqlite::Error>() {
            Some(error) if lacks_room(error) => "the disk is full".to_owned(),
            Some(error) if is_read_only(error) => "the data directory is read-only".to_owned(),
            _ => cause.to_string(),
        };
        if words.last().is_none_or(|before| !before.contains(&text)) {
            words.push(text);
        }
    }
    capsid_image::printable(words.join(": ").as_bytes(), BYTES_MAX)
}

/// Whether SQLite failed on a read-only database: its message names the database, whose file may well be writable.
fn is_read_only(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::ReadOnly)
}

/// Whether a full disk is the cause: SQLite fails first at the memory that connections share, and calls it an I/O error
/// with a number.
fn lacks_room(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error().map(|error| error.extended_code);
    matches!(
        code,
        Some(rusqlite::ffi::SQLITE_FULL | rusqlite::ffi::SQLITE_IOERR_SHMSIZE)
    )
}
