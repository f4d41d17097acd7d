//! Machine that was just started, and the sockets that route into it: a pod's machine, or one for a task.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use anyhow::Context as _;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::LAST_WORDS;

use crate::accelerator::{self, Accelerator, Disk, MachineParts};
use crate::folders::Folders;
use crate::model::{PodConfig, ShareMount};
use crate::network::{self, NetworkAttachments, PodNetworks};
use crate::process::{MachineEnd, RunningMachine, Sidecar, Sidecars, Words, watch_sidecars};
use crate::{confinement, container_lock, initramfs, install_paths, shares};

/// Error when a machine cannot be prepared or started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MachineError {
    #[error("cannot prepare the machine")]
    Prepare(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot make a socket for the session")]
    Socket(#[source] std::io::Error),
    #[error("cannot start the machine")]
    Start(#[from] accelerator::StartError),
}

impl MachineError {
    /// Wraps an error, keeping the cause's type, which `first_use` searches for: `anyhow`'s plain conversion hides it.
    pub(super) fn prepare(error: anyhow::Error) -> Self {
        Self::Prepare(error.reallocate_into_boxed_dyn_error_without_backtrace())
    }
}

/// Disks of a machine.
#[derive(Debug)]
pub(super) enum MachineDisks {
    /// Disks that it boots with.
    AtBoot(Vec<Disk>),
    /// Machine's end of the socket of slots for disks.
    Slots(OwnedFd),
}

/// Description of the machine to start. `id` is that of its pod, or of the container on whose files it works.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub id: &'a str,
    pub config: &'a PodConfig,
    pub disks: MachineDisks,
    pub shares: &'a [ShareMount],
    /// Networks; nothing for a machine without a network device.
    pub pod_networks: Option<PodNetworks<'a>>,
}

/// Supervisor's ends of the sockets that route into a machine, and the networks that the machine is on.
#[derive(Debug)]
pub(super) struct Sockets {
    pub session: UnixStream,
    pub control: OwnedFd,
    pub network: Option<Rc<NetworkAttachments>>,
}

/// Opened resources that a machine's processes are started with.
pub(super) struct Prepared {
    accelerator: Box<dyn Accelerator>,
    parts: MachineParts,
    /// Sidecars with each of which the machine ends.
    sidecars: Vec<Sidecar>,
    /// Notifications of sidecars that are added while the machine runs.
    words: Words,
    sockets: Sockets,
}

impl Prepared {
    /// Starts the machine's processes.
    pub(super) fn start(self) -> Result<(RunningMachine, Sockets), MachineError> {
        let machine = self.accelerator.start(self.parts)?;
        Ok((watch_sidecars(machine, self.sidecars, self.words), self.sockets))
    }
}

/// Opens all that the machine needs, and starts its sidecars.
pub(super) fn prepare(folders: &Folders, wanted: Wanted<'_>) -> Result<Prepared, MachineError> {
    let (mut sockets, session, control) = Sockets::pair()?;
    let mut sidecars = Vec::new();
    let (coming, words) = Sidecars::new();
    let open = || -> anyhow::Result<_> {
        let (accelerator, _) = accelerator::choose(wanted.config.accelerator, &folders.run)?;
        let has_network = wanted
            .pod_networks
            .as_ref()
            .is_some_and(|networks| networks.config.is_some());
        let processes = confinement::processes(accelerator.name(), !wanted.shares.is_empty(), has_network);
        confinement::check(&processes)?;
        let kernel = wanted.config.kernel.clone();
        let kernel = kernel.map_or_else(install_paths::kernel, Ok)?;
        let (shares, servers) = shares::serve(wanted.shares, wanted.id, folders)?;
        sidecars.extend(servers);
        let mut nic = None;
        if let Some((pod_networks, config)) = wanted.pod_networks.as_ref().and_then(|e| Some((e, e.config?))) {
            let attached = network::attach(pod_networks, config, &folders.run, coming)?;
            nic = Some(attached.nic);
            sockets.network = Some(attached.attachments);
        }
        let (disks, disk_slots) = match wanted.disks {
            MachineDisks::AtBoot(disks) => (disks, None),
            MachineDisks::Slots(slots) => (Vec::new(), Some(slots)),
        };
        let parts = MachineParts {
            folder: container_lock::folder(&folders.run, wanted.id),
            size: wanted.config.machine,
            kernel: install_paths::open_kernel(&kernel)?,
            initramfs: initramfs::build(&install_paths::agent()?).context("cannot make the initramfs")?,
            disks,
            disk_slots,
            shares,
            nic,
            session,
            control,
        };
        Ok((accelerator, parts))
    };
    let (accelerator, parts) = open().map_err(MachineError::prepare)?;
    Ok(Prepared {
        accelerator,
        parts,
        sidecars,
        words,
        sockets,
    })
}

/// Event that cuts a step short which needs a running machine.
#[derive(Debug)]
pub(super) enum Interruption {
    /// The machine ended.
    Ended(MachineEnd),
    /// Somebody wants the machine ended.
    Halted,
}

/// Error of a step that needs a running machine.
pub(super) trait StepError: From<Interruption> {
    /// Whether the session broke, mostly because the machine is ending.
    fn is_broken_session(&self) -> bool;
}

/// Awaits a step, unless the machine ends or `halt` completes first.
pub(super) async fn while_running<T, E: StepError>(
    machine: &mut RunningMachine,
    halt: impl Future<Output = ()>,
    step: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let result = tokio::select! {
        result = step => result,
        end = &mut machine.end => return Err(Interruption::Ended(ended(end.ok())).into()),
        () = halt => return Err(Interruption::Halted.into()),
    };
    match result {
        // The machine's own reason is better.
        Err(error) if error.is_broken_session() => match timeout(LAST_WORDS, &mut machine.end).await {
            Ok(end) => Err(Interruption::Ended(ended(end.ok())).into()),
            Err(_) => Err(error),
        },
        result => result,
    }
}

/// Returns a machine's end as it was reported, or an unknown one.
fn ended(end: Option<MachineEnd>) -> MachineEnd {
    end.unwrap_or_else(|| MachineEnd {
        reason: "for an unknown reason".into(),
        killed: false,
        console: String::new(),
    })
}

impl Sockets {
    /// Creates the sockets. The second and third value are the machine's ends.
    pub(super) fn pair() -> Result<(Self, OwnedFd, OwnedFd), MachineError> {
        let (session, machine_session) = std::os::unix::net::UnixStream::pair().map_err(MachineError::Socket)?;
        session.set_nonblocking(true).map_err(MachineError::Socket)?;
        let session = UnixStream::from_std(session).map_err(MachineError::Socket)?;
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let messages = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None);
        let (control, machine_control) = messages.map_err(|e| MachineError::Socket(e.into()))?;
        let sockets = Self {
            session,
            control,
            network: None,
        };
        Ok((sockets, machine_session.into(), machine_control))
    }
}
