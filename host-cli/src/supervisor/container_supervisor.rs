//! Supervision of one container in its pod's process, from its first start to its last end.

use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::pod::Pod;
use super::reach::{self, Reach};
use super::supervised_container::{ContainerPhase, Outcome, SupervisedContainer};
use super::{ACCEPT_PAUSE, CLIENTS_MAX, Inheritance, client, lifecycle, orders};
use crate::container_lock::ContainerLock;
use crate::control;
use crate::folders::Folders;
use crate::model::{Container, Exit, RestartPolicy, Status};
use crate::signals::Signals;
use crate::state::{Pending, State, StateError};
use crate::{clock, error_text, store_folder, sys, volumes};

/// Time limit for clients to receive the end.
const FAREWELL: Duration = Duration::from_secs(5);
/// Time limit for writing an end to a full disk; [`WRITE_PAUSE`] is the interval of the attempts.
const WRITE_PATIENCE: Duration = Duration::from_secs(60);
const WRITE_PAUSE: Duration = Duration::from_millis(250);
/// Pause before a first restart; it doubles with each one that follows soon, up to the limit, as in docker.
const RESTART_PAUSE: Duration = Duration::from_millis(100);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(60);
/// Run time after which a container's next restart waits for the first pause again.
const RESTART_FORGIVEN: Duration = Duration::from_secs(10);

/// Attends a container from its first start to its last end.
pub(super) async fn attend(folders: &Folders, inheritance: Inheritance, pod: &Rc<Pod>) -> anyhow::Result<()> {
    let Inheritance { id, lock, first } = inheritance;
    let (state, supervised, mut listener, mut signals) = match prepare(folders, &id, &lock, pod) {
        Ok(prepared) => prepared,
        Err(error) => {
            // A container that cannot be removed here is left to `capsid rm`.
            let _ = discard(folders, &id, lock);
            client::refuse(&first, &error_text::describe(error.as_ref())).await;
            return Err(error);
        }
    };
    let mut clients = JoinSet::new();
    let received_first = client::receive_first(&supervised, pod, first).await;
    clients.spawn_local(received_first);
    let mut log_failed = false;
    let mut looks = tokio::time::interval(reach::LOOK_EVERY);
    let files = store_folder::all(&folders.data).join(&id);
    let (outcome, unwritten) = {
        let lives = lives(&supervised, &state, folders, pod);
        tokio::pin!(lives);
        loop {
            tokio::select! {
                ended = &mut lives => break ended,
                accepted = listener.accept(), if clients.len() < CLIENTS_MAX => match accepted {
                    Ok((stream, _)) => {
                        let connection = control::accepted(stream);
                        clients.spawn_local(client::serve(Rc::clone(&supervised), Rc::clone(pod), connection));
                    }
                    // No descriptor is free: the client waits, and this process does not spin.
                    Err(_) => sleep(ACCEPT_PAUSE).await,
                },
                words = supervised.output.log_failed(), if !log_failed => {
                    log_failed = true;
                    // A disk that is full for the log may be full for the row, too: the error is recorded again with
                    // the container's end.
                    let _ = state.set_error(&id, &words);
                }
                _ = looks.tick() => match reach::look(&lock, &files) {
                    Reach::Whole => {}
                    Reach::NoSocket => {
                        if let Ok(anew) = control::listen(lock.folder()) {
                            listener = anew;
                        }
                    }
                    Reach::Lost(what) => {
                        looks.reset_after(reach::LOST_LOOK_EVERY);
                        let _ = state.set_error(&id, what);
                        orders::stop_in_background(&supervised, None);
                    }
                },
                // Code that a command needed is mostly not needed for the next minutes.
                Some(_) = clients.join_next() => sys::forget_code(),
                // The host shuts down, or somebody ends this process: equivalent to `capsid stop`.
                () = interruption(&mut signals) => orders::stop_in_background(&supervised, None),
            }
        }
    };
    drop(listener);
    let remove = supervised.container.borrow().config.remove;
    // The row is deleted first: see `create::remove`. What fails here is left to the next command.
    let removed = if remove {
        forget(&state, &supervised, folders)
    } else {
        Ok(())
    };
    supervised.phase.send_replace(ContainerPhase::Over(Rc::new(outcome)));
    // A client that does not read is left behind.
    let _ = timeout(FAREWELL, async { while clients.join_next().await.is_some() {} }).await;
    if let Some(end) = unwritten.filter(|_| !remove) {
        end.write_at_last(&state, &id).await?;
    }
    removed?;
    if remove {
        lock.remove().context("cannot remove the pod's run folder")?;
        state.finish_pending(Pending::Container, &id);
    }
    Ok(())
}

/// Removes the container, except for its run folder.
fn forget(state: &State, supervised: &SupervisedContainer, folders: &Folders) -> anyhow::Result<()> {
    volumes::remove_container(state, &folders.data, &supervised.container.borrow(), true)?;
    supervised.record_event("destroy", &[]);
    store_folder::remove(&folders.data, &supervised.id).context("cannot remove the container's files")
}

/// Removes a container with `--rm` that could not be supervised.
pub(super) fn discard(folders: &Folders, id: &str, lock: ContainerLock) -> anyhow::Result<()> {
    let state = State::open(&folders.data)?;
    let container = match state.container(id) {
        // Removed while this process was started.
        Err(StateError::Unknown(_)) => return Ok(lock.remove()?),
        found => found?,
    };
    if container.config.remove {
        crate::create::remove(&state, folders, lock, &container, true)?;
    }
    Ok(())
}

/// Prepares all that must work before anything is started.
fn prepare(
    folders: &Folders,
    id: &str,
    lock: &ContainerLock,
    pod: &Rc<Pod>,
) -> anyhow::Result<(State, Rc<SupervisedContainer>, UnixListener, Option<Signals>)> {
    let state = State::open(&folders.data)?;
    let container = state.container(id)?;
    let listener = control::listen(lock.folder()).context("cannot listen for commands")?;
    // Otherwise the pod handles signals.
    let signals = pod.is_implicit().then(Signals::listen_to_ending).transpose();
    let signals = signals.context("cannot listen for signals")?;
    let supervised = SupervisedContainer::new(container, folders).context("cannot open the container's log")?;
    pod.add(&supervised);
    Ok((state, supervised, listener, signals))
}

/// Waits for a signal that ends this process; without signals, forever.
async fn interruption(signals: &mut Option<Signals>) {
    match signals {
        Some(signals) => drop(signals.interruption().await),
        None => std::future::pending().await,
    }
}

/// Runs the container as often as the restart policy permits. Returns the outcome of the last life, and its end if that
/// could not be written to the row.
async fn lives(
    supervised: &Rc<SupervisedContainer>,
    state: &State,
    folders: &Folders,
    pod: &Rc<Pod>,
) -> (Outcome, Option<End>) {
    let mut pause = RESTART_PAUSE;
    let mut restarts = 0;
    loop {
        let began = std::time::Instant::now();
        let outcome = lifecycle::run_once(supervised, state, folders, pod).await;
        let again = wants_restart(&supervised.container.borrow(), &outcome, restarts)
            && !supervised.is_stop_asked()
            && !pod.is_ending();
        // As in docker, a container whose first start failed remains in the state created.
        let never_ran =
            matches!(outcome, Outcome::Failed(_)) && restarts == 0 && supervised.container.borrow().started_ns == 0;
        let next = match (again, never_ran) {
            (true, _) => Status::Restarting,
            (false, true) => Status::Created,
            (false, false) => Status::Exited,
        };
        let mut exit = outcome.exit();
        if let Some(words) = supervised.output.log_failure() {
            let both = [exit.error.as_str(), &words]
                .into_iter()
                .filter(|words| !words.is_empty());
            exit.error = both.collect::<Vec<_>>().join("; ");
        }
        let end = End {
            at_ns: clock::now_ns(),
            exit,
            next,
        };
        let ran = !matches!(outcome, Outcome::Failed(_));
        if end.exit.oom_killed {
            supervised.record_event("oom", &[]);
        }
        if ran {
            supervised.record_event("die", &[("exitCode", &end.exit.code.to_string())]);
        }
        let unwritten = end.write(state, &supervised.id).err().map(|_| end);
        if !again {
            return (outcome, unwritten);
        }
        if began.elapsed() >= RESTART_FORGIVEN {
            pause = RESTART_PAUSE;
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = supervised.stop_asked() => {
                // Nothing runs: the exit in the row remains valid.
                return match state.set_status(&supervised.id, Status::Exited) {
                    Ok(()) => (outcome, None),
                    Err(e) => (Outcome::failed(&e), None),
                };
            }
        }
        pause = (pause * 2).min(RESTART_PAUSE_MAX);
        restarts += 1;
        if let Err(e) = state.count_restart(&supervised.id) {
            return (Outcome::failed(&e), None);
        }
    }
}

/// End of a life, as it is written to the row.
#[derive(Debug)]
struct End {
    at_ns: i64,
    exit: Exit,
    next: Status,
}

impl End {
    fn write(&self, state: &State, id: &str) -> Result<(), StateError> {
        state.set_exited(id, self.at_ns, &self.exit, self.next)
    }

    /// Retries the write: a full disk may have room in a moment. When it stays full, the next command that can write
    /// records that the supervisor is gone.
    async fn write_at_last(&self, state: &State, id: &str) -> Result<(), StateError> {
        let deadline = std::time::Instant::now() + WRITE_PATIENCE;
        loop {
            match self.write(state, id) {
                Err(_) if std::time::Instant::now() < deadline => sleep(WRITE_PAUSE).await,
                written => return written,
            }
        }
    }
}

/// Whether the restart policy wants a restart after this outcome. A container that never started is not started again.
pub(super) fn wants_restart(container: &Container, outcome: &Outcome, restarts: u32) -> bool {
    let code = match outcome {
        Outcome::Exited(exit) => exit.code,
        Outcome::Ended(failure) => failure.code,
        Outcome::Failed(_) => return false,
    };
    match container.config.restart {
        RestartPolicy::No => false,
        RestartPolicy::OnFailure { retries_max } => code != 0 && (retries_max == 0 || restarts < retries_max),
        RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
    }
}
