//! Growing pauses with jitter, so that many proxies do not come back as one.

use std::time::Duration;

/// The first and the longest pause between two attempts.
const BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The longest wait of those who come after one another.
const SPREAD: Duration = Duration::from_millis(20);

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

/// Waits for a moment that differs for each who waits.
pub(super) async fn spread() {
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
}
