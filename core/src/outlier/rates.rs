//! Breakers: endpoints are ejected by the share of their calls that failed in an interval, as Envoy's outlier detection
//! does: in comparison with the others (success rate), and by itself (failure percentage).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::clock::{Now, micros};
use crate::endpoint::Endpoint;
use crate::stats::Detector;

use super::{Outlier, balanced};

/// Ejects endpoints whose success rate is far below the mean of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuccessRate {
    /// So many endpoints must have had enough calls. Default: 5.
    pub min_endpoints: u32,
    /// Calls in an interval that are enough. Default: 100.
    pub volume: u32,
    /// An endpoint is ejected below the mean of all success rates less so many of their standard
    /// deviations; in thousandths. Default: 1.9.
    pub stdev_factor: u32,
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self {
            min_endpoints: 5,
            volume: 100,
            stdev_factor: 1900,
        }
    }
}

/// Ejects endpoints that failed at least a share of their calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailurePercentage {
    /// That share, in percent. Default: 85.
    pub threshold: u32,
    /// So many endpoints must have had enough calls. Default: 5.
    pub min_endpoints: u32,
    /// Calls in an interval that are enough. Default: 50.
    pub volume: u32,
}

impl Default for FailurePercentage {
    fn default() -> Self {
        Self {
            threshold: 85,
            min_endpoints: 5,
            volume: 50,
        }
    }
}

/// The interval under way, shared by all workers.
#[derive(Debug, Default)]
pub struct Interval {
    /// When it ends (microseconds); 0 = none began.
    ends: AtomicU64,
}

impl Interval {
    /// Whether the interval is over; of several workers that find that out, one learns it, and another begins.
    /// What it learns is whether what was counted is of that interval: where no call ended for long, it is older.
    pub(crate) fn pass(&self, now: Now, length: Duration) -> Option<bool> {
        let ends = self.ends.load(Relaxed);
        if now.0 < ends {
            return None;
        }
        let next = now.after(length).0;
        let first = self.ends.compare_exchange(ends, next, Relaxed, Relaxed);
        (first.is_ok() && ends > 0).then(|| now.0 - ends <= micros(length))
    }
}

/// An endpoint that was ejected by its rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ejected {
    /// Its place among the members.
    pub place: usize,
    /// What had it ejected.
    pub detector: Detector,
    /// Why.
    pub why: String,
}

/// What one endpoint did in the interval.
struct Did {
    place: usize,
    calls: u32,
    failed: u32,
}

impl Did {
    /// The share of its calls that went well, in percent.
    fn success(&self) -> f64 {
        f64::from(self.calls - self.failed) * 100.0 / f64::from(self.calls.max(1))
    }
}

impl Outlier {
    /// Whether calls are counted in intervals.
    #[must_use]
    pub fn is_rated(&self) -> bool {
        self.success_rate.is_some() || self.failure_percentage.is_some()
    }

    /// Ejects those of `members`, all endpoints of a cluster, that their calls of the interval speak against, the worst
    /// first: no more than may be at once. What is not `fresh` is forgotten.
    pub(crate) fn by_rate(&self, members: &[Arc<Endpoint>], now: Now, fresh: bool) -> Vec<Ejected> {
        let all = members.iter().enumerate().map(|(place, own)| {
            let (good, failed) = own.health.tally.take();
            let calls = good.saturating_add(failed);
            (
                own.weight,
                Did {
                    place,
                    calls,
                    failed,
                },
            )
        });
        // Those of weight 0 take no calls, though some may have ended.
        let all = all.filter(|(weight, _)| *weight > 0);
        let mut all: Vec<Did> = all.map(|(_, did)| did).collect();
        if !fresh || balanced(members).count() < 2 {
            return Vec::new();
        }
        all.sort_by(|a, b| {
            a.success()
                .total_cmp(&b.success())
                .then(a.place.cmp(&b.place))
        });
        let mut ejected = Vec::new();
        let found = [self.failing(&all), self.below_the_others(&all)];
        for (did, detector, why) in found.into_iter().flatten() {
            let is_known = ejected.iter().any(|own: &Ejected| own.place == did.place);
            let health = &members[did.place].health;
            if !is_known && self.eject_available(health, now, members) {
                let place = did.place;
                ejected.push(Ejected {
                    place,
                    detector,
                    why,
                });
            }
        }
        ejected
    }

    /// Those that failed too much.
    fn failing<'a>(&self, all: &'a [Did]) -> Vec<(&'a Did, Detector, String)> {
        let Some(rule) = self.failure_percentage else {
            return Vec::new();
        };
        let Some(enough) = enough(all, rule.volume, rule.min_endpoints) else {
            return Vec::new();
        };
        let least = f64::from(rule.threshold);
        let failing = enough
            .into_iter()
            .filter(|own| 100.0 - own.success() >= least);
        let failing = failing.map(|own| {
            let why = format!(
                "{:.1} % of {} calls within {:?} failed, which is {} % or more",
                100.0 - own.success(),
                own.calls,
                self.interval,
                rule.threshold
            );
            (own, Detector::FailurePercentage, why)
        });
        failing.collect()
    }

    /// Those that failed more than the others.
    fn below_the_others<'a>(&self, all: &'a [Did]) -> Vec<(&'a Did, Detector, String)> {
        let Some(rule) = self.success_rate else {
            return Vec::new();
        };
        let Some(enough) = enough(all, rule.volume, rule.min_endpoints) else {
            return Vec::new();
        };
        let count = enough.len() as f64;
        let mean = enough.iter().map(|own| own.success()).sum::<f64>() / count;
        let squares = enough.iter().map(|own| (own.success() - mean).powi(2));
        let deviation = (squares.sum::<f64>() / count).sqrt();
        let least = mean - deviation * f64::from(rule.stdev_factor) / 1000.0;
        let below = enough.into_iter().filter(|own| own.success() < least);
        let below = below.map(|own| {
            let why = format!(
                "{:.1} % of {} calls within {:?} went well, which is below {least:.1} %; of all {} endpoints with enough \
                 calls, {mean:.1} % did on the average",
                own.success(),
                own.calls,
                self.interval,
                count
            );
            (own, Detector::SuccessRate, why)
        });
        below.collect()
    }
}

/// Those with enough calls to be judged, the worst first, if they are enough to judge by.
fn enough(all: &[Did], volume: u32, least: u32) -> Option<Vec<&Did>> {
    let enough: Vec<&Did> = all
        .iter()
        .filter(|own| own.calls >= volume.max(1))
        .collect();
    let count = u32::try_from(enough.len()).unwrap_or(u32::MAX);
    (count >= least.max(1)).then_some(enough)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;
    const NOW: Now = Now(100 * SECOND);

    fn outlier() -> Outlier {
        Outlier {
            consecutive: 0,
            max_percent: 100,
            ..Outlier::default()
        }
    }

    fn by_success() -> Outlier {
        Outlier {
            success_rate: Some(SuccessRate::default()),
            ..outlier()
        }
    }

    fn by_failure() -> Outlier {
        Outlier {
            failure_percentage: Some(FailurePercentage::default()),
            ..outlier()
        }
    }

    /// Endpoints that had so many calls, of which so many failed.
    fn members(did: &[(u32, u32)]) -> Vec<Arc<Endpoint>> {
        let endpoint = |(port, (calls, failed)): (u16, &(u32, u32))| {
            let endpoint = Endpoint {
                address: ([127, 0, 0, 1], port).into(),
                weight: 1,
                labels: Default::default(),
                warm_up: None,
                terms: None,
                health: Arc::default(),
            };
            (0..*calls).for_each(|call| endpoint.health.tally.note(call >= *failed));
            Arc::new(endpoint)
        };
        (1..).zip(did).map(endpoint).collect()
    }

    /// Who is ejected by what.
    fn ejected(outlier: &Outlier, did: &[(u32, u32)]) -> Vec<(usize, Detector)> {
        let members = members(did);
        let ejected = outlier.by_rate(&members, NOW, true);
        for own in &ejected {
            assert!(!members[own.place].available(NOW), "{own:?}");
        }
        let out = members.iter().filter(|own| !own.available(NOW)).count();
        assert_eq!(out, ejected.len());
        // What was counted is gone.
        assert!(members.iter().all(|own| own.health.tally.take() == (0, 0)));
        let each = ejected.into_iter();
        each.map(|own| (own.place, own.detector)).collect()
    }

    #[test]
    fn one_that_fails_more_than_the_others_is_ejected() {
        let did = [(200, 0), (200, 2), (200, 60), (200, 1), (200, 0)];
        assert_eq!(ejected(&by_success(), &did), [(2, Detector::SuccessRate)]);
        // By itself that is not much.
        assert_eq!(ejected(&by_failure(), &did), []);
    }

    #[test]
    fn where_all_fail_alike_none_fails_more() {
        assert_eq!(ejected(&by_success(), &[(200, 100); 6]), []);
        assert_eq!(ejected(&by_success(), &[(200, 0); 6]), []);
        assert_eq!(ejected(&by_success(), &[(200, 200); 6]), []);
    }

    #[test]
    fn those_that_fail_most_of_their_calls_are_ejected() {
        let did = [(100, 85), (100, 84), (50, 50), (100, 0), (100, 0)];
        let by = Detector::FailurePercentage;
        assert_eq!(ejected(&by_failure(), &did), [(2, by), (0, by)]);
    }

    #[test]
    fn few_calls_or_few_endpoints_tell_nothing() {
        let few = [(100, 0), (100, 0), (100, 0), (100, 0), (49, 49)];
        assert_eq!(ejected(&by_failure(), &few), []);
        let few = [(200, 0), (200, 0), (200, 0), (200, 0), (99, 99)];
        assert_eq!(ejected(&by_success(), &few), []);
        let few = [(200, 0), (200, 0), (200, 0), (200, 200)];
        assert_eq!(ejected(&by_success(), &few), []);
        assert_eq!(ejected(&by_failure(), &few), []);
        let enough = [(200, 0), (200, 0), (200, 0), (200, 0), (200, 200)];
        assert_eq!(ejected(&by_success(), &enough).len(), 1);
        assert_eq!(ejected(&by_failure(), &enough).len(), 1);
    }

    #[test]
    fn the_deviation_that_is_allowed_is_the_operators() {
        let did = [
            (200, 0),
            (200, 10),
            (200, 20),
            (200, 0),
            (200, 40),
            (200, 2),
        ];
        assert_eq!(ejected(&by_success(), &did), [(4, Detector::SuccessRate)]);
        let mut lenient = by_success();
        lenient.success_rate = Some(SuccessRate {
            stdev_factor: 2100,
            ..SuccessRate::default()
        });
        assert_eq!(ejected(&lenient, &did), []);
    }

    #[test]
    fn no_more_are_ejected_than_may_be_and_the_worst_are() {
        let did: Vec<_> = (0..10)
            .map(|n| (100, if n < 6 { 90 + n } else { 0 }))
            .collect();
        let by = Detector::FailurePercentage;
        let most = |max_percent| Outlier {
            max_percent,
            ..by_failure()
        };
        assert_eq!(ejected(&most(10), &did), [(5, by)]);
        assert_eq!(ejected(&most(30), &did), [(5, by), (4, by), (3, by)]);
        // One may always be, unless it is the only one.
        assert_eq!(ejected(&most(0), &did), [(5, by)]);
        let mut alone = by_failure();
        alone.failure_percentage = Some(FailurePercentage {
            min_endpoints: 1,
            ..FailurePercentage::default()
        });
        assert_eq!(ejected(&alone, &[(100, 100)]), []);
    }

    #[test]
    fn one_is_ejected_once_whatever_speaks_against_it() {
        let both = Outlier {
            success_rate: Some(SuccessRate::default()),
            ..by_failure()
        };
        let did = [(200, 0), (200, 0), (200, 190), (200, 0), (200, 0)];
        let by = Detector::FailurePercentage;
        assert_eq!(ejected(&both, &did), [(2, by)]);
    }

    #[test]
    fn what_was_counted_long_ago_is_forgotten() {
        let members = members(&[(200, 0), (200, 0), (200, 0), (200, 0), (200, 200)]);
        assert_eq!(by_success().by_rate(&members, NOW, false), []);
        assert_eq!(by_success().by_rate(&members, NOW, true), []);
    }

    #[test]
    fn an_interval_ends_once() {
        let interval = Interval::default();
        let length = Duration::from_secs(10);
        let pass = |seconds: u64| interval.pass(Now(seconds * SECOND), length);
        assert_eq!(pass(100), None);
        assert_eq!(pass(109), None);
        assert_eq!((pass(110), pass(110)), (Some(true), None));
        assert_eq!((pass(130), pass(131)), (Some(true), None));
        // Nobody called for a while.
        assert_eq!((pass(151), pass(152)), (Some(false), None));
    }

    #[test]
    fn its_why_says_what_was_counted() {
        let members = members(&[(200, 0), (200, 0), (200, 0), (200, 0), (200, 180)]);
        let both = Outlier {
            success_rate: Some(SuccessRate::default()),
            ..by_failure()
        };
        let told = |outlier: &Outlier| {
            let ejected = outlier.by_rate(&members, NOW, true);
            ejected.into_iter().map(|own| own.why).collect::<String>()
        };
        assert_eq!(
            told(&both),
            "90.0 % of 200 calls within 10s failed, which is 85 % or more"
        );
    }
}
