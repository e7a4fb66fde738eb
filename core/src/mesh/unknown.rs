//! The negative cache: services that a registry said, a moment ago, it does not know.
//!
//! Whoever invents names fills this and nothing else: it is small, it holds no name but its hash, and
//! an entry that is pushed out costs one more question to the registry.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Now;
use crate::discovery::Lookup;

/// How long a registry is not asked again.
const FOR: Duration = Duration::from_secs(1);
/// Services remembered, at most.
const MOST: usize = 4096;

/// Services that nobody has, by the hash of what was asked.
#[derive(Default)]
pub(super) struct Unknown(Mutex<Notes>);

#[derive(Default)]
pub(super) struct Notes {
    /// Keyed anew in each process, so that nobody can make hashes collide.
    hasher: RandomState,
    until: HashMap<u64, Now>,
}

impl Unknown {
    pub(super) fn lock(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Notes {
    /// Whether a registry said of late that it does not know it.
    pub(super) fn is_unknown(&self, lookup: &Lookup, now: Now) -> bool {
        let hash = self.hasher.hash_one(lookup);
        self.until.get(&hash).is_some_and(|until| *until > now)
    }

    /// Remembers that a registry does not know it.
    pub(super) fn note(&mut self, lookup: &Lookup, now: Now) {
        if self.until.len() >= MOST {
            self.until.retain(|_, until| *until > now);
            if self.until.len() >= MOST {
                self.until.clear();
            }
        }
        let hash = self.hasher.hash_one(lookup);
        self.until.insert(hash, now.after(FOR));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(service: &str) -> Lookup {
        Lookup {
            registry: "r".into(),
            layout: "l".into(),
            service: service.into(),
            version: "".into(),
            group: "".into(),
            protocol: "p".into(),
        }
    }

    #[test]
    fn it_is_remembered_for_a_moment_and_never_grows() {
        let unknown = Unknown::default();
        let mut notes = unknown.lock();
        notes.note(&lookup("a"), Now(0));
        assert!(notes.is_unknown(&lookup("a"), Now(0).after(FOR / 2)));
        assert!(!notes.is_unknown(&lookup("a"), Now(0).after(FOR)));
        assert!(!notes.is_unknown(&lookup("b"), Now(0)));
        for number in 0..3 * MOST {
            notes.note(&lookup(&number.to_string()), Now(0));
            assert!(notes.until.len() <= MOST);
        }
    }
}
