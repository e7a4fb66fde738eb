//! Outlier detection: endpoints that keep failing, or cannot be connected to, are left alone for a while, and for
//! longer each time; then one call tries them before others follow.

mod rates;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::clock::{Now, micros};
use crate::endpoint::{Endpoint, Health, Seen, Standing, Trial};

pub use rates::{Ejected, FailurePercentage, Interval, SuccessRate};

/// The first time that no connection can be made, an endpoint is out for this long; each
/// further time in a row twice as long, up to `base`.
const BACK_OFF: Duration = Duration::from_secs(1);
/// An answer that does not come within less says nothing about the endpoint, but about who
/// would not wait.
const PATIENCE: Duration = Duration::from_millis(100);

/// When an endpoint is ejected, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlier {
    /// Failures in a row that eject an endpoint; 0 = never. Default: 5.
    pub consecutive: u32,
    /// Calls are counted in intervals of this length for the two that follow. Default: 10 s.
    pub interval: Duration,
    /// Ejects endpoints that fail more than the others do. Default: none.
    pub success_rate: Option<SuccessRate>,
    /// Ejects endpoints that fail too much. Default: none.
    pub failure_percentage: Option<FailurePercentage>,
    /// The first ejection lasts this long; each one soon after the last lasts twice as long.
    /// One past ejection is forgotten for every `base` of time out of ejection. Default: 30 s.
    pub base: Duration,
    /// No ejection lasts longer. Default: 300 s.
    pub max: Duration,
    /// Share of the endpoints, in percent, that may be ejected at once for failed calls. One may
    /// always be, unless it is the only one: a sole endpoint is never ejected. Default: 10.
    pub max_percent: u32,
}

impl Default for Outlier {
    fn default() -> Self {
        Self {
            consecutive: 5,
            interval: Duration::from_secs(10),
            success_rate: None,
            failure_percentage: None,
            base: Duration::from_secs(30),
            max: Duration::from_secs(300),
            max_percent: 10,
        }
    }
}

/// Whether a call that was sent at `started` and has no answer `now` tells something about its
/// endpoint: it waited long enough, and the endpoint answered nobody else meanwhile.
#[must_use]
pub fn is_telling(health: &Health, started: Now, now: Now) -> bool {
    now.since(started) >= PATIENCE && !health.answered_since(started)
}

impl Outlier {
    /// Notes that the endpoint did what was asked.
    pub fn success(&self, health: &Health, now: Now, trial: Option<Trial>) {
        // Reading first keeps the cache line shared between workers while all is well.
        if health.failures.load(Relaxed) != 0 {
            health.failures.store(0, Relaxed);
        }
        self.answered(health, now, trial);
    }

    /// Notes that the endpoint answered, whatever it said: it is there. That ends its trial.
    pub fn answered(&self, health: &Health, now: Now, trial: Option<Trial>) {
        health.prove(now);
        let seen = health.stand.load();
        // Of calls that are no trial, some were sent before the ejection. But where it was
        // connecting that failed, an answer of any call shows that it is reachable.
        let is_decided = match seen.standing(now) {
            Standing::Available => false,
            Standing::OnTrial(_) | Standing::Due => decides(&trial) || health.is_unreachable(),
            Standing::Ejected(_) => health.is_unreachable(),
        };
        if is_decided {
            self.lift(health, now, seen);
        }
    }

    /// Notes that the endpoint failed; `true` if that ejected it, or ejected it again. `members`
    /// are all endpoints of its cluster. Workers that fail different endpoints in the same
    /// instant may together eject a few more than `max_percent`.
    pub fn failure(
        &self,
        health: &Health,
        now: Now,
        members: &[Arc<Endpoint>],
        trial: Option<Trial>,
    ) -> bool {
        let seen = health.stand.load();
        match seen.standing(now) {
            Standing::Available => self.count(health, now, members),
            Standing::OnTrial(_) | Standing::Due if decides(&trial) => {
                // It was reached.
                health.connect_failures.store(0, Relaxed);
                if !self.ejects() || balanced(members).count() < 2 {
                    self.lift(health, now, seen);
                    return false;
                }
                self.eject(health, now, seen, health.ejections.load(Relaxed))
            }
            // Calls sent before the ejection, or in panic, must not lengthen it.
            Standing::OnTrial(_) | Standing::Due | Standing::Ejected(_) => false,
        }
    }

    /// Notes that a connection to the endpoint could not be made, which is nothing that we lack
    /// ourselves ([`crate::own_error`]); `true` if it is out for that from now on. Once is
    /// enough: without a connection nothing can be served, and calls go elsewhere unharmed. So
    /// neither `consecutive` nor `max_percent` matters, but a sole endpoint is never out.
    ///
    /// Called once for a connection, not for each call that waited for it.
    pub fn connect_failed(&self, health: &Health, now: Now, members: &[Arc<Endpoint>]) -> bool {
        health.unprove();
        let seen = health.stand.load();
        if matches!(seen.standing(now), Standing::Ejected(_)) || balanced(members).count() < 2 {
            // Of several workers that find it out at once, one counts.
            return false;
        }
        let past = health.connect_failures.load(Relaxed);
        let until = now.after(doubled(BACK_OFF, past, self.base));
        let is_out = health.stand.change(seen, Seen::ejected(until));
        if is_out {
            health
                .connect_failures
                .store(past.saturating_add(1), Relaxed);
        }
        is_out
    }

    /// Counts a failure of an endpoint that takes calls.
    fn count(&self, health: &Health, now: Now, members: &[Arc<Endpoint>]) -> bool {
        if self.consecutive == 0 {
            return false;
        }
        let failures = health.failures.load(Relaxed);
        if failures.saturating_add(1) < self.consecutive {
            health.failures.fetch_add(1, Relaxed);
            return false;
        }
        self.eject_available(health, now, members)
    }

    /// Whether calls that fail have anything ejected at all.
    fn ejects(&self) -> bool {
        self.consecutive > 0 || self.is_rated()
    }

    /// Ejects an endpoint that takes calls, if one more may be.
    fn eject_available(&self, health: &Health, now: Now, members: &[Arc<Endpoint>]) -> bool {
        if !self.has_room(members) {
            return false;
        }
        let ended = Now(health.ejection_ended.load(Relaxed));
        let past = self.remembered(health.ejections.load(Relaxed), ended, now);
        self.eject(health, now, Seen::AVAILABLE, past)
    }

    /// Ejects it after `past` other times; of several workers that see the last failure, one
    /// does.
    fn eject(&self, health: &Health, now: Now, seen: Seen, past: u32) -> bool {
        let until = now.after(doubled(self.base, past, self.max));
        if !health.stand.change(seen, Seen::ejected(until)) {
            return false;
        }
        health.ejections.store(past.saturating_add(1), Relaxed);
        health.failures.store(0, Relaxed);
        health.unprove();
        true
    }

    /// Lets it take calls again.
    fn lift(&self, health: &Health, now: Now, seen: Seen) {
        if health.stand.change(seen, Seen::AVAILABLE) {
            health.ejection_ended.store(now.0, Relaxed);
            health.failures.store(0, Relaxed);
            health.connect_failures.store(0, Relaxed);
            health.forget_lift();
        }
    }

    /// Whether one more of `members` may be ejected for failed calls.
    fn has_room(&self, members: &[Arc<Endpoint>]) -> bool {
        let (mut all, mut ejected) = (0_u64, 0_u64);
        for each in balanced(members) {
            let is_out = each.health.stand.load() != Seen::AVAILABLE;
            all += 1;
            ejected += u64::from(is_out && !each.health.is_unreachable());
        }
        all > 1 && (ejected == 0 || (ejected + 1) * 100 <= u64::from(self.max_percent) * all)
    }

    /// How many of `ejections` still count at `now`, the last having ended at `ended`.
    fn remembered(&self, ejections: u32, ended: Now, now: Now) -> u32 {
        let forgotten = micros(now.since(ended)) / micros(self.base).max(1);
        ejections.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX))
    }
}

fn decides(trial: &Option<Trial>) -> bool {
    trial.as_ref().is_some_and(Trial::decides)
}

/// The members that take calls at all.
fn balanced(members: &[Arc<Endpoint>]) -> impl Iterator<Item = &Arc<Endpoint>> {
    members.iter().filter(|each| each.weight > 0)
}

/// Twice as long for each of `past` times, up to `most`.
fn doubled(first: Duration, past: u32, most: Duration) -> Duration {
    let factor = 1_u32.checked_shl(past).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(most)
}

#[cfg(test)]
mod black_hole;
#[cfg(test)]
mod tests;
