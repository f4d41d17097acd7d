//! Orders to a running container: signal, stop, kill, pause, resize.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::free_space::Writing;
use super::guest::RequestError;
use super::supervised_container::{ContainerPhase, SupervisedContainer};
use crate::control::{Answer, Failure};
use crate::model::Status;
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
    let sent = supervised.running()?.guest.signal(process, number).await;
    sent.map_err(|e| Failure::of(&e))
}

/// Changes the size of a process's terminal.
pub(super) async fn resize(
    supervised: &SupervisedContainer,
    process: &str,
    rows: u32,
    columns: u32,
) -> Result<(), Failure> {
    let sent = supervised.running()?.guest.resize(process, rows, columns).await;
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
    let has_run = matches!(
        *supervised.phase.borrow(),
        ContainerPhase::Running(_) | ContainerPhase::Ending
    );
    if has_run {
        let number = i32::try_from(number).unwrap_or(libc::SIGTERM);
        // A paused container does not get the signal until it is resumed.
        if supervised.may_be_paused() {
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

/// Stops the container without waiting for its end.
pub(super) fn stop_in_background(supervised: &Rc<SupervisedContainer>, timeout_s: Option<u64>) {
    let supervised = Rc::clone(supervised);
    tokio::task::spawn_local(async move { stop(&supervised, timeout_s).await });
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

/// Pauses or resumes the container.
pub(super) async fn freeze(supervised: &Rc<SupervisedContainer>, frozen: bool) -> Result<Answer, Failure> {
    let running = supervised.running()?;
    let _turn = running.changing.lock().await;
    if running.paused.get() == frozen && !running.is_pause_unknown.get() {
        let name = &supervised.container.borrow().name;
        let state = if frozen { "already" } else { "not" };
        return Err(Failure::because(format!("container {name} is {state} paused")));
    }
    let frozen_now = running.guest.freeze(&supervised.id, frozen).await;
    let is_unknown = matches!(frozen_now, Err(RequestError::Session(_)));
    running.is_pause_unknown.set(is_unknown);
    frozen_now.map_err(|e| Failure::of(&e))?;
    // It may have ended since: its row already records the end, and must keep it.
    if !Rc::ptr_eq(&supervised.running()?, &running) {
        return Err(Failure::because("the container was restarted meanwhile: try again"));
    }
    running.paused.set(frozen);
    supervised.record_event(if frozen { "pause" } else { "unpause" }, &[]);
    let status = if frozen { Status::Paused } else { Status::Running };
    let written = State::open(&supervised.data).and_then(|state| state.set_status(&supervised.id, status));
    written.map(|()| Answer::Done).map_err(|e| Failure::of(&e))
}
