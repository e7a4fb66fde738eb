//! Growing pauses with jitter, so that many proxies do not come back as one.

use std::time::{Duration, Instant};

/// The first and the longest pause between two attempts.
const BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The longest wait of those who come after one another.
const SPREAD: Duration = Duration::from_millis(20);

/// What is lost so often, each time within so long, is not made again at once.
const LOSSES: u32 = 5;
const STEADY: Duration = Duration::from_secs(1);

/// The pause before the next attempt.
pub(super) struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(BOUNDS.0)
    }
}

impl Pause {
    /// Waits for a tenth of the pause to the whole of it; the next one is twice as long.
    pub(super) async fn wait(&mut self) {
        tokio::time::sleep(self.next()).await;
    }

    fn next(&mut self) -> Duration {
        let share = below(1000) as f64 / 1000.0;
        let pause = self.0.mul_f64(0.1 + 0.9 * share);
        self.0 = (self.0 * 2).min(BOUNDS.1);
        pause
    }
}

/// Of something held, how often it was lost in a row: the first times it is made again at once, for
/// somebody misses it, and if that goes on and on after pauses.
pub(super) struct Losses {
    begun: Instant,
    count: u32,
    pause: Pause,
}

impl Default for Losses {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            count: 0,
            pause: Pause::default(),
        }
    }
}

impl Losses {
    /// An attempt to hold it begins.
    pub(super) fn begin(&mut self) {
        self.begun = Instant::now();
    }

    /// It was lost: waits until it may be made again.
    pub(super) async fn wait(&mut self) {
        match self.next(self.begun.elapsed()) {
            1 => {}
            2..=LOSSES => spread().await,
            _ => self.pause.wait().await,
        }
    }

    /// Losses in a row, with this one, which came so long after the attempt began.
    fn next(&mut self, after: Duration) -> u32 {
        if after > STEADY {
            self.count = 0;
            self.pause = Pause::default();
        }
        self.count += 1;
        self.count
    }
}

/// Waits for a moment that differs for each who waits.
async fn spread() {
    tokio::time::sleep(SPREAD.mul_f64(below(1000) as f64 / 1000.0)).await;
}

/// A number below `limit`, another each time; 0 below nothing.
pub(super) fn below(limit: usize) -> usize {
    let hasher = std::hash::RandomState::new();
    let random = std::hash::BuildHasher::hash_one(&hasher, 0_u8);
    (random % limit.max(1) as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        let mut pause = Pause::default();
        let pauses: Vec<Duration> = (0..200).map(|_| pause.next()).collect();
        assert!(pauses[0] <= BOUNDS.0);
        assert!(pauses.iter().all(|pause| *pause <= BOUNDS.1));
        let late = &pauses[10..];
        assert!(late.iter().any(|pause| *pause > BOUNDS.1 / 2));
        assert!(late.iter().any(|pause| *pause < BOUNDS.1 / 2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_lost_is_made_again_at_once_unless_that_goes_on_and_on() {
        let mut losses = Losses::default();
        let mut waited = Vec::new();
        for _ in 0..LOSSES + 2 {
            losses.begin();
            let begun = tokio::time::Instant::now();
            losses.wait().await;
            waited.push(begun.elapsed());
        }
        let (soon, late) = waited.split_at(LOSSES as usize);
        // The clock ticks in milliseconds.
        let soonest = SPREAD + Duration::from_millis(2);
        assert_eq!(waited[0], Duration::ZERO);
        assert!(soon.iter().all(|wait| *wait <= soonest), "{waited:?}");
        assert!(late.iter().all(|wait| *wait >= BOUNDS.0 / 10), "{waited:?}");
        // Held for a while, it begins anew.
        assert_eq!(losses.next(2 * STEADY), 1);
        assert_eq!(losses.next(STEADY / 2), 2);
    }
}
