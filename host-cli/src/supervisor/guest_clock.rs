//! Wall clock of the guest, kept equal to the host's. It is set as soon as the agent is up, measured with every
//! heartbeat, and corrected when it is certainly off: it drifts under emulation, and stands still while the host is
//! suspended.
//!
//! The measurement is that of NTP (RFC 5905, section 8): the guest's clock is read in the middle of a round trip, plus
//! or minus half of it.

use std::cell::Cell;

use capsid_protocol::{Ping, Pong};

/// Difference from the host's clock that needs no correction, in nanoseconds.
const TOLERANCE_NS: i64 = 500_000;
/// Longest round trip that is a valid measurement: in a longer one, this process or the machine was suspended, or
/// starved.
const ROUND_TRIP_MAX_NS: i64 = 1_000_000_000;

/// Clock exchange in progress with one agent.
#[derive(Debug, Default)]
pub(super) struct GuestClock {
    sent: Cell<Option<Sent>>,
}

/// Ping without a pong so far.
#[derive(Debug, Clone, Copy)]
struct Sent {
    host_clock_ns: u64,
    is_correction: bool,
}

impl GuestClock {
    /// Creates the ping of a heartbeat.
    pub(super) fn ping(&self, now_ns: i64) -> Ping {
        self.exchange(now_ns, 0)
    }

    /// Evaluates the answer to a ping. Returns another ping if the guest's clock must be corrected. A correction causes
    /// no further one, so an agent that reports wrong times cannot keep its supervisor busy.
    pub(super) fn pong(&self, pong: &Pong, now_ns: i64) -> Option<Ping> {
        let sent = self
            .sent
            .get()
            .filter(|sent| sent.host_clock_ns == pong.host_clock_ns)?;
        self.sent.set(None);
        if sent.is_correction {
            return None;
        }
        let correction_ns = correction(pong, now_ns)?;
        Some(self.exchange(now_ns, correction_ns))
    }

    fn exchange(&self, now_ns: i64, correction_ns: i64) -> Ping {
        let host_clock_ns = u64::try_from(now_ns).unwrap_or(0);
        self.sent.set(Some(Sent {
            host_clock_ns,
            is_correction: correction_ns != 0,
        }));
        Ping {
            host_clock_ns,
            correction_ns,
            is_first: false,
        }
    }
}

/// Number of nanoseconds to add to the guest's clock (or to subtract, if negative), if it is off by more than the
/// measurement error.
fn correction(pong: &Pong, received_ns: i64) -> Option<i64> {
    let sent_ns = i64::try_from(pong.host_clock_ns).ok()?;
    let guest_ns = i64::try_from(pong.guest_clock_ns).ok()?;
    let round_trip = received_ns.checked_sub(sent_ns)?;
    if !(0..=ROUND_TRIP_MAX_NS).contains(&round_trip) {
        return None;
    }
    let missing = (sent_ns + round_trip / 2).checked_sub(guest_ns)?;
    let uncertainty = round_trip as u64 / 2 + TOLERANCE_NS as u64;
    (missing.unsigned_abs() > uncertainty).then_some(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000_000_000;
    const MS: i64 = 1_000_000;

    /// Runs an exchange in which the guest's clock is `ahead` and the round trip takes `round_trip`.
    fn exchange(clock: &GuestClock, ahead: i64, round_trip: i64) -> Option<Ping> {
        let ping = clock.ping(NOW);
        let pong = Pong {
            host_clock_ns: ping.host_clock_ns,
            guest_clock_ns: (NOW + round_trip / 2 + ahead) as u64,
        };
        clock.pong(&pong, NOW + round_trip)
    }

    #[test]
    fn a_clock_that_is_off_is_corrected_once() {
        let clock = GuestClock::default();
        let ping = exchange(&clock, -700 * MS, 2 * MS).unwrap();
        assert_eq!((ping.correction_ns, ping.is_first), (700 * MS, false));
        let wrong_again = Pong {
            host_clock_ns: ping.host_clock_ns,
            guest_clock_ns: 0,
        };
        assert_eq!(clock.pong(&wrong_again, NOW + 4 * MS), None);
        assert_eq!(exchange(&clock, 3 * MS, MS).unwrap().correction_ns, -3 * MS);
    }

    #[test]
    fn what_may_be_the_round_trip_is_not_corrected() {
        let clock = GuestClock::default();
        assert_eq!(exchange(&clock, 4 * MS, 10 * MS), None);
        assert_eq!(exchange(&clock, MS / 4, 0), None);
        assert_eq!(exchange(&clock, 5000 * MS, 2000 * MS), None);
    }

    #[test]
    fn pongs_that_answer_nothing_are_passed_over() {
        let clock = GuestClock::default();
        let pong = |host_clock_ns, guest_clock_ns| Pong {
            host_clock_ns,
            guest_clock_ns,
        };
        assert_eq!(clock.pong(&pong(0, 0), NOW), None);
        let ping = clock.ping(NOW);
        assert_eq!(clock.pong(&pong(ping.host_clock_ns + 1, 0), NOW), None);
        assert_eq!(clock.pong(&pong(ping.host_clock_ns, u64::MAX), NOW), None);
    }
}
