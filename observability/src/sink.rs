//! The sink of metrics: one walk over all of them feeds every exporter, so that all show
//! the same numbers.

use finback_core::metric::Family;

/// Upper bounds of the buckets of latency histograms, in microseconds: 50 us to 60 s.
pub const BOUNDS: [u64; 19] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];
/// All buckets, the one of what is beyond the last bound included.
pub(crate) const BUCKETS: usize = BOUNDS.len() + 1;

/// Latencies that were observed, by bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    /// How many fell into each bucket.
    pub buckets: [u64; BUCKETS],
    /// Their sum in microseconds.
    pub micros: u64,
}

impl Latencies {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// What came after `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let mut grown = self.clone();
        for (own, before) in grown.buckets.iter_mut().zip(before.buckets) {
            *own = own.saturating_sub(before);
        }
        grown.micros = self.micros.saturating_sub(before.micros);
        grown
    }

    /// A quantile in microseconds: within its bucket, latencies are taken for spread evenly. What is
    /// beyond the last bound is taken for that.
    pub(crate) fn quantile(&self, quantile: f64) -> f64 {
        let rank = quantile * self.count() as f64;
        let mut below = 0.0;
        for (at, count) in self.buckets.iter().enumerate() {
            let count = *count as f64;
            if count > 0.0 && below + count >= rank {
                let lower = at.checked_sub(1).map_or(0, |at| BOUNDS[at]) as f64;
                let upper = BOUNDS.get(at).map_or(lower, |bound| *bound as f64);
                return lower + (upper - lower) * ((rank - below) / count).clamp(0.0, 1.0);
            }
            below += count;
        }
        BOUNDS[BOUNDS.len() - 1] as f64
    }

    /// The bucket of a latency.
    pub(crate) fn bucket(micros: u64) -> usize {
        BOUNDS.partition_point(|bound| *bound < micros)
    }
}

/// The number of one series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MetricValue<'a> {
    /// A whole number.
    Count(u64),
    /// Any number.
    Number(f64),
    /// Latencies.
    Latencies(&'a Latencies),
}

/// An exporter.
pub trait MetricSink {
    /// Begins a metric: its series follow. Each metric is begun once.
    fn family(&mut self, family: &'static Family);

    /// A series of the metric that was begun last: the values of its labels, in the order of the
    /// family's, and its number.
    fn series(&mut self, labels: &[&str], value: MetricValue<'_>);
}

/// What helps to fill a sink.
impl dyn MetricSink + '_ {
    /// A metric without labels.
    pub fn single(&mut self, family: &'static Family, value: MetricValue<'_>) {
        self.family(family);
        self.series(&[], value);
    }
}
