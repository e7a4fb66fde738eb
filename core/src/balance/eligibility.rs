//! Eligibility: which endpoints may be used for one call.

use std::cell::Cell;
use std::sync::Arc;

use crate::endpoint::{Endpoint, Standing};

use super::{PickArgs, PickError};

/// How choosy eligibility is. The kinds are tried in turn until an endpoint is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choosy {
    /// Passes over the tried, and those in doubt: none waits for an endpoint to show that it
    /// answers while others do.
    Most,
    /// Passes over the tried.
    Less,
    /// Only what holds for every call.
    Least,
}

/// The rules that hold whatever the policy.
pub(super) struct Eligibility<'a> {
    pub(super) members: &'a [Arc<Endpoint>],
    pub(super) ask: &'a PickArgs<'a>,
    choosy: Choosy,
    /// Found out when the first endpoint that is not available is proposed.
    panic: Cell<Option<Panic>>,
}

/// Whether so few endpoints are available that others are used, too: calls to the few would
/// only bring those down as well.
#[derive(Clone, Copy)]
enum Panic {
    No,
    /// Those that can be connected to. The others would send their calls back to the few.
    Reachable,
    /// All, for there are no others.
    All,
}

impl<'a> Eligibility<'a> {
    pub(super) fn new(members: &'a [Arc<Endpoint>], ask: &'a PickArgs<'a>, choosy: Choosy) -> Self {
        Self {
            members,
            ask,
            choosy,
            panic: Cell::new(None),
        }
    }

    /// Whether this member may be used.
    pub(super) fn admits(&self, member: usize) -> bool {
        let Some(endpoint) = self.members.get(member) else {
            return false;
        };
        // Asked first, because it is so for nearly all calls, and answers all of the rest.
        let has_no_bounds = self.ask.avoid.is_empty() && self.ask.per_endpoint == 0;
        if has_no_bounds && endpoint.weight > 0 && endpoint.health.is_well(self.ask.now) {
            return true;
        }
        self.may_be_used(endpoint)
            && !self.is_busy(endpoint)
            && (self.choosy == Choosy::Least || !self.ask.avoid.contains(&endpoint.address))
            && (self.choosy != Choosy::Most || !self.is_suspect(endpoint))
    }

    /// The member's weight now; 0 if there is no such member.
    pub(super) fn weight(&self, member: usize) -> u32 {
        self.members
            .get(member)
            .map_or(0, |endpoint| endpoint.weight_at(self.ask.now))
    }

    /// The members that may be used, by their places.
    pub(super) fn admitted(&self) -> impl Iterator<Item = usize> {
        (0..self.members.len()).filter(|member| self.admits(*member))
    }

    /// Why no member is admitted.
    pub(super) fn refusal(&self) -> PickError {
        let usable = self
            .members
            .iter()
            .any(|endpoint| self.may_be_used(endpoint));
        if usable {
            PickError::Busy
        } else {
            PickError::Empty
        }
    }

    fn may_be_used(&self, endpoint: &Endpoint) -> bool {
        endpoint.weight > 0
            && (endpoint.available(self.ask.now)
                || self.may_be_tried(endpoint)
                || match self.panic() {
                    Panic::No => false,
                    Panic::Reachable => !endpoint.health.is_unreachable(),
                    Panic::All => true,
                })
    }

    /// Whether this call may be the trial of an endpoint that was ejected. A call that failed
    /// once already had better go where others succeed.
    fn may_be_tried(&self, endpoint: &Endpoint) -> bool {
        let is_retry = !self.ask.avoid.is_empty() && self.choosy != Choosy::Least;
        !is_retry && endpoint.is_due(self.ask.now)
    }

    fn is_busy(&self, endpoint: &Endpoint) -> bool {
        self.ask.per_endpoint > 0 && endpoint.in_flight() >= self.ask.per_endpoint
    }

    /// A call with a key only makes way where no connection is being made: its home is its home
    /// also while that takes its time to answer. And one that was ejected is tried by one call anyway.
    fn is_suspect(&self, endpoint: &Endpoint) -> bool {
        let (health, now) = (&endpoint.health, self.ask.now);
        if self.ask.hash.is_some() || health.standing(now) == Standing::Due {
            return health.is_slow(now);
        }
        health.is_suspect(now)
    }

    fn panic(&self) -> Panic {
        if let Some(known) = self.panic.get() {
            return known;
        }
        let (mut all, mut available, mut reachable) = (0_u64, 0_u64, false);
        for endpoint in self.members.iter().filter(|endpoint| endpoint.weight > 0) {
            all += 1;
            available += u64::from(endpoint.available(self.ask.now));
            reachable |= !endpoint.health.is_unreachable();
        }
        let panic = if available * 100 >= all * u64::from(self.ask.panic_percent) {
            Panic::No
        } else if reachable {
            Panic::Reachable
        } else {
            Panic::All
        };
        self.panic.set(Some(panic));
        panic
    }
}
