//! Hedging: an attempt beside one that takes long. The first answer counts.

use std::rc::Rc;
use std::time::Duration;

use crate::concurrency::Timed;
use crate::frame::Outcome;
use crate::stats::increment;

use super::super::lease::Lease;
use super::super::local::LocalMesh;
use super::super::verdict::{AttemptEnd, rule};
use super::super::view::LocalEndpoint;
use super::{Attempt, Attributes, Exchange};

impl Exchange {
    /// How long an attempt may take before another is made beside it; `None` where attempts follow each other, or
    /// the call may not run twice.
    pub(crate) fn hedging_delay(&self) -> Option<Duration> {
        let retry = self.retry().filter(|own| own.idempotent)?;
        retry.hedging_delay.filter(|_| !self.is_last_attempt())
    }

    /// Asks for an attempt beside the one under way, at another endpoint and at the cost of retry budget. There is
    /// none where nobody else may take it: nothing is lost by that, and nobody hears of it.
    pub(crate) fn hedge(
        &mut self,
        local: &LocalMesh,
        first: &Lease,
        attributes: Attributes<'_, '_>,
    ) -> Option<Lease> {
        if self.is_last_attempt() || self.deadline <= self.clock.get() {
            return None;
        }
        self.free = false;
        let mishaps = self.mishaps();
        let known = mishaps.tried.len();
        mishaps.tried.push(first.address());
        mishaps.hedges = true;
        let attempt = self.attempt_at(local, attributes, false);
        let mishaps = self.mishaps();
        mishaps.hedges = false;
        mishaps.tried.truncate(known);
        // Whatever comes of it, it is the first attempt that is waited for.
        self.goes_on_with(first);
        match attempt {
            Ok(Attempt::Go(mut lease)) => {
                lease.hedge = true;
                increment(&lease.cluster().stats.hedges);
                Some(lease)
            }
            Ok(Attempt::Wait(_)) | Err(_) => None,
        }
    }

    /// Whether an attempt is to be made beside another, and its endpoint has that one.
    #[cold]
    pub(super) fn has_asked(&self, other: &Rc<LocalEndpoint>) -> bool {
        let hedges = self.mishaps.as_ref().is_some_and(|own| own.hedges);
        let own = self.local_endpoint.as_ref().filter(|_| hedges);
        own.is_some_and(|own| own.endpoint.address == other.endpoint.address)
    }

    /// One of two attempts is over; the call stays with the other one.
    pub(crate) fn over(&mut self, mut lease: Lease, end: AttemptEnd, stays: &Lease) {
        let refused = end == AttemptEnd::Answered(Outcome::Refused);
        let refused = refused && self.retry().is_some_and(|own| own.refused);
        lease.conclude(rule(end, refused).verdict);
        lease.end = Some(end);
        lease.hedge = false;
        match end {
            // That another was faster tells nothing of how many calls the cluster can take.
            AttemptEnd::Abandoned => lease.leave(Timed::Nothing),
            _ => lease.leave(lease.timed()),
        }
        if self.traced.is_none() && self.tails().is_some_and(|own| own.is_any()) {
            self.traced = self.late();
        }
        if let Some(traced) = &mut self.traced {
            let (now, target) = (self.clock.get(), lease.local_endpoint.target());
            traced.over((lease.number, lease.started), now, target, end.name());
        }
        self.goes_on_with(stays);
    }

    /// The attempt of this lease is the one that is waited for.
    fn goes_on_with(&mut self, lease: &Lease) {
        self.local_endpoint = Some(lease.local_endpoint.clone());
        self.attempted = lease.started;
        if let Some(traced) = &mut self.traced {
            traced.goes_on_with(lease.number, lease.started);
        }
    }

    /// Whether an attempt that is answered so leaves the call to the other one.
    pub(crate) fn is_left_to_other(outcome: Outcome) -> bool {
        matches!(outcome, Outcome::Failed | Outcome::Refused)
    }
}
