//! Labels of metrics, capped: which services have series of their own though no route or registry names them: those that answered.
//!
//! A route for any service to a configured cluster knows no names, and its endpoints may answer to any
//! that a caller invents. So what is learnt from answers is bounded, for each listener by itself.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

/// Methods of all services that are learnt for one listener, at most.
const METHODS: usize = 512;

/// What was learnt, by listener.
#[derive(Default)]
pub(crate) struct Learned {
    /// Keyed anew in each process, so that nobody can make hashes collide.
    hasher: RandomState,
    listeners: Mutex<HashMap<Arc<str>, Services>>,
}

/// By hashes, so that no name is kept.
#[derive(Default)]
struct Services {
    methods: HashMap<u64, HashSet<u64>>,
    total: usize,
}

impl Learned {
    /// Whether a method has a series: its service answered before, and there is room for the method.
    /// `answered` says that it answered now.
    pub(crate) fn learn(
        &self,
        listener: &Arc<str>,
        protocol: &str,
        service: &str,
        method: &str,
        answered: bool,
    ) -> bool {
        let service = self.hasher.hash_one((protocol, service));
        let method = self.hasher.hash_one(method);
        let mut listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !answered && !listeners.contains_key(listener) {
            return false;
        }
        let services = listeners.entry(listener.clone()).or_default();
        if !answered && !services.methods.contains_key(&service) {
            return false;
        }
        let known = services.methods.get(&service);
        if known.is_some_and(|methods| methods.contains(&method)) {
            return true;
        }
        if services.total >= METHODS {
            return false;
        }
        services.total += 1;
        services.methods.entry(service).or_default().insert(method)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_answered_is_learnt_and_only_so_much() {
        let learned = Learned::default();
        let front: Arc<str> = "front".into();
        assert!(!learned.learn(&front, "p", "a", "m", false));
        assert!(learned.learn(&front, "p", "a", "m", true));
        // Another method of a service that answered, but not of another protocol's.
        assert!(learned.learn(&front, "p", "a", "n", false));
        assert!(!learned.learn(&front, "q", "a", "n", false));
        for number in 0..2 * METHODS {
            learned.learn(&front, "p", &number.to_string(), "m", true);
        }
        assert!(!learned.learn(&front, "p", "late", "m", true));
        assert!(learned.learn(&front, "p", "a", "m", false));
        // Other listeners have their own room.
        assert!(learned.learn(&"other".into(), "p", "late", "m", true));
    }
}
