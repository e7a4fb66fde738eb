//! Session affinity by identifiers that brokers gave out: where a client that comes back with one belongs.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

/// Identifiers that are remembered; the oldest are forgotten.
const MAX: usize = 16 * 1024;

/// For each identifier that a broker chose, the key by which its broker had been chosen.
#[derive(Default)]
pub(crate) struct Sticky(Mutex<Learnt>);

#[derive(Default)]
struct Learnt {
    keys: HashMap<Box<str>, u64>,
    order: VecDeque<Box<str>>,
}

impl Sticky {
    /// What to choose a broker by for a client of this identifier.
    pub(crate) fn key(&self, client_id: &str) -> Option<String> {
        let learnt = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        learnt.keys.get(client_id).map(|key| text(*key))
    }

    /// Remembers that a broker chosen by `key` gave out an identifier.
    pub(crate) fn learn(&self, client_id: &str, key: u64) {
        let mut learnt = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if learnt.keys.insert(client_id.into(), key).is_none() {
            learnt.order.push_back(client_id.into());
        }
        while learnt.order.len() > MAX {
            if let Some(oldest) = learnt.order.pop_front() {
                learnt.keys.remove(&oldest);
            }
        }
    }
}

/// A key in the place of an identifier.
pub(crate) fn text(key: u64) -> String {
    format!("{key:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten() {
        let sticky = Sticky::default();
        for n in 0..=MAX as u64 {
            sticky.learn(&n.to_string(), n);
        }
        assert_eq!(sticky.key("0"), None);
        assert_eq!(sticky.key("1"), Some(text(1)));
        assert_eq!(sticky.key(&MAX.to_string()), Some(text(MAX as u64)));
    }
}
