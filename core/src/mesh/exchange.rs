//! One call through the mesh: its route, its attempts, and the record it leaves.

mod attempts;
mod deadlines;
mod hedge;
mod underway;

use std::borrow::Cow;
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Now;
use crate::cluster::Cluster;
use crate::codec::Unambiguous;
use crate::frame::{Answer, Head, Lag, Metadata, Outcome, Status};
use crate::identity::Identity;
use crate::record::{About, Ending, Record};
use crate::rejection::Rejection;
use crate::route::{self, Destination, Route, Shadow};
use crate::tap::{Tapped, Tapping};
use crate::trace::{Choice, Tails, TraceId};

use super::Limits;
use super::filtered::Filtered;
use super::lease::Lease;
use super::local::LocalMesh;
use super::resolved::ResolvedCall;
use super::traced::Traced;
use super::verdict::AttemptEnd;
use super::view::LocalEndpoint;

/// How a call's attributes are read.
pub(crate) type Attributes<'a, 'b> = &'a mut dyn FnMut(&str) -> Option<Cow<'b, str>>;

/// One request and its answer, from open to record. Dropping it writes the record, on every
/// path; one that nobody ended was abandoned by its caller.
pub struct Exchange {
    pub(super) resolved: Rc<ResolvedCall>,
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
    pub(super) local_endpoint: Option<Rc<LocalEndpoint>>,
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
        resolved: Rc<ResolvedCall>,
        (source, request_bytes): (IpAddr, usize),
        client: Option<&Identity>,
        metadata: &Metadata<'_>,
        refused: &mut dyn FnMut(&mut Unambiguous) -> Option<Rejection>,
        attributes: Attributes<'_, '_>,
    ) -> Self {
        let (timeout, names) = (metadata.timeout, metadata.names);
        let now = local.now();
        let selected = resolved.candidates.select(client, attributes);
        resolved.hits.hit(selected);
        let bound = selected.and_then(|number| resolved.route(number).timeout);
        let traced = resolved.tracing.as_ref().and_then(|tracing| {
            let route = selected.and_then(|number| resolved.route(number).tracing.as_ref());
            Traced::open(tracing, now, route, names, attributes).map(Box::new)
        });
        let unsaid = timeout.is_none();
        let (timeout, own_timeout) = time_for(timeout, bound, &local.limits());
        // More than four thousand million routes do not fit into memory.
        let route = selected.and_then(|number| u32::try_from(number).ok());
        let (routed, destination) =
            match choose_destination(&resolved, route, metadata.treats, local.random()) {
                Ok((routed, destination)) => (Ok(routed), destination),
                Err(rejection) => (Err(rejection), 0),
            };
        let is_judged = resolved.checks_of(route).is_some();
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
            local_endpoint: None,
            mishaps: None,
            ending: Ending::Abandoned,
            status: Status::NONE,
            request_bytes: request_bytes as u64,
            response_bytes: 0,
            traced,
            tapped: None,
            parted: false,
            resolved,
        };
        if !is_judged {
            return opened();
        }
        let mut exchange = opened();
        let refused = refused(&mut exchange.resolved.unambiguous.borrow_mut());
        exchange.ask_filters(local, client, metadata, refused, attributes);
        exchange
    }

    fn ask_filters(
        &mut self,
        local: &LocalMesh,
        client: Option<&Identity>,
        metadata: &Metadata<'_>,
        refused: Option<Rejection>,
        attributes: Attributes<'_, '_>,
    ) {
        match refused {
            None if metadata.proves && self.routed == Ok(Routed::Here) => self.postpone_filters(),
            None => self.pass_filters(local, client, attributes),
            Some(why) => self.pass_by_filters(why),
        }
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
        resolved: Rc<ResolvedCall>,
        source: IpAddr,
        bytes: usize,
    ) -> Self {
        Self::open(
            local,
            resolved,
            (source, bytes),
            None,
            &Metadata::default(),
            &mut |_| Some(Rejection::BadRequest),
            &mut |_| None,
        )
    }

    /// Whether its route has calls copied.
    pub(crate) fn has_shadow(&self) -> bool {
        !self.resolved.is_plain
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
        !self.resolved.is_plain && self.selected_route().is_some_and(|own| own.is_copied())
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
        self.resolved.candidates.routes().get(self.route? as usize)
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
        if let (Some(traced), Some(local_endpoint)) = (&mut self.traced, &self.local_endpoint) {
            traced.failed(self.clock.get(), local_endpoint.target(), end.name());
        }
    }

    /// What its route says of tracing.
    fn choice(&self) -> Option<&Choice> {
        self.selected_route()?.tracing.as_ref()
    }

    /// Which exchanges like it are written down after their end, if any is traced.
    fn tails(&self) -> Option<&Tails> {
        let tracing = self.resolved.tracing.as_ref()?;
        Some(&tracing.choice(self.choice()).tails)
    }

    /// Spans of one that was left out when it opened.
    #[cold]
    fn late(&self) -> Option<Box<Traced>> {
        let tracing = self.resolved.tracing.as_ref()?;
        let mut traced = Traced::late(tracing, self.choice(), self.started);
        traced.catch_up(self.attempts, self.attempted);
        Some(Box::new(traced))
    }

    /// Ends it with an answer of so many bytes.
    pub(crate) fn answered(&mut self, answer: Answer, bytes: usize) {
        let Answer { outcome, status } = answer;
        self.ending = Ending::Answered(outcome);
        self.status = status;
        if matches!(outcome, Outcome::Success | Outcome::Exception) {
            self.resolved.answered();
        }
        self.response_bytes = bytes as u64;
    }

    /// Takes note of how far behind its caller is.
    pub(crate) fn lags(&self, lag: Lag) {
        self.resolved.series().lag(self, lag);
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
        self.local_endpoint
            .as_ref()
            .map(|local_endpoint| local_endpoint.endpoint.address)
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
    resolved: &ResolvedCall,
    route: Option<u32>,
    treats: bool,
    random: u64,
) -> Result<(Routed, u32), Rejection> {
    let route = resolved.route(route.ok_or(Rejection::NoRoute)? as usize);
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
        &self.resolved.key.version
    }

    fn group(&self) -> &str {
        &self.resolved.key.group
    }

    fn route(&self) -> &str {
        self.selected_route().map_or("", |route| &*route.name)
    }

    fn cluster(&self) -> &str {
        self.local_endpoint
            .as_ref()
            .map_or("", |local_endpoint| local_endpoint.cluster.name())
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
        if let Some(tracing) = &self.resolved.tracing {
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
        self.resolved.record(&record);
        if self.checks().is_some() {
            self.tell_filters(&record);
        }
        if let Some(traced) = traced {
            let last = self
                .local_endpoint
                .as_ref()
                .map(|local_endpoint| local_endpoint.target());
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
