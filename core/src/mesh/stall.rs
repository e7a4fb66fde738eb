//! Time in which this process did not run: nobody is to be blamed for it.

use std::time::Duration;

use crate::clock::Now;

/// Time in which we did not run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stall {
    /// What was waited for was due in it.
    pub(crate) is_late: bool,
    /// When we last went on after some.
    pub(crate) until: Now,
}

impl Stall {
    /// Whether the time of an attempt that began then tells nothing of its endpoint: it passed while we did not run, or we
    /// went on so short a while ago that the endpoint, which may have got the request only then, was not heard for
    /// `patience`.
    pub(super) fn excuses(self, started: Now, now: Now, patience: Duration) -> bool {
        let is_across = started < self.until;
        self.is_late || is_across && now.since(self.until) < patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_judged_by_time_in_which_it_was_heard() {
        let excuses = |is_late: bool, until: u64, started: u64, now: u64| {
            let at = |millis: u64| Now(millis * 1000);
            let until = at(until);
            let patience = Duration::from_millis(1000);
            Stall { is_late, until }.excuses(at(started), at(now), patience)
        };
        // It began before we stood still, and was due just after.
        assert!(excuses(false, 5000, 3000, 5000));
        assert!(excuses(false, 5000, 3000, 5999));
        // It was heard for long enough since.
        assert!(!excuses(false, 5000, 3000, 6000));
        // It began after that.
        assert!(!excuses(false, 5000, 5000, 5100));
        assert!(!excuses(false, 0, 3000, 3100));
        // It was due while we stood still.
        assert!(excuses(true, 5000, 5000, 9000));
    }
}
