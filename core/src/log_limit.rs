//! A rate limiter for log lines: what clients can cause as often as they like is logged a few
//! times a second, and the rest is counted.
//!
//! ```
//! # use finback_core::clock::Now;
//! # use finback_core::log_limit::LogLimit;
//! static REFUSED: LogLimit = LogLimit::per_second(10);
//! # let now = Now(1);
//! if let Some(left_out) = REFUSED.admit(now) {
//!     tracing::info!(left_out, "refused");
//! }
//! ```

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::clock::Now;

/// Lines a second where nothing else is said.
const USUAL: u32 = 10;

/// The limiter of one line in the source, shared by all threads that may write it.
#[derive(Debug)]
pub struct LogLimit {
    per_second: u32,
    /// The second that is counted in, and the lines written in it.
    window: AtomicU64,
    left_out: AtomicU64,
}

impl LogLimit {
    /// As many lines a second as suit an event of one client.
    #[must_use]
    pub const fn usual() -> Self {
        Self::per_second(USUAL)
    }

    /// So many lines a second.
    #[must_use]
    pub const fn per_second(lines: u32) -> Self {
        Self {
            per_second: lines,
            window: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
        }
    }

    /// Whether the line may be written: the number of lines that were left out since the last
    /// one, or `None`, and this one is left out too.
    pub fn admit(&self, now: Now) -> Option<u64> {
        // Second in the upper half, count in the lower. Clocks of several meshes in one process
        // differ, so another second is a new one, be it earlier.
        let second = (now.0 / 1_000_000) & u64::from(u32::MAX);
        let counted = self.window.fetch_update(Relaxed, Relaxed, |window| {
            let count = if window >> 32 == second {
                window & u64::from(u32::MAX)
            } else {
                0
            };
            (count < u64::from(self.per_second)).then_some(second << 32 | (count + 1))
        });
        match counted {
            Ok(_) => Some(self.left_out.swap(0, Relaxed)),
            Err(_) => {
                self.left_out.fetch_add(1, Relaxed);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn lines_beyond_the_rate_are_counted_and_told_with_the_next() {
        let limit = LogLimit::per_second(2);
        let now = Now(5 * SECOND);
        assert_eq!(limit.admit(now), Some(0));
        assert_eq!(limit.admit(now), Some(0));
        for _ in 0..1000 {
            assert_eq!(limit.admit(Now(6 * SECOND - 1)), None);
        }
        assert_eq!(limit.admit(Now(6 * SECOND)), Some(1000));
        assert_eq!(limit.admit(Now(6 * SECOND)), Some(0));
        assert_eq!(limit.admit(Now(6 * SECOND)), None);
    }

    #[test]
    fn a_clock_that_began_later_is_not_silenced() {
        let limit = LogLimit::per_second(1);
        assert_eq!(limit.admit(Now(900 * SECOND)), Some(0));
        assert_eq!(limit.admit(Now(SECOND)), Some(0));
        assert_eq!(limit.admit(Now(SECOND)), None);
    }

    #[test]
    fn threads_share_one_rate() {
        let limit = LogLimit::per_second(100);
        let admitted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..1000)
                            .filter(|_| limit.admit(Now(SECOND)).is_some())
                            .count()
                    })
                })
                .collect();
            threads.into_iter().map(|own| own.join().unwrap_or(0)).sum()
        });
        assert_eq!(admitted, 100);
    }
}
