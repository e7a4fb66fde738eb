//! The baseline: what answers take where no call waits for another.

use crate::clock::Now;

/// Seconds that are remembered. Only those count in which anything was seen: what is learnt before an idle
/// night holds in the morning.
const SECONDS: usize = 10;
const SECOND: u64 = 1_000_000;

/// The least of the last seconds' means, in microseconds. A mean of a second, and not its least: where some calls take long
/// and others do not, a few that happen to be quick are no sign of what answers take.
#[derive(Clone, Debug, Default)]
pub(super) struct Baseline {
    /// What was seen in each, the latest last.
    seconds: Vec<Seconds>,
}

#[derive(Clone, Copy, Debug)]
struct Seconds {
    number: u64,
    sum: f64,
    windows: f64,
}

impl Baseline {
    /// What is known.
    pub(super) fn value(&self) -> Option<f64> {
        let each = self.seconds.iter().map(|own| own.sum / own.windows);
        each.reduce(f64::min)
    }

    /// Answers took so long in a window, with nothing that pressed the endpoints. With each second the oldest is
    /// forgotten, so that it may rise again little by little.
    pub(super) fn note(&mut self, latency: f64, now: Now) {
        let number = now.0 / SECOND;
        if let Some(own) = self.seconds.last_mut().filter(|own| own.number == number) {
            own.sum += latency;
            own.windows += 1.0;
            return;
        }
        if self.seconds.len() >= SECONDS {
            self.seconds.remove(0);
        }
        self.seconds.push(Seconds {
            number,
            sum: latency,
            windows: 1.0,
        });
    }

    /// Answers took so long while the endpoints were pressed: that can only show that less is possible, and one window
    /// shows half of it.
    pub(super) fn lower(&mut self, latency: f64, now: Now) {
        match self.value() {
            None => self.note(latency, now),
            Some(own) if latency < own => self.reset((own + latency) / 2.0, now),
            Some(_) => {}
        }
    }

    /// All that was seen before is of the past: answers take so long now.
    pub(super) fn reset(&mut self, latency: f64, now: Now) {
        self.seconds.clear();
        self.note(latency, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(number: u64) -> Now {
        Now(number * SECOND)
    }

    #[test]
    fn it_is_the_least_mean_of_ten_seconds_in_which_anything_was_seen() {
        let mut baseline = Baseline::default();
        assert_eq!(baseline.value(), None);
        baseline.note(15.0, second(1));
        baseline.note(5.0, second(1));
        for number in 2..=10 {
            baseline.note(30.0, second(number));
            assert_eq!(baseline.value(), Some(10.0), "{number}");
        }
        // A night without calls.
        baseline.note(40.0, second(30_000));
        assert_eq!(baseline.value(), Some(30.0));
    }

    #[test]
    fn pressed_endpoints_can_lower_it_and_never_raise_it() {
        let mut baseline = Baseline::default();
        baseline.lower(10.0, second(1));
        for number in 2..100 {
            baseline.lower(12.0, second(number));
        }
        assert_eq!(baseline.value(), Some(10.0));
        baseline.lower(8.0, second(100));
        assert_eq!(baseline.value(), Some(9.0));
    }

    #[test]
    fn a_reset_forgets_what_was_less() {
        let mut baseline = Baseline::default();
        baseline.note(10.0, second(1));
        baseline.reset(100.0, second(1));
        assert_eq!(baseline.value(), Some(100.0));
    }
}
