//! Vhost-user: the devices for QEMU, where there is no usable KVM. One process serves all devices of one pod over
//! vhost-user, with one thread and one connected socket for each. It ends when QEMU does.
//!
//! ```text
//!   guest ── virtio-mmio ──► QEMU ── vhost-user socket ──► Server ── requests ──► Backend (queues, memory)
//!     └───── queues in shared memory, notified by eventfds ──────────────────────────┴──► Device::process
//! ```

mod backend;
mod filters;
mod server;
#[cfg(test)]
mod tests;
mod vring;

use std::fs::File;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use capsid_jail::{FilterError, Jail, JailError, Resource, Rlimit, SyscallFilter};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::config::VhostUserConfig;
use crate::devices::{self, DeviceError};
use crate::inherited::{Inherited, InheritedError};
use crate::limits::{DISK_SLOTS_FDS_MAX, VSOCK_CONNECTIONS_MAX};
use crate::segments::SEGMENTS_MAX;
use crate::virtio::device::Device;
use server::Server;

pub use server::ServerError;

/// Number of fds besides those of streams and disks: sockets, epoll instances, and what QEMU passes.
const OTHER_FDS: u64 = 256;

/// Reason why the devices are not served, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An fd of the config could not be taken.
    #[error("cannot take the fds that the config names")]
    Fd(#[from] InheritedError),
    /// The process could not be confined.
    #[error("cannot confine this process")]
    Confine(#[source] JailError),
    /// A device could not be made.
    #[error("cannot make the devices")]
    Device(#[from] DeviceError),
    /// QEMU does not connect to its network.
    #[error("cannot accept a connection")]
    Accept(#[source] io::Error),
    /// A thread could not be started.
    #[error("cannot start a thread for a device")]
    Thread(#[source] io::Error),
    /// A filter could not be installed.
    #[error("cannot filter system calls")]
    Filter(#[source] FilterError),
    /// One of the devices failed; the others have been served to their end.
    #[error("cannot serve a device any more")]
    Server(#[source] ServerError),
}

/// Confines this process and serves the devices of `config` until QEMU is gone. Calls `ready` when everything is
/// confined and waits for QEMU. `supervisor` is the pipe on which the supervisor is notified.
///
/// # Errors
/// [`ServeError`].
pub fn serve(
    config: &VhostUserConfig,
    inherited: &mut Inherited,
    supervisor: &File,
    ready: impl FnOnce(),
) -> Result<(), ServeError> {
    jail(config).enter().map_err(ServeError::Confine)?;
    let mut threads = Vec::new();
    for (index, served) in config.disks.iter().enumerate() {
        let name = format!("disk-{index}");
        let device = devices::block(&name, &served.disk, inherited)?;
        let socket = UnixStream::from(inherited.take(served.socket_fd)?);
        threads.push(DeviceThread::start(name, Box::new(device), socket)?);
    }
    if let Some(served) = &config.disk_slots {
        let device = devices::disk_slots(&served.device, inherited)?;
        let socket = UnixStream::from(inherited.take(served.socket_fd)?);
        threads.push(DeviceThread::start("disk slots".to_owned(), Box::new(device), socket)?);
    }
    let device = devices::vsock(&config.vsock.device, inherited)?;
    let socket = UnixStream::from(inherited.take(config.vsock.socket_fd)?);
    threads.push(DeviceThread::start("vsock".to_owned(), Box::new(device), socket)?);
    if let Some(served) = &config.net {
        let device = devices::net(&served.device, inherited)?;
        let listener = UnixListener::from(inherited.take(served.listener_fd)?);
        // Accepted last: the other devices can handle requests meanwhile.
        let socket = accept(&listener, supervisor).map_err(ServeError::Accept)?;
        threads.push(DeviceThread::start("net".to_owned(), Box::new(device), socket)?);
    }
    let filter = SyscallFilter::new(&filters::main_rules(config.status_fd)).map_err(ServeError::Filter)?;
    filter.apply_to_thread().map_err(ServeError::Filter)?;
    for thread in &threads {
        // A thread that has ended already is joined below.
        let _ = thread.confined.recv();
    }
    ready();
    let ends: Vec<_> = threads.into_iter().map(DeviceThread::join).collect();
    ends.into_iter().collect()
}

/// Serves one device in this thread, for fuzzing.
#[cfg(fuzzing)]
pub(crate) fn serve_one(device: Box<dyn Device>, socket: UnixStream) {
    let served = Server::new(device, socket).map(Server::run);
    drop(served.expect("an epoll instance"));
}

/// Accepts QEMU's connection. Without a supervisor there will be no QEMU, and nobody to close the socket.
fn accept(listener: &UnixListener, supervisor: &File) -> io::Result<UnixStream> {
    let mut events = [
        PollFd::new(listener, PollFlags::IN),
        // For a pipe's write end, poll reports only the end of its reader.
        PollFd::new(supervisor, PollFlags::empty()),
    ];
    loop {
        match poll(&mut events, None) {
            Ok(_) if !events[1].revents().is_empty() => return Err(io::ErrorKind::BrokenPipe.into()),
            Ok(_) => return listener.accept().map(|(socket, _)| socket),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Device and the thread that serves it.
struct DeviceThread {
    handle: JoinHandle<Result<(), ServeError>>,
    confined: mpsc::Receiver<()>,
}

impl DeviceThread {
    fn start(name: String, device: Box<dyn Device>, socket: UnixStream) -> Result<Self, ServeError> {
        let rules = filters::server_rules(device.syscalls());
        let filter = SyscallFilter::new(&rules).map_err(ServeError::Filter)?;
        let server = Server::new(device, socket).map_err(ServeError::Server)?;
        let (notify, confined) = mpsc::channel();
        let serve = move || {
            filter.apply_to_thread().map_err(ServeError::Filter)?;
            // Nobody receives this only when the process ends anyway.
            let _ = notify.send(());
            server.run().map_err(ServeError::Server)
        };
        let handle = thread::Builder::new()
            .name(name)
            .spawn(serve)
            .map_err(ServeError::Thread)?;
        Ok(Self { handle, confined })
    }

    fn join(self) -> Result<(), ServeError> {
        let panicked = |_| ServeError::Thread(io::Error::other("it panicked"));
        self.handle.join().map_err(panicked)?
    }
}

fn jail(config: &VhostUserConfig) -> Jail {
    let mut keep_fds = config.fds();
    let disk_slots_fds = if config.disk_slots.is_some() {
        DISK_SLOTS_FDS_MAX
    } else {
        0
    };
    let segment_fds = if config.net.is_some() { SEGMENTS_MAX as u64 } else { 0 };
    let fds_max = keep_fds.len() as u64 + VSOCK_CONNECTIONS_MAX as u64 + OTHER_FDS + disk_slots_fds + segment_fds;
    keep_fds.push(2);
    // Relay, main and the socket device's thread, and one for each disk, the disk slots and the network.
    let more = [config.disk_slots.is_some(), config.net.is_some()].map(u64::from);
    let threads = 3 + config.disks.len() as u64 + more.into_iter().sum::<u64>();
    let rlimit = |resource, most| Rlimit { resource, most };
    Jail {
        keep_fds,
        rlimits: vec![
            rlimit(Resource::RLIMIT_NOFILE, fds_max),
            rlimit(Resource::RLIMIT_NPROC, threads),
        ],
        pid_namespace: true,
    }
}
