//! Container that this supervisor runs, as its tasks share it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use capsid_protocol::ContainerSpec;
use tokio::sync::{Notify, watch};

use super::agent::Agent;
use super::output::Output;
use crate::control::{Failure, Moment};
use crate::folders::Folders;
use crate::model::{Container, Exit};
use crate::network::NetworkAttachments;
use crate::state::State;
use crate::store_folder;

/// Phase of a supervised container.
#[derive(Debug, Clone)]
pub(crate) enum Phase {
    /// Starting: the machine boots, or a restart is near.
    Starting,
    /// Running: the container's program runs.
    Running,
    /// Over: nothing runs any more, and nothing will.
    Over(Rc<Outcome>),
}

/// Outcome of one life of a container.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// Exit of a container that ran.
    Exited(Exit),
    /// Failure that ended a running container, in place of its own exit.
    Ended(Failure),
    /// Failure of a container that never ran.
    Failed(Failure),
}

impl Outcome {
    /// Creates the outcome of an error in Capsid itself.
    pub(crate) fn failed(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::Failed(Failure::of(error))
    }

    /// Returns the exit that is recorded in the container's row.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Exited(exit) => exit.clone(),
            Self::Ended(failure) | Self::Failed(failure) => Exit {
                code: failure.code,
                oom_killed: false,
                error: failure.message.clone(),
            },
        }
    }
}

/// State of a container that the supervisor's tasks share.
#[derive(Debug)]
pub(crate) struct SupervisedContainer {
    pub id: String,
    pub container: RefCell<Container>,
    /// Path of the data folder.
    pub data: std::path::PathBuf,
    pub output: Output,
    pub phase: watch::Sender<Phase>,
    /// Agent of the guest, while it answers.
    pub agent: RefCell<Option<Rc<Agent>>>,
    /// Networks of the container's own machine, while that runs.
    pub attachments: RefCell<Option<Rc<NetworkAttachments>>>,
    /// Spec in a pod's machine, with this life's disk slots: never written to the row, since the next life has other
    /// slots.
    pub guest_spec: RefCell<Option<ContainerSpec>>,
    /// Steps of the last start, with their times.
    pub moments: RefCell<Vec<Moment>>,
    pub agent_start_ns: Cell<u64>,
    /// Whether the container's processes are frozen.
    pub paused: Cell<bool>,
    stop_asked: watch::Sender<bool>,
    /// Request to end the machine.
    pub kill: Notify,
}

impl SupervisedContainer {
    /// Creates the state of a container that does not run yet.
    pub(crate) fn new(container: Container, folders: &Folders) -> std::io::Result<Rc<Self>> {
        let log = store_folder::log(&folders.data, &container.id);
        Ok(Rc::new(Self {
            id: container.id.clone(),
            output: Output::open(&log, container.config.log)?,
            container: RefCell::new(container),
            data: folders.data.clone(),
            phase: watch::Sender::new(Phase::Starting),
            agent: RefCell::default(),
            attachments: RefCell::default(),
            guest_spec: RefCell::default(),
            moments: RefCell::default(),
            agent_start_ns: Cell::default(),
            paused: Cell::default(),
            stop_asked: watch::Sender::new(false),
            kill: Notify::new(),
        }))
    }

    /// Returns the container's spec as it was sent to the guest.
    pub(crate) fn spec_in_guest(&self) -> ContainerSpec {
        let guest_spec = self.guest_spec.borrow();
        guest_spec.as_ref().unwrap_or(&self.container.borrow().spec).clone()
    }

    /// Records whether the user wants the container stopped. A row that cannot be written costs a start after the next
    /// reboot.
    pub(crate) fn note_stopped(&self, was_stopped: bool) {
        let mut container = self.container.borrow_mut();
        if container.config.was_stopped != was_stopped {
            container.config.was_stopped = was_stopped;
            let _ = State::open(&self.data).and_then(|state| state.set_plan(&container));
        }
    }

    /// Records an event of the container.
    pub(crate) fn record_event(&self, action: &str, attributes: &[(&str, &str)]) {
        crate::events::record(&self.data, &self.container.borrow(), action, attributes);
    }

    /// Records that a step of the start has ended.
    pub(crate) fn mark(&self, step: &str) {
        self.moments.borrow_mut().push(Moment {
            step: step.into(),
            at_ns: crate::timings::now_ns(),
        });
    }

    /// Returns the guest's agent; an error while the container does not run.
    pub(crate) fn guest(&self) -> Result<Rc<Agent>, Failure> {
        let running = matches!(*self.phase.borrow(), Phase::Running);
        let guest = self.agent.borrow().clone().filter(|_| running);
        guest.ok_or_else(|| {
            let name = &self.container.borrow().name;
            Failure::because(format!("container {name} is not running"))
        })
    }

    /// Prevents restarts from now on.
    pub(crate) fn ask_to_stop(&self) {
        self.stop_asked.send_replace(true);
    }

    pub(crate) fn is_stop_asked(&self) -> bool {
        *self.stop_asked.borrow()
    }

    /// Waits until a stop is requested.
    pub(crate) async fn stop_asked(&self) {
        // The sender lives as long as `self`.
        let _ = self.stop_asked.subscribe().wait_for(|asked| *asked).await;
    }

    /// Waits until the container is over, after its last life.
    pub(crate) async fn over(&self) -> Rc<Outcome> {
        let mut phase = self.phase.subscribe();
        loop {
            if let Phase::Over(outcome) = &*phase.borrow_and_update() {
                return Rc::clone(outcome);
            }
            if phase.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until the container runs; an error if it never will.
    pub(crate) async fn started(&self) -> Result<(), Failure> {
        let mut phase = self.phase.subscribe();
        loop {
            match &*phase.borrow_and_update() {
                Phase::Running => return Ok(()),
                Phase::Over(outcome) => {
                    return match &**outcome {
                        // The container ended before this task ran.
                        Outcome::Exited(_) | Outcome::Ended(_) => Ok(()),
                        Outcome::Failed(failure) => Err(failure.clone()),
                    };
                }
                Phase::Starting => {}
            }
            if phase.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Stops the container as `capsid stop` does, without waiting for it.
    pub(crate) fn stop_in_background(self: &Rc<Self>, timeout_s: Option<u64>) {
        let supervised = Rc::clone(self);
        tokio::task::spawn_local(async move { super::orders::stop(&supervised, timeout_s).await });
    }
}
