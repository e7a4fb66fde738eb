//! Stalls of the control side: how long health checks, the admin port and reloads wait for each
//! other on their thread, and registries on theirs.
//!
//! A tick that comes late was held up by the turns of others: by a long one, or by thousands of short
//! ones.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the thread is looked at, which wakes an idle process: of a turn is seen what comes after the look was due,
/// so one longer than this and [`STALL`] together is a stall for sure.
const TICK: Duration = Duration::from_millis(100);
/// A tick that is later is a stall.
const STALL: Duration = Duration::from_millis(50);
/// The longest turn is forgotten after one to two of these.
const WINDOW: Duration = Duration::from_secs(60);

/// What was seen of the thread's turns.
#[derive(Debug, Default)]
pub struct Turns {
    longest: Mutex<Longest>,
    /// Ticks more than 50 ms late.
    stalls: AtomicU64,
}

#[derive(Debug, Default)]
struct Longest {
    now: Duration,
    before: Duration,
    since: Option<Instant>,
}

impl Turns {
    /// Looks from now on at the thread that runs this, which must be a task of its runtime's.
    pub async fn keep_looking(self: Arc<Self>) {
        let mut due = Instant::now() + TICK;
        loop {
            tokio::time::sleep_until(due.into()).await;
            let now = Instant::now();
            self.note(now.saturating_duration_since(due), now);
            due = now + TICK;
        }
    }

    fn note(&self, late: Duration, now: Instant) {
        let mut longest = self.longest.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *longest.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= WINDOW {
            longest.before = std::mem::take(&mut longest.now);
            longest.since = Some(now);
        }
        longest.now = longest.now.max(late);
        if late > STALL {
            self.stalls.fetch_add(1, Ordering::Relaxed);
            let thread = std::thread::current();
            let thread = thread.name().unwrap_or_default();
            tracing::debug!(thread, ?late, "a thread of the control side was held up");
        }
    }

    /// The longest of the last one to two minutes.
    #[must_use]
    pub fn longest(&self) -> Duration {
        let longest = self.longest.lock().unwrap_or_else(PoisonError::into_inner);
        longest.now.max(longest.before)
    }

    /// Times that it was longer than 50 ms.
    #[must_use]
    pub fn stalls(&self) -> u64 {
        self.stalls.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_turn_is_forgotten_after_its_time() {
        let turns = Turns::default();
        let begun = Instant::now();
        let at = |secs| begun + Duration::from_secs(secs);
        turns.note(Duration::from_millis(3), at(0));
        turns.note(Duration::from_millis(80), at(1));
        turns.note(Duration::from_millis(2), at(59));
        assert_eq!(turns.longest(), Duration::from_millis(80));
        turns.note(Duration::from_millis(4), at(61));
        assert_eq!(turns.longest(), Duration::from_millis(80));
        turns.note(Duration::from_millis(5), at(122));
        assert_eq!(turns.longest(), Duration::from_millis(5));
        assert_eq!(turns.stalls(), 1);
    }

    #[tokio::test]
    async fn a_task_that_holds_the_thread_is_seen() {
        let turns = Arc::<Turns>::default();
        let looking = tokio::spawn(turns.clone().keep_looking());
        tokio::time::sleep(Duration::from_millis(50)).await;
        let end = Instant::now() + Duration::from_millis(250);
        while Instant::now() < end {
            std::hint::spin_loop();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        // At least what is left of it after one look was due and before the next.
        assert!(turns.longest() >= Duration::from_millis(100), "{turns:?}");
        assert!(turns.stalls() >= 1);
        looking.abort();
    }
}
