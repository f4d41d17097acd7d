//! Signs of life of a pod's agent. It is asked for one every few seconds; anything it says is one. A pod whose agent gives
//! none is ended: nothing could be asked of it any more, and it would not end by itself.
//!
//! Counted is only time in which the agent could have answered: not while this process did not run (a suspended host),
//! and not while the host kept a processor or a disk from the machine. A container that is paused, busy or out of memory
//! does not keep the agent from answering. A machine that somebody stopped with a signal does: that ends it.

use std::time::Duration;

use tokio::time::sleep;

use super::agent::Agent;
use super::stall::{Observer, Stall};
use crate::session::SessionError;

/// From one question to the next.
const PING_EVERY: Duration = Duration::from_secs(2);
/// How often an answer is looked for that does not come at once.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long an answer may take in which nothing kept the machine from running. An agent whose end follows an answer closely
/// is asked again after [`PING_EVERY`]: its pod ends within ten seconds in all.
const SILENCE_MAX: Duration = Duration::from_secs(6);
/// How long it may take on a host that is busy all the time: ten times as long.
const SILENCE_WHOLE_MAX: Duration = Duration::from_secs(60);

const _: () = assert!(PING_EVERY.as_secs() + SILENCE_MAX.as_secs() < 10);

/// How long the agent has said nothing since it was asked.
#[derive(Debug, Default)]
struct Silence {
    /// While nothing kept it from answering.
    counted: Duration,
    whole: Duration,
}

impl Silence {
    /// Adds a wait of a planned length, however long this process was kept from noticing its end: `true` when the silence
    /// is too long.
    fn add(&mut self, planned: Duration, stall: &Stall) -> bool {
        if !stall.is_blocked {
            self.counted += planned.saturating_sub(stall.waited);
        }
        self.whole += planned;
        self.counted >= SILENCE_MAX || self.whole >= SILENCE_WHOLE_MAX
    }
}

/// Asks again and again until no answer comes: the session's end.
pub(super) async fn watch(agent: &Agent) -> SessionError {
    loop {
        let heard = agent.heard();
        agent.ping();
        sleep(PING_EVERY).await;
        if agent.heard() != heard {
            continue;
        }
        if let Some(reason) = listen(agent, heard).await {
            return SessionError::Unresponsive(reason);
        }
    }
}

/// Waits for an answer that did not come at once: why it is not waited for any longer.
async fn listen(agent: &Agent, heard: u64) -> Option<String> {
    let mut observer = Observer::default();
    let mut silence = Silence::default();
    let mut stall = observer.look();
    let mut waited = PING_EVERY;
    while !silence.add(waited, &stall) {
        waited = LOOK_EVERY;
        sleep(waited).await;
        if agent.heard() != heard {
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

    /// Looks until the silence is too long, when each of them finds the same.
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
        // Also when this process was kept waiting with it: more than was planned.
        assert_eq!(looks(&starved(9_000)), 116);
        let blocked = Stall {
            is_blocked: true,
            ..Stall::default()
        };
        assert_eq!(looks(&blocked), 116);
    }
}
