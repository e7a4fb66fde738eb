//! Which endpoints may be used for one call.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::endpoint::Endpoint;

use super::{Ask, NoPick};

/// The rules that hold whatever the policy.
pub(super) struct Gate<'a> {
    pub(super) members: &'a [Arc<Endpoint>],
    pub(super) ask: &'a Ask<'a>,
    avoid: &'a [SocketAddr],
    /// Found out when the first endpoint that is not available is proposed.
    panic: Cell<Option<bool>>,
}

impl<'a> Gate<'a> {
    pub(super) fn new(
        members: &'a [Arc<Endpoint>],
        ask: &'a Ask<'a>,
        avoid: &'a [SocketAddr],
    ) -> Self {
        Self {
            members,
            ask,
            avoid,
            panic: Cell::new(None),
        }
    }

    /// Whether this member may be used.
    pub(super) fn admits(&self, member: usize) -> bool {
        let Some(endpoint) = self.members.get(member) else {
            return false;
        };
        self.may_be_used(endpoint)
            && !self.is_busy(endpoint)
            && !self.avoid.contains(&endpoint.address)
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
    pub(super) fn refusal(&self) -> NoPick {
        let usable = self
            .members
            .iter()
            .any(|endpoint| self.may_be_used(endpoint));
        if usable { NoPick::Busy } else { NoPick::Empty }
    }

    fn may_be_used(&self, endpoint: &Endpoint) -> bool {
        endpoint.weight > 0 && (endpoint.available(self.ask.now) || self.is_panic())
    }

    fn is_busy(&self, endpoint: &Endpoint) -> bool {
        self.ask.per_endpoint > 0 && endpoint.in_flight() >= self.ask.per_endpoint
    }

    /// Whether so few endpoints are available that the others are used, too: calls to the few
    /// would only bring those down as well.
    fn is_panic(&self) -> bool {
        if let Some(known) = self.panic.get() {
            return known;
        }
        let (mut all, mut available) = (0_u64, 0_u64);
        for endpoint in self.members.iter().filter(|endpoint| endpoint.weight > 0) {
            all += 1;
            available += u64::from(endpoint.available(self.ask.now));
        }
        let panic = available * 100 < all * u64::from(self.ask.panic_percent);
        self.panic.set(Some(panic));
        panic
    }
}
