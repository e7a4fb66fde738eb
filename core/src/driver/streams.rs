//! Calls of protocols that drive themselves: streams, sessions.
//!
//! A [`Protocol`](crate::protocol::Protocol) that is no codec makes a [`Caller`] of each accepted
//! connection, and has it open a [`Stream`] per call. Routing, balancing, deadlines, retries, limits
//! and records are the same as for framed calls.

use std::any::Any;
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::Notify;

use crate::cluster::Cluster;
use crate::frame::{Metadata, Outcome};
use crate::mesh::{Attempt, Exchange, Gauges, Lease, SiteCache, Verdict};
use crate::record::Series;
use crate::rejection::Rejection;
use crate::route::Route;

use super::listener::{Connection, Listening, Presence};
use super::socket::Socket;
use super::tls::Transport;
use super::worker::Worker;

/// One client connection of a protocol that drives itself; on its worker's list until dropped.
pub struct Caller {
    worker: Rc<Worker>,
    listening: Rc<Listening>,
    peer: SocketAddr,
    transport: Option<Rc<Transport>>,
    sites: RefCell<SiteCache>,
    guest: Rc<Guest>,
    number: u64,
    _presence: Presence,
}

/// What a worker tells a [`Caller`].
#[derive(Default)]
pub(crate) struct Guest {
    pub(crate) listener: u64,
    dismissed: Cell<bool>,
    cut: Cell<bool>,
    changed: Notify,
}

impl Guest {
    pub(crate) fn dismiss(&self) {
        self.dismissed.set(true);
        self.changed.notify_waiters();
    }

    pub(crate) fn cut(&self) {
        self.dismissed.set(true);
        self.cut.set(true);
        self.changed.notify_waiters();
    }

    async fn until(&self, flag: &Cell<bool>) {
        while !flag.get() {
            self.changed.notified().await;
        }
    }
}

impl Caller {
    /// Takes an accepted connection apart: the caller, and its socket with what was read of it to
    /// find out its protocol.
    #[must_use]
    pub fn new(connection: Connection, worker: Rc<Worker>) -> (Rc<Self>, Socket) {
        let Connection {
            socket,
            transport,
            peer,
            listening,
            presence,
        } = connection;
        let guest = Rc::new(Guest {
            listener: listening.id,
            ..Guest::default()
        });
        let number = worker.enlist_guest(&guest);
        let caller = Self {
            worker,
            listening,
            peer,
            transport,
            sites: RefCell::default(),
            guest,
            number,
            _presence: presence,
        };
        (Rc::new(caller), socket)
    }

    /// Whom it is.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The worker that serves it.
    #[must_use]
    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// Whether it is to go away when what is in flight is finished.
    #[must_use]
    pub fn is_dismissed(&self) -> bool {
        self.guest.dismissed.get()
    }

    /// Waits until it is to go away: no new work after a while, what is in flight is finished.
    pub async fn dismissed(&self) {
        self.guest.until(&self.guest.dismissed).await;
    }

    /// Waits until it must end at once.
    pub async fn cut(&self) {
        self.guest.until(&self.guest.cut).await;
    }

    /// The name that the client asked for in its TLS.
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        self.transport.as_deref()?.attribute(":sni")
    }

    /// Who the client's certificate says it is.
    #[must_use]
    pub fn identity(&self) -> Option<&str> {
        self.transport.as_deref()?.attribute(":identity")
    }

    /// Where records go of what its client does within a session: of this service and method,
    /// but routed nowhere. To be kept as long as it is used.
    #[must_use]
    pub fn series(
        &self,
        protocol: &'static str,
        service: &str,
        method: &'static str,
    ) -> Arc<dyn Series> {
        let metadata = Metadata {
            service: Cow::Borrowed(service),
            method: Cow::Borrowed(method),
            ..Metadata::default()
        };
        let source = self.peer.ip();
        let site = self
            .worker
            .site(&self.listening, protocol, source, &metadata);
        site.series.clone()
    }

    /// Counts a connection whose bytes made no sense.
    pub fn is_malformed(&self) {
        Gauges::add(&self.worker.mesh().gauges.malformed);
    }

    /// Opens a call of `protocol` (the name that routes and metrics know it by) and finds its
    /// route. `timeout` in the metadata is the caller's own.
    pub fn open(
        self: &Rc<Self>,
        protocol: &'static str,
        metadata: &Metadata<'_>,
        bytes: usize,
        attributes: &mut dyn FnMut(&str) -> Option<String>,
    ) -> (Stream, Result<(), Rejection>) {
        self.worker.read_clock();
        let source: IpAddr = self.peer.ip();
        let site =
            self.sites
                .borrow_mut()
                .find(&self.worker, &self.listening, protocol, source, metadata);
        let (exchange, routed) = Exchange::open(
            &self.worker,
            site,
            source,
            bytes,
            metadata.timeout,
            &mut |name| attribute(self.transport.as_deref(), attributes, name),
        );
        let stream = Stream {
            exchange,
            transport: self.transport.clone(),
            worker: self.worker.clone(),
        };
        (stream, routed)
    }
}

/// An attribute of a call, or of the connection that it came over.
fn attribute<'a>(
    transport: Option<&'a Transport>,
    attributes: &mut dyn FnMut(&str) -> Option<String>,
    name: &str,
) -> Option<Cow<'a, str>> {
    // Where TLS is not ours to open, the protocol may know what it asks for.
    if let Some(found) = transport.and_then(|transport| transport.attribute(name)) {
        return Some(Cow::Borrowed(found));
    }
    attributes(name).map(Cow::Owned)
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.worker.strike_off_guest(self.number);
    }
}

/// One call from its request to its record, which dropping it writes; one that nobody ended was
/// abandoned by its caller.
pub struct Stream {
    exchange: Exchange,
    transport: Option<Rc<Transport>>,
    worker: Rc<Worker>,
}

impl Stream {
    /// Asks for the right to send one attempt to one endpoint; waits while its service is looked
    /// up for the first time.
    ///
    /// # Errors
    /// The rejection to answer with if there is none.
    pub async fn attempt(
        &mut self,
        attributes: &mut dyn FnMut(&str) -> Option<String>,
    ) -> Result<Lease, Rejection> {
        loop {
            self.worker.read_clock();
            let transport = self.transport.as_deref();
            let attempt = self.exchange.attempt(&self.worker, &mut |name| {
                attribute(transport, attributes, name)
            })?;
            let cluster: Arc<Cluster> = match attempt {
                Attempt::Go(lease) => return Ok(lease),
                Attempt::Wait(cluster) => cluster,
            };
            if tokio::time::timeout_at(self.deadline(), cluster.until_ready())
                .await
                .is_err()
            {
                return Err(Rejection::DeadlineExceeded);
            }
        }
    }

    /// When the caller gives up, or the route does.
    #[must_use]
    pub fn deadline(&self) -> tokio::time::Instant {
        self.instant(self.exchange.deadline)
    }

    /// When the attempt that starts now is given up.
    #[must_use]
    pub fn attempt_deadline(&self) -> tokio::time::Instant {
        self.instant(self.exchange.attempt_deadline())
    }

    /// The moment of the worker's last look at its clock.
    #[must_use]
    pub fn now(&self) -> tokio::time::Instant {
        self.worker.instant()
    }

    fn instant(&self, at: crate::clock::Now) -> tokio::time::Instant {
        self.worker.mesh().clock.instant(at).into()
    }

    /// Whether another attempt is allowed after a failure; `sent` tells whether the endpoint may
    /// have run the call, `refused` whether it said that it did not.
    pub fn may_retry(&mut self, sent: bool, refused: bool) -> bool {
        self.worker.read_clock();
        self.exchange.may_retry(sent, refused)
    }

    /// Whether the attempt under way is the last that its route allows.
    #[must_use]
    pub fn is_last_attempt(&self) -> bool {
        self.exchange.is_last_attempt()
    }

    /// Whether the request must be kept after it was sent, for another attempt.
    #[must_use]
    pub fn may_need_resending(&self) -> bool {
        self.exchange.may_need_resending()
    }

    /// Attempts made so far.
    #[must_use]
    pub fn attempts(&self) -> u16 {
        self.exchange.attempts()
    }

    /// The longest that its route lets it take, if it says so.
    #[must_use]
    pub fn route_timeout(&self) -> Option<Duration> {
        self.route()?.timeout
    }

    /// What its protocol does with it beyond routing.
    #[must_use]
    pub fn treatment(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.route()?.treatment.clone()
    }

    fn route(&self) -> Option<&Arc<Route>> {
        self.exchange.selected_route()
    }

    /// Counts bytes of the request that came later.
    pub fn add_request_bytes(&mut self, bytes: u64) {
        self.exchange.add_request_bytes(bytes);
    }

    /// Says how it ended, with an answer of so many bytes.
    pub fn answered(&mut self, outcome: Outcome, bytes: u64) {
        self.worker.read_clock();
        self.exchange
            .answered(outcome, usize::try_from(bytes).unwrap_or(usize::MAX));
    }

    /// Ends it with the mesh's own answer; returns the text for the caller.
    pub fn rejected(&mut self, rejection: Rejection) -> String {
        self.worker.read_clock();
        self.exchange.rejected(rejection);
        self.exchange.explain(rejection)
    }
}

impl Lease {
    /// Where to send it.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.seat.endpoint.address
    }

    /// The cluster whose endpoint it is.
    #[must_use]
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.seat.cluster
    }

    /// Says how the attempt went.
    pub fn went(&mut self, verdict: Verdict) {
        self.conclude(verdict);
    }

    /// Says how the attempt went, and keeps the endpoint's place: for sessions, which go on long
    /// after it is known.
    pub fn has_gone(&mut self, verdict: Verdict) {
        self.conclude(verdict);
        self.report();
    }

    /// The endpoint takes no new calls for a while: it said that it is going away.
    pub fn is_leaving(&self, worker: &Worker, period: Duration) {
        let until = worker.now().after(period);
        self.seat
            .endpoint
            .health
            .leaving_until
            .store(until.0, Relaxed);
    }
}
