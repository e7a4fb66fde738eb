//! Calls of protocols that drive themselves: streams, sessions.
//!
//! A [`Protocol`](crate::protocol::Protocol) that is no codec makes a [`Caller`] of each accepted
//! connection, and has it open a [`Stream`] per call. Routing, balancing, deadlines, retries, limits
//! and records are the same as for framed calls.

mod tunnel;
mod words;

use std::any::Any;
use std::borrow::Cow;
use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::frame::{Metadata, Outcome};
use crate::gauges::Gauges;
use crate::mesh::{Attempt, AttemptEnd, Exchange, Lease, Origin, Resend, SiteCache, Verdict, rule};
use crate::net::{Socket, Transport};
use crate::record::Series;
use crate::rejection::Rejection;
use crate::route::Route;

use super::listener::{Carried as Luggage, Connection, Parcel, Presence};
use super::resident::Residence;
use super::worker::Worker;

use words::Words;

pub use tunnel::{Carried, TunnelEnd};

/// One client connection of a protocol that drives itself; on its worker's list until dropped.
pub struct Caller {
    worker: Rc<Worker>,
    origin: Rc<Origin>,
    peer: SocketAddr,
    transport: Option<Rc<Transport>>,
    sites: RefCell<SiteCache>,
    words: Rc<Words>,
    /// Until it leaves for another worker.
    place: RefCell<Option<(Residence, Presence)>>,
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
            carried: _,
        } = connection;
        let origin = listening.origin.clone();
        worker.read_clock();
        let words = Rc::new(Words::of(origin.id, worker.now()));
        let residence = Residence::take(&worker, words.clone());
        let caller = Self {
            worker,
            origin,
            peer,
            transport,
            sites: RefCell::default(),
            words,
            place: RefCell::new(Some((residence, presence))),
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

    // === What its worker tells it ===

    /// Has the task woken whenever something of what follows changes. For the one task that serves
    /// the connection; it costs next to nothing to be said at every poll.
    pub fn attend(&self, cx: &Context<'_>) {
        self.words.attend(cx);
    }

    /// Whether it is to go away when what is in flight is finished.
    #[must_use]
    pub fn is_dismissed(&self) -> bool {
        self.words.is_dismissed()
    }

    /// Waits until it is to go away.
    pub async fn dismissed(&self) {
        self.words.until(Words::is_dismissed).await;
    }

    /// Whether `limits.drain_grace` is over since then: if nothing is in flight, it is to end.
    #[must_use]
    pub fn is_grace_over(&self) -> bool {
        self.words.is_grace_over()
    }

    /// Whether it must end at once.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.words.is_cut()
    }

    /// Waits until it must end at once.
    pub async fn cut(&self) {
        self.words.until(Words::is_cut).await;
    }

    /// Says that nothing is in flight from now on: it is idle after `most` or, where that is `None`,
    /// after `limits.idle`, whatever that is then. A connection begins so.
    pub fn rest(&self, most: Option<Duration>) {
        self.words.rest(self.worker.now(), most);
    }

    /// Says that something is in flight: it is not idle before it [rests](Self::rest) again.
    pub fn work(&self) {
        self.worker.note_read();
        self.words.work();
    }

    /// Whether it has rested for too long. That is found out several times a second, and after a
    /// pause of ours only when the sockets were read.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.words.is_idle()
    }

    /// Says whether it can [leave](Self::hand_over) at the next boundary of its messages.
    pub fn set_movable(&self, movable: bool) {
        self.words.set_movable(movable && self.transport.is_none());
    }

    /// Whether it is to leave now, if it is at such a boundary.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        self.words.is_moving()
    }

    /// Gives the connection, on which nothing is in flight, to another worker, where `protocol` goes
    /// on with it as if it had just been accepted. What was read of it and not used must have been
    /// [put back](Socket::unread).
    pub fn hand_over(&self, socket: Socket, protocol: &'static str) {
        let nothing_else = Luggage::default();
        let parcel = Parcel::new(socket, self.peer, self.origin.id, protocol, nothing_else);
        // It is counted where it arrives.
        drop(self.place.take());
        if let Some(parcel) = parcel {
            self.worker.hand_over(parcel);
        }
    }

    // === Who it is ===

    // === Who it is ===

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
        let site = self.worker.site(&self.origin, protocol, source, &metadata);
        site.learn();
        site.series()
    }

    /// Counts a connection whose bytes made no sense.
    pub fn count_malformed(&self) {
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
                .find(&self.worker, &self.origin, protocol, source, metadata);
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
            let ready = self
                .worker
                .timers()
                .within(self.deadline(), cluster.until_ready());
            if ready.await.is_err() {
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
        self.worker.mesh().clock.instant(at)
    }

    /// Says how an attempt ended, by the [table](crate::mesh::rule) of verdicts; whether another one
    /// follows.
    pub fn conclude(&mut self, lease: &mut Lease, end: AttemptEnd, resend: Resend) -> bool {
        self.worker.read_clock();
        self.exchange.conclude(lease, end, resend)
    }

    /// Says that the endpoint has begun to answer: it is there, whatever comes of the call. It is
    /// told at once, since the rest of the answer may take long.
    pub fn begun(&self, lease: &mut Lease) {
        self.worker.read_clock();
        lease.settle(Verdict::Alive);
    }

    /// Says how the endpoint answered, at once, and keeps its place: for sessions, which go on long
    /// after.
    pub fn settle(&self, lease: &mut Lease, outcome: Outcome) {
        self.worker.read_clock();
        lease.settle(rule(AttemptEnd::Answered(outcome), false).verdict);
    }

    /// The ending of an attempt whose time has passed; `stalled` says that it passed while we did
    /// not run, `sent` that the request was sent.
    #[must_use]
    pub fn timed_out(&self, lease: &Lease, stalled: bool, sent: bool) -> AttemptEnd {
        self.worker.read_clock();
        AttemptEnd::TimedOut {
            whose: self.exchange.whose_deadline(lease, stalled),
            sent,
        }
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

impl Worker {
    /// Notes that an endpoint took a connection and does not speak on it: counted as a connection
    /// that could not be made, once for the connection.
    pub fn cannot_speak(&self, lease: &Lease, error: &io::Error) {
        self.read_clock();
        lease
            .cluster()
            .cannot_connect(lease.endpoint(), self.now(), error);
    }
}
