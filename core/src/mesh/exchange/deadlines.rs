//! Deadlines of attempts: when one is given up, and whose time that was: the caller's, the route's, or a pause of ours.

use std::time::Duration;

use crate::clock::Now;
use crate::outlier::is_telling;

use super::super::lease::Lease;
use super::super::stall::Stall;
use super::super::verdict::{AttemptEnd, DeadlineOwner};
use super::super::view::LocalEndpoint;
use super::Exchange;

impl Exchange {
    /// When the attempt that starts now is given up.
    pub(crate) fn attempt_deadline(&self) -> Now {
        self.per_try_deadline(self.clock.get()).min(self.deadline)
    }

    /// The time that its route gives to each attempt.
    pub(crate) fn per_try_timeout(&self) -> Option<Duration> {
        self.retry().and_then(|retry| retry.per_try_timeout)
    }

    pub(super) fn per_try_deadline(&self, started: Now) -> Now {
        let per_try = self.per_try_timeout();
        per_try.map_or(Now(u64::MAX), |each| started.after(each))
    }

    /// Who set the time of the attempt under way, now that it has passed.
    pub(crate) fn whose_deadline(&self, lease: &Lease, stall: Stall) -> DeadlineOwner {
        if self.is_excused(lease, stall) {
            return DeadlineOwner::OurStall;
        }
        let Some(own) = self.own_timeout else {
            return DeadlineOwner::Route;
        };
        if self.per_try_deadline(lease.started) < self.deadline {
            return DeadlineOwner::Route;
        }
        let LocalEndpoint {
            cluster, endpoint, ..
        } = &*lease.local_endpoint;
        let long_enough = own >= cluster.spec.policy.connect_timeout
            && is_telling(&endpoint.health, lease.started, self.clock.get());
        if long_enough {
            DeadlineOwner::Caller
        } else {
            DeadlineOwner::TooShort
        }
    }

    /// Whether the time of an attempt tells nothing of its endpoint.
    pub(super) fn is_excused(&self, lease: &Lease, stall: Stall) -> bool {
        let patience = lease.local_endpoint.cluster.spec.policy.connect_timeout;
        stall.excuses(lease.started, self.clock.get(), patience)
    }

    /// The ending of an attempt to open a session that was neither granted nor refused in its time.
    pub(crate) fn unopened(&self, lease: &Lease, stall: Stall) -> AttemptEnd {
        let health = &lease.local_endpoint.endpoint.health;
        let is_told = is_telling(health, lease.started, self.clock.get());
        let telling = is_told && !self.is_excused(lease, stall);
        AttemptEnd::Unopened { telling }
    }

    /// The ending of an attempt whose caller has given up waiting: it tells something of an endpoint
    /// that was silent for longer than a connection may take, and answered nobody meanwhile. Else
    /// callers of little patience would go on coming to an endpoint that never answers.
    pub(crate) fn given_up(&self, lease: &Lease, stall: Stall) -> AttemptEnd {
        let LocalEndpoint {
            cluster, endpoint, ..
        } = &*lease.local_endpoint;
        let now = self.clock.get();
        let heard_since = lease.started.max(stall.until);
        let is_long = now.since(heard_since) >= cluster.spec.policy.connect_timeout;
        if is_long && is_telling(&endpoint.health, lease.started, now) {
            let whose = DeadlineOwner::Caller;
            return AttemptEnd::TimedOut { whose, sent: true };
        }
        AttemptEnd::Abandoned
    }
}
