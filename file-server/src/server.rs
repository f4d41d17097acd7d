//! Life cycle of the process: take the socket, confine, serve until the machine has ended.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use capsid_jail::{FilterError, Jail, JailError, ReportError, Resource, Rlimit, Share, SyscallFilter};
use rustix::process::{Rlimit as Limits, getrlimit, setrlimit};
use vhost::vhost_user::{Error as ProtocolError, Listener};
use vhost_user_backend::{Error as DaemonError, VhostUserDaemon};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use crate::arguments::Arguments;
use crate::device::FileDevice;
use crate::files::Files;
use crate::{filters, limits, sys};

/// Reason why the machine is not served any more. Variant = step that failed.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Entering the jail.
    #[error("cannot confine this process")]
    Confine(#[source] JailError),
    /// Finding the program itself, which is the share in a confinement report.
    #[error("cannot find this program's own file")]
    OwnProgram(#[source] io::Error),
    /// Writing the confinement report.
    #[error("cannot report what confines this process")]
    Report(#[source] ReportError),
    /// Installing the system call filter.
    #[error("cannot filter this process's system calls")]
    Filter(#[source] FilterError),
    /// Running the event loop.
    #[error("cannot wait for requests")]
    Daemon(#[source] Reason),
    /// Speaking vhost-user with the machine.
    #[error("the machine breaks the vhost-user protocol")]
    Protocol(#[source] Reason),
}

/// Error text of the vhost-user library, whose errors are no `std::error::Error`s.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Reason(String);

/// Serves the share until the machine has ended.
///
/// # Errors
/// [`ServeError`].
pub fn serve(arguments: &Arguments) -> Result<(), ServeError> {
    let listener = sys::inherited_listener(arguments.socket_fd);
    permit_many_files();
    let jail = jail(&[2, listener.as_raw_fd()]);
    let entered = jail.enter_to_serve(&arguments.share, Files::new);
    let (files, owners, _) = entered.map_err(ServeError::Confine)?;
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let device = Arc::new(FileDevice::new(files.owned_by(owners), memory.clone()));
    let daemon = |error: DaemonError| ServeError::Daemon(Reason(error.to_string()));
    let mut server = VhostUserDaemon::new("requests".into(), Arc::clone(&device), memory).map_err(daemon)?;
    server.start(&mut Listener::from(listener)).map_err(daemon)?;
    let filter = SyscallFilter::new(&filters::rules()).map_err(ServeError::Filter)?;
    filter.apply_to_process().map_err(ServeError::Filter)?;
    // INVARIANT: no answer has been given to the machine before this line, so no guest runs yet.
    device.open_gate();
    let ended = server.wait();
    // Dropping the server would wait for its rings, which end only with the process.
    std::mem::forget(server);
    match ended {
        Ok(()) => Ok(()),
        // Closed before or within a message: the machine has ended, one way or another.
        Err(DaemonError::HandleRequest(
            ProtocolError::Disconnected | ProtocolError::PartialMessage | ProtocolError::SocketBroken(_),
        )) => Ok(()),
        Err(error) => Err(ServeError::Protocol(Reason(error.to_string()))),
    }
}

/// Enters the jail with this program as the share, and reports the jail's layers on stdout.
///
/// # Errors
/// [`ServeError`].
pub fn report_confinement() -> Result<(), ServeError> {
    let share = own_program().map_err(ServeError::OwnProgram)?;
    let entered = jail(&[1, 2]).enter_to_serve(&share, Files::new);
    let (_, _, confinement) = entered.map_err(ServeError::Confine)?;
    capsid_jail::report(confinement).map_err(ServeError::Report)
}

fn own_program() -> io::Result<Share> {
    let source = std::fs::read_link("/proc/self/exe")?;
    let metadata = source.metadata()?;
    Ok(Share {
        source,
        identity: (metadata.dev(), metadata.ino()),
        file_name: Some("program".into()),
        readonly: true,
    })
}

/// Raises the limit of open files to the maximum for this process, because each file that a guest knows is an fd. Root
/// may exceed its own hard limit.
fn permit_many_files() {
    let own = getrlimit(rustix::process::Resource::Nofile).maximum;
    let allowed = own.map_or(limits::FDS, |own| own.min(limits::FDS));
    for most in [limits::FDS, allowed] {
        let raised = Limits {
            current: Some(most),
            maximum: Some(own.map_or(most, |own| own.max(most))),
        };
        if setrlimit(rustix::process::Resource::Nofile, raised).is_ok() {
            return;
        }
    }
    // On failure the soft limit remains, with which fewer files can be known at a time.
}

fn jail(keep_fds: &[RawFd]) -> Jail {
    Jail {
        keep_fds: keep_fds.to_vec(),
        rlimits: vec![
            Rlimit {
                resource: Resource::RLIMIT_NOFILE,
                most: limits::FDS,
            },
            Rlimit {
                resource: Resource::RLIMIT_NPROC,
                most: limits::THREADS,
            },
        ],
        pid_namespace: true,
    }
}
