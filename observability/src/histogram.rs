//! Counts durations by size, for one writer and any number of readers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The upper bounds of the buckets in microseconds, inclusive; one more bucket takes the rest.
pub(crate) const BOUNDS: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// A histogram that one thread writes.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_micros: AtomicU64,
}

/// What histograms counted, added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Durations {
    /// Durations per bucket, not cumulative.
    pub(crate) buckets: [u64; BOUNDS.len() + 1],
    pub(crate) sum_micros: u64,
}

impl Histogram {
    pub(crate) fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < micros);
        add(&self.buckets[bucket], 1);
        add(&self.sum_micros, micros);
    }

    pub(crate) fn add_to(&self, sum: &mut Durations) {
        for (own, total) in self.buckets.iter().zip(&mut sum.buckets) {
            *total += own.load(Relaxed);
        }
        sum.sum_micros = sum.sum_micros.wrapping_add(self.sum_micros.load(Relaxed));
    }
}

/// Adds without a locked instruction: right only where one thread writes.
pub(crate) fn add(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive_and_the_last_bucket_has_none() {
        let histogram = Histogram::default();
        for micros in [0, 100, 101, 10_000_000, 10_000_001, u64::MAX / 4] {
            histogram.record(Duration::from_micros(micros));
        }
        let mut sum = Durations::default();
        histogram.add_to(&mut sum);
        let last = BOUNDS.len();
        assert_eq!(sum.buckets[..2], [2, 1]);
        assert_eq!(sum.buckets[last - 1..], [1, 2]);
        assert_eq!(sum.buckets.iter().sum::<u64>(), 6);
        assert_eq!(sum.sum_micros, 20_000_202 + u64::MAX / 4);
    }

    #[test]
    fn bounds_grow() {
        assert!(BOUNDS.is_sorted_by(|a, b| a < b));
    }
}
