//! Container that this supervisor runs, as its tasks share it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use capsid_protocol::ContainerSpec;
use tokio::sync::{Mutex, Notify, watch};

use super::guest::Guest;
use super::output::Output;
use crate::control::{Failure, Moment};
use crate::folders::Folders;
use crate::model::{Container, Exit};
use crate::state::State;
use crate::store_folder;

/// Phase of a supervised container.
#[derive(Debug, Clone)]
pub(crate) enum ContainerPhase {
    /// Starting: the machine boots.
    Starting,
    /// Running: the container's program runs.
    Running(Rc<Running>),
    /// Ending: the program has ended. Its machine is about to, or a restart is near.
    Ending,
    /// Over: nothing runs any more, and nothing will.
    Over(Rc<Outcome>),
}

/// State that a container has only while its program runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub guest: Rc<Guest>,
    /// Spec as it was sent to the guest. In a pod's machine it names this life's disk slots, and is never written to
    /// the row: the next life has other slots.
    pub spec: ContainerSpec,
    /// Whether the container's processes are frozen.
    pub paused: Cell<bool>,
    /// Whether nobody knows that: the guest has not responded to the last change in time.
    pub is_pause_unknown: Cell<bool>,
    /// Lock that permits one change at a time: pause, resume, limits.
    pub changing: Mutex<()>,
}

impl Running {
    /// Creates the state of a program that has just started.
    pub(super) fn new(guest: Rc<Guest>, spec: ContainerSpec) -> Self {
        Self {
            guest,
            spec,
            paused: Cell::default(),
            is_pause_unknown: Cell::default(),
            changing: Mutex::default(),
        }
    }
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
    pub phase: watch::Sender<ContainerPhase>,
    /// Steps of the last start, with their times.
    pub moments: RefCell<Vec<Moment>>,
    pub agent_start_ns: Cell<u64>,
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
            phase: watch::Sender::new(ContainerPhase::Starting),
            moments: RefCell::default(),
            agent_start_ns: Cell::default(),
            stop_asked: watch::Sender::new(false),
            kill: Notify::new(),
        }))
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

    /// Returns the state of the running program; an error while none runs.
    pub(crate) fn running(&self) -> Result<Rc<Running>, Failure> {
        match &*self.phase.borrow() {
            ContainerPhase::Running(running) => Ok(Rc::clone(running)),
            ContainerPhase::Starting | ContainerPhase::Ending | ContainerPhase::Over(_) => {
                let name = &self.container.borrow().name;
                Err(Failure::because(format!("container {name} is not running")))
            }
        }
    }

    /// Whether the container's processes are frozen.
    pub(crate) fn is_paused(&self) -> bool {
        self.running().is_ok_and(|running| running.paused.get())
    }

    /// Whether the container's processes are frozen, or may be.
    pub(crate) fn may_be_paused(&self) -> bool {
        self.running()
            .is_ok_and(|running| running.paused.get() || running.is_pause_unknown.get())
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
        until(&self.phase, |phase| match phase {
            ContainerPhase::Over(outcome) => Some(Rc::clone(outcome)),
            ContainerPhase::Starting | ContainerPhase::Running(_) | ContainerPhase::Ending => None,
        })
        .await
    }

    /// Waits until the container runs; an error if it never will.
    pub(crate) async fn started(&self) -> Result<(), Failure> {
        until(&self.phase, |phase| match phase {
            ContainerPhase::Running(_) | ContainerPhase::Ending => Some(Ok(())),
            ContainerPhase::Over(outcome) => match &**outcome {
                // The container ended before this task ran.
                Outcome::Exited(_) | Outcome::Ended(_) => Some(Ok(())),
                Outcome::Failed(failure) => Some(Err(failure.clone())),
            },
            ContainerPhase::Starting => None,
        })
        .await
    }
}

/// Waits until a phase gives an answer; forever when no other phase will come.
pub(super) async fn until<P, T>(phases: &watch::Sender<P>, answer: impl Fn(&P) -> Option<T>) -> T {
    let mut phase = phases.subscribe();
    loop {
        if let Some(answer) = answer(&*phase.borrow_and_update()) {
            return answer;
        }
        if phase.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
