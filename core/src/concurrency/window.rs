//! A window of answers: how long they took, counted in buckets by all workers at once.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::clock::Now;

/// Parts of each power of two: a bucket is no wider than a sixteenth of its lower bound.
const PARTS: u64 = 16;
/// Buckets, up to 2^27 microseconds: more than two minutes.
const BUCKETS: usize = 24 * PARTS as usize;
/// No window is shorter, in microseconds.
const SHORTEST: u64 = 100_000;
/// Nor longer than these make it: how long answers take is known by then.
const LONGEST: f64 = 5_000_000.0;
/// What slow answers take before any was seen, in microseconds.
const UNKNOWN: u64 = 500_000;
/// A window ends with enough answers that their mean is known to this share of it (its standard error), going by the
/// spread of those before.
const CERTAIN: f64 = 0.08;
/// That is no fewer than the first, and no more than the last.
const ENOUGH: [u32; 2] = [50, 2000];
/// Or with so many, after `PATIENCE` microseconds.
const FEW: u32 = 20;
const PATIENCE: u64 = 500_000;
/// This share of answers shows how long the slow ones take.
const SLOW: f64 = 0.95;

/// Answers since it began.
#[derive(Debug)]
pub(super) struct Window {
    buckets: Box<[AtomicU32]>,
    answers: AtomicU32,
    /// The sum of the calls that were in flight when each of them came.
    beside: AtomicU64,
    /// Calls that were sent earlier do not count (microseconds).
    sent_since: AtomicU64,
    /// Nor answers that came earlier: those of calls sent since are the quickest ones.
    heard_since: AtomicU64,
    /// It is not over earlier.
    until: AtomicU64,
    /// Where its first answer comes later than this, there was silence before.
    silent_since: AtomicU64,
    /// What slow answers take (microseconds).
    slow: AtomicU64,
    /// It needs so many answers.
    enough: AtomicU32,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| AtomicU32::new(0)).collect(),
            answers: AtomicU32::new(0),
            beside: AtomicU64::new(0),
            sent_since: AtomicU64::new(0),
            heard_since: AtomicU64::new(0),
            until: AtomicU64::new(0),
            silent_since: AtomicU64::new(0),
            slow: AtomicU64::new(UNKNOWN),
            enough: AtomicU32::new(ENOUGH[0]),
        }
    }
}

/// What a window tells.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// What answers took on the average, the slowest left out; in microseconds.
    pub(super) latency: f64,
    /// What slow ones take.
    pub(super) slow: f64,
    /// Their standard deviation, as a share of the average.
    pub(super) spread: f64,
    /// How well the average is known: its standard error, as a share of it.
    pub(super) error: f64,
    /// Calls in flight on the average.
    pub(super) in_flight: f64,
    /// Answers in a microsecond.
    pub(super) rate: f64,
}

impl Window {
    /// Counts an answer to a call sent at `started` that took so many microseconds, while so many calls
    /// were in flight; whether the window is over.
    pub(super) fn note(&self, took: u64, in_flight: u32, started: Now, now: Now) -> bool {
        if started.0 < self.sent_since.load(Relaxed) || now.0 < self.heard_since.load(Relaxed) {
            return false;
        }
        if self.answers.load(Relaxed) == 0 && now.0 > self.silent_since.load(Relaxed) {
            // The first that come after a silence are the quickest ones.
            self.open(now, self.slow.load(Relaxed));
            return false;
        }
        self.buckets[bucket(took)].fetch_add(1, Relaxed);
        self.beside.fetch_add(u64::from(in_flight), Relaxed);
        self.answers.fetch_add(1, Relaxed);
        self.is_over(now)
    }

    /// Whether it has lasted long enough, and says enough.
    pub(super) fn is_over(&self, now: Now) -> bool {
        let until = self.until.load(Relaxed);
        let answers = self.answers.load(Relaxed);
        now.0 >= until
            && (answers >= self.enough.load(Relaxed) || answers >= FEW && now.0 - until >= PATIENCE)
    }

    /// Takes what it has counted, of which `percent` counts; answers that come meanwhile are of either
    /// window.
    pub(super) fn take(&self, percent: u32, now: Now) -> Seen {
        let lasted = now.0.saturating_sub(self.heard_since.load(Relaxed)).max(1);
        let counts: Vec<u32> = self
            .buckets
            .iter()
            .map(|own| own.swap(0, Relaxed))
            .collect();
        let answers = self.answers.swap(0, Relaxed);
        let beside = self.beside.swap(0, Relaxed);
        let all: u64 = counts.iter().map(|own| u64::from(*own)).sum();
        let most = (all as f64 * f64::from(percent) / 100.0).max(1.0);
        let (mut sum, mut squares, mut left, mut slow) = (0.0, 0.0, most, 0.0);
        for (at, count) in counts.iter().enumerate().filter(|(_, own)| **own > 0) {
            // The last one counts in part, so that a small change of the share is a small change of the mean.
            let part = f64::from(*count).min(left);
            if slow == 0.0 || most - left <= all as f64 * SLOW {
                slow = middle(at);
            }
            sum += part * middle(at);
            squares += part * middle(at).powi(2);
            left -= part;
        }
        let counted = (most - left).max(1.0);
        let latency = sum / counted;
        let variance = (squares / counted - latency * latency).max(0.0);
        let spread = variance.sqrt() / latency.max(1.0);
        Seen {
            latency,
            slow,
            spread,
            error: spread / counted.sqrt(),
            rate: f64::from(answers) / lasted as f64,
            in_flight: beside as f64 / f64::from(answers.max(1)),
        }
    }

    /// Begins anew; where the limit has changed so much that it `settles`, once all that was sent before has come.
    pub(super) fn begin(&self, now: Now, settles: bool, last: &Seen) {
        let slow = last.slow.min(LONGEST) as u64;
        self.slow.store(slow, Relaxed);
        let [least, most] = ENOUGH.map(f64::from);
        let enough = (last.spread / CERTAIN).powi(2).clamp(least, most);
        self.enough.store(enough as u32, Relaxed);
        if settles {
            self.sent_since.store(now.0, Relaxed);
        }
        self.open(now, if settles { slow } else { 0 });
    }

    /// Answers count from so many microseconds later on.
    fn open(&self, now: Now, settles: u64) {
        let slow = self.slow.load(Relaxed);
        let heard = now.0 + settles;
        self.heard_since.store(heard, Relaxed);
        self.until.store(heard + (slow / 2).max(SHORTEST), Relaxed);
        self.silent_since
            .store(heard + 2 * slow + SHORTEST, Relaxed);
    }
}

/// The bucket of so many microseconds.
fn bucket(micros: u64) -> usize {
    let at = if micros < PARTS {
        micros
    } else {
        let power = u64::from(micros.ilog2());
        (power - 3) * PARTS + (micros >> (power - 4)) % PARTS
    };
    usize::try_from(at).map_or(BUCKETS - 1, |at| at.min(BUCKETS - 1))
}

/// The middle of a bucket.
fn middle(at: usize) -> f64 {
    let (row, part) = (at as u64 / PARTS, at as u64 % PARTS);
    match row {
        0 => part as f64,
        _ => ((PARTS + part) as f64 + 0.5) * (1_u64 << (row - 1)) as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun() -> Window {
        let window = Window::default();
        window.begin(Now(0), false, &Seen::default());
        window
    }

    #[test]
    fn a_bucket_is_as_wide_as_its_place_allows() {
        for micros in (0..100_000).chain([1 << 20, (1 << 26) + 77, (1 << 27) - 1]) {
            let told = middle(bucket(micros));
            let error = (told - micros as f64).abs();
            assert!(error <= 0.5 + micros as f64 / 32.0, "{micros}: {told}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(bucket(1 << 27), BUCKETS - 1);
    }

    #[test]
    fn the_slowest_are_left_out_and_the_rest_averaged() {
        let window = begun();
        for _ in 0..90 {
            window.note(10, 7, Now(1), Now(11));
        }
        for _ in 0..10 {
            window.note(60_000_000, 7, Now(1), Now(11));
        }
        let seen = window.take(90, Now(11));
        assert_eq!((seen.latency, seen.in_flight), (10.0, 7.0));
        // It was taken.
        assert_eq!(window.take(90, Now(11)).latency, 0.0);
    }

    #[test]
    fn a_small_change_of_the_mix_is_a_small_change_of_the_mean() {
        let mean = |slow: usize| {
            let window = begun();
            for number in 0..1000 {
                let took = if number < slow { 50_000 } else { 5000 };
                window.note(took, 1, Now(0), Now(1));
            }
            window.take(90, Now(11)).latency
        };
        for slow in (0..900).step_by(10) {
            let (one, next) = (mean(slow), mean(slow + 10));
            assert!(next >= one && next - one <= 600.0, "{slow}: {one} {next}");
        }
    }

    #[test]
    fn what_was_sent_or_came_before_it_is_left_out() {
        let window = begun();
        let last = Seen {
            slow: 5000.0,
            ..Seen::default()
        };
        window.begin(Now(1_000_000), true, &last);
        for (started, now) in [(999_999, 1_006_000), (1_000_001, 1_004_999)] {
            assert!(!window.note(1, 1, Now(started), Now(now)));
        }
        assert_eq!(window.take(100, Now(11)).in_flight, 0.0);
        window.note(5999, 1, Now(1_000_001), Now(1_006_000));
        assert_eq!(window.take(100, Now(11)).in_flight, 1.0);
    }

    #[test]
    fn the_first_answers_after_a_silence_are_left_out() {
        let window = Window::default();
        // Nothing is known yet: half a second.
        assert!(!window.note(1, 1, Now(9), Now(10)));
        assert!(!window.note(1, 1, Now(9), Now(500_009)));
        assert_eq!(window.take(100, Now(500_009)).in_flight, 0.0);
        window.note(1, 1, Now(9), Now(500_010));
        assert_eq!(window.take(100, Now(500_010)).in_flight, 1.0);
        let last = Seen {
            slow: 155_000.0,
            ..Seen::default()
        };
        window.begin(Now(1_000_000), false, &last);
        window.note(5000, 1, Now(1_100_000), Now(1_400_000));
        assert_eq!(window.take(100, Now(1_400_000)).in_flight, 1.0);
        for later in [0, 5000, 154_999] {
            window.note(5000, 1, Now(1_500_000), Now(2_000_000 + later));
        }
        assert_eq!(window.take(100, Now(2_200_000)).in_flight, 0.0);
        window.note(5000, 1, Now(1_500_000), Now(2_155_000));
        assert_eq!(window.take(100, Now(2_200_000)).in_flight, 1.0);
    }

    #[test]
    fn it_ends_with_enough_answers_or_after_a_while() {
        let window = begun();
        let ends = |answers: u32, at: u64| {
            window.note(1000, 1, Now(1), Now(2));
            let ended = (1..answers).map(|_| window.note(1000, 1, Now(at - 1), Now(at)));
            let ended = ended.last();
            window.take(100, Now(11));
            ended
        };
        assert_eq!(ends(500, 99_999), Some(false));
        assert_eq!(ends(49, 100_000), Some(false));
        assert_eq!(ends(50, 100_000), Some(true));
        assert_eq!(ends(19, 600_000), Some(false));
        assert_eq!(ends(20, 599_999), Some(false));
        assert_eq!(ends(20, 600_000), Some(true));
    }
}
