//! Endpoints that keep failing are left alone for a while, and for longer each time.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::clock::{Now, micros};
use crate::endpoint::{Endpoint, Health};

/// When an endpoint is ejected, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlier {
    /// Failures in a row that eject an endpoint; 0 = never. Default: 5.
    pub consecutive: u32,
    /// The first ejection lasts this long; each one soon after the last lasts twice as long.
    /// One past ejection is forgotten for every `base` of time out of ejection. Default: 30 s.
    pub base: Duration,
    /// No ejection lasts longer. Default: 300 s.
    pub max: Duration,
    /// Share of the endpoints, in percent, that may be ejected at once. One may always be,
    /// unless it is the only one: a sole endpoint is never ejected. Default: 10.
    pub max_percent: u32,
}

impl Default for Outlier {
    fn default() -> Self {
        Self {
            consecutive: 5,
            base: Duration::from_secs(30),
            max: Duration::from_secs(300),
            max_percent: 10,
        }
    }
}

impl Outlier {
    /// Notes that the endpoint did what was asked.
    pub fn success(&self, health: &Health) {
        // Reading first keeps the cache line shared between workers while all is well.
        if health.failures.load(Relaxed) != 0 {
            health.failures.store(0, Relaxed);
        }
    }

    /// Notes that the endpoint failed; `true` if that ejected it. `members` are all endpoints
    /// of its cluster. Workers that fail different endpoints in the same instant may together
    /// eject a few more than `max_percent`.
    pub fn failure(&self, health: &Health, now: Now, members: &[Arc<Endpoint>]) -> bool {
        if self.consecutive == 0 {
            return false;
        }
        let ended = health.ejected_until.load(Relaxed);
        if ended > now.0 {
            // Calls sent before the ejection, or in panic, must not lengthen it.
            return false;
        }
        let failures = health.failures.load(Relaxed);
        if failures.saturating_add(1) < self.consecutive {
            health.failures.fetch_add(1, Relaxed);
            return false;
        }
        if !self.has_room(members, now) {
            return false;
        }
        let past = self.remembered(health.ejections.load(Relaxed), Now(ended), now);
        let until = now.after(self.length(past)).0;
        // Of several workers that see the last failure, one ejects.
        if health
            .ejected_until
            .compare_exchange(ended, until, Relaxed, Relaxed)
            .is_err()
        {
            return false;
        }
        health.ejections.store(past.saturating_add(1), Relaxed);
        health.failures.store(0, Relaxed);
        true
    }

    /// Whether one more of `members` may be ejected.
    fn has_room(&self, members: &[Arc<Endpoint>], now: Now) -> bool {
        let balanced = members.iter().filter(|each| each.weight > 0);
        let (mut all, mut ejected) = (0_u64, 0_u64);
        for each in balanced {
            all += 1;
            ejected += u64::from(each.health.ejected_until.load(Relaxed) > now.0);
        }
        all > 1 && (ejected == 0 || (ejected + 1) * 100 <= u64::from(self.max_percent) * all)
    }

    /// How many of `ejections` still count at `now`, the last having ended at `ended`.
    fn remembered(&self, ejections: u32, ended: Now, now: Now) -> u32 {
        let forgotten = micros(now.since(ended)) / micros(self.base).max(1);
        ejections.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX))
    }

    /// How long an ejection lasts after `past` others.
    fn length(&self, past: u32) -> Duration {
        let factor = 1_u32.checked_shl(past).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.max)
    }
}
