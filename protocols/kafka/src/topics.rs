//! Names of topics that messages have chosen, bounded: each costs the producer memory, and the cluster a
//! question.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

/// New names come in at this pace, and so many at once: each has the client ask the cluster about it, and
/// messages to others wait meanwhile.
const PACE: Duration = Duration::from_millis(10);
const AT_ONCE: u32 = 100;

/// When a name was used last, in milliseconds.
type Known = HashMap<Box<str>, AtomicU64>;

/// Names in use.
pub(crate) struct Topics {
    most: usize,
    idle: Duration,
    since: Instant,
    /// Read by every message, and replaced when a name comes or goes.
    known: ArcSwap<Known>,
    fresh: Mutex<Fresh>,
}

/// What is about new names only.
#[derive(Default)]
struct Fresh {
    /// When the last name would have come in at its pace.
    paced: Duration,
    /// Names that librdkafka has heard since it was started; it forgets none.
    heard: usize,
}

/// What becomes of a message to a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admitted {
    /// It may go on.
    Yes,
    /// It may, and the producer has heard of so many that it is to begin anew.
    YesButRenew,
    /// Its name is new, and it is to come again.
    Later,
    /// There are too many names in use.
    Never,
}

impl Topics {
    pub(crate) fn new(most: usize, idle: Duration) -> Self {
        Self {
            most,
            idle,
            since: Instant::now(),
            known: ArcSwap::default(),
            fresh: Mutex::default(),
        }
    }

    /// Whether a message may be written to this topic now.
    pub(crate) fn admit(&self, name: &str) -> Admitted {
        self.admit_at(name, self.since.elapsed())
    }

    fn admit_at(&self, name: &str, now: Duration) -> Admitted {
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        if let Some(used) = self.known.load().get(name) {
            used.store(millis, Relaxed);
            return Admitted::Yes;
        }
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.known.load();
        if known.contains_key(name) {
            return Admitted::Yes;
        }
        let oldest = now.saturating_sub(self.idle);
        let stays = |used: u64| u128::from(used) >= oldest.as_millis();
        let full = known.len() >= self.most;
        if full && known.values().all(|used| stays(used.load(Relaxed))) {
            return Admitted::Never;
        }
        let paced = fresh.paced.max(now);
        if paced - now >= PACE * AT_ONCE {
            return Admitted::Later;
        }
        fresh.paced = paced + PACE;
        fresh.heard += 1;
        let kept = known
            .iter()
            .map(|(name, used)| (name.clone(), used.load(Relaxed)));
        let kept = kept.filter(|(_, used)| !full || stays(*used));
        let mut next: Known = kept.map(|(name, used)| (name, used.into())).collect();
        next.insert(name.into(), millis.into());
        self.known.store(next.into());
        if fresh.heard > 2 * self.most {
            return Admitted::YesButRenew;
        }
        Admitted::Yes
    }

    /// The producer has begun anew: it has heard of nothing but what it is told from now on.
    pub(crate) fn renewed(&self) {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        fresh.heard = self.known.load().len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn names_are_bounded_and_idle_ones_leave() {
        let topics = Topics::new(3, HOUR);
        let at = |minutes: u64| HOUR + Duration::from_secs(60 * minutes);
        for (n, name) in (0..).zip(["a", "b", "c"]) {
            assert_eq!(topics.admit_at(name, at(n)), Admitted::Yes);
        }
        assert_eq!(topics.admit_at("d", at(3)), Admitted::Never);
        assert_eq!(topics.admit_at("a", at(59)), Admitted::Yes);
        assert_eq!(topics.admit_at("d", at(60)), Admitted::Never);
        assert_eq!(topics.admit_at("d", at(62)), Admitted::Yes);
        // The other two have left by now, or will.
        assert_eq!(topics.admit_at("e", at(63)), Admitted::Yes);
        assert_eq!(topics.admit_at("f", at(64)), Admitted::Never);
        assert_eq!(topics.admit_at("a", at(64)), Admitted::Yes);
    }

    #[test]
    fn new_names_come_at_their_pace_and_old_ones_at_any() {
        let topics = Topics::new(10_000, HOUR);
        let burst = |from: u64, now| {
            let names = (from..from + 1000).map(|n| n.to_string());
            let admitted = |name: String| topics.admit_at(&name, now) == Admitted::Yes;
            names.take_while(|name| admitted(name.clone())).count()
        };
        assert_eq!(burst(0, HOUR), 100);
        assert_eq!(topics.admit_at("1", HOUR), Admitted::Yes);
        assert_eq!(burst(5000, HOUR + 10 * PACE), 10);
    }

    #[test]
    fn a_producer_that_has_heard_of_too_many_begins_anew() {
        let topics = Topics::new(2, Duration::ZERO);
        let mut seen = Vec::new();
        for n in 0..6_u64 {
            seen.push(topics.admit_at(&n.to_string(), Duration::from_secs(n)));
        }
        assert_eq!(
            seen[3..],
            [Admitted::Yes, Admitted::YesButRenew, Admitted::YesButRenew]
        );
        topics.renewed();
        assert_eq!(topics.admit_at("x", HOUR), Admitted::Yes);
    }
}
