//! Supervisor of one pod: a separate process (`capsid supervise`), which outlives the command that started it, and
//! attends each container of the pod in the same way: the one of an implicit pod, or as many as arrive. How the
//! containers' disks come to the machine is [`pod::Disks`].
//!
//! ```text
//! lock and first connection handed over ─► rows read ─► first request read ─► lives ─► row written ─► clients notified ─► end
//!                                                              │                 │
//!                    socket: attach, exec, stop, signal ... ───┘     machine ─► session ─► container, once a life
//! ```
//!
//! | file | noun |
//! |---|---|
//! | `container_supervisor` | a container, attended from its first start to its last end |
//! | `pod_supervisor` | a pod's process, which owns the machine and attends its containers |
//! | `client` | one connection of a command |
//! | `networks_changed` | the networks of a running machine, reconciled with its row |
//! | `lifecycle` | one life of a container in the machine of its pod |
//! | `pod_machine` | the machine of a pod |
//! | `pod` | what the containers of a pod have in common |
//! | `orders` | signal, stop, kill, pause, resize of a running container |
//! | `health` | checks, again and again |
//! | `free_space` | room that guests leave on the host's disk |
//! | `supervised_container` | the container, as all of the above share it |
//! | `output` | where the container's output goes: log and clients |
//! | `first_use` | new volumes of a container that only reads them |
//! | `offline_task` | a machine for a moment, to work on the disks of a container that does not run |
//! | `container_disks` | the disks of a container |
//! | `boot` | a guest, from its started machine to its ready agent |
//! | `machine` | a machine that was just started |
//! | `disk_slots` | disks that come to a running machine and go |
//! | `conversation` | frames to the agent, messages from it, and its heartbeat |
//! | `heartbeat` | signs of life of the agent |
//! | `stall` | time that the host kept from the machine's processes |
//! | `guest` | processes, orders and requests in a guest |
//! | `guest_process` | a process in a guest, from its creation to its end |
//! | `pending_requests` | requests that wait for their responses |
//! | `guest_clock` | the clock of the guest, kept with the host's |
//! | `streams` | stdio streams into the guest |
//! | `specs` | specs of exec processes and tasks |
//! | `reach` | whether commands can still reach this supervisor |
//!
//! Each of these names only files below it. Nothing here waits for a client forever, except for the one that started
//! the container in the foreground, which owns the output.

mod boot;
mod client;
mod container_disks;
mod container_supervisor;
mod conversation;
mod disk_slots;
mod first_use;
mod free_space;
mod guest;
mod guest_clock;
mod guest_process;
mod health;
mod heartbeat;
mod lifecycle;
mod machine;
mod networks_changed;
pub(crate) mod offline_task;
mod orders;
mod output;
mod pending_requests;
mod pod;
mod pod_machine;
mod pod_supervisor;
mod reach;
mod specs;
mod stall;
mod streams;
mod supervised_container;

use std::time::Duration;

use anyhow::Context as _;

use crate::container_lock::ContainerLock;
use crate::control::Connection;
use crate::folders::Folders;

pub(crate) use pod_supervisor::supervise;

/// Time limit from process start to the agent's Hello. Hundreds of milliseconds usually; a host with many busy pods or
/// an emulated one under load takes seconds.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);
/// Time limit from a session's break to the machine's own reason for it.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Maximum number of clients at a time: each has three descriptors at most, and a process has 1024. More wait for their
/// turn.
const CLIENTS_MAX: usize = 200;
/// Pause before the next attempt when a client could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Id, lock and connection that the process is started with.
#[derive(Debug)]
pub(crate) struct Inheritance {
    pub id: String,
    pub lock: ContainerLock,
    pub first: Connection,
}

impl Inheritance {
    /// Takes over the descriptors that [`crate::start`] passed.
    pub(crate) fn take(folders: &Folders, id: String, lock_fd: i32, connection_fd: i32) -> anyhow::Result<Self> {
        let lock = crate::sys::inherited(lock_fd).context("no lock was handed over")?;
        let connection = crate::sys::inherited(connection_fd).context("no connection was handed over")?;
        Ok(Self {
            lock: ContainerLock::inherited(&folders.run, &id, lock),
            first: Connection::inherited(connection).context("the first connection cannot be used")?,
            id,
        })
    }
}

#[cfg(test)]
mod tests;
