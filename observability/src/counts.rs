//! Counters of one series in one worker: plain loads and stores, since only its thread writes.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use finback_core::frame::{Lag, Outcome, Status};
use finback_core::record::{self, About, Ending, Record};
use finback_core::rejection::Rejection;

use crate::lags::Lags;
use crate::sink::{BUCKETS, Latencies};

/// Ends that one piece of the list has room for: most series know no more.
const PIECE: usize = 4;
/// Pieces, at most; the statuses of further ends are counted as one.
const PIECES: usize = 16;

/// How exchanges ended: with which outcome, and which status.
pub(crate) type End = (Ending, Status);
/// The status of what came when there was no room for another.
const OTHER: Status = Status(Status::NONE.0 - 1);

/// Endings that are not rejections.
const OTHER_ENDINGS: [Ending; 8] = [
    Ending::Answered(Outcome::Success),
    Ending::Answered(Outcome::Exception),
    Ending::Answered(Outcome::Invalid),
    Ending::Answered(Outcome::Failed),
    Ending::Answered(Outcome::Refused),
    Ending::Answered(Outcome::TimedOut),
    Ending::Sent,
    Ending::Abandoned,
];

/// One series of one worker.
#[derive(Default)]
pub(crate) struct Counts {
    ends: Ends,
    buckets: [AtomicU64; BUCKETS],
    micros: AtomicU64,
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
    /// Where lags are noted, and of which service; nowhere for what has no series of its own.
    lags: Option<(Arc<str>, Arc<Lags>)>,
}

/// Counts by end, in the order in which ends were first seen; a list in pieces, so that readers need
/// no lock while it grows.
#[derive(Default)]
struct Ends {
    slots: [Slot; PIECE],
    next: OnceLock<Box<Self>>,
}

#[derive(Default)]
struct Slot {
    /// The end as a number; 0 while the slot is free.
    end: AtomicU32,
    count: AtomicU64,
}

/// A series summed over workers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sums {
    pub(crate) ends: Vec<(End, u64)>,
    pub(crate) latencies: Latencies,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
}

impl record::Series for Counts {
    fn record(&self, record: &Record<'_>) {
        add(self.ends.of((record.ending, record.status)), 1);
        let micros = record.micros;
        add(&self.buckets[Latencies::bucket(micros)], 1);
        add(&self.micros, micros);
        add(&self.request_bytes, record.request_bytes);
        add(&self.response_bytes, record.response_bytes);
    }

    fn lag(&self, about: &dyn About, lag: Lag) {
        if let Some((service, lags)) = &self.lags {
            lags.note(service, about, lag);
        }
    }
}

fn add(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

/// An end as a number that is not 0.
fn number((ending, status): End) -> u32 {
    let place = match ending {
        Ending::Answered(Outcome::Success) => 0,
        Ending::Answered(Outcome::Exception) => 1,
        Ending::Answered(Outcome::Invalid) => 2,
        Ending::Answered(Outcome::Failed) => 3,
        Ending::Answered(Outcome::Refused) => 4,
        Ending::Answered(Outcome::TimedOut) => 5,
        Ending::Sent => 6,
        Ending::Abandoned => 7,
        Ending::Rejected(rejection) => OTHER_ENDINGS.len() as u32 + rejection as u32,
    };
    (place + 1) << 16 | u32::from(status.0)
}

/// The end of such a number.
fn end(number: u32) -> Option<End> {
    let place = (number >> 16).checked_sub(1)? as usize;
    let rejection = || {
        let place = place.checked_sub(OTHER_ENDINGS.len())?;
        Rejection::ALL.get(place).copied().map(Ending::Rejected)
    };
    let ending = OTHER_ENDINGS.get(place).copied().or_else(rejection)?;
    // The lower half is the status.
    Some((ending, Status(number as u16)))
}

impl Ends {
    /// The count of an end: most exchanges of a series end as the first did.
    fn of(&self, end: End) -> &AtomicU64 {
        let number = number(end);
        let [first, ..] = &self.slots;
        if first.end.load(Relaxed) == number {
            return &first.count;
        }
        let found = self.find(number, PIECES);
        // Endings are few: they always find room behind those.
        found
            .or_else(|| self.find(self::number((end.0, OTHER)), usize::MAX))
            .unwrap_or(&first.count)
    }

    /// The count of an end among the first so many pieces, new if there is room.
    fn find(&self, number: u32, pieces: usize) -> Option<&AtomicU64> {
        let mut piece = self;
        for _ in 0..pieces {
            for slot in &piece.slots {
                let known = slot.end.load(Relaxed);
                if known == 0 {
                    slot.end.store(number, Relaxed);
                }
                if known == 0 || known == number {
                    return Some(&slot.count);
                }
            }
            piece = piece.next.get_or_init(Box::default);
        }
        None
    }

    fn each(&self, mut see: impl FnMut(End, u64)) {
        let mut piece = Some(self);
        while let Some(own) = piece {
            for slot in &own.slots {
                if let Some(end) = end(slot.end.load(Relaxed)) {
                    see(end, slot.count.load(Relaxed));
                }
            }
            piece = own.next.get().map(|next| &**next);
        }
    }
}

impl Counts {
    /// Of a service whose lags are noted there.
    pub(crate) fn of(lags: Option<(Arc<str>, Arc<Lags>)>) -> Self {
        Self {
            lags,
            ..Self::default()
        }
    }

    pub(crate) fn add_to(&self, sums: &mut Sums) {
        self.ends.each(
            |end, count| match sums.ends.iter_mut().find(|(own, _)| *own == end) {
                Some((_, sum)) => *sum += count,
                None => sums.ends.push((end, count)),
            },
        );
        for (sum, count) in sums.latencies.buckets.iter_mut().zip(&self.buckets) {
            *sum += count.load(Relaxed);
        }
        sums.latencies.micros += self.micros.load(Relaxed);
        sums.request_bytes += self.request_bytes.load(Relaxed);
        sums.response_bytes += self.response_bytes.load(Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_a_number_of_its_own() {
        let rejections = Rejection::ALL.into_iter().map(Ending::Rejected);
        let mut numbers = Vec::new();
        for ending in OTHER_ENDINGS.into_iter().chain(rejections) {
            for status in [Status(0), Status(200), OTHER, Status::NONE] {
                let own = number((ending, status));
                assert_eq!(end(own), Some((ending, status)));
                numbers.push(own);
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(
            numbers.len(),
            4 * (OTHER_ENDINGS.len() + Rejection::ALL.len())
        );
        assert_eq!(end(0), None);
    }
}
