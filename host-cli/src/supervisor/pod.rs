//! Pod as the tasks of its supervisor share it: the machine and how disks come to it, and the containers in it.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use capsid_protocol::ContainerSpec;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::disk_slots::DiskSlots;
use super::guest::Guest;
use super::orders;
use super::supervised_container::{SupervisedContainer, until};
use crate::control::Failure;
use crate::network::NetworkAttachments;
use crate::process::MachineEnd;

/// Way in which the disks of containers come to the pod's machine.
#[derive(Debug)]
pub(crate) enum Disks {
    /// With the machine, which is started for each life of an implicit pod's container, and ends with it: faster than
    /// to plug them.
    AtBoot,
    /// Into a machine that runs already, and goes on without containers.
    HotPlugged(DiskSlots),
}

/// Phase of the machine.
#[derive(Debug, Clone)]
pub(super) enum MachinePhase {
    Booting,
    Up(Rc<Guest>),
    Down(MachineEnd),
}

/// State that the tasks of a pod share.
#[derive(Debug)]
pub(crate) struct Pod {
    pub id: String,
    pub name: String,
    pub disks: Disks,
    pub(super) phase: watch::Sender<MachinePhase>,
    /// Whether the pod stops: set once, and no container is accepted any more.
    stopping: watch::Sender<bool>,
    /// Request to end the machine.
    pub(super) halt: Notify,
    containers: RefCell<Vec<Weak<SupervisedContainer>>>,
    /// Networks of the machine, known when it was started.
    pub(super) attachments: RefCell<Option<Rc<NetworkAttachments>>>,
    /// Time from the guest kernel's entry to the agent's start, nanoseconds.
    pub(super) agent_start_ns: Cell<u64>,
}

impl Pod {
    pub(super) fn new(row: &crate::model::Pod, disks: Disks) -> Rc<Self> {
        Rc::new(Self {
            id: row.id.clone(),
            name: row.name.clone(),
            disks,
            phase: watch::Sender::new(MachinePhase::Booting),
            stopping: watch::Sender::new(false),
            halt: Notify::new(),
            containers: RefCell::default(),
            attachments: RefCell::default(),
            agent_start_ns: Cell::default(),
        })
    }

    /// Waits until the guest is up, or for the reason why it will not be.
    pub(crate) async fn up(&self) -> Result<Rc<Guest>, Failure> {
        until(&self.phase, |phase| match phase {
            MachinePhase::Up(guest) => Some(Ok(Rc::clone(guest))),
            MachinePhase::Down(end) => {
                let words = format!("the pod's machine ended: {}", end.reason);
                Some(Err(Failure::because(words)))
            }
            MachinePhase::Booting => None,
        })
        .await
    }

    /// Waits for the machine's end.
    pub(crate) async fn down(&self) -> MachineEnd {
        until(&self.phase, |phase| match phase {
            MachinePhase::Down(end) => Some(end.clone()),
            MachinePhase::Booting | MachinePhase::Up(_) => None,
        })
        .await
    }

    /// Whether the machine is started for each life of the pod's only container.
    pub(crate) fn is_implicit(&self) -> bool {
        matches!(self.disks, Disks::AtBoot)
    }

    /// Whether no container is started in the pod any more.
    pub(crate) fn is_ending(&self) -> bool {
        *self.stopping.borrow() || (!self.is_implicit() && matches!(*self.phase.borrow(), MachinePhase::Down(_)))
    }

    /// Returns the container of an implicit pod.
    pub(super) fn only_container(&self) -> Option<Rc<SupervisedContainer>> {
        let containers = self.containers.borrow();
        containers.first().filter(|_| self.is_implicit())?.upgrade()
    }

    /// Writes the pod's network into a container's spec.
    pub(crate) fn apply_to(&self, spec: &mut ContainerSpec) {
        if let Some(attachments) = self.attachments() {
            attachments.apply_to(spec);
        }
    }

    /// Returns the networks of the pod's machine, if it has any.
    pub(crate) fn attachments(&self) -> Option<Rc<NetworkAttachments>> {
        self.attachments.borrow().clone()
    }

    /// Adds a container to the pod.
    pub(crate) fn add(&self, supervised: &Rc<SupervisedContainer>) {
        let mut containers = self.containers.borrow_mut();
        containers.retain(|known| known.strong_count() > 0);
        containers.push(Rc::downgrade(supervised));
    }

    /// Stops every container as `capsid stop` does, all at once, and then the machine.
    pub(super) async fn stop(&self, timeout_s: Option<u64>) {
        self.stopping.send_replace(true);
        let containers: Vec<Rc<SupervisedContainer>> =
            self.containers.borrow().iter().filter_map(Weak::upgrade).collect();
        let mut stops = JoinSet::new();
        for supervised in containers {
            stops.spawn_local(async move { orders::stop(&supervised, timeout_s).await });
        }
        while stops.join_next().await.is_some() {}
        self.halt.notify_one();
    }
}
