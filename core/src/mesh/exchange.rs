//! One call through the mesh: its route, its attempts, and the record it leaves.

mod hedge;
mod underway;

use std::borrow::Cow;
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::balance::{Ask, HashOn, NoPick, Pick, Policy, hash_bytes};
use crate::clock::Now;
use crate::cluster::Cluster;
use crate::endpoint::{Endpoint, Trial};
use crate::frame::{Answer, Head, Lag, Metadata, Outcome, Status};
use crate::gauges::Gauges;
use crate::identity::Identity;
use crate::outlier::is_telling;
use crate::record::{About, Ending, Record};
use crate::rejection::Rejection;
use crate::route::{self, Destination, Route, Shadow};
use crate::steer::Facts;
use crate::tap::{Tapped, Tapping};
use crate::trace::{Choice, Tails, TraceId};

use super::Limits;
use super::filtered::Filtered;
use super::fitting::Fitting;
use super::lease::Lease;
use super::local::LocalMesh;
use super::site::Site;
use super::stall::Stall;
use super::traced::Traced;
use super::verdict::{AttemptEnd, Deadline, MOVES, Repeat, Ruling, Verdict, rule};
use super::view::{Seat, View};

/// How a call's attributes are read.
pub(crate) type Attributes<'a, 'b> = &'a mut dyn FnMut(&str) -> Option<Cow<'b, str>>;

/// One request and its answer, from open to record. Dropping it writes the record, on every
/// path; one that nobody ended was abandoned by its caller.
pub struct Exchange {
    pub(super) site: Rc<Site>,
    clock: Rc<Cell<Now>>,
    pub(super) source: IpAddr,
    pub(super) started: Now,
    /// When the caller gives up, or the route does.
    pub(crate) deadline: Now,
    /// The caller's own time, where that is what sets the deadline.
    own_timeout: Option<Duration>,
    /// Its caller does not say how long it may take: its endpoint's registration may.
    unsaid: bool,
    pub(super) route: Option<u32>,
    destination: u32,
    pub(super) routed: Result<Routed, Rejection>,
    /// What filters made of it; empty for most.
    pub(super) filtered: Option<Box<Filtered>>,
    pub(super) attempts: u16,
    /// When the last attempt began.
    attempted: Now,
    /// Attempts that do not count: their endpoints have not processed it.
    moves: u16,
    /// It was sent again because its own method allows that.
    resent: bool,
    /// The next attempt costs no retry budget: the last one did not run.
    free: bool,
    /// The last attempt ended because no TLS could be spoken with its endpoint.
    pub(super) no_tls: bool,
    /// How long it takes says nothing of its endpoint's load.
    pub(crate) lingers: bool,
    /// The service is being looked up, and that is what is waited for.
    pub(super) looking_up: bool,
    /// Where the last attempt went.
    pub(super) seat: Option<Rc<Seat>>,
    /// What went wrong with it so far; nothing with most.
    pub(super) mishaps: Option<Box<Mishaps>>,
    ending: Ending,
    status: Status,
    request_bytes: u64,
    response_bytes: u64,
    /// Its spans, if it leaves any.
    traced: Option<Box<Traced>>,
    /// Who waits for its answer besides its caller.
    tapped: Option<Box<dyn Tapped>>,
    /// Another worker goes on with it, and writes its record.
    parted: bool,
}

/// What an exchange has to remember of what went wrong.
#[derive(Default)]
pub(super) struct Mishaps {
    /// Destinations of its route that had no endpoint for it.
    without: Vec<u32>,
    /// The cluster that had no endpoint for it.
    pub(super) lacking: Option<Arc<Cluster>>,
    /// Endpoints that failed it.
    tried: Vec<SocketAddr>,
    /// The next attempt is made beside the last one, at another endpoint.
    hedges: bool,
}

/// Where a call goes that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routed {
    /// To an endpoint.
    Onward,
    /// Nowhere: its protocol answers by itself. One that does not refuses the call.
    Here,
    /// A filter has not decided yet.
    Waits,
}

/// What came of asking for an attempt.
pub enum Attempt {
    /// The right to send.
    Go(Lease),
    /// The service is being looked up for the first time; ask again when it is ready.
    Wait(Arc<Cluster>),
}

impl Exchange {
    /// Opens an exchange and finds its route. Filters are asked unless it is `refused` anyway, so that nothing is
    /// used up in a name that may not be the caller's.
    pub(crate) fn open(
        local: &LocalMesh,
        site: Rc<Site>,
        (source, request_bytes): (IpAddr, usize),
        client: Option<&Identity>,
        metadata: &Metadata<'_>,
        refused: &mut dyn FnMut() -> Option<Rejection>,
        attributes: Attributes<'_, '_>,
    ) -> Self {
        let (timeout, names) = (metadata.timeout, metadata.names);
        let now = local.now();
        let selected = site.candidates.select(client, attributes);
        site.hits.hit(selected);
        let bound = selected.and_then(|number| site.route(number).timeout);
        let traced = site.tracing.as_ref().and_then(|tracing| {
            let route = selected.and_then(|number| site.route(number).tracing.as_ref());
            Traced::open(tracing, now, route, names, attributes).map(Box::new)
        });
        let unsaid = timeout.is_none();
        let (timeout, own_timeout) = time_for(timeout, bound, &local.limits());
        // More than four thousand million routes do not fit into memory.
        let route = selected.and_then(|number| u32::try_from(number).ok());
        let (routed, destination) =
            match choose_destination(&site, route, metadata.treats, local.random()) {
                Ok((routed, destination)) => (Ok(routed), destination),
                Err(rejection) => (Err(rejection), 0),
            };
        let is_judged = site.checks_of(route).is_some();
        // Made where it is handed out: it is large.
        let opened = || Self {
            clock: local.shared_clock(),
            source,
            started: now,
            deadline: now.after(timeout),
            own_timeout,
            unsaid,
            route,
            attempted: now,
            destination,
            routed,
            filtered: None,
            attempts: 0,
            moves: 0,
            resent: false,
            free: false,
            no_tls: false,
            lingers: metadata.lingers,
            looking_up: false,
            seat: None,
            mishaps: None,
            ending: Ending::Abandoned,
            status: Status::NONE,
            request_bytes: request_bytes as u64,
            response_bytes: 0,
            traced,
            tapped: None,
            parted: false,
            site,
        };
        if !is_judged {
            return opened();
        }
        let mut exchange = opened();
        match refused() {
            None if metadata.proves && exchange.routed == Ok(Routed::Here) => {
                exchange.postpone_filters();
            }
            None => exchange.pass_filters(local, client, attributes),
            Some(why) => exchange.pass_by_filters(why),
        }
        exchange
    }

    /// Where it goes.
    ///
    /// # Errors
    /// The rejection to answer with if it goes nowhere.
    pub(crate) fn routed(&self) -> Result<Routed, Rejection> {
        self.routed
    }

    /// An exchange that can only be rejected: its request could not be read.
    pub(crate) fn unreadable(
        local: &LocalMesh,
        site: Rc<Site>,
        source: IpAddr,
        bytes: usize,
    ) -> Self {
        Self::open(
            local,
            site,
            (source, bytes),
            None,
            &Metadata::default(),
            &mut || Some(Rejection::BadRequest),
            &mut |_| None,
        )
    }

    /// Whether its route has calls copied.
    pub(crate) fn has_shadow(&self) -> bool {
        !self.site.is_plain
            && self
                .selected_route()
                .is_some_and(|own| own.shadow.is_some())
    }

    /// The shadow of its route, for messages of the session that it began.
    pub(crate) fn message_shadow(&self) -> Option<Arc<Shadow>> {
        self.selected_route()?.shadow.clone()
    }

    /// Whether its route has calls copied, or somebody told of them.
    pub(crate) fn is_copied(&self) -> bool {
        !self.site.is_plain && self.selected_route().is_some_and(|own| own.is_copied())
    }

    /// Tells the tap of its route that it goes on.
    pub(crate) fn begin_tap(
        &mut self,
        local: &LocalMesh,
        head: &Head,
        metadata: &Metadata<'_>,
        wire: &[u8],
    ) {
        let tap = self.selected_route().and_then(|own| own.tap.as_ref());
        self.tapped = tap.and_then(|tap| {
            tap.begins(&Tapping {
                head,
                metadata,
                wire,
                random: local.random(),
            })
        });
    }

    /// Tells whoever waits for it besides its caller that its endpoint has answered.
    pub(crate) fn end_tap(&mut self, answer: &Answer) {
        if let Some(tapped) = self.tapped.take() {
            tapped.answered(answer);
        }
    }

    /// Who called.
    pub(crate) fn source(&self) -> IpAddr {
        self.source
    }

    /// The route that it takes, unless none matched.
    pub(crate) fn selected_route(&self) -> Option<&Arc<Route>> {
        self.site.candidates.routes().get(self.route? as usize)
    }

    fn retry(&self) -> Option<&route::Retry> {
        self.selected_route().map(|route| &route.retry)
    }

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
    fn attempt_elsewhere(
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
    fn spill(&mut self, local: &LocalMesh) -> bool {
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
    fn attempt_at(
        &mut self,
        local: &LocalMesh,
        attributes: Attributes<'_, '_>,
        spills: bool,
    ) -> Result<Attempt, Rejection> {
        let (route, destination) = (self.route.ok_or(Rejection::NoRoute)?, self.destination);
        if self.site.origin.is_pinned() {
            return self.attempt_pinned(local, attributes);
        }
        let view = match self.site.view(local, route as usize, destination as usize) {
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
        let to = &self.site.route(route as usize).to;
        let is_looked_up = matches!(to, Destination::Registry { .. });
        if !view.known {
            let cluster = view.cluster.clone();
            drop(view);
            if local.mesh().forget_unknown(&cluster) {
                self.site.forget(route as usize, destination as usize);
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
            self.site.learn();
        }
        let deadline = self.attempt_deadline();
        let (seat, trial) = match self.pick(&mut view, local.random(), (now, deadline), attributes)
        {
            Ok(picked) => picked,
            Err(rejection) => {
                self.mishaps().lacking = Some(view.cluster.clone());
                drop(view);
                return self.attempt_elsewhere(Err(rejection), spills, local, attributes);
            }
        };
        drop(view);
        self.take(local, seat, trial, deadline, attributes)
    }

    /// Asks for an attempt at the one endpoint that its listener stands for. Whatever is known of that
    /// endpoint, there is no other; it is asked once.
    fn attempt_pinned(
        &mut self,
        local: &LocalMesh,
        attributes: Attributes<'_, '_>,
    ) -> Result<Attempt, Rejection> {
        let seat = self.site.origin.pinned(&local.routing());
        let seat = seat.filter(|_| self.attempts == 0);
        let seat = seat.ok_or(Rejection::NoEndpoint)?;
        let deadline = self.attempt_deadline();
        self.take(local, seat, None, deadline, attributes)
    }

    /// Takes the places of an attempt at an endpoint.
    fn take(
        &mut self,
        local: &LocalMesh,
        seat: Rc<Seat>,
        trial: Option<Trial>,
        deadline: Now,
        attributes: Attributes<'_, '_>,
    ) -> Result<Attempt, Rejection> {
        let now = local.now();
        let deadline = if self.unsaid && seat.endpoint.terms.is_some() {
            self.take_timeout_of(&seat.endpoint, local.limits().call_timeout_max);
            self.attempt_deadline()
        } else {
            deadline
        };
        let cluster = &seat.cluster;
        let again = self.attempts > 0;
        if again && self.has_asked(&seat) {
            seat.endpoint.health.excuse();
            return Err(Rejection::NoEndpoint);
        }
        let retry = again && !std::mem::take(&mut self.free);
        let limit = cluster.spec.policy.max_in_flight;
        let active = cluster.in_flight.fetch_add(1, Relaxed);
        if limit > 0 && active >= limit || retry && !cluster.budget.acquire(active) {
            cluster.in_flight.fetch_sub(1, Relaxed);
            seat.endpoint.health.excuse();
            return Err(Rejection::Overloaded);
        }
        let Ok(limited) = self.admit(cluster) else {
            cluster.in_flight.fetch_sub(1, Relaxed);
            if retry {
                cluster.budget.release();
            }
            seat.endpoint.health.excuse();
            return Err(Rejection::Overloaded);
        };
        seat.endpoint.health.in_flight.fetch_add(1, Relaxed);
        self.attempts += 1;
        self.attempted = now;
        self.seat = Some(seat.clone());
        if again {
            Gauges::add(&local.mesh().gauges.retries);
            Gauges::add(&cluster.counts.retries);
        }
        let traced = self.traced.as_mut();
        let propagated = traced.and_then(|traced| {
            let endpoint = Some(seat.endpoint.address);
            traced.attempt(now, endpoint, attributes)
        });
        let propagated = self.with_edits(propagated);
        Ok(Attempt::Go(Lease {
            seat,
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
    fn admit(&self, cluster: &Cluster) -> Result<bool, Rejection> {
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
    fn take_timeout_of(&mut self, endpoint: &Endpoint, most: Duration) {
        self.unsaid = false;
        let terms = endpoint.terms.as_ref();
        if let Some(timeout) = terms.and_then(|terms| terms.timeout_of(&self.site.key.method)) {
            let bound = self.selected_route().and_then(|route| route.timeout);
            let bound = self.started.after(bound.unwrap_or(most));
            self.deadline = self.clock.get().after(timeout).min(bound);
        }
    }

    /// What a call has to say at the endpoint of this lease beside its own words.
    pub(crate) fn fitting(&self, lease: &Lease) -> Option<Fitting> {
        let terms = lease.seat.endpoint.terms.as_ref()?;
        Fitting::of(terms, self.site.open)
    }

    fn pick(
        &self,
        view: &mut View,
        random: u64,
        (now, deadline): (Now, Now),
        attributes: Attributes<'_, '_>,
    ) -> Result<(Rc<Seat>, Option<Trial>), Rejection> {
        // What filters changed is what its endpoint gets, and what decides which one that is.
        let mut attributes = |name: &str| match self.edit_of(name) {
            None => attributes(name),
            Some(edited) => (!edited.is_empty()).then(|| Cow::Owned(edited.to_owned())),
        };
        let placed = self.placed();
        let way = (placed.is_some() || view.is_steered()).then(|| {
            let key = &self.site.key;
            let mut facts = Facts {
                method: &key.method,
                service: &key.service,
                version: &key.version,
                group: &key.group,
                source: self.source,
                attribute: &mut |name| attributes(name).map(Cow::into_owned),
                read: Vec::new(),
            };
            view.way(&mut facts, placed, random)
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
        let ask = Ask {
            now,
            random,
            hash,
            avoid: self.mishaps.as_ref().map_or(&[], |own| &own.tried),
            per_endpoint: policy.per_endpoint,
            panic_percent: policy.panic_percent,
            deadline,
        };
        let members = match way {
            None => view.plain(),
            Some(way) => view.members(way, now, random),
        };
        match members.balancer.pick(&members.endpoints, &ask) {
            Ok(Pick { place, trial }) => Ok((members.seats[place].clone(), trial)),
            Err(NoPick::Empty) => Err(Rejection::NoEndpoint),
            Err(NoPick::Busy) => Err(Rejection::Overloaded),
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

    fn most_attempts(&self) -> u32 {
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

    #[cold]
    fn mishaps(&mut self) -> &mut Mishaps {
        self.mishaps.get_or_insert_default()
    }

    /// Writes down an attempt that is followed by another, if any is.
    #[cold]
    fn trace_failure(&mut self, end: AttemptEnd) {
        if self.traced.is_none() && self.tails().is_some_and(|own| own.is_any()) {
            self.traced = self.late();
        }
        if let (Some(traced), Some(seat)) = (&mut self.traced, &self.seat) {
            traced.failed(self.clock.get(), seat.target(), end.name());
        }
    }

    /// What its route says of tracing.
    fn choice(&self) -> Option<&Choice> {
        self.selected_route()?.tracing.as_ref()
    }

    /// Which exchanges like it are written down after their end, if any is traced.
    fn tails(&self) -> Option<&Tails> {
        let tracing = self.site.tracing.as_ref()?;
        Some(&tracing.choice(self.choice()).tails)
    }

    /// Spans of one that was left out when it opened.
    #[cold]
    fn late(&self) -> Option<Box<Traced>> {
        let tracing = self.site.tracing.as_ref()?;
        let mut traced = Traced::late(tracing, self.choice(), self.started);
        traced.catch_up(self.attempts, self.attempted);
        Some(Box::new(traced))
    }

    /// When the attempt that starts now is given up.
    pub(crate) fn attempt_deadline(&self) -> Now {
        self.per_try_deadline(self.clock.get()).min(self.deadline)
    }

    fn per_try_deadline(&self, started: Now) -> Now {
        let per_try = self.retry().and_then(|retry| retry.per_try_timeout);
        per_try.map_or(Now(u64::MAX), |each| started.after(each))
    }

    /// Who set the time of the attempt under way, now that it has passed.
    pub(crate) fn whose_deadline(&self, lease: &Lease, stall: Stall) -> Deadline {
        if self.is_excused(lease, stall) {
            return Deadline::OurStall;
        }
        let Some(own) = self.own_timeout else {
            return Deadline::Route;
        };
        if self.per_try_deadline(lease.started) < self.deadline {
            return Deadline::Route;
        }
        let Seat {
            cluster, endpoint, ..
        } = &*lease.seat;
        let long_enough = own >= cluster.spec.policy.connect_timeout
            && is_telling(&endpoint.health, lease.started, self.clock.get());
        if long_enough {
            Deadline::Caller
        } else {
            Deadline::TooShort
        }
    }

    /// Whether the time of an attempt tells nothing of its endpoint.
    fn is_excused(&self, lease: &Lease, stall: Stall) -> bool {
        let patience = lease.seat.cluster.spec.policy.connect_timeout;
        stall.excuses(lease.started, self.clock.get(), patience)
    }

    /// The ending of an attempt to open a session that was neither granted nor refused in its time.
    pub(crate) fn unopened(&self, lease: &Lease, stall: Stall) -> AttemptEnd {
        let health = &lease.seat.endpoint.health;
        let is_told = is_telling(health, lease.started, self.clock.get());
        let telling = is_told && !self.is_excused(lease, stall);
        AttemptEnd::Unopened { telling }
    }

    /// The ending of an attempt whose caller has given up waiting: it tells something of an endpoint
    /// that was silent for longer than a connection may take, and answered nobody meanwhile. Else
    /// callers of little patience would go on coming to an endpoint that never answers.
    pub(crate) fn given_up(&self, lease: &Lease, stall: Stall) -> AttemptEnd {
        let Seat {
            cluster, endpoint, ..
        } = &*lease.seat;
        let now = self.clock.get();
        let heard_since = lease.started.max(stall.until);
        let is_long = now.since(heard_since) >= cluster.spec.policy.connect_timeout;
        if is_long && is_telling(&endpoint.health, lease.started, now) {
            let whose = Deadline::Caller;
            return AttemptEnd::TimedOut { whose, sent: true };
        }
        AttemptEnd::Abandoned
    }

    /// Ends it with an answer of so many bytes.
    pub(crate) fn answered(&mut self, answer: Answer, bytes: usize) {
        let Answer { outcome, status } = answer;
        self.ending = Ending::Answered(outcome);
        self.status = status;
        if matches!(outcome, Outcome::Success | Outcome::Exception) {
            self.site.answered();
        }
        self.response_bytes = bytes as u64;
    }

    /// Takes note of how far behind its caller is.
    pub(crate) fn lags(&self, lag: Lag) {
        self.site.series().lag(self, lag);
    }

    /// Counts bytes of the request that came after it was opened.
    pub(crate) fn add_request_bytes(&mut self, bytes: u64) {
        self.request_bytes += bytes;
    }

    /// Ends a one-way that was handed over.
    pub(crate) fn sent(&mut self) {
        self.ending = Ending::Sent;
    }

    /// Ends it with the mesh's own answer.
    pub(crate) fn rejected(&mut self, rejection: Rejection) {
        self.ending = Ending::Rejected(rejection);
        self.status = Status::NONE;
    }

    /// Says how the mesh's own answer is worded.
    pub(crate) fn set_status(&mut self, status: Status) {
        self.status = status;
    }

    /// The trace that it goes on in, if it has one.
    pub(super) fn trace(&self) -> TraceId {
        self.traced
            .as_ref()
            .map_or(TraceId::default(), |own| own.id())
    }

    /// Its spans, to note something more in them.
    pub(crate) fn traced(&mut self) -> Option<&mut Traced> {
        self.traced.as_deref_mut()
    }

    /// The endpoint of the last attempt.
    fn endpoint(&self) -> Option<SocketAddr> {
        self.seat.as_ref().map(|seat| seat.endpoint.address)
    }

    /// When it was opened.
    pub(crate) fn started(&self) -> Now {
        self.started
    }
}

/// How long a call may take whose caller and whose route say this of it; and the caller's own time, where that is
/// what holds.
#[inline]
fn time_for(
    own: Option<Duration>,
    bound: Option<Duration>,
    limits: &Limits,
) -> (Duration, Option<Duration>) {
    match (own, bound) {
        (Some(own), Some(bound)) if own < bound => (own, Some(own)),
        (_, Some(bound)) => (bound, None),
        // Nobody else bounds it, and what waits for it holds a place all the time.
        (Some(own), None) if own < limits.call_timeout_max => (own, Some(own)),
        (Some(_), None) => (limits.call_timeout_max, None),
        (None, None) => (limits.call_timeout, None),
    }
}

/// Where a call of this route goes, and to which of its destinations.
fn choose_destination(
    site: &Site,
    route: Option<u32>,
    treats: bool,
    random: u64,
) -> Result<(Routed, u32), Rejection> {
    let route = site.route(route.ok_or(Rejection::NoRoute)? as usize);
    if route.treatment.is_some() && !treats {
        return Err(Rejection::Denied);
    }
    match &route.to {
        Destination::Clusters(weighted) => {
            let chosen = route::choose(weighted, random).ok_or(Rejection::NoEndpoint)?;
            let chosen = u32::try_from(chosen).map_err(|_| Rejection::NoEndpoint)?;
            Ok((Routed::Onward, chosen))
        }
        Destination::Registry { .. } => Ok((Routed::Onward, 0)),
        Destination::Treatment => Ok((Routed::Here, 0)),
    }
}

impl About for Exchange {
    fn source(&self) -> IpAddr {
        self.source
    }

    fn endpoint(&self) -> Option<SocketAddr> {
        self.endpoint()
    }

    fn version(&self) -> &str {
        &self.site.key.version
    }

    fn group(&self) -> &str {
        &self.site.key.group
    }

    fn route(&self) -> &str {
        self.selected_route().map_or("", |route| &*route.name)
    }

    fn cluster(&self) -> &str {
        self.seat.as_ref().map_or("", |seat| seat.cluster.name())
    }

    fn filter(&self) -> &str {
        let by = self.filtered.as_ref().and_then(|own| own.by.as_deref());
        by.unwrap_or_default()
    }

    fn lane(&self) -> &str {
        let placed = self.placed().and_then(|own| own.lane.as_deref());
        placed.unwrap_or_default()
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.parted {
            return;
        }
        let mut traced = self.traced.take();
        let mut record = Record {
            ending: self.ending,
            status: self.status,
            about: self,
            trace: TraceId::default(),
            micros: self.clock.get().micros_since(self.started),
            attempts: u32::from(self.attempts),
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
        };
        if let Some(tracing) = &self.site.tracing {
            if traced.is_none()
                && tracing.has_tails
                && self.tails().is_some_and(|own| own.keeps(&record))
            {
                traced = self.late();
            }
            if let Some(traced) = &traced {
                record.trace = traced.trace(&record);
            }
        }
        self.site.record(&record);
        if self.checks().is_some() {
            self.tell_filters(&record);
        }
        if let Some(traced) = traced {
            let last = self.seat.as_ref().map(|seat| seat.target());
            traced.finish(&record, self.clock.get(), last);
        }
    }
}

pub use underway::{PartedLease, Underway};

/// Whether a request can be sent once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resend {
    /// It is gone.
    Impossible,
    /// Its bytes are still there.
    Possible,
    /// Its bytes are still there, and its own method says that it may run twice.
    Safe,
}

fn hash_source(source: IpAddr) -> u64 {
    match source {
        IpAddr::V4(v4) => hash_bytes(&v4.octets()),
        IpAddr::V6(v6) => hash_bytes(&v6.octets()),
    }
}
