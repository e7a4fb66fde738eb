//! The gradient controller: the next limit, from the last one and what a window tells. Pure; no probe.
//!
//! A limiter needs to know what answers take where nothing waits, and under a load that never ends it never
//! sees that. Others turn calls away from time to time to find it out. Here two things tell:
//!
//! * windows in which less than half of the limit was in use: what they show is the baseline;
//! * the limit's own changes. Where calls wait for each other, half as many of them take half as long. Where half
//!   as many take as long as before, nothing waited: endpoints have become slower, for all there may be in
//!   flight, and that is the new baseline. Every ten seconds that the limit is held down, half as many calls again are let
//!   through for one window, to the same end: nobody is turned away for it.

use std::time::Duration;

use crate::clock::Now;

use super::AdaptiveConcurrency;
use super::baseline::Baseline;
use super::window::Seen;

/// More of the tolerance than this is never put down to chance.
const MOST_CHANCE: f64 = 0.25;
/// The limit at least halves in no window.
const STEEPEST: f64 = 0.5;
/// A cut tells what calls wait for once only this share of those that were in flight is left.
const TELLING: f64 = 0.6;
/// Answers in a second go with this power of the calls in flight, at least, where calls do not wait for each other: with all
/// of it where none of them waits, with nothing of it where all do.
const FREE: f64 = 0.6;
/// Where about as many calls take longer by this factor, something else has changed.
const WORSE: f64 = 1.5;
const AS_MANY: f64 = 0.8;
/// Where the limit was held down for so long, more calls are let through for a window, by this factor.
const HELD: Duration = Duration::from_secs(10);
const MORE: f64 = 1.5;
/// That tells something if there were more by this factor, ...
const RISEN: f64 = 1.3;
/// ... and nothing waited if answers came more often by this power of it, and took no longer than by this one.
const OFTENER: f64 = 0.8;
const LONGER: f64 = 0.4;

/// The controller's memory.
#[derive(Clone, Debug)]
pub(super) struct Gradient {
    settings: AdaptiveConcurrency,
    limit: f64,
    baseline: Baseline,
    /// What was seen before the limit was cut.
    before: Option<Before>,
    /// Since when it has been held down.
    held_since: Option<Now>,
    /// What was seen before more calls were let through for this window.
    trial: Option<Before>,
}

/// The most that was done before the limit was cut, and the limit then.
#[derive(Clone, Copy, Debug)]
struct Before {
    seen: Seen,
    limit: f64,
}

impl Gradient {
    /// Begins with this limit.
    pub(super) fn new(limit: u32) -> Self {
        Self {
            settings: AdaptiveConcurrency::default(),
            limit: f64::from(limit),
            baseline: Baseline::default(),
            before: None,
            held_since: None,
            trial: None,
        }
    }

    /// The same by other settings.
    pub(super) fn with(mut self, settings: AdaptiveConcurrency) -> Self {
        self.settings = settings;
        self.set(self.limit);
        self
    }

    fn set(&mut self, limit: f64) {
        let AdaptiveConcurrency { min, max, .. } = self.settings;
        self.limit = limit.max(f64::from(min)).min(f64::from(max.max(min)));
    }

    /// The limit, in whole calls.
    pub(super) fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// What answers take where nothing waits.
    pub(super) fn baseline(&self) -> Duration {
        let micros = self.baseline.value().unwrap_or_default();
        Duration::from_micros(micros as u64)
    }

    /// Goes on after a window; `pressed` says that half of the limit was in use.
    pub(super) fn follow(&mut self, seen: &Seen, pressed: bool, now: Now) {
        if !pressed {
            // A limit that nobody comes near is neither confirmed nor refuted.
            self.baseline.note(seen.latency, now);
            self.forget();
            return;
        }
        // A mean that is low by chance shows nothing either.
        self.baseline.lower(seen.latency * (1.0 + seen.error), now);
        if let Some(trial) = self.trial.take() {
            self.held_since = Some(now);
            self.end_trial(&trial, seen, now);
            return;
        }
        let mut gradient = self.gradient(seen);
        if gradient < 1.0 && self.is_free(seen) {
            // The cuts were for nothing: they are taken back.
            self.baseline.reset(seen.latency, now);
            gradient = 1.0;
            self.limit = self
                .before
                .map_or(self.limit, |own| own.limit.max(self.limit));
        }
        if gradient < 1.0 {
            self.compare_with(seen);
        } else {
            self.forget();
        }
        // The square root is room to grow, and a small queue that keeps endpoints busy.
        self.set(self.limit * gradient + self.limit.sqrt());
        if gradient < 1.0 && now.since(*self.held_since.get_or_insert(now)) >= HELD {
            let (seen, limit) = (*seen, self.limit);
            self.trial = Some(Before { seen, limit });
            self.set(self.limit * MORE);
        }
    }

    /// Whether this window is one in which more calls are let through than the last one would allow.
    pub(super) fn is_on_trial(&self) -> bool {
        self.trial.is_some()
    }

    fn forget(&mut self) {
        (self.before, self.held_since, self.trial) = (None, None, None);
    }

    /// More calls were let through. Where they were answered in proportion more often, nothing waited, and the baseline was too
    /// low; else all is as it was.
    fn end_trial(
        &mut self,
        Before {
            seen: before,
            limit,
        }: &Before,
        seen: &Seen,
        now: Now,
    ) {
        let more = seen.in_flight / before.in_flight.max(1.0);
        let is_free = more >= RISEN
            && seen.rate >= before.rate * more.powf(OFTENER)
            && seen.latency <= before.latency * more.powf(LONGER);
        if is_free {
            self.baseline.reset(seen.latency, now);
            self.forget();
        } else {
            self.set(*limit);
        }
    }

    fn gradient(&self, seen: &Seen) -> f64 {
        let baseline = self.baseline.value().unwrap_or(seen.latency);
        let buffer = f64::from(self.settings.buffer) / 100.0;
        // What may be chance is no reason to turn calls away.
        let chance = (2.0 * seen.error).min(MOST_CHANCE);
        let tolerated = baseline * (1.0 + buffer + chance);
        (tolerated / seen.latency.max(1.0)).clamp(STEEPEST, 1.0)
    }

    /// Whether far fewer calls than before are answered in proportion less often.
    fn is_free(&self, seen: &Seen) -> bool {
        self.before.is_some_and(|Before { seen: before, .. }| {
            let left = seen.in_flight / before.in_flight.max(1.0);
            left <= TELLING && seen.rate <= before.rate * left.powf(FREE)
        })
    }

    /// Remembers what later windows are compared with.
    fn compare_with(&mut self, seen: &Seen) {
        let stands = self.before.is_some_and(|Before { seen: before, .. }| {
            let left = seen.in_flight / before.in_flight.max(1.0);
            let has_changed = left >= AS_MANY && seen.latency > before.latency * WORSE;
            left <= 1.0 && seen.rate <= before.rate && !has_changed
        });
        if !stands {
            let limit = self
                .before
                .map_or(self.limit, |own| own.limit.max(self.limit));
            self.before = Some(Before { seen: *seen, limit });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn seen(in_flight: f64, latency: f64) -> Seen {
        Seen {
            latency,
            in_flight,
            rate: in_flight / latency,
            ..Seen::default()
        }
    }

    fn gradient(limit: u32) -> Gradient {
        let mut gradient = Gradient::new(limit).with(AdaptiveConcurrency::default());
        gradient.follow(&seen(1.0, 1000.0), false, Now(SECOND));
        gradient
    }

    #[test]
    fn it_grows_by_its_root_while_answers_are_quick() {
        let mut own = gradient(100);
        for limit in [110, 120, 131] {
            own.follow(&seen(90.0, 1200.0), true, Now(2 * SECOND));
            assert_eq!(own.limit(), limit);
        }
    }

    #[test]
    fn it_neither_grows_nor_shrinks_where_nobody_comes_near_it() {
        let mut own = gradient(100);
        for number in 0..1000 {
            own.follow(&seen(20.0, 50_000.0), false, Now(number * SECOND));
        }
        assert_eq!(own.limit(), 100);
    }

    #[test]
    fn it_halves_at_most_and_stays_within_its_bounds() {
        let mut own = gradient(400);
        own.follow(&seen(400.0, 1e9), true, Now(SECOND));
        assert_eq!(own.limit(), 220);
        // All of them wait for each other: no cut shows that they do not.
        let mut latency = 4e8;
        for _ in 0..20 {
            own.follow(&seen(f64::from(own.limit()), latency), true, Now(SECOND));
            latency /= 2.5;
        }
        assert!(own.limit() >= 4);
        let mut own = gradient(900).with(AdaptiveConcurrency {
            min: 50,
            max: 80,
            ..AdaptiveConcurrency::default()
        });
        assert_eq!(own.limit(), 80);
        for latency in [1e9, 1e8, 1e7] {
            own.follow(&seen(80.0, latency), true, Now(SECOND));
        }
        assert_eq!(own.limit(), 50);
    }

    #[test]
    fn calls_that_wait_for_each_other_have_it_find_its_balance() {
        // Forty at a time, one thousand microseconds each.
        let mut own = gradient(400);
        for _ in 0..200 {
            let in_flight = f64::from(own.limit());
            let latency = 1000.0 * (in_flight / 40.0).max(1.0);
            own.follow(&seen(in_flight, latency), true, Now(SECOND));
        }
        assert!((40..=65).contains(&own.limit()), "{}", own.limit());
        assert_eq!(own.baseline(), Duration::from_micros(1000));
    }

    #[test]
    fn an_hour_of_overload_does_not_make_waiting_normal() {
        let mut own = gradient(400);
        let mut most = 0;
        for number in 0..36_000 {
            let in_flight = f64::from(own.limit());
            let latency = 1000.0 * (in_flight / 40.0).max(1.0);
            own.follow(&seen(in_flight, latency), true, Now(number * SECOND / 10));
            if number > 100 {
                most = most.max(own.limit());
            }
        }
        // That of a window in which more are let through.
        assert!(most <= 98, "{most}");
        assert_eq!(own.baseline(), Duration::from_micros(1000));
    }

    #[test]
    fn endpoints_that_became_slower_are_told_from_calls_that_wait() {
        let mut own = gradient(100);
        let mut least = u32::MAX;
        for _ in 0..60 {
            // Ten times as slow, and room for all.
            own.follow(&seen(f64::from(own.limit()), 10_000.0), true, Now(SECOND));
            least = least.min(own.limit());
        }
        assert!(least >= 50, "{least}");
        assert!(own.limit() > 300, "{}", own.limit());
        assert_eq!(own.baseline(), Duration::from_micros(10_000));
    }

    #[test]
    fn a_baseline_that_was_too_low_is_found_out() {
        let mut own = gradient(12);
        // One thousand was luck: they take two thousand, and there is room for forty.
        for number in 0..400 {
            let in_flight = f64::from(own.limit());
            let latency = 2000.0 * (in_flight / 40.0).max(1.0);
            own.follow(&seen(in_flight, latency), true, Now(number * SECOND / 5));
        }
        assert!((40..=65).contains(&own.limit()), "{}", own.limit());
    }

    #[test]
    fn endpoints_that_became_a_little_slower_are_found_out_too() {
        let mut own = gradient(100);
        for _ in 0..200 {
            own.follow(&seen(f64::from(own.limit()), 1700.0), true, Now(SECOND));
        }
        assert!(own.limit() > 300, "{}", own.limit());
    }
}
