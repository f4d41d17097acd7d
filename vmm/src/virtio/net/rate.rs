//! How fast frames may go: a token bucket for each direction, and the timer that tells when one has something again.

use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::FRAME_BYTES_MAX;

/// What may go at once after a pause: what the rate gives in this time, but at least so many of the longest frames.
const BURST: Duration = Duration::from_millis(100);
const BURST_FRAMES_MIN: u64 = 2;
/// The timer's shortest wait: what has become due meanwhile goes in one turn.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// Which way frames go, as the guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Transmit,
    Receive,
}

/// A token bucket, whose tokens are bytes. A frame may go when it is not empty, and may take more than is left: so no
/// frame is too long for it.
#[derive(Debug)]
struct TokenBucket {
    bytes_per_second: NonZeroU64,
    /// How long it takes to fill up.
    burst: Duration,
    /// When it is full, if nothing more is taken.
    full: Instant,
}

impl TokenBucket {
    /// A full one.
    fn new(bytes_per_second: NonZeroU64, now: Instant) -> Self {
        let frames = filling_time(BURST_FRAMES_MIN * FRAME_BYTES_MAX as u64, bytes_per_second);
        Self {
            bytes_per_second,
            burst: frames.max(BURST),
            full: now,
        }
    }

    /// How long the next frame has to wait, if it has to.
    fn wait(&self, now: Instant) -> Option<Duration> {
        let missing = self.full.saturating_duration_since(now);
        // Without any token it is empty: it has some just after that.
        let wait = missing.checked_sub(self.burst)?;
        Some(wait.max(Duration::from_nanos(1)))
    }

    /// Takes a frame's bytes out.
    fn take(&mut self, bytes: usize, now: Instant) {
        self.full = self.full.max(now) + filling_time(bytes as u64, self.bytes_per_second);
    }
}

/// How long it takes until a rate has given so many bytes, some frames' at most.
fn filling_time(bytes: u64, bytes_per_second: NonZeroU64) -> Duration {
    Duration::from_nanos(bytes * 1_000_000_000 / bytes_per_second)
}

/// The limits of a device, if it has any: without them nothing waits, and there is no timer.
#[derive(Debug)]
pub(super) struct RateLimiter(Option<Limits>);

#[derive(Debug)]
struct Limits {
    transmit: TokenBucket,
    receive: TokenBucket,
    timer: OwnedFd,
    /// One time for all of a turn: whoever found a bucket empty is sure to be woken for it.
    now: Instant,
}

impl RateLimiter {
    /// `bytes_per_second` each way, if there is a limit; its timer is waited for on `epoll` with `event`.
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

    /// The timer, if it has run out, is heard.
    pub(super) fn clear_timer(&self) {
        if let Some(limits) = &self.0 {
            // Fails when it has not.
            let _ = rustix::io::read(&limits.timer, &mut [0; 8]);
        }
    }

    /// Looks at the clock.
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

    /// Counts a frame that goes.
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

    /// Has the timer run out when the first empty bucket has something again.
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

    /// Takes frames until none may go any more; how many bytes went.
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
        // No pause is long enough for more.
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
