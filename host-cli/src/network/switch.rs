//! Switch process of a user-defined network: `capsid-vmm` as `capsid_vmm::switch` describes it.
//!
//! ```text
//! run/networks/ID/lock      locked by whoever joins: a switch does not end meanwhile
//! run/networks/ID/log       what the switch complains of
//! run/networks/ID/socket    the switch listens here; one that nobody listens at is of a switch that has ended
//! ```
//!
//! A process that finds no switch starts it. The switch is nobody's child: it ends when its last member has gone.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use capsid_image::own_file;
use capsid_vmm::config::{Config, SwitchConfig};
use capsid_vmm::switch::membership::{self, Answer, Join};
use rustix::fs::FlockOperation;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixDatagram;

use super::GATEWAY_MAC;
use crate::accelerator::{StartError, config_file};
use crate::control::with_short_path;
use crate::install_paths::{self, PartError};
use crate::process::{HandedFiles, spawn_on_its_own, watched};

/// Time limit for others to join, and for the switch to answer; each takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// Interval of checking whether others have joined.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Length of the queue of the listening socket. Short: processes that join wait for the lock, not in the queue.
const BACKLOG: i32 = 16;
const SOCKET: &str = "socket";
const LOG: &str = "log";

/// Error when a pod cannot join its network.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SwitchError {
    #[error("cannot use the network's folder {path}")]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another command is joining the network, and does not end: try again")]
    Busy,
    #[error("cannot connect to the network's switch")]
    Connect(#[source] io::Error),
    #[error("cannot start the network's switch")]
    Part(#[from] PartError),
    #[error("cannot start the network's switch")]
    Start(#[from] StartError),
    #[error("the network's switch does not answer{}", said(.last_words))]
    Silent {
        /// Last line of the switch's log.
        last_words: String,
        #[source]
        source: io::Error,
    },
    #[error("{0}")]
    Refused(String),
}

/// Membership of a pod in a network.
#[derive(Debug)]
pub(super) struct Membership {
    /// Stream of the pod's frames, each after its length.
    pub(super) frames: UnixStream,
    /// Control socket. The pod is a member for as long as it is open; the switch closes it when it ends.
    pub(super) control: UnixDatagram,
}

/// Returns the run folder of a network.
pub(super) fn folder(run: &Path, id: &str) -> PathBuf {
    run.join("networks").join(id)
}

/// Removes the run folder of a network that was removed.
pub(crate) fn forget(run: &Path, id: &str) -> io::Result<()> {
    match fs::remove_dir_all(folder(run, id)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Makes a pod a member of the network with this run folder.
pub(super) fn join(folder: &Path, gateways: Vec<IpAddr>, request: &Join) -> Result<Membership, SwitchError> {
    let _lock = lock(folder)?;
    match join_once(folder, &gateways, request) {
        // The switch was killed at this moment: the next attempt starts another one.
        Err(SwitchError::Silent { source, .. }) if is_hung_up(&source) => join_once(folder, &gateways, request),
        endpoint => endpoint,
    }
}

fn is_hung_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// Joins a network, and starts its switch if there is none. The caller holds the lock.
fn join_once(folder: &Path, gateways: &[IpAddr], request: &Join) -> Result<Membership, SwitchError> {
    let control = match connect(folder) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            start(folder, gateways)?;
            connect(folder)
        }
        connected => connected,
    };
    let control = control.map_err(SwitchError::Connect)?;
    let (frames, its_frames) = UnixStream::pair().map_err(SwitchError::Connect)?;
    let answer = membership::join(control.as_fd(), request.clone(), its_frames.into());
    match answer.map_err(|source| silent(folder, source))? {
        Answer::Admitted => Ok(Membership {
            frames,
            control: watched(control).map_err(SwitchError::Connect)?,
        }),
        Answer::Refused(reason) => Err(SwitchError::Refused(reason)),
    }
}

fn silent(folder: &Path, source: io::Error) -> SwitchError {
    let log = fs::read_to_string(folder.join(LOG)).unwrap_or_default();
    SwitchError::Silent {
        last_words: log.trim_end().lines().next_back().unwrap_or_default().into(),
        source,
    }
}

fn said(last_words: &str) -> String {
    if last_words.is_empty() {
        String::new()
    } else {
        format!(" ({last_words})")
    }
}

/// Waits for the network's lock, with a time limit: the process that holds it may have been stopped.
fn lock(folder: &Path) -> Result<File, SwitchError> {
    let lock = open_lock(folder)?;
    let deadline = Instant::now() + PATIENCE;
    while rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > deadline {
            return Err(SwitchError::Busy);
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(lock)
}

fn open_lock(folder: &Path) -> Result<File, SwitchError> {
    let open = || {
        DirBuilder::new().mode(0o700).recursive(true).create(folder)?;
        own_file::lock_file(&folder.join("lock"))
    };
    open().map_err(|source| SwitchError::Folder {
        path: folder.into(),
        source,
    })
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

fn connect(folder: &Path) -> io::Result<OwnedFd> {
    let control = socket()?;
    // A switch that was stopped neither answers nor accepts.
    for timeout in [Timeout::Recv, Timeout::Send] {
        set_socket_timeout(&control, timeout, Some(PATIENCE))?;
    }
    with_short_path(folder, SOCKET, |path| {
        Ok(rustix::net::connect(&control, &SocketAddrUnix::new(path)?)?)
    })?;
    Ok(control)
}

/// Starts a switch that listens in the folder. The caller holds the lock.
fn start(folder: &Path, gateways: &[IpAddr]) -> Result<(), SwitchError> {
    let listener = listen(folder).map_err(|source| SwitchError::Folder {
        path: folder.join(SOCKET),
        source,
    })?;
    let mut files = HandedFiles::default();
    let config = Config::Switch(SwitchConfig {
        listener_fd: files.add(listener),
        // Opened once more: this file shares no lock with the one held here.
        lock_fd: files.add(open_lock(folder)?),
        gateway_mac: GATEWAY_MAC,
        gateways: gateways.to_vec(),
    });
    let config_fd = files.add(config_file(&config)?);
    let arguments = ["--config-fd".into(), config_fd.to_string()];
    let log = own_file::create(&folder.join(LOG)).map_err(|source| SwitchError::Folder {
        path: folder.join(LOG),
        source,
    })?;
    let spawned = spawn_on_its_own(&install_paths::vmm()?, &arguments, files, log.into());
    spawned.map_err(|e| SwitchError::Start(e.into()))
}

fn listen(folder: &Path) -> io::Result<OwnedFd> {
    let listener = socket()?;
    match fs::remove_file(folder.join(SOCKET)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    with_short_path(folder, SOCKET, |path| {
        Ok(rustix::net::bind(&listener, &SocketAddrUnix::new(path)?)?)
    })?;
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}
