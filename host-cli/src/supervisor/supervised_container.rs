//! A container that this supervisor runs, as the tasks that serve it share it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use capsid_protocol::ContainerSpec;
use tokio::sync::{Notify, watch};

use super::agent::Agent;
use super::output::Output;
use crate::control::{Failure, Moment};
use crate::folders::Folders;
use crate::network::NetworkAttachments;
use crate::state::{Container, Exit, State};
use crate::store_folder;

/// How far it is.
#[derive(Debug, Clone)]
pub(crate) enum Phase {
    /// The machine boots, or a restart is near.
    Starting,
    /// The container's program runs.
    Running,
    /// Nothing runs any more, and nothing will.
    Over(Rc<Outcome>),
}

/// How a life ended.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// The container ran, and ended somehow.
    Exited(Exit),
    /// It ran, and something else than its own exit ended it.
    Ended(Failure),
    /// It never ran.
    Failed(Failure),
}

impl Outcome {
    /// An error of Capsid's own.
    pub(crate) fn failed(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::Failed(Failure::of(error))
    }

    /// What the row says.
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

/// What the tasks share.
#[derive(Debug)]
pub(crate) struct SupervisedContainer {
    pub id: String,
    pub container: RefCell<Container>,
    /// The data folder.
    pub data: std::path::PathBuf,
    pub output: Output,
    pub phase: watch::Sender<Phase>,
    /// The guest, while there is one that answers.
    pub agent: RefCell<Option<Rc<Agent>>>,
    /// The networks of its own machine, while that runs.
    pub attachments: RefCell<Option<Rc<NetworkAttachments>>>,
    /// The spec as a pod's machine has it, with this life's slots for disks: never written to the row, since the next
    /// life has others.
    pub guest_spec: RefCell<Option<ContainerSpec>>,
    /// Where the time of the last start went.
    pub moments: RefCell<Vec<Moment>>,
    pub agent_start_ns: Cell<u64>,
    /// Its processes are frozen.
    pub paused: Cell<bool>,
    stop_asked: watch::Sender<bool>,
    /// Asks for the machine's end.
    pub kill: Notify,
}

impl SupervisedContainer {
    /// One that does not run yet.
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

    /// Its spec as the guest knows it.
    pub(crate) fn spec_in_guest(&self) -> ContainerSpec {
        let guest_spec = self.guest_spec.borrow();
        guest_spec.as_ref().unwrap_or(&self.container.borrow().spec).clone()
    }

    /// Notes whether the user wants it stopped. A row that cannot be written costs a start after the next reboot.
    pub(crate) fn note_stopped(&self, was_stopped: bool) {
        let mut container = self.container.borrow_mut();
        if container.config.was_stopped != was_stopped {
            container.config.was_stopped = was_stopped;
            let _ = State::open(&self.data).and_then(|state| state.set_plan(&container));
        }
    }

    /// Tells that something happened to it.
    pub(crate) fn record_event(&self, action: &str, attributes: &[(&str, &str)]) {
        crate::events::record(&self.data, &self.container.borrow(), action, attributes);
    }

    /// Notes that a step of the start has ended.
    pub(crate) fn mark(&self, step: &str) {
        self.moments.borrow_mut().push(Moment {
            step: step.into(),
            at_ns: crate::timings::now_ns(),
        });
    }

    /// The guest, or why nothing can be asked of it.
    pub(crate) fn guest(&self) -> Result<Rc<Agent>, Failure> {
        let running = matches!(*self.phase.borrow(), Phase::Running);
        let guest = self.agent.borrow().clone().filter(|_| running);
        guest.ok_or_else(|| {
            let name = &self.container.borrow().name;
            Failure::because(format!("container {name} is not running"))
        })
    }

    /// No restart from here on.
    pub(crate) fn ask_to_stop(&self) {
        self.stop_asked.send_replace(true);
    }

    pub(crate) fn is_stop_asked(&self) -> bool {
        *self.stop_asked.borrow()
    }

    /// Waits until somebody asks.
    pub(crate) async fn stop_asked(&self) {
        // The sender lives as long as `self`.
        let _ = self.stop_asked.subscribe().wait_for(|asked| *asked).await;
    }

    /// Waits for the end of everything.
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

    /// Waits until the container runs, or never will.
    pub(crate) async fn started(&self) -> Result<(), Failure> {
        let mut phase = self.phase.subscribe();
        loop {
            match &*phase.borrow_and_update() {
                Phase::Running => return Ok(()),
                Phase::Over(outcome) => {
                    return match &**outcome {
                        // Ended before anybody looked.
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
        tokio::task::spawn_local(async move { super::client::stop(&supervised, timeout_s).await });
    }
}
