//! The guest's wall clock: set and corrected by the host.

use std::time::Duration;

use capsid_protocol::{Ping, Pong};
use rustix::io::Errno;
use rustix::time::{ClockId, Timespec};

use crate::{log, sys};

/// Smallest correction that is made in one step, nanoseconds. A smaller one is spread over time at 500 ppm
/// (adjtime(3)), so that clocks which are read meanwhile never go backwards; this one takes four seconds.
const STEP_MIN_NS: u64 = 2_000_000;

/// Applies the clock values of a ping and answers it. The host can see from the answer if a clock cannot be set.
pub(crate) fn answer(ping: &Ping) -> Pong {
    let done = if ping.is_first {
        rustix::time::clock_settime(ClockId::Realtime, timespec(Duration::from_nanos(ping.host_clock_ns)))
    } else {
        correct(ping.correction_ns)
    };
    if let Err(e) = done {
        log::warn(&format!("cannot set the clock: {e}"));
    }
    Pong {
        host_clock_ns: ping.host_clock_ns,
        guest_clock_ns: now_ns(),
    }
}

fn correct(nanoseconds: i64) -> Result<(), Errno> {
    match nanoseconds.unsigned_abs() {
        0 => Ok(()),
        STEP_MIN_NS.. => sys::step_clock(nanoseconds),
        _ => sys::slew_clock(nanoseconds / 1000),
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: time.as_secs() as i64,
        tv_nsec: i64::from(time.subsec_nanos()),
    }
}

fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Realtime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_without_correction_changes_nothing_and_is_answered_with_the_time() {
        let before = now_ns();
        let pong = answer(&Ping {
            host_clock_ns: 7,
            ..Ping::default()
        });
        assert_eq!(pong.host_clock_ns, 7);
        assert!((before..=now_ns()).contains(&pong.guest_clock_ns));
    }
}
