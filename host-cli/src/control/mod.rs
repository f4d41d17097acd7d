//! What commands and a pod's supervisor say to each other: one connection an operation, a [`Request`] first, then
//! [`Answer`]s until the operation is over. Both are this binary, run by the same user; the folder of the socket is
//! closed to others. A pod of several containers has a socket of its own beside theirs, on which [`PodRequest`]s come.
//!
//! ```text
//! command                                   supervisor
//!   │ ── Attach ────────────────────────────►  │
//!   │ ◄─ Streams{terminal} + descriptors ────  │   bytes flow beside this connection
//!   │ ◄─ Started ────────────────────────────  │
//!   │ ── Signal, Resize ────────────────────►  │
//!   │ ◄─ Exited{status} ─────────────────────  │   after every stream has ended
//! ```

mod connection;
mod message;

use std::io;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use tokio::net::{UnixListener, UnixStream};

pub(crate) use connection::{Connection, ControlError, Reader, Writer};
pub(crate) use message::{
    Answer, ExecRequest, Failure, Moment, PodRequest, ProcessLine, Request, UpdateRequest, Usage,
};

/// Name of the socket in a container's run folder.
const SOCKET: &str = "socket";

/// Listens for commands in a container's run folder.
pub(crate) fn listen(folder: &Path) -> io::Result<UnixListener> {
    let path = folder.join(SOCKET);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = with_short_path(folder, SOCKET, |short| StdListener::bind(short))?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Connects to the supervisor of a container. `NotFound` or `ConnectionRefused`: there is none.
pub(crate) fn connect(folder: &Path) -> io::Result<Connection> {
    let stream = with_short_path(folder, SOCKET, |short| StdStream::connect(short))?;
    Connection::new(stream)
}

/// Acts on the socket `name` in a folder. The address of a socket has 108 bytes at most (`unix(7)`), and users' folders
/// have no such limit.
pub(crate) fn with_short_path<T>(folder: &Path, name: &str, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    use std::os::fd::AsRawFd;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty())?;
    act(Path::new(&format!("/proc/self/fd/{}/{name}", folder.as_raw_fd())))
}

/// A connection that a supervisor was started with, or accepted.
pub(crate) fn accepted(stream: UnixStream) -> Connection {
    Connection::from_tokio(stream)
}
