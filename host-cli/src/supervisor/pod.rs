//! Pod of several containers: one machine, and one process that owns it. A container arrives with its lock and its
//! first connection, as if a supervisor of its own were started with these, and is attended until it ends. The machine
//! continues without any container, until the pod is stopped.
//!
//! ```text
//!  row read ─► machine ─► session ─► up ──────────────── stop, or its end ─► all containers' ends ─► row written
//!     socket: adopt a container, stop, measure ──────────────┘
//! ```

use std::cell::{OnceCell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};

use anyhow::Context as _;
use capsid_protocol::ContainerSpec;
use capsid_protocol::message::{Measure, Request as Asked, agent_message, host_message};
use tokio::net::UnixListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::agent::Agent;
use super::disk_slots::DiskSlots;
use super::lifecycle::sanitise;
use super::machine::{self, MachineError, Sockets, Wanted};
use super::reach::{self, Reach};
use super::streams::StreamOpener;
use super::supervised_container::SupervisedContainer;
use super::{ACCEPT_PAUSE, BOOT_TIMEOUT, CLIENTS_MAX, Inheritance, LAST_WORDS, client, networks_changed, orders};
use crate::accelerator::{DeviceSocket, MachineEnd, RunningMachine};
use crate::container_lock::ContainerLock;
use crate::control::{self, Answer, Connection, Failure, PodRequest};
use crate::folders::Folders;
use crate::network::{AttachmentsError, NetworkAttachments, PodNetworks};
use crate::session::{Session, SessionError};
use crate::signals::Signals;
use crate::state::{self, State, StateError};
use crate::{clock, error_text};

/// Phase of the machine.
#[derive(Debug, Clone)]
enum Phase {
    Booting,
    Up(Rc<Agent>),
    Down(MachineEnd),
}

/// Error when the machine did not start, or reason why it ended.
#[derive(Debug, thiserror::Error)]
enum PodError {
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error("the machine did not become ready within {} s", BOOT_TIMEOUT.as_secs())]
    BootTimeout,
    #[error("the session with the guest failed")]
    Session(#[from] SessionError),
    #[error("cannot connect the machine to its networks")]
    NetworkAttachments(#[from] AttachmentsError),
    #[error("{}", .0.reason)]
    Ended(MachineEnd),
    #[error("the pod was stopped")]
    Stopped,
}

/// State that the tasks of a pod share.
#[derive(Debug)]
pub(crate) struct Pod {
    pub id: String,
    pub name: String,
    pub disk_slots: DiskSlots,
    phase: watch::Sender<Phase>,
    /// Whether the pod stops: set once, and no container is accepted any more.
    stopping: watch::Sender<bool>,
    /// Request to end the machine.
    halt: Notify,
    containers: RefCell<Vec<Weak<SupervisedContainer>>>,
    /// Networks of the machine, known when it was started.
    attachments: OnceCell<Rc<NetworkAttachments>>,
}

impl Pod {
    fn new(row: &crate::model::Pod, disk_slots: DiskSlots) -> Rc<Self> {
        Rc::new(Self {
            id: row.id.clone(),
            name: row.name.clone(),
            disk_slots,
            phase: watch::Sender::new(Phase::Booting),
            stopping: watch::Sender::new(false),
            halt: Notify::new(),
            containers: RefCell::default(),
            attachments: OnceCell::new(),
        })
    }

    /// Waits until the guest is up, or for the reason why it will not be.
    pub(crate) async fn up(&self) -> Result<Rc<Agent>, Failure> {
        let mut phase = self.phase.subscribe();
        loop {
            match &*phase.borrow_and_update() {
                Phase::Up(agent) => return Ok(Rc::clone(agent)),
                Phase::Down(end) => return Err(Failure::because(format!("the pod's machine ended: {}", end.reason))),
                Phase::Booting => {}
            }
            if phase.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits for the machine's end.
    pub(crate) async fn down(&self) -> MachineEnd {
        let mut phase = self.phase.subscribe();
        loop {
            if let Phase::Down(end) = &*phase.borrow_and_update() {
                return end.clone();
            }
            if phase.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether no container is started in the pod any more.
    pub(crate) fn is_ending(&self) -> bool {
        *self.stopping.borrow() || matches!(*self.phase.borrow(), Phase::Down(_))
    }

    /// Writes the pod's network into a container's spec.
    pub(crate) fn apply_to(&self, spec: &mut ContainerSpec) {
        if let Some(attachments) = self.attachments.get() {
            attachments.apply_to(spec);
        }
    }

    /// Returns the networks of the pod's machine, if it has any.
    pub(crate) fn attachments(&self) -> Option<Rc<NetworkAttachments>> {
        self.attachments.get().cloned()
    }

    /// Adds a container to the pod.
    pub(crate) fn add(&self, supervised: &Rc<SupervisedContainer>) {
        let mut containers = self.containers.borrow_mut();
        containers.retain(|known| known.strong_count() > 0);
        containers.push(Rc::downgrade(supervised));
    }

    /// Stops every container as `capsid stop` does, all at once, and then the machine.
    async fn stop(&self, timeout_s: Option<u64>) {
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

/// Supervises a pod from the start of its machine to its end.
pub(crate) async fn supervise(folders: Folders, inheritance: Inheritance) -> anyhow::Result<()> {
    let Inheritance { id, lock, first } = inheritance;
    let (state, row, mut listener, mut signals) = match prepare(&folders, &id, &lock) {
        Ok(prepared) => prepared,
        Err(error) => {
            if matches!(error.downcast_ref(), Some(StateError::UnknownPod(_))) {
                // Removed while this process was started.
                let _ = lock.remove();
            }
            client::refuse(&first, &error_text::describe(error.as_ref())).await;
            return Err(error);
        }
    };
    let (disk_slots, machine_disk_slots) =
        DeviceSocket::pair().context("cannot make a socket for the machine's disk slots")?;
    let pod = Pod::new(&row, DiskSlots::new(disk_slots));
    state.set_pod_running(&id, clock::now_ns(), std::process::id())?;
    let folders = Rc::new(folders);
    let mut clients = JoinSet::new();
    clients.spawn_local(serve(Rc::clone(&pod), Rc::clone(&folders), first));
    let mut looks = tokio::time::interval(reach::LOOK_EVERY);
    let error = {
        let course = run(&pod, &folders, &row, &state, machine_disk_slots);
        tokio::pin!(course);
        loop {
            tokio::select! {
                error = &mut course => break error,
                accepted = listener.accept(), if clients.len() < CLIENTS_MAX => match accepted {
                    Ok((stream, _)) => {
                        let connection = control::accepted(stream);
                        clients.spawn_local(serve(Rc::clone(&pod), Rc::clone(&folders), connection));
                    }
                    Err(_) => sleep(ACCEPT_PAUSE).await,
                },
                Some(_) = clients.join_next() => {}
                _ = looks.tick() => match reach::look(&lock, &folders.data.join(state::DATABASE.name)) {
                    Reach::Whole => {}
                    Reach::NoSocket => {
                        if let Ok(anew) = control::listen(lock.folder()) {
                            listener = anew;
                        }
                    }
                    Reach::Lost(_) => {
                        looks.reset_after(reach::LOST_LOOK_EVERY);
                        let pod = Rc::clone(&pod);
                        tokio::task::spawn_local(async move { pod.stop(None).await });
                    }
                },
                // The host shuts down, or somebody ends this process: equivalent to `capsid pod stop`.
                _ = signals.interruption() => {
                    let pod = Rc::clone(&pod);
                    tokio::task::spawn_local(async move { pod.stop(None).await });
                }
            }
        }
    };
    drop(listener);
    // Every container writes its own row, and notifies its own clients.
    while clients.join_next().await.is_some() {}
    let words = match &error {
        PodError::Stopped => String::new(),
        error => error_text::describe(error),
    };
    state.set_pod_exited(&id, clock::now_ns(), &words)?;
    drop(lock);
    Ok(())
}

/// Prepares all that must work before anything is started.
fn prepare(
    folders: &Folders,
    id: &str,
    lock: &ContainerLock,
) -> anyhow::Result<(State, crate::model::Pod, UnixListener, Signals)> {
    let state = State::open(&folders.data)?;
    let row = state.pod(id)?;
    // Each container takes a dozen descriptors. When there are no more, a container is refused on arrival.
    crate::sys::raise_descriptors();
    let listener = control::listen(lock.folder()).context("cannot listen for commands")?;
    let signals = Signals::listen_to_ending().context("cannot listen for signals")?;
    Ok((state, row, listener, signals))
}

/// Runs the machine from its start to its end. Returns the reason of the end.
async fn run(
    pod: &Rc<Pod>,
    folders: &Folders,
    row: &crate::model::Pod,
    state: &State,
    disk_slots: OwnedFd,
) -> PodError {
    let error = match start(folders, row, state, disk_slots) {
        Err(error) => error.into(),
        Ok((mut machine, mut sockets)) => {
            if let Some(attachments) = sockets.network.take() {
                // A pod has one machine in its life.
                let _ = pod.attachments.set(attachments);
            }
            let error = run_started(pod, &mut machine, sockets).await;
            if let Phase::Up(agent) = &*pod.phase.borrow() {
                agent.end();
            }
            machine.stop().await;
            error
        }
    };
    let end = match &error {
        PodError::Ended(end) => end.clone(),
        error => MachineEnd {
            reason: error_text::describe(error),
            killed: matches!(
                error,
                PodError::Stopped | PodError::Session(SessionError::Unresponsive(_))
            ),
            console: String::new(),
        },
    };
    pod.phase.send_replace(Phase::Down(end));
    error
}

/// Starts the pod's machine, which ends with each of the processes that serve its shares.
fn start(
    folders: &Folders,
    row: &crate::model::Pod,
    state: &State,
    disk_slots: OwnedFd,
) -> Result<(RunningMachine, Sockets), MachineError> {
    let config = &row.config;
    let pod_networks = PodNetworks::of_pod(row, state).map_err(|e| MachineError::Prepare(e.into()))?;
    let wanted = Wanted {
        id: &row.id,
        accelerator: config.accelerator,
        size: config.machine,
        kernel: config.kernel.as_deref(),
        disks: Vec::new(),
        disk_slots: Some(disk_slots),
        shares: &config.shares,
        pod_networks: Some(pod_networks),
    };
    machine::prepare(folders, wanted)?.start()
}

async fn run_started(pod: &Rc<Pod>, machine: &mut RunningMachine, sockets: Sockets) -> PodError {
    let booted = tokio::select! {
        opened = timeout(BOOT_TIMEOUT, Session::open(sockets.session)) => opened,
        end = &mut machine.end => return PodError::Ended(machine::ended(end.ok())),
        () = pod.halt.notified() => return PodError::Stopped,
    };
    let session = match booted {
        Err(_) => return PodError::BootTimeout,
        Ok(Err(error)) => return reason(error, machine).await,
        Ok(Ok(session)) => session,
    };
    let opener = StreamOpener {
        control: sockets.control,
        nonce: session.nonce,
    };
    let (agent, mut outbox) = Agent::new(session.sender, opener);
    let agent = Rc::new(agent);
    let mut receiver = session.receiver;
    if let Some(attachments) = pod.attachments() {
        let plugged = tokio::select! {
            plugged = attachments.plug() => plugged,
            end = &mut machine.end => return PodError::Ended(machine::ended(end.ok())),
            () = pod.halt.notified() => return PodError::Stopped,
        };
        if let Err(error) = plugged {
            return error.into();
        }
    }
    pod.phase.send_replace(Phase::Up(Rc::clone(&agent)));
    let error = tokio::select! {
        error = agent.converse(&mut receiver, &mut outbox) => error,
        end = &mut machine.end => return PodError::Ended(machine::ended(end.ok())),
        () = pod.halt.notified() => return PodError::Stopped,
    };
    reason(error, machine).await
}

/// Returns the reason of a broken session. It mostly breaks because the machine is ending: the machine's reason is
/// better.
async fn reason(error: SessionError, machine: &mut RunningMachine) -> PodError {
    if let SessionError::Unresponsive(_) = error {
        return error.into();
    }
    match timeout(LAST_WORDS, &mut machine.end).await {
        Ok(end) => PodError::Ended(machine::ended(end.ok())),
        Err(_) => error.into(),
    }
}

/// Serves a connection to its end.
async fn serve(pod: Rc<Pod>, folders: Rc<Folders>, mut connection: Connection) {
    let heard = tokio::select! {
        biased;
        heard = connection.reader.receive::<PodRequest>() => heard,
        // A client that sends no request is not waited for.
        _ = pod.down() => return,
    };
    let answered = match heard {
        Err(_) => return,
        // The connection stays open for as long as the container is attended here.
        Ok((PodRequest::Adopt { container }, fds)) => return adopt(&pod, &folders, container, fds).await,
        Ok((PodRequest::Start, _)) => pod.up().await.map(|_| Answer::Done),
        Ok((PodRequest::Stop { timeout_s }, _)) => {
            pod.stop(timeout_s).await;
            pod.down().await;
            Ok(Answer::Done)
        }
        Ok((PodRequest::NetworksChanged, _)) => networks_changed::pod(&pod, &folders).await,
        Ok((PodRequest::Measure, _)) => measure(&pod).await,
    };
    let answer = answered.unwrap_or_else(Answer::Failed);
    // A client that is gone needs no answer.
    let _ = connection.writer.send(&answer).await;
}

/// Attends a container until its end.
async fn adopt(pod: &Rc<Pod>, folders: &Rc<Folders>, id: String, fds: Vec<OwnedFd>) {
    let Ok([lock, connection]) = <[OwnedFd; 2]>::try_from(fds) else {
        return;
    };
    let Ok(first) = Connection::inherited(connection) else {
        return;
    };
    if pod.is_ending() {
        return client::refuse(&first, &format!("pod {} is stopping: try again", pod.name)).await;
    }
    let inheritance = Inheritance {
        lock: ContainerLock::inherited(&folders.run, &id, lock),
        first,
        id,
    };
    // Its row and its clients have the error.
    let _ = super::attend(folders, inheritance, Some(Rc::clone(pod))).await;
}

/// Measures the resource usage of the whole guest.
async fn measure(pod: &Pod) -> Result<Answer, Failure> {
    let agent = pod.up().await?;
    let measure = host_message::Kind::Measure(Measure {
        container: String::new(),
    });
    match agent.ask("", Asked::Measure, measure).await {
        Ok(agent_message::Kind::Measured(measured)) => Ok(Answer::Measured(client::usage(&measured))),
        Ok(agent_message::Kind::Failed(failed)) => Err(Failure::because(sanitise(&failed.message))),
        Ok(_) => Err(Failure::of(&SessionError::Unexpected)),
        Err(error) => Err(Failure::of(&error)),
    }
}
