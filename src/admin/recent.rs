//! The slowest exchanges of the last quarter of an hour, and the last that failed.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use finback_core::record::{Record, SeriesKey};
use finback_observability::{Watcher, Watchers, Watching};
use serde_json::{Value, json};

use super::seen::{is_error, shown};

/// Slow exchanges that are kept of a minute.
const SLOW: usize = 20;
/// Minutes of which they are kept.
const MINUTES: usize = 15;
/// Failed ones that are kept.
const FAILED: usize = 100;
/// Failed ones that are looked at in a second: they are alike when they are many.
const FAILED_PER_SECOND: u32 = 20;
/// Of each kind so many are shown.
const SHOWN: usize = 50;

/// What is kept. A worker that finds another one writing goes on: what it would have written is lost.
#[derive(Default)]
struct Kept {
    /// What a slow one of this minute takes at least to be kept, in microseconds.
    floor: AtomicU64,
    /// Room for failed ones in this second.
    room: AtomicU32,
    lists: Mutex<Lists>,
}

#[derive(Default)]
struct Lists {
    /// The slowest of this minute, the slowest first.
    slow: Vec<(u64, Value)>,
    /// The same of minutes before, the last one first.
    before: VecDeque<Vec<(u64, Value)>>,
    failed: VecDeque<Value>,
}

impl Watcher for Kept {
    fn see(&self, key: &SeriesKey, record: &Record<'_>) {
        let micros = record.micros;
        let is_failed = is_error(record.ending) && self.room.load(Relaxed) > 0;
        if micros <= self.floor.load(Relaxed) && !is_failed {
            return;
        }
        let Ok(mut lists) = self.lists.try_lock() else {
            return;
        };
        let value = shown(key, record);
        if is_failed {
            let _ = self
                .room
                .fetch_update(Relaxed, Relaxed, |room| room.checked_sub(1));
            lists.failed.truncate(FAILED - 1);
            lists.failed.push_front(value.clone());
        }
        let at = lists.slow.partition_point(|(own, _)| *own >= micros);
        if at < SLOW {
            lists.slow.truncate(SLOW - 1);
            lists.slow.insert(at, (micros, value));
            if let (SLOW, Some((least, _))) = (lists.slow.len(), lists.slow.last()) {
                self.floor.store(*least, Relaxed);
            }
        }
    }

    fn successes_from(&self) -> u64 {
        self.floor.load(Relaxed).saturating_add(1)
    }
}

impl Kept {
    /// Begins another minute.
    fn turn(&self) {
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        let minute = std::mem::take(&mut lists.slow);
        lists.before.truncate(MINUTES - 1);
        lists.before.push_front(minute);
        self.floor.store(0, Relaxed);
    }
}

/// The slowest and the failed exchanges, for as long as this lives.
pub(super) struct Recent {
    kept: Arc<Kept>,
    _watching: Watching,
}

impl Recent {
    /// Begins to look.
    pub(super) fn begin(watchers: &Arc<Watchers>) -> Self {
        let kept = Arc::<Kept>::default();
        kept.room.store(FAILED_PER_SECOND, Relaxed);
        let weak = Arc::downgrade(&kept);
        let asked = Arc::downgrade(watchers);
        tokio::spawn(async move {
            for second in 1_u64.. {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let Some(kept) = weak.upgrade() else { return };
                kept.room.store(FAILED_PER_SECOND, Relaxed);
                if second.is_multiple_of(60) {
                    kept.turn();
                }
                // Two workers that ask at once may forget what a third one made of it.
                if let Some(watchers) = asked.upgrade() {
                    watchers.ask();
                }
            }
        });
        Self {
            _watching: watchers.add(kept.clone()),
            kept,
        }
    }

    pub(super) fn value(&self) -> Value {
        let lists = self
            .kept
            .lists
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let minutes = std::iter::once(&lists.slow).chain(&lists.before);
        let mut slow: Vec<_> = minutes.flatten().collect();
        slow.sort_by_key(|(micros, _)| std::cmp::Reverse(*micros));
        let slow: Vec<_> = slow.into_iter().take(SHOWN).map(|(_, own)| own).collect();
        let failed: Vec<_> = lists.failed.iter().take(SHOWN).collect();
        json!({ "slowest": slow, "failed": failed })
    }
}

#[cfg(test)]
mod tests {
    use finback_core::frame::Outcome;
    use finback_core::record::{Ending, Ends};

    use super::*;

    const NOBODY: Ends = Ends {
        source: std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        endpoint: None,
    };

    fn see(kept: &Kept, millis: u64, outcome: Outcome) {
        let key = SeriesKey {
            protocol: "p",
            known: true,
            listener: "l".into(),
            service: "s".into(),
            method: "m".into(),
        };
        let record = Record {
            micros: millis * 1000,
            ..Record::new(Ending::Answered(outcome), &NOBODY)
        };
        kept.see(&key, &record);
    }

    fn slowest(kept: &Kept) -> Vec<u64> {
        let lists = kept.lists.lock().unwrap_or_else(PoisonError::into_inner);
        lists.slow.iter().map(|(micros, _)| micros / 1000).collect()
    }

    #[test]
    fn the_slowest_of_a_minute_are_kept_in_order() {
        let kept = Kept::default();
        for millis in (1..=200).rev().chain(1..=200) {
            see(&kept, millis, Outcome::Success);
        }
        let own = slowest(&kept);
        assert_eq!(own.len(), SLOW);
        assert!(own.is_sorted_by(|a, b| a >= b), "{own:?}");
        assert_eq!(own[0], 200);
        assert_eq!(kept.floor.load(Relaxed), own[SLOW - 1] * 1000);
        kept.turn();
        assert!(slowest(&kept).is_empty());
        see(&kept, 1, Outcome::Success);
        assert_eq!(slowest(&kept), [1]);
    }

    #[test]
    fn failed_ones_are_kept_as_far_as_there_is_room() {
        let kept = Kept::default();
        kept.room.store(3, Relaxed);
        for _ in 0..10 {
            see(&kept, 0, Outcome::Failed);
            see(&kept, 0, Outcome::Success);
        }
        let lists = kept.lists.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(lists.failed.len(), 3);
    }
}
