//! A machine that was just started, and the sockets that lead into it: a container's own, or its pod's.

use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::Context as _;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::net::UnixStream;

use crate::accelerator::{self, Accelerator, Disk, MachineEnd, MachineParts, RunningMachine, Share};
use crate::cli::AccelChoice;
use crate::folders::Folders;
use crate::plan::MachineSize;
use crate::{initramfs, parts};

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MachineError {
    #[error("cannot prepare the machine")]
    Prepare(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot make a socket for the session")]
    Socket(#[source] std::io::Error),
    #[error("cannot start the machine")]
    Start(#[from] accelerator::StartError),
}

/// What a machine is to be.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub accelerator: AccelChoice,
    pub size: MachineSize,
    /// The installed one when absent.
    pub kernel: Option<&'a Path>,
    pub disks: Vec<Disk>,
    /// The machine's end of its bay's socket.
    pub bay: Option<OwnedFd>,
    pub shares: Vec<Share>,
}

/// Our ends of the sockets that lead into a machine.
#[derive(Debug)]
pub(super) struct Sockets {
    pub session: UnixStream,
    pub control: OwnedFd,
}

/// Everything that a machine's processes are started with, opened.
pub(super) struct Prepared {
    accelerator: Box<dyn Accelerator>,
    parts: MachineParts,
    sockets: Sockets,
}

impl Prepared {
    /// Starts the machine's processes.
    pub(super) fn start(self) -> Result<(RunningMachine, Sockets), MachineError> {
        Ok((self.accelerator.start(self.parts)?, self.sockets))
    }
}

/// Opens what the machine needs.
pub(super) fn prepare(folders: &Folders, wanted: Wanted<'_>) -> Result<Prepared, MachineError> {
    let (sockets, session, control) = Sockets::pair()?;
    let (accelerator, _) =
        accelerator::choose(wanted.accelerator, &folders.run).map_err(|e| MachineError::Prepare(e.into()))?;
    let open = || -> anyhow::Result<MachineParts> {
        let kernel = wanted.kernel.map_or_else(parts::kernel, |path| Ok(path.into()))?;
        Ok(MachineParts {
            size: wanted.size,
            kernel: parts::open_kernel(&kernel)?,
            initramfs: initramfs::build(&parts::agent()?).context("cannot make the initramfs")?,
            disks: wanted.disks,
            bay: wanted.bay,
            shares: wanted.shares,
            session,
            control,
        })
    };
    let parts = open().map_err(|e| MachineError::Prepare(e.into()))?;
    Ok(Prepared {
        accelerator,
        parts,
        sockets,
    })
}

/// A machine's end that was told, or was not.
pub(super) fn ended(end: Option<MachineEnd>) -> MachineEnd {
    end.unwrap_or_else(|| MachineEnd {
        reason: "for an unknown reason".into(),
        killed: false,
        console: String::new(),
    })
}

/// A connected pair of message sockets: a machine takes requests on the other one.
pub(super) fn message_sockets() -> Result<(OwnedFd, OwnedFd), MachineError> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|e| MachineError::Socket(e.into()))
}

impl Sockets {
    /// Makes both; the second and third value are the machine's ends.
    fn pair() -> Result<(Self, OwnedFd, OwnedFd), MachineError> {
        let (session, machine_session) = std::os::unix::net::UnixStream::pair().map_err(MachineError::Socket)?;
        session.set_nonblocking(true).map_err(MachineError::Socket)?;
        let session = UnixStream::from_std(session).map_err(MachineError::Socket)?;
        let (control, machine_control) = message_sockets()?;
        Ok((Self { session, control }, machine_session.into(), machine_control))
    }
}
