//! Sockets in shared folders. A container sees their names, and its own kernel knows nobody who listens there: a program
//! that connects is told `ECONNREFUSED`, as if the server were down. So the user is warned.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use crate::guest_text::GuestText;

/// Maximum number of a folder's entries that are looked at.
const ENTRIES_MAX: usize = 10_000;
/// Maximum number of sockets that the warning names.
const NAMES_MAX: usize = 3;

/// Warns when the folder `share` itself contains sockets. Deeper ones are not searched for.
pub(super) fn warn(share: &Path) {
    let found = within(share);
    if !found.is_empty() {
        eprintln!(
            "capsid: warning: the share {} contains sockets, and a container cannot connect to sockets of the host: {}; \
             let their servers listen at a TCP port too (--add-host NAME:host-gateway)",
            share.display(),
            found.join(", ")
        );
    }
}

/// Returns the names of some sockets in a folder.
fn within(share: &Path) -> Vec<String> {
    let entries = fs::read_dir(share).into_iter().flatten().flatten().take(ENTRIES_MAX);
    let sockets = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()));
    // A container may have made the names.
    let names = sockets.map(|entry| GuestText::new(entry.file_name().as_bytes()).to_string());
    names.take(NAMES_MAX).collect()
}
