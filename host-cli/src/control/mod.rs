//! Protocol between commands and a pod's supervisor: one connection per operation, a [`Request`] first, then
//! [`Answer`]s until the operation is over. Both are this binary, run by the same user; the folder of the socket is
//! closed to others. An implicit pod shares the socket of its container; any other has one of its own beside
//! theirs.
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
mod peer;

use std::io;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{UnixListener, UnixStream};

pub(crate) use connection::{Connection, ControlError, Reader, Writer};
pub(crate) use message::{Answer, ExecRequest, Failure, Moment, ProcessLine, Request, UpdateRequest, Usage};

/// Name of the socket in a container's run folder.
pub(crate) const SOCKET: &str = "socket";

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

/// Connects to the supervisor of a container. `NotFound` or `ConnectionRefused`: there is none; `WouldBlock`: it
/// accepts no more connections.
pub(crate) fn connect(folder: &Path) -> io::Result<Connection> {
    Connection::new(with_short_path(folder, SOCKET, connect_at_once)?)
}

/// Connects without waiting for a supervisor that accepts nothing and has a full queue.
fn connect_at_once(path: &Path) -> io::Result<StdStream> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket.into())
}

/// Calls `act` with a short path of the socket `name` in a folder. The address of a socket has 108 bytes at most
/// (`unix(7)`), and users' folders have no such limit.
pub(crate) fn with_short_path<T>(folder: &Path, name: &str, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    use std::os::fd::AsRawFd;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty())?;
    act(Path::new(&format!("/proc/self/fd/{}/{name}", folder.as_raw_fd())))
}

/// Wraps a connection that a supervisor was started with, or accepted.
pub(crate) fn accepted(stream: UnixStream) -> Connection {
    Connection::from_tokio(stream)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use rustix::process::{Pid, Signal};

    use super::*;

    /// Name of the variable with the folder in which [`listens_and_hangs`] listens.
    const FOLDER: &str = "CAPSID_TEST_HANGING_SUPERVISOR";

    /// Acts as a supervisor that hangs, in the other process of the next test; does nothing when run alone.
    #[test]
    #[ignore = "the other process of the next test"]
    fn listens_and_hangs() {
        let Some(folder) = std::env::var_os(FOLDER) else { return };
        let address = SocketAddrUnix::new(Path::new(&folder).join(SOCKET)).unwrap();
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &address).unwrap();
        rustix::net::listen(&socket, 2).unwrap();
        std::thread::sleep(Duration::from_secs(60));
    }

    /// Starts a supervisor that hangs.
    fn hanging_supervisor(folder: &Path) -> std::process::Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let words = ["--exact", "control::tests::listens_and_hangs", "--ignored"];
        let child = command
            .args(words)
            .env(FOLDER, folder)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while connect_at_once(&folder.join(SOCKET)).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        child
    }

    #[test]
    fn a_supervisor_that_hangs_keeps_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = hanging_supervisor(folder.path());
        let pid = Pid::from_raw(child.id() as i32).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut connection = connect(folder.path()).unwrap();
            let limit = Duration::from_millis(50);
            let silent = connection.receive_within::<Answer>(limit).await;
            assert!(matches!(silent, Err(ControlError::Silent(_))), "{silent:?}");
            rustix::process::kill_process(pid, Signal::STOP).unwrap();
            let stopped = connection.receive_within::<Answer>(Duration::from_secs(60)).await;
            assert!(
                matches!(stopped, Err(ControlError::Stopped(it)) if it == child.id() as i32),
                "{stopped:?}"
            );
            // At last the queue is full: connecting reports a busy supervisor at once, and nobody waits in line.
            let waiting: Vec<_> = std::iter::from_fn(|| connect(folder.path()).ok()).take(10).collect();
            assert!(waiting.len() < 10);
            assert!(connection.end_within::<Answer>(limit).await.is_none());
        });
        assert!(child.wait().unwrap().code().is_none(), "it was killed");
    }
}
