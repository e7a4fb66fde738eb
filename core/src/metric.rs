//! Metrics: what a number of the process is called, and what it means.

/// How a metric's numbers change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Numbers that were observed, counted in buckets.
    Histogram,
}

impl MetricKind {
    /// Its name, as the metrics page has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric: one name, and a number for each set of labels.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// How its numbers change.
    pub kind: MetricKind,
    /// What is counted: `seconds`, `bytes`, `calls`, ...; `1` for yes or no, and for shares.
    pub unit: &'static str,
    /// One sentence that says what it means.
    pub help: &'static str,
    /// The names of its labels, in order.
    pub labels: &'static [&'static str],
}

impl Family {
    /// One that only grows.
    #[must_use]
    pub const fn counter(
        name: &'static str,
        unit: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self {
            name,
            kind: MetricKind::Counter,
            unit,
            help,
            labels,
        }
    }

    /// One that goes up and down.
    #[must_use]
    pub const fn gauge(
        name: &'static str,
        unit: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self {
            kind: MetricKind::Gauge,
            ..Self::counter(name, unit, labels, help)
        }
    }

    /// One whose numbers are counted in buckets.
    #[must_use]
    pub const fn histogram(
        name: &'static str,
        unit: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self {
            kind: MetricKind::Histogram,
            ..Self::counter(name, unit, labels, help)
        }
    }
}
