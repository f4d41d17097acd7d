//! Accelerators, which run guest instructions. One trait, two implementors, the same kernel, initramfs, disks, agent
//! and sockets for both: [`kvm`] is Capsid's own VMM, [`emulate`] is QEMU's TCG with Capsid's devices served to it over
//! vhost-user.

mod emulate;
mod file_server;
mod frequency;
mod kvm;
mod program;

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::install_paths::PartError;
use crate::model::{AccelChoice, MachineSize};
use crate::probe::{self, KvmVerdict};
use crate::process::{RunningMachine, SpawnError};
use program::ProgramError;

pub(crate) use emulate::{EMULATE, Emulate, reporting_qemu};
pub(crate) use file_server::{Share, serve_files};
pub(crate) use kvm::{Kvm, config_file};

/// Reason why a machine could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("a part of the installation is missing")]
    Part(#[from] PartError),
    #[error("cannot open {what}")]
    Open {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot read the guest kernel")]
    Kernel(#[source] io::Error),
    #[error("cannot prepare a root directory for QEMU, and will not emulate without one")]
    Emulator(#[source] ProgramError),
    #[error("cannot prepare the machine's configuration")]
    Config(#[source] io::Error),
    #[error("cannot make a socket for the machine")]
    Socket(#[source] io::Error),
    #[error(transparent)]
    Process(#[from] SpawnError),
}

/// Disk of a machine: host files, one after the other.
#[derive(Debug)]
pub(crate) struct Disk {
    pub serial: String,
    pub readonly: bool,
    /// Whether a flush by the guest reaches the host's disk. Data that vanishes with its container does not need that.
    pub is_durable: bool,
    pub files: Vec<File>,
}

/// Network device of a machine.
#[derive(Debug)]
pub(crate) struct Nic {
    pub mac: [u8; 6],
    /// Address of the resolver that the guest uses.
    pub resolver: IpAddr,
    /// Machine's end of the socket over which it is connected to its networks.
    pub control: OwnedFd,
    /// Most bytes of frames per second in each direction.
    pub bytes_per_second: Option<NonZeroU64>,
}

/// Parts that a machine is made of, all already open.
#[derive(Debug)]
pub(crate) struct MachineParts {
    /// Folder in which sockets may have a name for a moment.
    pub folder: PathBuf,
    pub size: MachineSize,
    pub kernel: File,
    pub initramfs: File,
    pub disks: Vec<Disk>,
    /// Machine's end of the socket over which disks are plugged into its slots, if it has slots.
    pub disk_slots: Option<OwnedFd>,
    pub shares: Vec<Share>,
    pub nic: Option<Nic>,
    /// Machine's end of the session.
    pub session: OwnedFd,
    /// Machine's end of the socket over which streams are requested.
    pub control: OwnedFd,
}

/// Backend that runs machines.
pub(crate) trait Accelerator {
    /// Name of the accelerator: `kvm` or `emulate`.
    fn name(&self) -> &'static str;

    /// Most disks and shares of a machine, with or without a network device.
    fn disks_max(&self, has_network: bool) -> usize;

    /// Starts the processes of a machine. They end with this process, whatever happens to it.
    fn start(&self, parts: MachineParts) -> Result<RunningMachine, StartError>;
}

/// Reason why no accelerator can be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChooseError {
    #[error("--accel kvm: {0}")]
    NoKvm(String),
    #[error("no usable accelerator: {kvm}; and no emulation")]
    Neither {
        kvm: String,
        #[source]
        source: PartError,
    },
    #[error("emulation is not possible")]
    NoEmulation(#[source] PartError),
}

/// Chooses an accelerator according to `choice`. The second value is the reason for a fallback to emulation.
pub(crate) fn choose(
    choice: AccelChoice,
    run_dir: &Path,
) -> Result<(Box<dyn Accelerator>, Option<String>), ChooseError> {
    if choice == AccelChoice::Emulate {
        return Ok((Box::new(Emulate::find().map_err(ChooseError::NoEmulation)?), None));
    }
    let verdict = probe::cached_verdict(run_dir);
    match (verdict, choice) {
        (KvmVerdict::Usable, _) => Ok((Box::new(Kvm), None)),
        (verdict, AccelChoice::Kvm) => Err(ChooseError::NoKvm(verdict.to_string())),
        (verdict, _) => match Emulate::find() {
            Ok(emulate) => Ok((Box::new(emulate), Some(verdict.to_string()))),
            Err(source) => Err(ChooseError::Neither {
                kvm: verdict.to_string(),
                source,
            }),
        },
    }
}
