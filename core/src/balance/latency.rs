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
