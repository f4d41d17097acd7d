//! Frequency of the host's cycle counter.
//!
//! TCG's guests read the counter unchanged (QEMU `accel/tcg`: `cpu_get_ticks`), but the machine has no timer to measure
//! it with: the guest's kernel tries for a tenth of a second, fails, and is left with a clock of four milliseconds.

use std::time::{Duration, Instant};

use crate::sys::cycles;

/// Shortest time between the two readings: with an uncertainty of some 50 ns each, this keeps the error below 50 ppm.
const BASE_MIN: Duration = Duration::from_millis(2);
/// Number of attempts at a reading; the tightest one counts, because something may interrupt the sequence of clock,
/// counter and clock.
const ATTEMPTS: usize = 5;
/// Plausible frequencies of a hardware counter in kHz; a counter with any other frequency cannot be relied on.
const PLAUSIBLE_KHZ: std::ops::Range<u64> = 200_000..20_000_000;

/// Reading of counter and clock at the same moment: the start of a measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    at: Instant,
    cycles: u64,
}

impl Reading {
    /// Reads both counter and clock now.
    pub(crate) fn take() -> Self {
        let attempt = |_| {
            let (before, cycles, after) = (Instant::now(), cycles(), Instant::now());
            let gap = after - before;
            (
                gap,
                Self {
                    at: before + gap / 2,
                    cycles,
                },
            )
        };
        let tightest = (0..ATTEMPTS).map(attempt).min_by_key(|(gap, _)| *gap);
        tightest.map_or_else(|| attempt(0).1, |(_, reading)| reading)
    }

    /// Returns the counter's frequency since this reading in kHz; `None` where the counter cannot be relied on.
    pub(crate) fn khz_since(self) -> Option<u64> {
        if !is_invariant(&std::fs::read_to_string("/proc/cpuinfo").ok()?) {
            return None;
        }
        while self.at.elapsed() < BASE_MIN {
            std::hint::spin_loop();
        }
        let now = Self::take();
        let cycles = u128::from(now.cycles.checked_sub(self.cycles)?);
        let khz = cycles * 1_000_000 / (now.at - self.at).as_nanos();
        u64::try_from(khz).ok().filter(|khz| PLAUSIBLE_KHZ.contains(khz))
    }
}

/// Whether the kernel reports that the counter neither follows the processor's speed nor stops in sleep.
fn is_invariant(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    let has = |flag| flags.is_some_and(|line| line.split_whitespace().any(|word| word == flag));
    has("constant_tsc") && has("nonstop_tsc")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree() {
        let reading = Reading::take();
        let (Some(first), Some(second)) = (reading.khz_since(), reading.khz_since()) else {
            return;
        };
        assert!(first.abs_diff(second) * 100 < first, "{first} and {second} kHz");
    }

    #[test]
    fn only_an_invariant_counter_is_relied_on() {
        assert!(is_invariant("processor: 0\nflags\t\t: fpu constant_tsc nonstop_tsc\n"));
        assert!(!is_invariant("flags\t\t: fpu tsc constant_tsc\n"));
        assert!(!is_invariant(""));
    }
}
