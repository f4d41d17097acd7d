//! Processes that a supervisor runs: children with chosen open files only, the sidecars of a machine, the machine itself as
//! one value, and the sockets over which its devices are notified of changes.

mod child;
mod device_socket;
mod running_machine;
mod sidecar;

pub(crate) use child::{HandedFiles, SpawnError, collect_complaints, ended, last_complaint, spawn, spawn_on_its_own};
pub(crate) use device_socket::{DeviceError, DeviceSocket, watched};
pub(crate) use running_machine::{MachineEnd, RunningMachine};
pub(crate) use sidecar::{Sidecar, Sidecars, Words, watch_sidecars};
