//! Where a start's time goes (`--timings`).

use std::io::Write;
use std::time::Instant;

/// Named moments since the command began.
#[derive(Debug)]
pub(crate) struct Timings {
    began: Instant,
    moments: Vec<(&'static str, Instant)>,
    /// Nanoseconds from kernel entry to the agent's first instruction, as the guest tells.
    pub agent_start_ns: u64,
}

impl Timings {
    /// Starts the clock.
    pub(crate) fn start() -> Self {
        Self {
            began: Instant::now(),
            moments: Vec::new(),
            agent_start_ns: 0,
        }
    }

    /// Notes that a step has ended.
    pub(crate) fn mark(&mut self, step: &'static str) {
        self.moments.push((step, Instant::now()));
    }

    /// Prints a table: what each step took, and when it ended.
    pub(crate) fn print(&self, to: &mut impl Write) -> std::io::Result<()> {
        writeln!(to, "{:<28} {:>10} {:>10}", "STEP", "TOOK ms", "AT ms")?;
        let mut before = self.began;
        for (step, at) in &self.moments {
            let took = at.duration_since(before).as_secs_f64() * 1e3;
            let total = at.duration_since(self.began).as_secs_f64() * 1e3;
            writeln!(to, "{step:<28} {took:>10.1} {total:>10.1}")?;
            before = *at;
        }
        let guest = self.agent_start_ns as f64 / 1e6;
        writeln!(to, "{:<28} {guest:>10.1}", "(guest kernel alone)")
    }
}
