//! An endpoint's standing, whether it takes calls: one number, which workers change by compare-exchange.
//!
//! ```text
//!               ejected                time is over            one call wins
//!   Available ----------> Ejected(until) ----------> Due ----------------------> OnTrial(until)
//!       ^                     ^                       ^                              |
//!       |                     | the trial failed      | it told nothing, or took     |
//!       |                     +-----------------------|------- too long -------------|
//!       +------------------------- the trial succeeded -----------------------------+
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::clock::Now;

use super::Health;

/// How an endpoint stands with the calls that might go to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It takes calls.
    Available,
    /// It takes none until then.
    Ejected(Now),
    /// Its time is over: one call may try it.
    Due,
    /// One call is trying it; if that says nothing until then, another may.
    OnTrial(Now),
}

/// The atomic form: 0 is available; else the moment, doubled, and one more on trial.
#[derive(Debug, Default)]
pub(crate) struct Stand(AtomicU64);

/// A value that a [`Stand`] had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen(u64);

impl Seen {
    pub(crate) const AVAILABLE: Self = Self(0);

    /// Out until this moment.
    pub(crate) fn ejected(until: Now) -> Self {
        Self(until.0.clamp(1, u64::MAX >> 1) << 1)
    }

    fn on_trial(until: Now) -> Self {
        Self(Self::ejected(until).0 | 1)
    }

    pub(crate) fn standing(self, now: Now) -> Standing {
        let until = Now(self.0 >> 1);
        if self == Self::AVAILABLE {
            Standing::Available
        } else if until <= now {
            Standing::Due
        } else if self.0 & 1 == 1 {
            Standing::OnTrial(until)
        } else {
            Standing::Ejected(until)
        }
    }
}

impl Stand {
    pub(crate) fn load(&self) -> Seen {
        Seen(self.0.load(Relaxed))
    }

    /// Changes it if nobody else did since it was `seen`.
    pub(crate) fn change(&self, seen: Seen, to: Seen) -> bool {
        self.0
            .compare_exchange(seen.0, to.0, Relaxed, Relaxed)
            .is_ok()
    }

    #[cfg(test)]
    pub(crate) fn set(&self, to: Seen) {
        self.0.store(to.0, Relaxed);
    }
}

/// What makes a call more than a call: that it tries an endpoint for those that follow. It goes
/// to the outlier's word on the call; dropped without one, it is given back, so that another
/// call may try.
///
/// Few calls try an endpoint, and all leases have room for this: so it is kept apart.
#[derive(Debug)]
#[must_use = "an endpoint that nobody tries never takes calls again"]
pub struct Trial(Box<Tried>);

#[derive(Debug)]
struct Tried {
    health: Arc<Health>,
    of: Of,
}

#[derive(Debug)]
enum Of {
    /// An endpoint that was ejected: only one call tries it.
    Ejected { own: Seen, since: Now },
    /// One that takes calls, but has yet to answer: a few do.
    Unproven,
}

impl Trial {
    /// Has a call try an endpoint that was ejected, if that is due for it and no other call was
    /// quicker. Until `until`, no other may.
    pub(crate) fn of_ejected(health: &Arc<Health>, now: Now, until: Now) -> Option<Self> {
        let seen = health.stand.load();
        if seen.standing(now) != Standing::Due {
            return None;
        }
        let own = Seen::on_trial(until);
        let of = Of::Ejected { own, since: now };
        let changed = health.stand.change(seen, own);
        changed.then(|| Self::new(health, of))
    }

    /// Has a call try an endpoint that has yet to answer.
    pub(crate) fn of_unproven(health: &Arc<Health>, now: Now) -> Option<Self> {
        (!health.is_proven()).then(|| {
            health.begin_trial(now);
            Self::new(health, Of::Unproven)
        })
    }

    fn new(health: &Arc<Health>, of: Of) -> Self {
        let health = health.clone();
        Self(Box::new(Tried { health, of }))
    }

    /// Whether it decides if an ejected endpoint takes calls again.
    pub(crate) fn decides(&self) -> bool {
        matches!(self.0.of, Of::Ejected { .. })
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        let Tried { health, of } = &*self.0;
        match *of {
            // If it was decided, or took too long, the number is no longer its own.
            Of::Ejected { own, since } => {
                health.stand.change(own, Seen::ejected(since));
            }
            Of::Unproven => health.end_trial(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: Now = Now(2_000_000);

    fn due() -> Arc<Health> {
        let health = Arc::new(Health::default());
        health.stand.set(Seen::ejected(Now(10)));
        health
    }

    #[test]
    fn time_turns_ejected_into_due_and_no_further() {
        let health = due();
        assert_eq!(health.standing(Now(9)), Standing::Ejected(Now(10)));
        assert_eq!(health.standing(Now(10)), Standing::Due);
        assert_eq!(health.standing(Now(u64::MAX)), Standing::Due);
        assert_eq!(Health::default().standing(Now(0)), Standing::Available);
    }

    #[test]
    fn one_call_tries_at_a_time() {
        let health = due();
        assert!(Trial::of_ejected(&health, Now(9), LATER).is_none());
        let trial = Trial::of_ejected(&health, Now(20), LATER);
        assert!(trial.is_some());
        assert_eq!(health.standing(Now(20)), Standing::OnTrial(LATER));
        assert!(Trial::of_ejected(&health, Now(20), LATER).is_none());
        drop(trial);
        assert!(Trial::of_ejected(&health, Now(20), LATER).is_some());
    }

    #[test]
    fn a_trial_that_takes_too_long_lets_another_try() {
        let health = due();
        let slow = Trial::of_ejected(&health, Now(20), Now(100));
        let second = Trial::of_ejected(&health, Now(100), Now(200));
        assert!(slow.is_some() && second.is_some());
        // What the first had is not its to give back.
        drop(slow);
        assert_eq!(health.standing(Now(150)), Standing::OnTrial(Now(200)));
    }

    #[test]
    fn of_many_workers_one_tries() {
        let health = due();
        let take = || {
            let taken = (0..1000).map(|_| Trial::of_ejected(&health, Now(20), LATER));
            taken.flatten().collect::<Vec<_>>().len()
        };
        // Kept until all have asked.
        let kept = || (0..1000).find_map(|_| Trial::of_ejected(&health, Now(20), LATER));
        let trials: Vec<_> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(kept)).collect();
            let joined = workers.into_iter().filter_map(|worker| worker.join().ok());
            joined.flatten().collect()
        });
        assert_eq!(trials.len(), 1);
        drop(trials);
        assert_eq!(take(), 1, "kept within the collection");
    }

    #[test]
    fn extreme_moments_do_not_overflow() {
        let seen = Seen::ejected(Now(u64::MAX));
        assert!(matches!(seen.standing(Now(1)), Standing::Ejected(_)));
        assert_eq!(Seen::ejected(Now(0)).standing(Now(1)), Standing::Due);
    }
}
