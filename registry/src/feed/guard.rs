//! Empty protection: an offer that is suddenly empty is not believed for a while.

use std::time::{Duration, Instant};

/// Decides which offers to believe.
pub(super) struct EmptyProtection {
    protection: Duration,
    /// Providers of the last accepted offer, and the store's epoch then.
    last: Option<(usize, Option<u64>)>,
    doubted_until: Option<Instant>,
}

impl EmptyProtection {
    pub(super) fn new(protection: Duration) -> Self {
        Self {
            protection,
            last: None,
            doubted_until: None,
        }
    }

    pub(super) fn protection(&self) -> Duration {
        self.protection
    }

    /// An empty offer is looked at again then, if one is doubted.
    pub(super) fn doubted_until(&self) -> Option<Instant> {
        self.doubted_until
    }

    pub(super) fn accepted(&mut self, providers: usize, epoch: Option<u64>) {
        self.last = Some((providers, epoch));
        self.doubted_until = None;
    }

    /// Whether an offer of so many providers is to be believed. An empty one is if there was
    /// none before, if the last provider was taken away while the store was well, or if it
    /// stays empty for the time of protection.
    pub(super) fn admits(&mut self, providers: usize, epoch: u64, now: Instant) -> bool {
        let doubtful = providers == 0
            && match self.last {
                None | Some((0, _)) => false,
                Some((1, before)) => before != Some(epoch),
                Some(_) => true,
            };
        if doubtful {
            let until = *self.doubted_until.get_or_insert(now + self.protection);
            if now < until {
                return false;
            }
        }
        self.accepted(providers, Some(epoch));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(1);

    #[test]
    fn an_offer_suddenly_empty_is_doubted_for_a_while() {
        let mut guard = EmptyProtection::new(Duration::from_secs(30));
        let now = Instant::now();
        assert!(guard.admits(0, 1, now));
        assert!(guard.admits(3, 1, now));
        assert!(!guard.admits(0, 1, now));
        assert!(!guard.admits(0, 1, now + SOON));
        assert!(guard.admits(0, 1, now + Duration::from_secs(31)));
    }

    #[test]
    fn a_single_removal_counts_at_once_unless_the_store_was_away() {
        let mut guard = EmptyProtection::new(Duration::from_secs(30));
        let now = Instant::now();
        assert!(guard.admits(2, 1, now));
        assert!(guard.admits(1, 1, now));
        assert!(guard.admits(0, 1, now));
        assert!(guard.admits(1, 1, now));
        assert!(!guard.admits(0, 2, now));
        assert!(guard.admits(1, 2, now));
        assert!(guard.admits(0, 2, now));
    }

    #[test]
    fn what_comes_back_ends_the_doubt() {
        let mut guard = EmptyProtection::new(Duration::from_secs(30));
        let now = Instant::now();
        assert!(guard.admits(3, 1, now));
        assert!(!guard.admits(0, 2, now));
        assert!(guard.admits(2, 2, now + SOON));
        assert!(!guard.admits(0, 3, now + Duration::from_secs(29)));
        assert!(!guard.admits(0, 3, now + Duration::from_secs(31)));
    }
}
