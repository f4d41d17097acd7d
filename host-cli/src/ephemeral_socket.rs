//! Sockets with a name that lasts a moment: for programs that accept a listening socket, or a path, but no connection.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};

use crate::control::with_short_path;

/// Name of the socket in the run folder of the machine's owner.
const NAME: &str = "passing";

/// Creates a listening socket, and returns it also as a file through which its holder can connect: `/proc/self/fd/N` is
/// its path. No name is left.
pub(crate) fn listener(folder: &Path) -> io::Result<(UnixListener, OwnedFd)> {
    with_short_path(folder, NAME, |path| {
        // Left by a supervisor that was killed in between.
        let _ = fs::remove_file(path);
        let listener = UnixListener::bind(path)?;
        let file = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        fs::remove_file(path)?;
        Ok((listener, file?))
    })
}

/// Creates a listening socket and the one connection to it.
pub(crate) fn connection(folder: &Path) -> io::Result<(UnixListener, UnixStream)> {
    let (listener, file) = listener(folder)?;
    let connected = UnixStream::connect(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    Ok((listener, connected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_leaves_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let (listener, _socket) = connection(folder.path()).unwrap();
        assert!(listener.accept().is_ok());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
