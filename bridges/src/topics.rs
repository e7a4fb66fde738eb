//! Names of topics that messages have chosen, bounded: each costs the producer memory, and the cluster a
//! question.
//!
//! Where all places are taken, whoever has more of them than another makes room: a client that thinks up
//! names takes its own places, not those of others.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

/// New names come in at this pace, and so many at once: each has the client ask the cluster about it, and
/// messages to others wait meanwhile.
const PACE: Duration = Duration::from_millis(10);
const AT_ONCE: u32 = 100;

type Known = HashMap<Box<str>, Used>;

/// A name in use.
struct Used {
    /// When it was used last, in milliseconds.
    at: AtomicU64,
    /// Who named it first, as a hash.
    owner: u64,
}

impl Clone for Used {
    fn clone(&self) -> Self {
        Self {
            at: self.at.load(Relaxed).into(),
            owner: self.owner,
        }
    }
}

/// Names in use.
pub struct Topics {
    most: usize,
    idle: Duration,
    since: Instant,
    hasher: RandomState,
    /// Read by every message, and replaced when a name comes or goes.
    known: ArcSwap<Known>,
    fresh: Mutex<Fresh>,
}

/// What is about new names only.
#[derive(Default)]
struct Fresh {
    /// When the last name would have come in at its pace.
    paced: Duration,
    /// Names that the producer has heard since it was started; it may forget none.
    heard: usize,
}

/// What becomes of a message to a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// It may go on.
    Yes,
    /// It may, and the producer has heard of so many that it is to begin anew.
    YesButRenew,
    /// Its name is new, and it is to come again.
    Later,
    /// There are too many names in use.
    Never,
}

impl fmt::Debug for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topics").finish_non_exhaustive()
    }
}

impl Topics {
    /// So many at a time; one that is idle for so long makes room.
    #[must_use]
    pub fn new(most: usize, idle: Duration) -> Self {
        Self {
            most,
            idle,
            since: Instant::now(),
            hasher: RandomState::new(),
            known: ArcSwap::default(),
            fresh: Mutex::default(),
        }
    }

    /// Whether a message may be written to this topic now, if it is this owner's.
    pub fn admit(&self, name: &str, owner: &str) -> Admitted {
        self.admit_at(name, owner, self.since.elapsed())
    }

    fn admit_at(&self, name: &str, owner: &str, now: Duration) -> Admitted {
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        if let Some(used) = self.known.load().get(name) {
            used.at.store(millis, Relaxed);
            return Admitted::Yes;
        }
        let owner = self.hasher.hash_one(owner);
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.known.load();
        if known.contains_key(name) {
            return Admitted::Yes;
        }
        let oldest = now.saturating_sub(self.idle);
        let stays = |used: &Used| u128::from(used.at.load(Relaxed)) >= oldest.as_millis();
        let full = known.len() >= self.most;
        let mut leaves = None;
        if full && known.values().all(stays) {
            leaves = makes_room(&known, owner);
            if leaves.is_none() {
                return Admitted::Never;
            }
        }
        let paced = fresh.paced.max(now);
        if paced - now >= PACE * AT_ONCE {
            return Admitted::Later;
        }
        fresh.paced = paced + PACE;
        fresh.heard += 1;
        let kept = known
            .iter()
            .filter(|(name, used)| (!full || stays(used)) && leaves != Some(&***name));
        let mut next: Known = kept
            .map(|(name, used)| (name.clone(), used.clone()))
            .collect();
        let at = millis.into();
        next.insert(name.into(), Used { at, owner });
        self.known.store(next.into());
        if fresh.heard > 2 * self.most {
            return Admitted::YesButRenew;
        }
        Admitted::Yes
    }

    /// The producer has begun anew: it has heard of nothing but what it is told from now on.
    pub fn renewed(&self) {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        fresh.heard = self.known.load().len();
    }
}

/// The name that leaves for one of this owner's: of whoever has the most names, and at least two more than
/// it, the one that was not used for longest.
fn makes_room(known: &Known, owner: u64) -> Option<&str> {
    let mut counts = HashMap::<u64, usize>::new();
    for used in known.values() {
        *counts.entry(used.owner).or_default() += 1;
    }
    let own = counts.get(&owner).copied().unwrap_or_default();
    let (largest, most) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    if most < own + 2 {
        return None;
    }
    let theirs = known.iter().filter(|(_, used)| used.owner == largest);
    let oldest = theirs.min_by_key(|(_, used)| used.at.load(Relaxed));
    oldest.map(|(name, _)| &**name)
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
            assert_eq!(topics.admit_at(name, "", at(n)), Admitted::Yes);
        }
        assert_eq!(topics.admit_at("d", "", at(3)), Admitted::Never);
        assert_eq!(topics.admit_at("a", "", at(59)), Admitted::Yes);
        assert_eq!(topics.admit_at("d", "", at(60)), Admitted::Never);
        assert_eq!(topics.admit_at("d", "", at(62)), Admitted::Yes);
        // The other two have left by now, or will.
        assert_eq!(topics.admit_at("e", "", at(63)), Admitted::Yes);
        assert_eq!(topics.admit_at("f", "", at(64)), Admitted::Never);
        assert_eq!(topics.admit_at("a", "", at(64)), Admitted::Yes);
    }

    #[test]
    fn who_has_many_names_makes_room_for_who_has_few() {
        let topics = Topics::new(4, HOUR);
        let admit = |name: &str, owner: &str, seconds: u64| {
            topics.admit_at(name, owner, HOUR + Duration::from_secs(seconds))
        };
        for (n, name) in (0..).zip(["a", "b", "c", "d"]) {
            assert_eq!(admit(name, "many", n), Admitted::Yes);
        }
        assert_eq!(admit("e", "many", 10), Admitted::Never);
        assert_eq!(admit("a", "many", 11), Admitted::Yes);
        // In the place of `b`, and of `c`.
        assert_eq!(admit("x", "few", 12), Admitted::Yes);
        assert_eq!(admit("b", "many", 13), Admitted::Never);
        assert_eq!(admit("y", "few", 14), Admitted::Yes);
        assert_eq!(admit("z", "few", 15), Admitted::Never);
        for name in ["a", "d", "x", "y"] {
            assert_eq!(admit(name, "anybody", 16), Admitted::Yes, "{name}");
        }
        assert_eq!(admit("o", "other", 17), Admitted::Yes);
        assert_eq!(admit("p", "other", 18), Admitted::Never);
    }

    #[test]
    fn new_names_come_at_their_pace_and_old_ones_at_any() {
        let topics = Topics::new(10_000, HOUR);
        let burst = |from: u64, now| {
            let names = (from..from + 1000).map(|n| n.to_string());
            let admitted = |name: String| topics.admit_at(&name, "", now) == Admitted::Yes;
            names.take_while(|name| admitted(name.clone())).count()
        };
        assert_eq!(burst(0, HOUR), 100);
        assert_eq!(topics.admit_at("1", "", HOUR), Admitted::Yes);
        assert_eq!(burst(5000, HOUR + 10 * PACE), 10);
    }

    #[test]
    fn a_producer_that_has_heard_of_too_many_begins_anew() {
        let topics = Topics::new(2, Duration::ZERO);
        let mut seen = Vec::new();
        for n in 0..6_u64 {
            seen.push(topics.admit_at(&n.to_string(), "", Duration::from_secs(n)));
        }
        assert_eq!(
            seen[3..],
            [Admitted::Yes, Admitted::YesButRenew, Admitted::YesButRenew]
        );
        topics.renewed();
        assert_eq!(topics.admit_at("x", "", HOUR), Admitted::Yes);
    }
}
