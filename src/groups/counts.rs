//! What became of the messages of each topic of a consumer group, and how far the group is behind.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use finback_rocketmq::Queue;

/// Numbers about one topic of a group. What is behind is known of the queues that are followed here.
#[derive(Debug, Default)]
pub struct GroupCounts {
    /// Messages that brokers gave; one that comes again counts again.
    pub taken: AtomicU64,
    /// Messages that Kafka has confirmed.
    pub delivered: AtomicU64,
    /// Attempts at a message that Kafka did not confirm; another one follows each.
    pub failed: AtomicU64,
    /// Messages that Kafka will never take.
    pub left_out: AtomicU64,
    /// How many messages are left in each queue, by its broker and its number.
    lags: Mutex<BTreeMap<(Arc<str>, i32), u64>>,
}

/// A group at work.
#[derive(Debug)]
pub struct GroupStatus {
    /// Its cluster, as the configuration names it.
    pub cluster: String,
    /// Its name.
    pub group: String,
    /// Each of its topics.
    pub topics: Vec<(String, Arc<GroupCounts>)>,
}

impl GroupCounts {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Arc<str>, i32), u64>> {
        self.lags.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many messages the group has still before it in the queues that are followed here; `None` as long as no broker
    /// has said where one of them ends.
    #[must_use]
    pub fn lag(&self) -> Option<u64> {
        let lags = self.lock();
        (!lags.is_empty()).then(|| lags.values().sum())
    }

    /// A queue ends at `end`, and the group is at `at`.
    pub(super) fn set_lag(&self, queue: &Queue, at: i64, end: i64) {
        // A group may be set behind the end of its queue.
        let left = u64::try_from(end.saturating_sub(at)).unwrap_or_default();
        self.lock().insert((queue.broker.clone(), queue.id), left);
    }

    /// A queue is not followed here any more.
    pub(super) fn forget(&self, queue: &Queue) {
        self.lock().remove(&(queue.broker.clone(), queue.id));
    }

    pub(super) fn add(count: &AtomicU64, messages: usize) {
        count.fetch_add(messages as u64, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_is_that_of_the_queues_that_are_followed() {
        let queue = |broker: &str, id| Queue {
            broker: broker.into(),
            id,
            address: "a".into(),
        };
        let (one, two) = (queue("b1", 0), queue("b2", 0));
        let counts = GroupCounts::default();
        assert_eq!(counts.lag(), None);
        counts.set_lag(&one, 7, 10);
        counts.set_lag(&two, 0, 4);
        assert_eq!(counts.lag(), Some(7));
        counts.set_lag(&one, 10, 10);
        assert_eq!(counts.lag(), Some(4));
        // Whoever has it now says how far it is.
        counts.forget(&two);
        assert_eq!(counts.lag(), Some(0));
        counts.set_lag(&one, 11, 10);
        assert_eq!(counts.lag(), Some(0));
        counts.forget(&one);
        assert_eq!(counts.lag(), None);
    }
}
