//! Orders to a running container: signal, stop, kill, pause, resize; and requests about it to its guest.

use std::rc::Rc;
use std::time::{Duration, Instant};

use capsid_protocol::message::{Freeze, Request as Asked, agent_message, host_message};
use capsid_protocol::{Resize, Signal};
use tokio::time::timeout;

use super::agent::Agent;
use super::free_space::Writing;
use super::lifecycle::sanitise;
use super::supervised_container::{Phase, SupervisedContainer};
use crate::control::{Answer, Failure};
use crate::model::Status;
use crate::session;
use crate::state::State;

/// Time limit for a killed container to end, without anything being written to its disks, before its machine is ended.
/// The agent itself waits for twice `DISK_WAIT` (`guest-agent/src/limits.rs`) for what cannot be written.
const KILL_GRACE: Duration = Duration::from_secs(12);
/// Time limit for a killed container to end while its disks are written to.
const WRITE_PATIENCE: Duration = Duration::from_secs(600);

/// Sends a signal to the container. SIGKILL ends the container also while it starts.
pub(super) async fn signal(supervised: &Rc<SupervisedContainer>, number: i32) -> Result<(), Failure> {
    supervised.record_event("kill", &[("signal", &number.to_string())]);
    if number == libc::SIGKILL {
        supervised.note_stopped(true);
        kill(supervised).await;
        return Ok(());
    }
    send_signal(supervised, &supervised.id, number).await
}

/// Sends a signal to a process of the container.
pub(super) async fn send_signal(supervised: &SupervisedContainer, process: &str, number: i32) -> Result<(), Failure> {
    let signal = Signal {
        container: process.into(),
        number: u32::try_from(number).unwrap_or(0),
    };
    let sent = supervised.guest()?.send(host_message::Kind::Signal(signal)).await;
    sent.map_err(|e| Failure::of(&e))
}

/// Changes the size of a process's terminal.
pub(super) async fn resize(
    supervised: &SupervisedContainer,
    process: &str,
    rows: u32,
    columns: u32,
) -> Result<(), Failure> {
    let resize = Resize {
        container: process.into(),
        rows,
        columns,
    };
    let sent = supervised.guest()?.send(host_message::Kind::Resize(resize)).await;
    sent.map_err(|e| Failure::of(&e))
}

/// Stops the container: sends the stop signal, then SIGKILL, then ends the machine, each when the step before was in
/// vain.
pub(super) async fn stop(supervised: &Rc<SupervisedContainer>, timeout_s: Option<u64>) {
    supervised.ask_to_stop();
    let (number, patience) = {
        let config = &supervised.container.borrow().config;
        (config.stop_signal, timeout_s.unwrap_or(config.stop_timeout_s))
    };
    // Before the program runs there is nothing to signal.
    if matches!(*supervised.phase.borrow(), Phase::Running) {
        let number = i32::try_from(number).unwrap_or(libc::SIGTERM);
        // A paused container does not get the signal until it is resumed.
        if supervised.paused.get() {
            let _ = freeze(supervised, false).await;
        }
        supervised.record_event("kill", &[("signal", &number.to_string())]);
        let _ = send_signal(supervised, &supervised.id, number).await;
        if timeout(Duration::from_secs(patience), supervised.over()).await.is_ok() {
            return;
        }
    }
    kill(supervised).await;
}

/// Kills the container without a stop signal.
async fn kill(supervised: &Rc<SupervisedContainer>) {
    supervised.ask_to_stop();
    if send_signal(supervised, &supervised.id, libc::SIGKILL).await.is_ok() {
        let (began, mut writing) = (Instant::now(), Writing::of(supervised));
        loop {
            if timeout(KILL_GRACE, supervised.over()).await.is_ok() {
                return;
            }
            if !writing.goes_on() || began.elapsed() > WRITE_PATIENCE {
                break;
            }
        }
    }
    supervised.kill.notify_one();
}

/// Sends the guest a request about the container.
pub(super) async fn ask(
    supervised: &SupervisedContainer,
    what: Asked,
    kind: host_message::Kind,
) -> Result<agent_message::Kind, Failure> {
    let guest: Rc<Agent> = supervised.guest()?;
    match guest.ask(&supervised.id, what, kind).await {
        Ok(agent_message::Kind::Failed(failed)) => Err(Failure::because(sanitise(&failed.message))),
        Ok(answer) => Ok(answer),
        Err(error) => Err(Failure::of(&error)),
    }
}

/// Failure of an answer of the wrong kind.
pub(super) fn unexpected() -> Failure {
    Failure::of(&session::SessionError::Unexpected)
}

/// Pauses or resumes the container.
pub(super) async fn freeze(supervised: &Rc<SupervisedContainer>, frozen: bool) -> Result<Answer, Failure> {
    if supervised.paused.get() == frozen {
        let name = &supervised.container.borrow().name;
        let state = if frozen { "already" } else { "not" };
        return Err(Failure::because(format!("container {name} is {state} paused")));
    }
    let freeze = Freeze {
        container: supervised.id.clone(),
        frozen,
    };
    let agent_message::Kind::Frozen(_) = ask(supervised, Asked::Freeze, host_message::Kind::Freeze(freeze)).await?
    else {
        return Err(unexpected());
    };
    // It may have ended since: its row already records the end, and must keep it.
    supervised.guest()?;
    supervised.paused.set(frozen);
    supervised.record_event(if frozen { "pause" } else { "unpause" }, &[]);
    let status = if frozen { Status::Paused } else { Status::Running };
    let written = State::open(&supervised.data).and_then(|state| state.set_status(&supervised.id, status));
    written.map(|()| Answer::Done).map_err(|e| Failure::of(&e))
}
