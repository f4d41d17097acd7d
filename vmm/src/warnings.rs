//! Log lines that a guest can cause: a few per second are written, the rest are only counted.

use std::fmt::Arguments;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::WARNINGS_PER_SECOND;

/// Writer of at most [`WARNINGS_PER_SECOND`] lines per second to stderr.
#[derive(Debug)]
pub(crate) struct Warnings(Mutex<Budget>);

#[derive(Debug)]
struct Budget {
    second: Instant,
    written: u32,
    suppressed: u64,
}

impl Warnings {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Budget {
            second: Instant::now(),
            written: 0,
            suppressed: 0,
        }))
    }

    /// Writes one line, or counts it if the limit is reached.
    pub(crate) fn warn(&self, line: Arguments<'_>) {
        let mut budget = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !budget.admit(Instant::now()) {
            return;
        }
        let suppressed = std::mem::take(&mut budget.suppressed);
        let note = if suppressed > 0 {
            format!(" ({suppressed} lines before this one left out)")
        } else {
            String::new()
        };
        // Nobody may be reading stderr: a failure must not stop the machine.
        let _ = std::io::stderr().write_all(format!("guest: {line}{note}\n").as_bytes());
    }
}

impl Budget {
    fn admit(&mut self, now: Instant) -> bool {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.written = 0;
        }
        if self.written == WARNINGS_PER_SECOND {
            self.suppressed += 1;
            return false;
        }
        self.written += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_forgiven_after_a_second() {
        let start = Instant::now();
        let mut budget = Budget {
            second: start,
            written: 0,
            suppressed: 0,
        };
        let admitted = (0..100).filter(|_| budget.admit(start)).count();
        assert_eq!(admitted as u32, WARNINGS_PER_SECOND);
        assert_eq!(budget.suppressed, 90);
        assert!(budget.admit(start + Duration::from_secs(1)));
    }
}
