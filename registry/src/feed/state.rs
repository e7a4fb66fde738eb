//! The states of feeds, counted as they change: there may be tens of thousands of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Of how many feeds of one registry something is true.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    waiting: AtomicUsize,
    doubted: AtomicUsize,
    from_disk: AtomicUsize,
}

impl Counts {
    /// Those that have no offer yet.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Those whose offer is empty, which is doubted.
    pub(crate) fn doubted(&self) -> usize {
        self.doubted.load(Ordering::Relaxed)
    }

    /// Those whose offer is the snapshot of an earlier run.
    pub(crate) fn remembered(&self) -> usize {
        self.from_disk.load(Ordering::Relaxed)
    }
}

/// What an operator wants to know of a feed.
pub(super) struct State {
    counts: Arc<Counts>,
    /// There is no offer yet.
    waiting: AtomicBool,
    /// An empty offer is being doubted.
    doubted: AtomicBool,
    /// Its offer is the snapshot of an earlier run.
    from_disk: AtomicBool,
    /// We may not read it and never could, and nothing is known of it.
    refused: AtomicBool,
}

impl State {
    /// Of a feed that has no offer yet.
    pub(super) fn new(counts: &Arc<Counts>) -> Self {
        let state = Self {
            counts: counts.clone(),
            waiting: AtomicBool::new(false),
            doubted: AtomicBool::new(false),
            from_disk: AtomicBool::new(false),
            refused: AtomicBool::new(false),
        };
        set(&state.waiting, &counts.waiting, true);
        state
    }

    /// There is an offer, of an earlier run or of now.
    pub(super) fn offered(&self, from_disk: bool) {
        set(&self.waiting, &self.counts.waiting, false);
        set(&self.from_disk, &self.counts.from_disk, from_disk);
    }

    /// Whether an empty offer is doubted. Whether one was.
    pub(super) fn doubt(&self, doubted: bool) -> bool {
        set(&self.doubted, &self.counts.doubted, doubted)
    }

    /// Whether we may not read it, and nothing is known of it.
    pub(super) fn refuse(&self, refused: bool) {
        self.refused.store(refused, Ordering::Relaxed);
    }

    pub(super) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        set(&self.waiting, &self.counts.waiting, false);
        set(&self.doubted, &self.counts.doubted, false);
        set(&self.from_disk, &self.counts.from_disk, false);
    }
}

/// Says something of one feed, and counts it. What was said before.
fn set(own: &AtomicBool, count: &AtomicUsize, now: bool) -> bool {
    let before = own.swap(now, Ordering::Relaxed);
    match (before, now) {
        (false, true) => drop(count.fetch_add(1, Ordering::Relaxed)),
        (true, false) => drop(count.fetch_sub(1, Ordering::Relaxed)),
        _ => {}
    }
    before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn feeds_are_counted_by_what_is_true_of_them() {
        let counts = Arc::new(Counts::default());
        let all = || (counts.waiting(), counts.doubted(), counts.remembered());
        let [first, second] = [(); 2].map(|()| State::new(&counts));
        assert_eq!(all(), (2, 0, 0));
        first.offered(true);
        first.offered(true);
        assert_eq!(all(), (1, 0, 1));
        assert!(!first.doubt(true) && first.doubt(true));
        assert_eq!(all(), (1, 1, 1));
        drop(second);
        first.offered(false);
        assert_eq!(all(), (0, 1, 0));
        drop(first);
        assert_eq!(all(), (0, 0, 0));
    }
}
