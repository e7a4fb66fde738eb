//! The peak-sensitive moving average of an endpoint's answer times.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::clock::{Now, micros};
use crate::endpoint::Health;

/// The time in which an old value loses all but 1/e of its say.
const DECAY: Duration = Duration::from_secs(10);
/// What is expected of an endpoint that has calls in flight and has answered none yet.
const UNKNOWN_NANOS: f64 = 1e9;

/// Notes that an answer took `nanos` nanoseconds. A value above the average replaces it at once,
/// one below pulls it down over the next 10 s: trouble is believed sooner than recovery.
/// Workers that write in the same instant may lose one of their values.
pub fn observe_latency(health: &Health, nanos: u64, now: Now) {
    let before = health.ewma_nanos.load(Relaxed);
    let kept = share_left(health, now);
    let (nanos, before) = (nanos as f64, before as f64);
    let average = if nanos >= before {
        nanos
    } else {
        before * kept + nanos * (1.0 - kept)
    };
    // 0 would say that nothing is known. The cast saturates.
    health.ewma_nanos.store((average as u64).max(1), Relaxed);
    health.ewma_at.fetch_max(now.0, Relaxed);
}

/// How long an answer is expected to take: the average, falling towards zero while no answer
/// comes, so that an endpoint that was slow once is tried again.
pub(super) fn expected_nanos(health: &Health, now: Now) -> f64 {
    let average = health.ewma_nanos.load(Relaxed);
    if average > 0 {
        return average as f64 * share_left(health, now);
    }
    if health.in_flight.load(Relaxed) > 0 {
        UNKNOWN_NANOS
    } else {
        0.0
    }
}

/// How much of its say the average has left at `now`.
fn share_left(health: &Health, now: Now) -> f64 {
    let age = now.since(Now(health.ewma_at.load(Relaxed)));
    (-(micros(age) as f64) / micros(DECAY) as f64).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn average(health: &Health) -> u64 {
        health.ewma_nanos.load(Relaxed)
    }

    #[test]
    fn a_peak_counts_at_once() {
        let health = Health::default();
        observe_latency(&health, 5_000, Now(SECOND));
        assert_eq!(average(&health), 5_000);
        observe_latency(&health, 9_000_000, Now(SECOND));
        assert_eq!(average(&health), 9_000_000);
    }

    #[test]
    fn better_answers_pull_it_down_in_ten_seconds() {
        let health = Health::default();
        observe_latency(&health, 1_000_000, Now(SECOND));
        for tick in 1..=1000 {
            observe_latency(&health, 1, Now(SECOND + tick * SECOND / 100));
        }
        // After the time of decay, 1/e is left.
        assert!(
            average(&health).abs_diff(367_879) < 1000,
            "{}",
            average(&health)
        );
    }

    #[test]
    fn what_is_expected_falls_while_no_answer_comes() {
        let health = Health::default();
        observe_latency(&health, 1_000_000, Now(SECOND));
        assert!((expected_nanos(&health, Now(SECOND)) - 1e6).abs() < 1.0);
        assert!((expected_nanos(&health, Now(11 * SECOND)) - 367_879.4).abs() < 1.0);
        assert!(expected_nanos(&health, Now(1000 * SECOND)) < 1e-9);
    }

    #[test]
    fn an_older_answer_that_comes_late_does_no_harm() {
        let health = Health::default();
        observe_latency(&health, 1_000_000, Now(10 * SECOND));
        observe_latency(&health, 1_000, Now(9 * SECOND));
        assert_eq!(average(&health), 1_000_000);
        assert_eq!(health.ewma_at.load(Relaxed), 10 * SECOND);
    }

    #[test]
    fn no_time_at_all_is_still_known() {
        let health = Health::default();
        observe_latency(&health, 0, Now(SECOND));
        assert_eq!(average(&health), 1);
        observe_latency(&health, u64::MAX, Now(SECOND));
        assert_eq!(average(&health), u64::MAX);
    }

    #[test]
    fn the_unknown_is_free_until_it_owes_an_answer() {
        let health = Health::default();
        assert!(expected_nanos(&health, Now(SECOND)) <= 0.0);
        health.in_flight.store(1, Relaxed);
        assert!(expected_nanos(&health, Now(SECOND)) > 1e8);
    }
}
