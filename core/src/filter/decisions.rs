//! Decisions of filters, counted.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a count is about: the filter's name, the rule's ("" where none applied), and what was decided.
pub type DecisionKey = (Arc<str>, Arc<str>, &'static str);

/// Counts of what filters decided, by filter, rule and decision. Names are those of the configuration, so there are
/// as many as it has.
#[derive(Debug, Default)]
pub struct Decisions(Mutex<BTreeMap<DecisionKey, Arc<AtomicU64>>>);

impl Decisions {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<DecisionKey, Arc<AtomicU64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counts of one filter.
    #[must_use]
    pub fn of(self: &Arc<Self>, filter: &Arc<str>) -> Tally {
        Tally {
            all: self.clone(),
            filter: filter.clone(),
        }
    }

    /// Lets go of the counts of filters that are gone.
    pub(crate) fn keep(&self, is_there: impl Fn(&str) -> bool) {
        self.lock().retain(|(filter, ..), _| is_there(filter));
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<(DecisionKey, u64)> {
        let counts = self.lock();
        let counts = counts.iter();
        counts
            .map(|(key, count)| (key.clone(), count.load(Relaxed)))
            .collect()
    }
}

/// The counts of one filter.
#[derive(Clone, Debug)]
pub struct Tally {
    all: Arc<Decisions>,
    filter: Arc<str>,
}

impl Tally {
    /// The count of one decision of one rule. To be kept: it is looked up.
    #[must_use]
    pub fn count(&self, rule: &Arc<str>, decision: &'static str) -> Arc<AtomicU64> {
        let key = (self.filter.clone(), rule.clone(), decision);
        self.all.lock().entry(key).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_are_counted_by_filter_and_rule_and_forgotten_with_their_filter() {
        let all = Arc::new(Decisions::default());
        let names = ["one", "other"].map(Arc::<str>::from);
        let rule = Arc::from("rule");
        for name in &names {
            // Each worker asks for the same count.
            for _ in 0..2 {
                all.of(name).count(&rule, "denied").fetch_add(1, Relaxed);
            }
        }
        let counted = |filter: &str| {
            let all = all.all().into_iter();
            let own = all.filter(|((name, ..), _)| **name == *filter);
            own.map(|(_, count)| count).collect::<Vec<_>>()
        };
        assert_eq!((counted("one"), counted("other")), (vec![2], vec![2]));
        all.keep(|name| name == "other");
        assert_eq!((counted("one"), counted("other")), (vec![], vec![2]));
    }
}
