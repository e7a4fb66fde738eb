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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn members(weights: &[u32]) -> Vec<Arc<Endpoint>> {
        let endpoint = |(port, weight): (u16, &u32)| {
            Arc::new(Endpoint {
                address: ([127, 0, 0, 1], port).into(),
                weight: *weight,
                labels: Default::default(),
                warm_up: None,
                health: Arc::default(),
            })
        };
        (1..).zip(weights).map(endpoint).collect()
    }

    fn outlier(consecutive: u32) -> Outlier {
        Outlier {
            consecutive,
            ..Outlier::default()
        }
    }

    /// Fails the first member until it is ejected; how long that lasts, in seconds.
    fn eject(outlier: &Outlier, members: &[Arc<Endpoint>], now: Now) -> Option<u64> {
        let health = &members[0].health;
        let ejected = (0..outlier.consecutive).any(|_| outlier.failure(health, now, members));
        ejected.then(|| (health.ejected_until.load(Relaxed) - now.0) / SECOND)
    }

    #[test]
    fn the_last_of_so_many_failures_in_a_row_ejects() {
        let (outlier, members) = (outlier(3), members(&[1, 1]));
        let (health, now) = (&members[0].health, Now(SECOND));
        assert!(!outlier.failure(health, now, &members));
        assert!(!outlier.failure(health, now, &members));
        assert!(members[0].available(now));
        assert!(outlier.failure(health, now, &members));
        assert!(!members[0].available(now));
        assert!(!members[0].available(Now(31 * SECOND - 1)));
        assert!(members[0].available(Now(31 * SECOND)));
        assert!(members[1].available(now));
    }

    #[test]
    fn a_success_between_begins_the_count_anew() {
        let (outlier, members) = (outlier(3), members(&[1, 1]));
        let health = &members[0].health;
        for _ in 0..100 {
            assert!(!outlier.failure(health, Now(SECOND), &members));
            assert!(!outlier.failure(health, Now(SECOND), &members));
            outlier.success(health);
        }
    }

    #[test]
    fn zero_failures_mean_never() {
        let (outlier, members) = (outlier(0), members(&[1, 1]));
        for _ in 0..100 {
            assert!(!outlier.failure(&members[0].health, Now(SECOND), &members));
        }
    }

    #[test]
    fn one_failure_is_enough_if_it_says_so() {
        assert_eq!(eject(&outlier(1), &members(&[1, 1]), Now(SECOND)), Some(30));
    }

    #[test]
    fn an_ejected_endpoint_is_not_ejected_again_until_it_is_back() {
        let (outlier, members) = (outlier(2), members(&[1, 1]));
        assert_eq!(eject(&outlier, &members, Now(SECOND)), Some(30));
        for _ in 0..100 {
            assert!(!outlier.failure(&members[0].health, Now(20 * SECOND), &members));
        }
        let back = Now(31 * SECOND);
        assert!(members[0].available(back));
        // It starts with a clean slate: one failure is not two.
        assert!(!outlier.failure(&members[0].health, back, &members));
        assert!(outlier.failure(&members[0].health, back, &members));
    }

    #[test]
    fn each_ejection_lasts_twice_as_long_up_to_the_most() {
        let (outlier, members) = (outlier(5), members(&[1, 1]));
        let mut now = Now(SECOND);
        let lengths: Vec<_> = (0..40)
            .map(|_| {
                let length = eject(&outlier, &members, now);
                now = Now(members[0].health.ejected_until.load(Relaxed));
                length
            })
            .collect();
        assert_eq!(lengths[..4], [Some(30), Some(60), Some(120), Some(240)]);
        assert!(
            lengths[4..].iter().all(|length| *length == Some(300)),
            "{lengths:?}"
        );
    }

    #[test]
    fn good_times_are_remembered_like_bad_ones() {
        let (outlier, members) = (outlier(5), members(&[1, 1]));
        let mut now = Now(SECOND);
        for length in [30, 60, 120] {
            assert_eq!(eject(&outlier, &members, now), Some(length));
            now = Now(members[0].health.ejected_until.load(Relaxed));
        }
        // Two times the base without an ejection: two of three are forgotten.
        let later = now.after(Duration::from_secs(60));
        assert_eq!(eject(&outlier, &members, later), Some(60));
        let much_later = later.after(Duration::from_secs(86_400));
        assert_eq!(eject(&outlier, &members, much_later), Some(30));
    }

    #[test]
    fn a_sole_endpoint_is_never_ejected() {
        assert_eq!(eject(&outlier(5), &members(&[1]), Now(SECOND)), None);
        // One of weight 0 takes no calls, and so is no company.
        assert_eq!(eject(&outlier(5), &members(&[1, 0, 0]), Now(SECOND)), None);
    }

    #[test]
    fn no_more_than_the_share_is_ejected_but_one_may_always_be() {
        for (count, percent, most) in [
            (2, 0, 1),
            (2, 10, 1),
            (5, 10, 1),
            (10, 10, 1),
            (20, 10, 2),
            (29, 10, 2),
            (4, 50, 2),
            (3, 100, 3),
        ] {
            let outlier = Outlier {
                max_percent: percent,
                ..outlier(1)
            };
            let members = members(&vec![1; count]);
            let fail = |each: &Arc<Endpoint>| outlier.failure(&each.health, Now(SECOND), &members);
            let ejected = members.iter().filter(|each| fail(each)).count();
            assert_eq!(ejected, most, "{percent} % of {count}");
        }
    }

    #[test]
    fn who_could_not_be_ejected_is_when_there_is_room() {
        let (outlier, members) = (outlier(2), members(&[1, 1, 1]));
        assert_eq!(eject(&outlier, &members, Now(SECOND)), Some(30));
        for _ in 0..10 {
            assert!(!outlier.failure(&members[1].health, Now(2 * SECOND), &members));
        }
        assert!(outlier.failure(&members[1].health, Now(31 * SECOND), &members));
    }

    #[test]
    fn of_many_workers_one_ejects() {
        let (outlier, members) = (outlier(5), members(&[1, 1]));
        let fail = || {
            let health = &members[0].health;
            (0..1000)
                .filter(|_| outlier.failure(health, Now(SECOND), &members))
                .count()
        };
        let ejections: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(fail)).collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap_or(0))
                .sum()
        });
        assert_eq!(ejections, 1);
    }

    #[test]
    fn extreme_durations_do_not_overflow() {
        let extreme = Outlier {
            consecutive: 1,
            base: Duration::MAX,
            max: Duration::MAX,
            max_percent: u32::MAX,
        };
        let members = members(&[1, 1]);
        assert!(extreme.failure(&members[0].health, Now(u64::MAX - 1), &members));
        let instant = Outlier {
            base: Duration::ZERO,
            ..extreme
        };
        assert!(instant.failure(&members[1].health, Now(SECOND), &members));
    }
}
