//! Attempts of an exchange: where each goes, what it costs, and whether another follows.

use std::borrow::Cow;
use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::balance::{HashOn, Pick, PickArgs, PickError, Policy, hash_bytes};
use crate::clock::Now;
use crate::cluster::Cluster;
use crate::endpoint::{Endpoint, Trial};
use crate::frame::Outcome;
use crate::rejection::Rejection;
use crate::route::{self, Destination};
use crate::stats::increment;
use crate::traffic_rules::Facts;

use super::super::fitting::Fitting;
use super::super::lease::Lease;
use super::super::local::LocalMesh;
use super::super::verdict::{AttemptEnd, MOVES, Repeat, Ruling, Verdict, rule};
use super::super::view::{LocalEndpoint, SubsetView};
use super::{Attempt, Attributes, Exchange, Resend};

impl Exchange {
    /// Asks for the right to send one attempt to one endpoint. A destination that has none, or of
    /// which it is not known yet, hands the call on to its siblings.
    ///
    /// # Errors
    /// The rejection to answer with if there is none.
    pub(crate) fn attempt(
        &mut self,
        local: &LocalMesh,
        attributes: Attributes<'_, '_>,
    ) -> Result<Attempt, Rejection> {
        self.attempt_at(local, attributes, true)
    }

    /// What comes of a destination without an endpoint: an attempt at a sibling, where that is asked for.
    #[cold]
    pub(super) fn attempt_elsewhere(
        &mut self,
        mut attempt: Result<Attempt, Rejection>,
        spills: bool,
        local: &LocalMesh,
        attributes: Attributes<'_, '_>,
    ) -> Result<Attempt, Rejection> {
        if !spills {
            return attempt;
        }
        let mut waiting: Option<(u32, Arc<Cluster>)> = None;
        loop {
            match &attempt {
                Ok(Attempt::Wait(cluster)) => {
                    waiting.get_or_insert_with(|| (self.destination, cluster.clone()));
                }
                Err(Rejection::NoEndpoint | Rejection::NoService) => {}
                Ok(Attempt::Go(_)) | Err(_) => return attempt,
            }
            if self.spill(local) {
                attempt = self.attempt_at(local, attributes, false);
                continue;
            }
            // Nobody has any: the first that may yet turn out to have some is waited for.
            let Some((destination, cluster)) = waiting else {
                return attempt;
            };
            self.destination = destination;
            self.mishaps().without.clear();
            self.looking_up = true;
            return Ok(Attempt::Wait(cluster));
        }
    }

    /// Chooses another destination of the route in place of one without endpoints; false if there is
    /// none, or it keeps its calls.
    pub(super) fn spill(&mut self, local: &LocalMesh) -> bool {
        let Some(route) = self.selected_route().cloned() else {
            return false;
        };
        let Destination::Clusters(weighted) = &route.to else {
            return false;
        };
        let own = weighted.get(self.destination as usize);
        if weighted.len() < 2 || !own.is_some_and(|own| own.spill) {
            return false;
        }
        let destination = self.destination;
        let without = &mut self.mishaps().without;
        without.push(destination);
        let next = route::choose_but(without, weighted, local.random());
        let Some(next) = next.and_then(|next| u32::try_from(next).ok()) else {
            return false;
        };
        self.destination = next;
        true
    }

    /// Asks at the destination of now; what `spills` asks at its siblings, too.
    pub(super) fn attempt_at(
        &mut self,
        local: &LocalMesh,
        attributes: Attributes<'_, '_>,
        spills: bool,
    ) -> Result<Attempt, Rejection> {
        let (route, destination) = (self.route.ok_or(Rejection::NoRoute)?, self.destination);
        if self.resolved.origin.is_pinned() {
            return self.attempt_pinned(local, attributes);
        }
        let view = match self
            .resolved
            .view(local, route as usize, destination as usize)
        {
            Ok(view) => view,
            Err(rejection) => {
                return self.attempt_elsewhere(Err(rejection), spills, local, attributes);
            }
        };
        let mut view = view.borrow_mut();
        let now = local.now();
        if view.is_stale() {
            view.refresh(now, local.random());
        }
        self.looking_up = !view.ready;
        if !view.ready {
            let wait = Ok(Attempt::Wait(view.cluster.clone()));
            drop(view);
            return self.attempt_elsewhere(wait, spills, local, attributes);
        }
        let to = &self.resolved.route(route as usize).to;
        let is_looked_up = matches!(to, Destination::Registry { .. });
        if !view.known {
            let cluster = view.cluster.clone();
            drop(view);
            if local.mesh().forget_unknown(&cluster) {
                self.resolved.forget(route as usize, destination as usize);
                local.forget_view(&cluster);
            }
            self.mishaps().lacking = Some(cluster);
            // It is the cluster that has nobody; the call's own service may well be one.
            let why = match is_looked_up {
                true => Rejection::NoService,
                false => Rejection::NoEndpoint,
            };
            return self.attempt_elsewhere(Err(why), spills, local, attributes);
        }
        // A cluster of the configuration has endpoints whatever service a caller writes.
        if is_looked_up {
            self.resolved.learn();
        }
        let deadline = self.attempt_deadline();
        let (local_endpoint, trial) =
            match self.pick(&mut view, local.random(), (now, deadline), attributes) {
                Ok(picked) => picked,
                Err(rejection) => {
                    self.mishaps().lacking = Some(view.cluster.clone());
                    drop(view);
                    return self.attempt_elsewhere(Err(rejection), spills, local, attributes);
                }
            };
        drop(view);
        self.take(local, local_endpoint, trial, deadline, attributes)
    }

    /// Asks for an attempt at the one endpoint that its listener stands for. Whatever is known of that
    /// endpoint, there is no other; it is asked once.
    pub(super) fn attempt_pinned(
        &mut self,
        local: &LocalMesh,
        attributes: Attributes<'_, '_>,
    ) -> Result<Attempt, Rejection> {
        let local_endpoint = self.resolved.origin.pinned(&local.routing());
        let local_endpoint = local_endpoint.filter(|_| self.attempts == 0);
        let local_endpoint = local_endpoint.ok_or(Rejection::NoEndpoint)?;
        let deadline = self.attempt_deadline();
        self.take(local, local_endpoint, None, deadline, attributes)
    }

    /// Takes the places of an attempt at an endpoint.
    pub(super) fn take(
        &mut self,
        local: &LocalMesh,
        local_endpoint: Rc<LocalEndpoint>,
        trial: Option<Trial>,
        deadline: Now,
        attributes: Attributes<'_, '_>,
    ) -> Result<Attempt, Rejection> {
        let now = local.now();
        let deadline = if self.unsaid && local_endpoint.endpoint.terms.is_some() {
            self.take_timeout_of(&local_endpoint.endpoint, local.limits().call_timeout_max);
            self.attempt_deadline()
        } else {
            deadline
        };
        let cluster = &local_endpoint.cluster;
        let health = &local_endpoint.endpoint.health;
        let again = self.attempts > 0;
        if again && self.has_asked(&local_endpoint) {
            health.excuse();
            return Err(Rejection::NoEndpoint);
        }
        let retry = again && !std::mem::take(&mut self.free);
        let limit = cluster.spec.policy.max_in_flight;
        let active = cluster.in_flight.fetch_add(1, Relaxed);
        if limit > 0 && active >= limit || retry && !cluster.budget.acquire(active) {
            cluster.in_flight.fetch_sub(1, Relaxed);
            health.excuse();
            return Err(Rejection::Overloaded);
        }
        let Ok(limited) = self.admit(cluster) else {
            cluster.in_flight.fetch_sub(1, Relaxed);
            if retry {
                cluster.budget.release();
            }
            health.excuse();
            return Err(Rejection::Overloaded);
        };
        health.in_flight.fetch_add(1, Relaxed);
        self.attempts += 1;
        self.attempted = now;
        self.local_endpoint = Some(local_endpoint.clone());
        if again {
            increment(&local.mesh().stats.retries);
            increment(&cluster.stats.retries);
        }
        let traced = self.traced.as_mut();
        let propagated = traced.and_then(|traced| {
            let endpoint = Some(local_endpoint.endpoint.address);
            traced.attempt(now, endpoint, attributes)
        });
        let propagated = self.with_edits(propagated);
        Ok(Attempt::Go(Lease {
            local_endpoint,
            propagated,
            clock: self.clock.clone(),
            started: now,
            deadline,
            verdict: Verdict::Neutral,
            retry,
            hedge: false,
            number: self.attempts,
            place: Cell::new(limited.then_some(now)),
            trial,
            settled: false,
            parted: false,
            end: None,
        }))
    }

    /// Takes a place within the concurrency that its cluster was found to have, if it is limited by that; whether it
    /// holds one.
    pub(super) fn admit(&self, cluster: &Cluster) -> Result<bool, Rejection> {
        let Some(limit) = cluster.concurrency.as_deref() else {
            return Ok(false);
        };
        let route = self.selected_route();
        if self.lingers || route.is_some_and(|route| route.long_poll) {
            return Ok(false);
        }
        match limit.admit(route.map(|route| route.priority).unwrap_or_default()) {
            true => Ok(true),
            false => Err(Rejection::Overloaded),
        }
    }

    /// Takes the time that its first endpoint's registration gives to calls whose callers do not say,
    /// as the framework's own clients do; it is bounded as a caller's would be.
    pub(super) fn take_timeout_of(&mut self, endpoint: &Endpoint, most: Duration) {
        self.unsaid = false;
        let terms = endpoint.terms.as_ref();
        if let Some(timeout) = terms.and_then(|terms| terms.timeout_of(&self.resolved.key.method)) {
            let bound = self.selected_route().and_then(|route| route.timeout);
            let bound = self.started.after(bound.unwrap_or(most));
            self.deadline = self.clock.get().after(timeout).min(bound);
        }
    }

    /// What a call has to say at the endpoint of this lease beside its own words.
    pub(crate) fn fitting(&self, lease: &Lease) -> Option<Fitting> {
        let terms = lease.local_endpoint.endpoint.terms.as_ref()?;
        Fitting::of(terms, self.resolved.open)
    }

    pub(super) fn pick(
        &self,
        view: &mut SubsetView,
        random: u64,
        (now, deadline): (Now, Now),
        attributes: Attributes<'_, '_>,
    ) -> Result<(Rc<LocalEndpoint>, Option<Trial>), Rejection> {
        // What filters changed is what its endpoint gets, and what decides which one that is.
        let mut attributes = |name: &str| match self.edit_of(name) {
            None => attributes(name),
            Some(edited) => (!edited.is_empty()).then(|| Cow::Owned(edited.to_owned())),
        };
        let placed = self.placed();
        let rules = (placed.is_some() || view.has_rules()).then(|| {
            let key = &self.resolved.key;
            let mut facts = Facts {
                method: &key.method,
                service: &key.service,
                version: &key.version,
                group: &key.group,
                source: self.source,
                attribute: &mut |name| attributes(name).map(Cow::into_owned),
                read: Vec::new(),
            };
            view.rule_key(&mut facts, placed, random)
        });
        let policy = &view.cluster.spec.policy;
        let hash = match &policy.balance {
            Policy::ConsistentHash(HashOn::Source) => Some(hash_source(self.source)),
            Policy::ConsistentHash(HashOn::Attribute(name)) => {
                attributes(name).map(|value| hash_bytes(value.as_bytes()))
            }
            // One key for all: its home is its home, also before it has shown that it answers.
            Policy::Primary => Some(0),
            Policy::RoundRobin | Policy::Random | Policy::LeastRequest | Policy::PeakEwma => None,
        };
        let ask = PickArgs {
            now,
            random,
            hash,
            avoid: self.mishaps.as_ref().map_or(&[], |own| &own.tried),
            per_endpoint: policy.per_endpoint,
            panic_percent: policy.panic_percent,
            deadline,
        };
        let members = match rules {
            None => view.plain(),
            Some(key) => view.members(key, now, random),
        };
        match members.balancer.pick(&members.endpoints, &ask) {
            Ok(Pick { place, trial }) => Ok((members.local_endpoints[place].clone(), trial)),
            Err(PickError::Empty) => Err(Rejection::NoEndpoint),
            Err(PickError::Busy) => Err(Rejection::Overloaded),
        }
    }

    /// Attempts made so far.
    pub(crate) fn attempts(&self) -> u16 {
        self.attempts
    }

    /// Whether the request's bytes must be kept after they were sent, for another attempt.
    pub(crate) fn may_need_resending(&self) -> bool {
        self.retry()
            .is_some_and(|retry| retry.attempts > 1 && (retry.idempotent || retry.refused))
    }

    /// Whether the attempt under way is the last that the route allows.
    pub(crate) fn is_last_attempt(&self) -> bool {
        u32::from(self.attempts - self.moves) >= self.most_attempts()
    }

    pub(super) fn most_attempts(&self) -> u32 {
        self.retry().map_or(1, |retry| retry.attempts)
    }

    /// Says how an attempt ended, by the [table](rule) of verdicts; whether another one follows.
    pub(crate) fn conclude(&mut self, lease: &mut Lease, end: AttemptEnd, resend: Resend) -> bool {
        let retries_refused = || self.retry().is_some_and(|own| own.refused);
        let refused = end == AttemptEnd::Answered(Outcome::Refused) && retries_refused();
        let Ruling { verdict, repeat } = rule(end, refused);
        lease.conclude(verdict);
        lease.end = Some(end);
        lease.leave(lease.timed());
        self.no_tls = end == AttemptEnd::TlsFailed;
        if repeat == Repeat::Never || resend == Resend::Impossible {
            return false;
        }
        let idempotent = self.retry().is_some_and(|own| own.idempotent);
        let safe = match repeat {
            Repeat::Never => false,
            Repeat::Free | Repeat::Uncounted => true,
            Repeat::IfIdempotent => idempotent,
            Repeat::IfSafe => idempotent || resend == Resend::Safe && !self.resent,
        };
        let uncounted =
            repeat == Repeat::Uncounted && self.moves < MOVES && self.most_attempts() > 1;
        let again =
            safe && (uncounted || !self.is_last_attempt()) && self.deadline > self.clock.get();
        if again {
            self.free = matches!(repeat, Repeat::Free | Repeat::Uncounted);
            self.moves += u16::from(uncounted);
            self.resent |= repeat == Repeat::IfSafe;
            let known = self.endpoint();
            let tried = &mut self.mishaps().tried;
            tried.extend(known.filter(|own| !tried.contains(own)));
            self.trace_failure(end);
        }
        again
    }

    pub(super) fn retry(&self) -> Option<&route::Retry> {
        self.selected_route().map(|route| &route.retry)
    }
}

fn hash_source(source: IpAddr) -> u64 {
    match source {
        IpAddr::V4(v4) => hash_bytes(&v4.octets()),
        IpAddr::V6(v6) => hash_bytes(&v6.octets()),
    }
}
