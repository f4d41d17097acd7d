//! Supervisor of a pod, the process that owns its machine. That of an implicit pod attends the pod's container, and ends
//! with it. To any other pod a container arrives with its lock and its first connection, as if a supervisor of its own
//! were started with these, and is attended until it ends; the machine continues without any container, until the pod
//! is stopped.
//!
//! ```text
//!  row read ─► machine ─► session ─► up ──────────────── stop, or its end ─► all containers' ends ─► row written
//!     socket: adopt a container, stop ───────────────────────┘
//! ```

use std::os::fd::OwnedFd;
use std::rc::Rc;

use anyhow::Context as _;
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::disk_slots::DiskSlots;
use super::machine::MachineDisks;
use super::pod::{Disks, Pod};
use super::pod_machine::{self, PodError};
use super::reach::{self, Reach};
use super::{ACCEPT_PAUSE, CLIENTS_MAX, Inheritance, client, container_supervisor, networks_changed};
use crate::container_lock::ContainerLock;
use crate::control::{self, Answer, Connection, Failure, Request};
use crate::folders::Folders;
use crate::process::DeviceSocket;
use crate::signals::Signals;
use crate::state::{self, State, StateError};
use crate::{clock, error_text};

/// Supervises a pod from its start to its end.
pub(crate) async fn supervise(folders: Folders, inheritance: Inheritance) -> anyhow::Result<()> {
    let opened = State::open(&folders.data);
    let found = opened.and_then(|state| state.pod(&inheritance.id).map(|row| (state, row)));
    match found {
        Ok((_, row)) if row.is_implicit => {
            let pod = Pod::new(&row, Disks::AtBoot);
            container_supervisor::attend(&folders, inheritance, &pod).await
        }
        Ok((state, row)) => supervise_machine(folders, inheritance, state, row).await,
        // Removed while this process was started.
        Err(StateError::UnknownPod(id)) => {
            let _ = inheritance.lock.remove();
            let error = StateError::UnknownMember(id);
            client::refuse(&inheritance.first, &error_text::describe(&error)).await;
            Err(error.into())
        }
        Err(error) => {
            let _ = container_supervisor::discard(&folders, &inheritance.id, inheritance.lock);
            client::refuse(&inheritance.first, &error_text::describe(&error)).await;
            Err(error.into())
        }
    }
}

/// Supervises a pod whose machine runs with any number of containers.
async fn supervise_machine(
    folders: Folders,
    inheritance: Inheritance,
    state: State,
    row: crate::model::Pod,
) -> anyhow::Result<()> {
    let Inheritance { id, lock, first } = inheritance;
    let (mut listener, mut signals) = match prepare(&lock) {
        Ok(prepared) => prepared,
        Err(error) => {
            client::refuse(&first, &error_text::describe(error.as_ref())).await;
            return Err(error);
        }
    };
    let (disk_slots, machine_disk_slots) =
        DeviceSocket::pair().context("cannot make a socket for the machine's disk slots")?;
    let pod = Pod::new(&row, Disks::HotPlugged(DiskSlots::new(disk_slots)));
    state.set_pod_running(&id, clock::now_ns(), std::process::id())?;
    let folders = Rc::new(folders);
    let mut clients = JoinSet::new();
    clients.spawn_local(serve(Rc::clone(&pod), Rc::clone(&folders), first));
    let mut looks = tokio::time::interval(reach::LOOK_EVERY);
    let error = {
        let disks = MachineDisks::Slots(machine_disk_slots);
        let course = pod_machine::run(&pod, &folders, &state, disks, pod.halt.notified(), |_| {});
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
fn prepare(lock: &ContainerLock) -> anyhow::Result<(UnixListener, Signals)> {
    // Each container takes a dozen descriptors. When there are no more, a container is refused on arrival.
    crate::sys::raise_descriptors();
    let listener = control::listen(lock.folder()).context("cannot listen for commands")?;
    let signals = Signals::listen_to_ending().context("cannot listen for signals")?;
    Ok((listener, signals))
}

/// Serves a connection to its end.
async fn serve(pod: Rc<Pod>, folders: Rc<Folders>, mut connection: Connection) {
    let heard = tokio::select! {
        biased;
        heard = connection.reader.receive::<Request>() => heard,
        // A client that sends no request is not waited for.
        _ = pod.down() => return,
    };
    let answered = match heard {
        Err(_) => return,
        // The connection stays open for as long as the container is attended here.
        Ok((Request::Adopt { container }, fds)) => return adopt(&pod, &folders, container, fds).await,
        Ok((Request::Start, _)) => pod.up().await.map(|_| Answer::Done),
        Ok((Request::Stop { timeout_s }, _)) => {
            pod.stop(timeout_s).await;
            pod.down().await;
            Ok(Answer::Done)
        }
        Ok((Request::NetworksChanged, _)) => networks_changed::reconcile(&pod, &folders.data).await,
        Ok(_) => Err(Failure::because(
            "that is a request to a container, and this is a pod of several",
        )),
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
    let _ = container_supervisor::attend(folders, inheritance, pod).await;
}
