//! Heartbeat of a pod's agent. The agent is asked for a sign of life every few seconds; any message is one. A pod whose
//! agent gives none is ended: it could not handle requests any more, and would not end by itself.
//!
//! Only time in which the agent could have answered is counted: not while this process did not run (a suspended host),
//! and not while the host kept a processor or a disk from the machine. A container that is paused, busy or out of
//! memory does not keep the agent from answering. A machine that somebody stopped with a signal does: that ends it.

use std::time::Duration;

use tokio::time::sleep;

use super::guest::Guest;
use super::stall::{Observer, Stall};
use crate::session::SessionError;

/// Interval between pings.
const PING_EVERY: Duration = Duration::from_secs(2);
/// Interval of checking for an answer that did not arrive at once.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Time limit for an answer, counted while nothing kept the machine from running. An agent that dies right after an
/// answer is asked again after [`PING_EVERY`]: its pod ends within ten seconds in all.
const SILENCE_MAX: Duration = Duration::from_secs(6);
/// Time limit for an answer on a host that is busy all the time: ten times as long.
const SILENCE_WHOLE_MAX: Duration = Duration::from_secs(60);

const _: () = assert!(PING_EVERY.as_secs() + SILENCE_MAX.as_secs() < 10);

/// Time in which the agent has sent nothing since the ping.
#[derive(Debug, Default)]
struct Silence {
    /// Part in which nothing kept the agent from answering.
    counted: Duration,
    whole: Duration,
}

impl Silence {
    /// Adds a wait of a planned length, even if this process noticed its end late. Returns `true` when the silence is
    /// too long.
    fn add(&mut self, planned: Duration, stall: &Stall) -> bool {
        if !stall.is_blocked {
            self.counted += planned.saturating_sub(stall.waited);
        }
        self.whole += planned;
        self.counted >= SILENCE_MAX || self.whole >= SILENCE_WHOLE_MAX
    }
}

/// Sends pings until no answer arrives. Returns the reason for which the session ends.
pub(super) async fn watch(guest: &Guest) -> SessionError {
    loop {
        let heard = guest.received();
        guest.ping();
        sleep(PING_EVERY).await;
        if guest.received() != heard {
            continue;
        }
        if let Some(reason) = listen(guest, heard).await {
            return SessionError::Unresponsive(reason);
        }
    }
}

/// Waits for an answer that did not arrive at once. Returns `None` for an answer, else the reason to give up.
async fn listen(guest: &Guest, heard: u64) -> Option<String> {
    let mut observer = Observer::default();
    let mut silence = Silence::default();
    let mut stall = observer.look();
    let mut waited = PING_EVERY;
    while !silence.add(waited, &stall) {
        waited = LOOK_EVERY;
        sleep(waited).await;
        if guest.received() != heard {
            return None;
        }
        stall = observer.look();
    }
    let seconds = silence.whole.as_secs();
    Some(match stall.stopped {
        Some(process) => format!("process {process} of its machine is stopped by a signal"),
        None => format!("it has answered nothing for {seconds} s"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts the checks until the silence is too long, when each of them finds the same.
    fn looks(stall: &Stall) -> usize {
        let mut silence = Silence::default();
        silence.add(PING_EVERY, &Stall::default());
        (1..1000).find(|_| silence.add(LOOK_EVERY, stall)).unwrap()
    }

    #[test]
    fn an_agent_that_could_have_answered_is_given_seconds() {
        assert_eq!(looks(&Stall::default()), 8);
        let stopped = Stall {
            stopped: Some("1 (qemu)".into()),
            ..Stall::default()
        };
        assert_eq!(looks(&stopped), 8);
    }

    #[test]
    fn time_that_the_host_keeps_from_the_machine_is_not_counted() {
        let starved = |millis| Stall {
            waited: Duration::from_millis(millis),
            ..Stall::default()
        };
        assert_eq!(looks(&starved(250)), 16);
        // Also when this process was delayed too: more than was planned.
        assert_eq!(looks(&starved(9_000)), 116);
        let blocked = Stall {
            is_blocked: true,
            ..Stall::default()
        };
        assert_eq!(looks(&blocked), 116);
    }
}
