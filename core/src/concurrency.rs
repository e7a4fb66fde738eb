//! Adaptive concurrency: how many calls may be in flight to a cluster, told by how long they take.
//!
//! While answers take no longer than they do of an endpoint that is not pressed (the *baseline*), the limit
//! grows; where they take longer, calls wait for each other there, and the limit shrinks in proportion (a
//! gradient, as in Netflix's and Envoy's limiters). There is no probe that would have to turn calls away to
//! find the baseline out: see `gradient`.
//!
//! All workers share one limit. A call costs it two atomic additions, an answer four; whoever ends a window
//! does so under a lock that nobody ever waits for.

mod baseline;
mod gradient;
mod window;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::clock::{Now, micros};

use gradient::Gradient;
use window::Window;

/// The limit of a cluster of which nothing is known yet, within its bounds.
const FIRST: u32 = 32;

/// How a cluster's limit is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdaptiveConcurrency {
    /// The limit is never below. Default: 4.
    pub min: u32,
    /// The limit is never above. Default: 1000.
    pub max: u32,
    /// Of the answers in a window, this share, in percent, counts: the quickest ones. Default: 99.
    pub percentile: u32,
    /// Answers may take longer than the baseline by this share of it, in percent, before the limit
    /// shrinks. Default: 25.
    pub buffer: u32,
}

impl Default for AdaptiveConcurrency {
    fn default() -> Self {
        Self {
            min: 4,
            max: 1000,
            percentile: 99,
            buffer: 25,
        }
    }
}

/// Which calls are shed last where not all can be taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// The last: they have the whole limit.
    Critical,
    /// They have seven eighths of it.
    #[default]
    Default,
    /// The first: they have three quarters of it.
    Sheddable,
}

impl Priority {
    /// How many calls may be in flight, of a limit, for one more of this priority.
    fn share(self, limit: u32) -> u32 {
        match self {
            Self::Critical => limit,
            Self::Default => limit - limit / 8,
            Self::Sheddable => limit - limit / 4,
        }
    }
}

/// What the end of a call tells about its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timed {
    /// It was answered.
    Answered,
    /// It was given up: an answer would have taken longer. Where that is no longer than answers take, it
    /// tells nothing; so callers of no patience cannot make endpoints look slow, or quick.
    GivenUp,
    /// Nothing: it failed, or went elsewhere.
    Nothing,
}

/// The limit of one cluster, shared by all workers.
#[derive(Debug)]
pub struct ConcurrencyLimit {
    settings: AdaptiveConcurrency,
    limit: AtomicU32,
    /// Calls that hold a place; those of the limits that it replaced count on.
    in_flight: Arc<AtomicU32>,
    /// Half of the limit was in use since the window began: only then does it say anything.
    pressed: AtomicBool,
    /// Calls that were turned away; those of the limits that it replaced count on.
    shed: Arc<AtomicU64>,
    /// What answers take where nothing waits, in microseconds; 0 = not known yet.
    baseline: AtomicU64,
    window: Window,
    gradient: Mutex<Gradient>,
}

impl ConcurrencyLimit {
    /// A limit by these settings. What `former`, the one that it replaces, has found out holds on.
    #[must_use]
    pub fn new(settings: AdaptiveConcurrency, former: Option<&Self>) -> Self {
        let first = former.map_or(FIRST, Self::limit);
        let gradient = former.and_then(|own| own.gradient.lock().ok().map(|own| own.clone()));
        let gradient = gradient
            .unwrap_or_else(|| Gradient::new(first))
            .with(settings);
        Self {
            settings,
            limit: AtomicU32::new(gradient.limit()),
            in_flight: former.map_or_else(Arc::default, |own| own.in_flight.clone()),
            pressed: AtomicBool::new(false),
            shed: former.map_or_else(Arc::default, |own| own.shed.clone()),
            baseline: AtomicU64::new(former.map_or(0, |own| own.baseline.load(Relaxed))),
            window: Window::default(),
            gradient: Mutex::new(gradient),
        }
    }

    /// What it was made from.
    #[must_use]
    pub fn settings(&self) -> AdaptiveConcurrency {
        self.settings
    }

    /// Calls that may be in flight now.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit.load(Relaxed)
    }

    /// Calls that hold a place now.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Calls that were turned away.
    #[must_use]
    pub fn shed(&self) -> u64 {
        self.shed.load(Relaxed)
    }

    /// What answers take where nothing waits, as far as is known.
    #[must_use]
    pub fn baseline(&self) -> Option<Duration> {
        let baseline = self.baseline.load(Relaxed);
        (baseline > 0).then(|| Duration::from_micros(baseline))
    }

    /// Takes a place for a call, or turns it away. Each place is given back by one
    /// [`leave`](Self::leave).
    #[must_use]
    pub fn admit(&self, priority: Priority) -> bool {
        let limit = self.limit();
        let before = self.in_flight.fetch_add(1, Relaxed);
        // Reading first keeps the cache line shared between workers.
        if before >= limit / 2 && !self.pressed.load(Relaxed) {
            self.pressed.store(true, Relaxed);
        }
        let admitted = before < priority.share(limit);
        if !admitted {
            self.in_flight.fetch_sub(1, Relaxed);
            self.shed.fetch_add(1, Relaxed);
        }
        admitted
    }

    /// Gives the place back of a call that was sent at `started`.
    pub fn leave(&self, timed: Timed, started: Now, now: Now) {
        let in_flight = self.in_flight.fetch_sub(1, Relaxed);
        let took = now.micros_since(started);
        let counts = match timed {
            Timed::Answered => true,
            Timed::GivenUp => took > self.baseline.load(Relaxed).max(1),
            Timed::Nothing => false,
        };
        if counts && self.window.note(took, in_flight, started, now) {
            self.adjust(now);
        }
    }

    /// Ends a window, unless another worker does.
    #[cold]
    fn adjust(&self, now: Now) {
        let Ok(mut gradient) = self.gradient.try_lock() else {
            return;
        };
        if !self.window.is_over(now) {
            // Another one was quicker.
            return;
        }
        let pressed = self.pressed.swap(false, Relaxed);
        let seen = self.window.take(self.settings.percentile, now);
        let before = gradient.limit();
        gradient.follow(&seen, pressed, now);
        let limit = gradient.limit();
        self.limit.store(limit, Relaxed);
        let baseline = gradient.baseline();
        self.baseline.store(micros(baseline), Relaxed);
        let settles = limit < before || gradient.is_on_trial();
        self.window.begin(now, settles, &seen);
    }
}

#[cfg(test)]
mod tests;
