//! The retry budget: retries stay a bounded share of the calls in flight, so that they never become a storm.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// How many retries may be in flight at once. Shared by all workers.
#[derive(Debug)]
pub struct Budget {
    percent: u32,
    floor: u32,
    used: Arc<AtomicU32>,
}

impl Budget {
    /// A budget of `percent` of the calls in flight, but never less than `floor` retries.
    /// 0 percent allows no retry at all.
    #[must_use]
    pub fn new(percent: u32, floor: u32) -> Self {
        Self {
            percent,
            floor,
            used: Arc::default(),
        }
    }

    /// The same with another share: retries in flight now count for both.
    #[must_use]
    pub fn with_percent(&self, percent: u32) -> Self {
        Self {
            percent,
            floor: self.floor,
            used: self.used.clone(),
        }
    }

    /// Takes the right to one retry while `active` calls are in flight; `false` if there is
    /// none left. Each success is followed by one [`release`](Self::release).
    #[must_use]
    pub fn acquire(&self, active: u32) -> bool {
        if self.percent == 0 {
            return false;
        }
        let share = u64::from(active) * u64::from(self.percent) / 100;
        let limit = u32::try_from(share).unwrap_or(u32::MAX).max(self.floor);
        self.used
            .fetch_update(Relaxed, Relaxed, |used| (used < limit).then(|| used + 1))
            .is_ok()
    }

    /// Gives the right to one retry back.
    pub fn release(&self) {
        // A release too many must not open the budget to four billion retries.
        let _ = self
            .used
            .fetch_update(Relaxed, Relaxed, |used| used.checked_sub(1));
    }

    /// Retries in flight now.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.used.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(budget: &Budget, active: u32) -> u32 {
        let mut taken = 0;
        while budget.acquire(active) {
            taken += 1;
        }
        taken
    }

    #[test]
    fn the_share_of_active_calls_is_the_limit() {
        assert_eq!(take(&Budget::new(20, 3), 100), 20);
        assert_eq!(take(&Budget::new(20, 3), 10_000), 2000);
        assert_eq!(take(&Budget::new(100, 3), 7), 7);
    }

    #[test]
    fn few_calls_still_have_the_floor() {
        assert_eq!(take(&Budget::new(20, 3), 0), 3);
        assert_eq!(take(&Budget::new(20, 3), 15), 3);
        assert_eq!(take(&Budget::new(20, 3), 20), 4);
    }

    #[test]
    fn no_percent_is_no_retry() {
        assert_eq!(take(&Budget::new(0, 3), 10_000), 0);
    }

    #[test]
    fn what_is_released_can_be_taken_again() {
        let budget = Budget::new(20, 3);
        assert_eq!(take(&budget, 0), 3);
        budget.release();
        assert_eq!(budget.used(), 2);
        assert_eq!(take(&budget, 0), 1);
    }

    #[test]
    fn a_release_too_many_changes_nothing() {
        let budget = Budget::new(20, 3);
        budget.release();
        assert_eq!(take(&budget, 0), 3);
    }

    #[test]
    fn a_shrinking_load_shrinks_the_budget() {
        let budget = Budget::new(20, 3);
        assert_eq!(take(&budget, 50), 10);
        assert!(!budget.acquire(20));
        for _ in 0..7 {
            budget.release();
        }
        assert!(budget.acquire(20));
        assert!(!budget.acquire(20));
    }

    #[test]
    fn a_changed_share_counts_what_is_in_flight() {
        let before = Budget::new(20, 3);
        assert_eq!(take(&before, 50), 10);
        let after = before.with_percent(30);
        assert_eq!(take(&after, 50), 5);
        before.release();
        assert_eq!((before.used(), after.used()), (14, 14));
        assert!(after.acquire(50));
        assert!(!before.with_percent(0).acquire(50));
    }

    #[test]
    fn threads_together_never_exceed_it() {
        let budget = Budget::new(20, 3);
        let taken: u32 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| take(&budget, 1000)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or(0))
                .sum()
        });
        assert_eq!(taken, 200);
    }

    #[test]
    fn extreme_numbers_do_not_overflow() {
        let budget = Budget::new(u32::MAX, 3);
        assert!(budget.acquire(u32::MAX));
    }
}
