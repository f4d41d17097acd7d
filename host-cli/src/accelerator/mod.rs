//! How guest instructions run. One trait, two implementors, the same kernel, initramfs, disks, agent and sockets
//! for both: [`kvm`] is our own VMM, [`emulate`] is QEMU's TCG with our devices served to it over vhost-user.

mod device_socket;
mod emulate;
mod file_server;
mod frequency;
mod kvm;
mod process;
mod program;
mod sidecar;

use std::fs::File;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use tokio::sync::oneshot;

use crate::cli::AccelChoice;
use crate::install_paths::PartError;
use crate::plan::MachineSize;
use crate::probe::{self, KvmVerdict};

pub(crate) use device_socket::{DeviceError, DeviceSocket, watched};
pub(crate) use emulate::{EMULATE, Emulate, reporting_qemu};
pub(crate) use file_server::{Share, serve_files};
pub(crate) use kvm::{Kvm, config_file};
pub(crate) use process::{HandedFiles, StartError, last_complaint, spawn_on_its_own};
pub(crate) use sidecar::{Sidecar, Sidecars, Words, watch_sidecars};

/// One disk of a machine: host files, one after the other.
#[derive(Debug)]
pub(crate) struct Disk {
    pub serial: String,
    pub readonly: bool,
    /// A flush of the guest's reaches the host's disk. What vanishes with its container need not.
    pub is_durable: bool,
    pub files: Vec<File>,
}

/// The network device of a machine.
#[derive(Debug)]
pub(crate) struct Nic {
    pub mac: [u8; 6],
    /// Where its guest asks for names.
    pub resolver: IpAddr,
    /// The machine's end of the socket on which it is connected to its networks.
    pub control: OwnedFd,
    /// Most bytes of frames a second, each way.
    pub bytes_per_second: Option<NonZeroU64>,
}

/// Everything a machine is made of, already open.
#[derive(Debug)]
pub(crate) struct MachineParts {
    /// Where sockets may have a name for a moment.
    pub folder: PathBuf,
    pub size: MachineSize,
    pub kernel: File,
    pub initramfs: File,
    pub disks: Vec<Disk>,
    /// The machine's end of the socket on which disks are plugged into its slots, if it is to have any.
    pub disk_slots: Option<OwnedFd>,
    pub shares: Vec<Share>,
    pub nic: Option<Nic>,
    /// The machine's end of the session.
    pub session: OwnedFd,
    /// The machine's end of the socket that streams are asked for on.
    pub control: OwnedFd,
}

/// A machine that runs; dropping it ends it.
#[derive(Debug)]
pub(crate) struct RunningMachine {
    /// Told once, when the machine has ended.
    pub end: oneshot::Receiver<MachineEnd>,
    /// Dropped to end it.
    kill: oneshot::Sender<()>,
}

impl RunningMachine {
    /// Ends the machine, if it has not ended, and waits until its processes are gone.
    pub(crate) async fn stop(self) {
        drop(self.kill);
        if !self.end.is_terminated() {
            // An error means that it was told before.
            let _ = self.end.await;
        }
    }
}

/// How a machine ended.
#[derive(Debug, Clone)]
pub(crate) struct MachineEnd {
    /// Named state, in words.
    pub reason: String,
    /// Somebody killed one of its processes.
    pub killed: bool,
    /// Last bytes of its serial console.
    pub console: String,
}

/// Runs machines.
pub(crate) trait Accelerator {
    /// `kvm` or `emulate`.
    fn name(&self) -> &'static str;

    /// Most disks and shares of a machine, with a network device or without.
    fn disks_max(&self, has_network: bool) -> usize;

    /// Starts the processes of a machine. They end with this process, whatever happens to it.
    fn start(&self, parts: MachineParts) -> Result<RunningMachine, StartError>;
}

/// Why no accelerator can be used.
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

/// Chooses as `choice` says. A fallback to emulation tells its reason as the second value.
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
