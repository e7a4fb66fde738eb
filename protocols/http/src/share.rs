//! Shares: who holds more than the average of what the connections of a worker hold together.
//!
//! Where all of it is too much, only those give something up: one peer does not pay for another's.

use std::cell::Cell;
use std::thread::LocalKey;

/// What all hold of one kind of thing in this worker, and how many hold some.
#[derive(Debug, Default)]
pub(crate) struct Total {
    amount: Cell<usize>,
    holders: Cell<usize>,
}

impl Total {
    pub(crate) const fn new() -> Self {
        Self {
            amount: Cell::new(0),
            holders: Cell::new(0),
        }
    }
}

/// One holder's part of a [`Total`].
#[derive(Debug)]
pub(crate) struct Share {
    all: &'static LocalKey<Total>,
    own: Cell<usize>,
}

impl Share {
    /// Nothing yet.
    pub(crate) const fn of(all: &'static LocalKey<Total>) -> Self {
        Self {
            all,
            own: Cell::new(0),
        }
    }

    /// Says how much it holds now.
    pub(crate) fn set(&self, own: usize) {
        let before = self.own.replace(own);
        if before == own {
            return;
        }
        // A worker's thread may be ending.
        let _ = self.all.try_with(|all| {
            all.amount.set(all.amount.get() - before + own);
            let holders = all.holders.get() + usize::from(own > 0) - usize::from(before > 0);
            all.holders.set(holders);
        });
    }

    /// Whether it holds as much as the mean holder, or more. Of several holders, one always does.
    pub(crate) fn is_large(&self) -> bool {
        let own = self.own.get();
        let mean = |all: &Total| own.saturating_mul(all.holders.get()) >= all.amount.get();
        own > 0 && self.all.with(mean)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    thread_local! {
        static ALL: Total = const { Total::new() };
    }

    #[test]
    fn those_above_the_mean_hold_too_much() {
        let [small, large, none] = [3, 9, 0].map(|own| {
            let share = Share::of(&ALL);
            share.set(own);
            share
        });
        assert!(large.is_large() && !small.is_large() && !none.is_large());
        drop(large);
        assert!(small.is_large());
        small.set(0);
        assert!(!small.is_large());
        assert_eq!(
            ALL.with(|all| (all.amount.get(), all.holders.get())),
            (0, 0)
        );
    }
}
