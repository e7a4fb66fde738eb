//! The counters of one series, written by one worker.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use finback_core::frame::Outcome;
use finback_core::record::{Ending, Record, Series};
use finback_core::rejection::Rejection;

use crate::histogram::{Durations, Histogram, add};

/// Endings other than rejections.
const OTHERS: usize = 7;
/// All endings.
pub(crate) const ENDINGS: usize = OTHERS + Rejection::ALL.len();

/// One worker's counters of one series.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    endings: [AtomicU64; ENDINGS],
    durations: Histogram,
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
}

/// Counters added up.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) endings: [u64; ENDINGS],
    pub(crate) durations: Durations,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
}

impl Counters {
    pub(crate) fn add_to(&self, totals: &mut Totals) {
        for (own, total) in self.endings.iter().zip(&mut totals.endings) {
            *total += own.load(Relaxed);
        }
        self.durations.add_to(&mut totals.durations);
        totals.request_bytes += self.request_bytes.load(Relaxed);
        totals.response_bytes += self.response_bytes.load(Relaxed);
    }
}

impl Series for Counters {
    fn record(&self, record: &Record) {
        add(&self.endings[number(record.ending)], 1);
        self.durations.record(record.took);
        add(&self.request_bytes, record.request_bytes);
        add(&self.response_bytes, record.response_bytes);
    }
}

/// The place of an ending among the counters; below [`ENDINGS`].
fn number(ending: Ending) -> usize {
    match ending {
        Ending::Answered(Outcome::Success) => 0,
        Ending::Answered(Outcome::Exception) => 1,
        Ending::Answered(Outcome::Failed) => 2,
        Ending::Answered(Outcome::Refused) => 3,
        Ending::Answered(Outcome::TimedOut) => 4,
        Ending::Sent => 5,
        Ending::Abandoned => 6,
        // The enum has as many variants as `Rejection::ALL`: a test compares them.
        Ending::Rejected(rejection) => OTHERS + rejection as usize,
    }
}

/// All endings, each in its place.
pub(crate) fn endings() -> impl Iterator<Item = Ending> {
    [
        Ending::Answered(Outcome::Success),
        Ending::Answered(Outcome::Exception),
        Ending::Answered(Outcome::Failed),
        Ending::Answered(Outcome::Refused),
        Ending::Answered(Outcome::TimedOut),
        Ending::Sent,
        Ending::Abandoned,
    ]
    .into_iter()
    .chain(Rejection::ALL.map(Ending::Rejected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ending_has_its_own_place() {
        let numbers: Vec<usize> = endings().map(number).collect();
        assert_eq!(numbers, (0..ENDINGS).collect::<Vec<_>>());
    }
}
