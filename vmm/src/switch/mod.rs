//! Switch: the link between the pods of one network, as one confined process.
//!
//! ```text
//!   supervisor ── Join, and the end ──► Members ◄── asks ── Forward ◄── frame ── a member's network device
//!                                                              │
//!                                   answer to the sender ◄─────┴─────► frame to another member's device
//! ```
//!
//! It knows each member's hardware address, network addresses and names from the member's supervisor. Nothing is
//! learned from frames and nothing is sent to everybody: questions for a neighbor's hardware address and for a member's
//! name are answered here, a frame for a member is sent to that member alone, and only in the sender's own name. So a
//! pod cannot impersonate another one on the network even when its VMM is compromised, and no privilege is needed:
//! there is no bridge, no tap and no namespace, and nothing of the switch is left when the process is gone.
//!
//! The first member's supervisor starts the switch; it ends when its last member has left, unless somebody holds the
//! lock that supervisors hold while they join.

mod fabric;
mod filters;
mod forward;
mod members;
pub mod membership;
mod names;
mod port;
#[cfg(test)]
mod tests;

use std::io;

use capsid_jail::{FilterError, Jail, JailError, Resource, Rlimit, SyscallFilter};
use rustix::process::{Rlimit as Limits, getrlimit, setrlimit};

use crate::config::SwitchConfig;
use crate::inherited::{Inherited, InheritedError};
use crate::limits::SWITCH_MEMBERS_MAX;
use fabric::Fabric;

#[cfg(fuzzing)]
pub use forward::forward_between_two;

/// Number of fds besides those of members: stderr, listener, lock, epoll, and supervisors that have not joined yet.
const OTHER_FDS: u64 = 64;
/// Number of fds of a member: its frames and its supervisor's socket.
const MEMBER_FDS: u64 = 2;

/// Maximum number of fds of the process.
const FDS_MAX: u64 = MEMBER_FDS * SWITCH_MEMBERS_MAX as u64 + OTHER_FDS;

/// Reason why there is no switch, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// An fd of the config could not be taken.
    #[error("cannot take the fds that the config names")]
    Fd(#[from] InheritedError),
    /// The process could not be confined.
    #[error("cannot confine this process")]
    Confine(#[source] JailError),
    /// The system call filter could not be installed.
    #[error("cannot filter system calls")]
    Filter(#[source] FilterError),
    /// Epoll failed.
    #[error("cannot wait for frames")]
    Wait(#[source] io::Error),
}

/// Confines this process and carries frames until the last member has left.
///
/// # Errors
/// [`SwitchError`].
pub fn serve(config: &SwitchConfig, inherited: &mut Inherited) -> Result<(), SwitchError> {
    let members_max = permit_many_files();
    jail(config).enter_alone().map_err(SwitchError::Confine)?;
    let (listener, lock) = (inherited.take(config.listener_fd)?, inherited.take(config.lock_fd)?);
    let fabric = Fabric::new(config, members_max, listener, lock).map_err(SwitchError::Wait)?;
    let filter = SyscallFilter::new(&filters::rules()).map_err(SwitchError::Filter)?;
    filter.apply_to_process().map_err(SwitchError::Filter)?;
    fabric.run().map_err(SwitchError::Wait)
}

/// Raises the process's soft limit of open files, up to what it needs; returns the number of members for which the
/// limit suffices.
fn permit_many_files() -> usize {
    let limits = getrlimit(rustix::process::Resource::Nofile);
    let permitted = limits.maximum.map_or(FDS_MAX, |most| most.min(FDS_MAX));
    let raised = Limits {
        current: Some(permitted),
        maximum: limits.maximum,
    };
    // A process may always raise its soft limit up to the hard one.
    let _ = setrlimit(rustix::process::Resource::Nofile, raised);
    (permitted.saturating_sub(OTHER_FDS) / MEMBER_FDS) as usize
}

fn jail(config: &SwitchConfig) -> Jail {
    Jail {
        keep_fds: vec![2, config.listener_fd, config.lock_fd],
        rlimits: vec![Rlimit {
            resource: Resource::RLIMIT_NOFILE,
            most: FDS_MAX,
        }],
        // The supervisor that started the switch continues, and the switch outlives it: there is no process to relay
        // its end to.
        pid_namespace: false,
    }
}
