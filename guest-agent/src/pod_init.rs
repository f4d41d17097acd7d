//! PID 1 of the pid namespace that a pod's containers share: it runs no program, and only reaps.

use capsid_protocol::FailedStep;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;
use rustix::process::DumpableBehavior;

use crate::disk::STAGING;
use crate::mount::{self, MountError};
use crate::plan::attribute;
use crate::{init, sys};

/// Error of starting the first process of a pod's pid namespace.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PodInitError {
    /// Protection from being traced and read cannot be set.
    #[error("cannot become non-dumpable")]
    Dumpable(#[source] Errno),
    /// New namespaces cannot be made.
    #[error("cannot make the namespaces")]
    Namespaces(#[source] Errno),
    /// Mount propagation cannot be turned off.
    #[error("cannot make the mounts private")]
    Private(#[source] Errno),
    /// The empty root cannot be mounted.
    #[error("cannot mount the staging tmpfs")]
    Staging(#[source] MountError),
    /// The empty root cannot be entered.
    #[error("cannot enter the root")]
    Root(#[source] Errno),
}

impl PodInitError {
    /// Returns the protocol's name of the step.
    pub(crate) fn step(&self) -> FailedStep {
        match self {
            Self::Dumpable(_) => FailedStep::Confinement,
            Self::Namespaces(_) | Self::Private(_) => FailedStep::Namespace,
            Self::Staging(_) | Self::Root(_) => FailedStep::Mount,
        }
    }
}

/// Runs as the first process of a pod's pid namespace: hides from the guest, and reaps the orphans of containers.
pub(crate) fn be_first() -> Result<i32, PodInitError> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(PodInitError::Dumpable)?;
    sys::unshare_own_namespaces().map_err(PodInitError::Namespaces)?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(PodInitError::Private)?;
    let nothing = attribute::READONLY | attribute::NOSUID | attribute::NODEV | attribute::NOEXEC;
    mount::filesystem("tmpfs", &[("size", "0")], &[], nothing)
        .and_then(|m| mount::attach(&m, CWD, STAGING))
        .map_err(PodInitError::Staging)?;
    mount::enter(STAGING.as_ref()).map_err(PodInitError::Root)?;
    init::reap_for_ever()
}
