//! Timings of a start (`--timings`): of this command and of the pod's supervisor, on one clock.

use rustix::time::{ClockId, clock_gettime};

use crate::control::Moment;

/// Returns nanoseconds on the host's monotonic clock, which all processes share.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Named moments since the start of the command.
#[derive(Debug)]
pub(crate) struct Timings {
    began_ns: u64,
    moments: Vec<Moment>,
    /// Nanoseconds from kernel entry to the agent's first instruction, as the guest reports.
    pub agent_start_ns: u64,
}

impl Timings {
    /// Starts the clock.
    pub(crate) fn start() -> Self {
        Self {
            began_ns: now_ns(),
            moments: Vec::new(),
            agent_start_ns: 0,
        }
    }

    /// Records that a step has ended.
    pub(crate) fn mark(&mut self, step: &str) {
        self.moments.push(Moment {
            step: step.into(),
            at_ns: now_ns(),
        });
    }

    /// Adds the moments that the supervisor recorded.
    pub(crate) fn add(&mut self, moments: &[Moment]) {
        self.moments.extend_from_slice(moments);
    }

    /// Prints a table on stderr: the duration of each step, and the time when it ended.
    pub(crate) fn print(&self) {
        eprintln!("{:<28} {:>10} {:>10}", "STEP", "TOOK ms", "AT ms");
        let mut before_ns = self.began_ns;
        for Moment { step, at_ns } in &self.moments {
            let took = at_ns.saturating_sub(before_ns) as f64 / 1e6;
            let total = at_ns.saturating_sub(self.began_ns) as f64 / 1e6;
            eprintln!("{step:<28} {took:>10.1} {total:>10.1}");
            before_ns = *at_ns;
        }
        let guest = self.agent_start_ns as f64 / 1e6;
        eprintln!("{:<28} {guest:>10.1}", "(guest kernel alone)");
    }
}
