//! Time as routing sees it: a number that drivers read from the clock and pass down.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Microseconds since the process's clock began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now(pub u64);

impl Now {
    /// The moment `by` later.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(micros(by)))
    }

    /// The time since `earlier`; zero if that is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.micros_since(earlier))
    }

    /// The same as a number of microseconds.
    #[must_use]
    pub fn micros_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A duration in whole microseconds, saturating.
#[must_use]
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The process's clock: the only place that reads it on the data path. It is the clock of the
/// timers, so that both stand still together where a simulation pauses them.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    start_wall: SystemTime,
}

impl Clock {
    /// A clock that begins a little before now, so that no moment that matters is zero.
    #[must_use]
    pub fn start() -> Self {
        let lead = Duration::from_secs(1);
        let now = Instant::now();
        Self {
            start: now.checked_sub(lead).unwrap_or(now),
            start_wall: SystemTime::now() - lead,
        }
    }

    /// Reads it.
    #[must_use]
    pub fn now(&self) -> Now {
        Now(micros(self.start.elapsed()))
    }

    /// The instant of a moment, for timers.
    #[must_use]
    pub fn instant(&self, moment: Now) -> Instant {
        self.start + Duration::from_micros(moment.0)
    }

    /// The moment of an instant; that of the clock's beginning for any before it.
    #[must_use]
    pub fn moment(&self, instant: Instant) -> Now {
        Now(micros(instant.saturating_duration_since(self.start)))
    }

    /// A wall-clock time on this clock, in microseconds; negative before it began.
    #[must_use]
    pub fn from_wall(&self, wall: SystemTime) -> i64 {
        match wall.duration_since(self.start_wall) {
            Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX),
        }
    }
}
