//! Rate limits for frames: a token bucket for each direction, and the timer that expires when an empty one has tokens
//! again.

use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::FRAME_BYTES_MAX;

/// Burst that may pass at once after a pause: what the rate yields in this time, but at least this number of the
/// longest frames.
const BURST: Duration = Duration::from_millis(100);
const BURST_FRAMES_MIN: u64 = 2;
/// Minimum wait of the timer: frames that become due in this time are processed in one turn.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// Direction of frames, as the guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Transmit,
    Receive,
}

/// Token bucket, whose tokens are bytes. A frame may pass when the bucket is not empty, and may take more than is left:
/// so no frame is too long for it.
#[derive(Debug)]
struct TokenBucket {
    bytes_per_second: NonZeroU64,
    /// Time in which an empty bucket becomes full.
    burst: Duration,
    /// Time at which the bucket is full, if nothing more is taken.
    full: Instant,
}

impl TokenBucket {
    /// Makes a full bucket.
    fn new(bytes_per_second: NonZeroU64, now: Instant) -> Self {
        let frames = filling_time(BURST_FRAMES_MIN * FRAME_BYTES_MAX as u64, bytes_per_second);
        Self {
            bytes_per_second,
            burst: frames.max(BURST),
            full: now,
        }
    }

    /// Time for which the next frame has to wait; `None` if it need not wait.
    fn wait(&self, now: Instant) -> Option<Duration> {
        let missing = self.full.saturating_duration_since(now);
        // A bucket without tokens is empty: it has some just after that.
        let wait = missing.checked_sub(self.burst)?;
        Some(wait.max(Duration::from_nanos(1)))
    }

    /// Takes a frame's bytes out of the bucket.
    fn take(&mut self, bytes: usize, now: Instant) {
        self.full = self.full.max(now) + filling_time(bytes as u64, self.bytes_per_second);
    }
}

/// Time in which a rate yields `bytes`, which are some frames' at most.
fn filling_time(bytes: u64, bytes_per_second: NonZeroU64) -> Duration {
    Duration::from_nanos(bytes * 1_000_000_000 / bytes_per_second)
}

/// Rate limits of a device, if it has any: without them nothing waits, and there is no timer.
#[derive(Debug)]
pub(super) struct RateLimiter(Option<Limits>);

#[derive(Debug)]
struct Limits {
    transmit: TokenBucket,
    receive: TokenBucket,
    timer: OwnedFd,
    /// Current time, one for the whole turn: a wake-up is guaranteed for every bucket that was found empty.
    now: Instant,
}

impl RateLimiter {
    /// Makes the limits: `bytes_per_second` in each direction, if there is a limit. Epoll reports the timer with
    /// `event`.
    pub(super) fn new(bytes_per_second: Option<NonZeroU64>, epoll: &Epoll, event: u64) -> io::Result<Self> {
        let Some(bytes_per_second) = bytes_per_second else {
            return Ok(Self(None));
        };
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        epoll.ctl(
            ControlOperation::Add,
            timer.as_raw_fd(),
            EpollEvent::new(EventSet::IN, event),
        )?;
        let now = Instant::now();
        Ok(Self(Some(Limits {
            transmit: TokenBucket::new(bytes_per_second, now),
            receive: TokenBucket::new(bytes_per_second, now),
            timer,
            now,
        })))
    }

    /// Clears the timer's event, if it has expired.
    pub(super) fn clear_timer(&self) {
        if let Some(limits) = &self.0 {
            // Fails if the timer has not expired.
            let _ = rustix::io::read(&limits.timer, &mut [0; 8]);
        }
    }

    /// Updates the current time at the start of a turn.
    pub(super) fn begin_turn(&mut self) {
        if let Some(limits) = &mut self.0 {
            limits.now = Instant::now();
        }
    }

    /// Whether the next frame has to wait for a later turn.
    pub(super) fn holds(&self, direction: Direction) -> bool {
        let Some(limits) = &self.0 else {
            return false;
        };
        let bucket = match direction {
            Direction::Transmit => &limits.transmit,
            Direction::Receive => &limits.receive,
        };
        bucket.wait(limits.now).is_some()
    }

    /// Counts a frame that passes.
    pub(super) fn take(&mut self, direction: Direction, bytes: usize) {
        let Some(limits) = &mut self.0 else {
            return;
        };
        let bucket = match direction {
            Direction::Transmit => &mut limits.transmit,
            Direction::Receive => &mut limits.receive,
        };
        bucket.take(bytes, limits.now);
    }

    /// Sets the timer to the time when the first empty bucket has tokens again.
    pub(super) fn end_turn(&self) {
        if let Some(limits) = &self.0 {
            limits.set_timer();
        }
    }
}

impl Limits {
    fn set_timer(&self) {
        let waits = [&self.transmit, &self.receive].map(|bucket| bucket.wait(self.now));
        let Some(wait) = waits.into_iter().flatten().min() else {
            return;
        };
        let wait = wait.max(WAIT_MIN);
        let value = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: wait.as_secs() as i64,
                tv_nsec: i64::from(wait.subsec_nanos()),
            },
        };
        // The value is valid, and nothing else can fail (timerfd_settime(2)).
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn bucket(bytes_per_second: u64, now: Instant) -> TokenBucket {
        TokenBucket::new(NonZeroU64::new(bytes_per_second).expect("not 0"), now)
    }

    /// Takes frames until no more may pass; returns how many bytes passed.
    fn drain(bucket: &mut TokenBucket, bytes: usize, now: Instant) -> usize {
        let mut taken = 0;
        while bucket.wait(now).is_none() {
            bucket.take(bytes, now);
            taken += bytes;
        }
        taken
    }

    #[test]
    fn a_burst_is_what_the_rate_gives_in_a_tenth_of_a_second() {
        let now = Instant::now();
        let mut bucket = bucket(10_000_000, now);
        assert_eq!(drain(&mut bucket, 1000, now), 1_000_000);
        assert!(bucket.wait(now).is_some_and(|wait| wait < MILLISECOND));
        // No pause is long enough for a larger burst.
        assert_eq!(drain(&mut bucket, 1000, now + Duration::from_secs(3600)), 1_000_000);
    }

    #[test]
    fn a_slow_ones_burst_is_two_of_the_longest_frames() {
        let now = Instant::now();
        assert_eq!(drain(&mut bucket(1, now), FRAME_BYTES_MAX, now), 2 * FRAME_BYTES_MAX);
    }

    #[test]
    fn what_went_too_early_is_waited_for() {
        let now = Instant::now();
        let mut bucket = bucket(1_000_000, now);
        drain(&mut bucket, 1, now);
        let later = now + MILLISECOND;
        assert_eq!(bucket.wait(later), None);
        bucket.take(50_000, later);
        assert_eq!(bucket.wait(later), Some(49 * MILLISECOND));
        assert_eq!(bucket.wait(later + 20 * MILLISECOND), Some(29 * MILLISECOND));
        assert_eq!(bucket.wait(later + 50 * MILLISECOND), None);
    }

    #[test]
    fn in_the_long_run_the_rate_is_kept() {
        let begin = Instant::now();
        let (mut bucket, mut now, mut bytes) = (bucket(3_000_000, begin), begin, 0);
        while now < begin + Duration::from_secs(10) {
            bytes += drain(&mut bucket, 1514, now);
            now += bucket.wait(now).expect("empty").max(WAIT_MIN);
        }
        assert!((30_000_000..30_320_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn no_rate_is_too_high() {
        let now = Instant::now();
        let mut bucket = bucket(u64::MAX, now);
        for _ in 0..1000 {
            bucket.take(FRAME_BYTES_MAX, now);
        }
        assert_eq!(bucket.wait(now), None);
    }
}
