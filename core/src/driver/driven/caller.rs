//! Callers: client connections of protocols that drive themselves, and what their workers tell them.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use crate::clock::Now;
use crate::frame::Metadata;
use crate::identity::Identity;
use crate::mesh::{self, Exchange, Lease, Origin, RouteCache, Routed, Traced, Underway};
use crate::net::{ConnectionEnds, Known, Socket, Transport};
use crate::record::Series;
use crate::rejection::Rejection;
use crate::stats::increment;
use crate::trace::{Choice, Read};

use super::super::listener::{Carried, Connection, Parcel, Presence};
use super::super::protocol::Resume;
use super::super::proxies::Proxies;
use super::super::resident::Residence;
use super::super::shadow::{MessageShadow, Shadowed};
use super::super::survey::{CallPlace, SessionPlace, WaitsFor};
use super::super::worker::Worker;
use super::words::Words;
use super::{DrivenExchange, PartedFilters, SessionFilters};

/// One client connection of a protocol that drives itself; on its worker's list until dropped.
pub struct Caller {
    pub(super) worker: Rc<Worker>,
    origin: Rc<Origin>,
    peer: Cell<SocketAddr>,
    /// Where it connected to.
    local: Option<SocketAddr>,
    proxies: Arc<Proxies>,
    transport: Option<Rc<Transport>>,
    route_cache: RefCell<RouteCache>,
    pub(super) words: Rc<Words>,
    /// What its protocol gave along in the worker that had it before.
    state: Cell<Option<Box<dyn Resume>>>,
    /// Until it leaves for another worker.
    place: RefCell<Option<(Residence, Option<Presence>)>>,
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
            carried,
        } = connection;
        let origin = listening.origin.clone();
        let local = carried.local.or_else(|| socket.local_addr().ok());
        worker.read_clock();
        let words = Rc::new(Words::of(origin.id, &worker));
        let ends = transport.as_deref().and_then(|own| own.ends(worker.now()));
        let residence = Residence::take(&worker, words.clone()).until(ends);
        let caller = Self {
            worker,
            origin,
            peer: Cell::new(peer),
            local,
            proxies: listening.proxies.clone(),
            transport,
            route_cache: RefCell::default(),
            words,
            state: Cell::new(carried.state),
            place: RefCell::new(Some((residence, Some(presence)))),
        };
        (Rc::new(caller), socket)
    }

    /// The same client, for what goes on without it: it is told what a connection is told, and takes the place of none.
    #[must_use]
    pub fn apart(&self) -> Rc<Self> {
        let words = Rc::new(Words::of(self.origin.id, &self.worker));
        words.work();
        let residence = Residence::take(&self.worker, words.clone());
        Rc::new(Self {
            worker: self.worker.clone(),
            origin: self.origin.clone(),
            peer: self.peer.clone(),
            local: self.local,
            proxies: self.proxies.clone(),
            transport: self.transport.clone(),
            route_cache: RefCell::default(),
            words,
            state: Cell::new(None),
            place: RefCell::new(Some((residence, None))),
        })
    }

    /// The client's address.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer.get()
    }

    /// Takes it for somebody else's from now on, as a trusted proxy says, whose port nobody knows.
    pub fn comes_from(&self, source: IpAddr) {
        if source != self.peer().ip() {
            self.peer.set(SocketAddr::new(source, 0));
        }
    }

    /// Where it connected to: to us, or to the proxy in front that told us so.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        self.local
    }

    /// Both ends of its connection, as endpoints are told of them; of a call that comes from `source`.
    #[must_use]
    pub fn ends(&self, source: IpAddr) -> Option<ConnectionEnds> {
        // The port that a trusted proxy's client has nobody knows.
        let port = if source == self.peer().ip() {
            self.peer().port()
        } else {
            0
        };
        Some(ConnectionEnds {
            source: SocketAddr::new(source, port),
            destination: self.local?,
        })
    }

    /// What its TLS tells.
    #[must_use]
    pub fn known(&self) -> Known<'_> {
        Known {
            server_name: self.server_name(),
            certified: self.certified().map(|own| own.subject()),
        }
    }

    /// The proxies in front of its listener.
    #[must_use]
    pub fn proxies(&self) -> &Proxies {
        &self.proxies
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
        self.worker.note_read();
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

    /// Has its task woken once `at` has passed, or never for `None`. That is found out several times a
    /// second, and after a pause of ours only when the sockets were read.
    pub fn wake_after(&self, at: Option<Now>) {
        self.words.wake_after(at);
    }

    /// Says whether it can [leave](Self::hand_over) at the next boundary of its messages.
    pub fn set_movable(&self, movable: bool) {
        self.words.set_movable(movable);
    }

    /// Whether it is to leave now, if it is at such a boundary.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        self.words.is_moving()
    }

    /// Gives the connection, which is at a boundary of its messages, to another worker, where `protocol` goes
    /// on with it from `state`, or as if it had just been accepted. What was read of it and not used must have
    /// been [put back](Socket::unread), and everything flushed.
    pub fn hand_over(
        &self,
        socket: Socket,
        protocol: &'static str,
        state: Option<Box<dyn Resume>>,
    ) {
        let carried = Carried {
            last_head: None,
            local: self.local,
            state,
        };
        let parcel = Parcel::new(socket, self.peer(), self.origin.id, protocol, carried);
        // It is counted where it arrives.
        drop(self.place.take());
        if let Some(parcel) = parcel {
            let parcel = parcel.with(self.transport.as_deref());
            self.worker.hand_over(parcel);
        }
    }

    /// From what its protocol goes on here: what it [gave along](Self::hand_over) in another worker.
    #[must_use]
    pub fn take_carried(&self) -> Option<Box<dyn Resume>> {
        self.state.take()
    }

    // === Who it is ===

    /// The name that the client asked for in its TLS.
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        self.transport.as_deref()?.attribute(":sni")
    }

    /// Who the client's certificate says it is, as text: [no kind](Identity::text) of name can pass
    /// for another.
    #[must_use]
    pub fn identity(&self) -> Option<&str> {
        Some(self.certified()?.text())
    }

    /// The names in the client's certificate, by kind.
    #[must_use]
    pub fn certified(&self) -> Option<&Identity> {
        self.transport.as_deref()?.identity()
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
        let source = self.peer().ip();
        let resolved = self
            .worker
            .resolve(&self.origin, protocol, source, &metadata);
        resolved.learn();
        resolved.series()
    }

    /// Lists its session for operators under a name, until what is returned is dropped: with `endpoint`,
    /// or ending here.
    #[must_use]
    pub fn list_session(
        &self,
        protocol: &'static str,
        name: &str,
        endpoint: Option<SocketAddr>,
    ) -> SessionPlace {
        let ends = (self.peer(), endpoint);
        SessionPlace::take(&self.worker, (protocol, &self.origin.name), name, ends)
    }

    /// The spans of something that its client does within a session: of this service and method, but
    /// routed nowhere. `choice` is what the session's route says of them. `None` if it leaves none.
    pub fn trace(
        &self,
        protocol: &'static str,
        (service, method): (&str, &'static str),
        choice: Option<&Choice>,
        attributes: Read<'_, '_>,
    ) -> Option<Traced> {
        if !self.worker.is_tracing() {
            return None;
        }
        let metadata = Metadata {
            service: Cow::Borrowed(service),
            method: Cow::Borrowed(method),
            own: true,
            ..Metadata::default()
        };
        let source = self.peer().ip();
        let resolved = self
            .worker
            .resolve(&self.origin, protocol, source, &metadata);
        Traced::open_apart(&self.worker, resolved.tracing.as_ref()?, choice, attributes)
    }

    /// Counts a connection whose bytes are malformed.
    pub fn count_malformed(&self) {
        increment(&self.worker.mesh().stats.malformed);
    }

    /// Opens a call of `protocol` (the name that routes and metrics know it by) and finds its
    /// route. `timeout` in the metadata is the caller's own.
    pub fn open(
        self: &Rc<Self>,
        protocol: &'static str,
        metadata: &Metadata<'_>,
        bytes: usize,
        attributes: &mut dyn FnMut(&str) -> Option<String>,
    ) -> (DrivenExchange, Result<Routed, Rejection>) {
        self.open_for(self.peer().ip(), protocol, metadata, bytes, attributes)
    }

    /// The same of a call that comes from elsewhere, as a trusted proxy says.
    pub fn open_for(
        self: &Rc<Self>,
        source: IpAddr,
        protocol: &'static str,
        metadata: &Metadata<'_>,
        bytes: usize,
        attributes: &mut dyn FnMut(&str) -> Option<String>,
    ) -> (DrivenExchange, Result<Routed, Rejection>) {
        self.worker.read_clock();
        let resolved = self.route_cache.borrow_mut().find(
            &self.worker,
            &self.origin,
            protocol,
            source,
            metadata,
        );
        let exchange = Exchange::open(
            &self.worker,
            resolved,
            (source, bytes),
            self.certified(),
            metadata,
            &mut |_| metadata.refused,
            &mut |name| attribute(self.transport.as_deref(), attributes, name),
        );
        let routed = exchange.routed();
        let exchange = DrivenExchange {
            place: CallPlace::take(&self.worker, &exchange, WaitsFor::Connection),
            exchange,
            transport: self.transport.clone(),
            worker: self.worker.clone(),
        };
        (exchange, routed)
    }
}

impl Caller {
    /// Goes on with a call that another worker had, and that was opened there with the same metadata.
    pub fn resume(
        &self,
        protocol: &'static str,
        metadata: &Metadata<'_>,
        underway: Underway,
    ) -> Option<(DrivenExchange, Lease)> {
        self.worker.read_clock();
        let source = self.peer().ip();
        let resolved = self
            .worker
            .resolve(&self.origin, protocol, source, metadata);
        let (exchange, lease) = Exchange::resume(&self.worker, resolved, underway)?;
        let exchange = DrivenExchange {
            place: CallPlace::take(&self.worker, &exchange, WaitsFor::Answer),
            exchange,
            transport: self.transport.clone(),
            worker: self.worker.clone(),
        };
        Some((exchange, lease))
    }

    /// Goes on with the filters of a session that another worker had, and that was opened there with the same metadata.
    #[must_use]
    pub fn resume_filters(
        &self,
        protocol: &'static str,
        metadata: &Metadata<'_>,
        filters: PartedFilters,
    ) -> SessionFilters {
        let source = self.peer().ip();
        let resolved = self
            .worker
            .resolve(&self.origin, protocol, source, metadata);
        SessionFilters {
            own: mesh::SessionFilters::resume(resolved, filters.0, source),
            transport: self.transport.clone(),
            worker: self.worker.clone(),
        }
    }

    /// Opens a copy of a call, as [`open_for`](Self::open_for) does a call: it goes to the shadow, and nobody hears of
    /// it. `None` if it goes nowhere.
    pub fn open_shadow(
        &self,
        (original, shadow): (&DrivenExchange, &Shadowed),
        source: IpAddr,
        protocol: &'static str,
        metadata: &Metadata<'_>,
        bytes: usize,
        attributes: &mut dyn FnMut(&str) -> Option<String>,
    ) -> Option<DrivenExchange> {
        self.worker.read_clock();
        let about = (&shadow.0.table, source, protocol);
        let mut exchange = self.shadow_exchange(about, metadata, bytes, attributes);
        let attributes = &mut |name: &str| attributes(name).map(Cow::Owned);
        exchange.mark(&original.exchange, &shadow.0.marks, protocol, attributes);
        self.vanishing(exchange)
    }

    /// Opens a session of our own with the shadow of other sessions' messages. `None` if it goes nowhere.
    #[must_use]
    pub fn open_message_shadow(
        &self,
        shadow: &MessageShadow,
        protocol: &'static str,
        metadata: &Metadata<'_>,
    ) -> Option<DrivenExchange> {
        self.worker.read_clock();
        let about = (&shadow.0.table, self.peer().ip(), protocol);
        let exchange = self.shadow_exchange(about, metadata, 0, &mut |_| None);
        self.vanishing(exchange)
    }

    fn shadow_exchange(
        &self,
        (table, source, protocol): (&Arc<str>, IpAddr, &'static str),
        metadata: &Metadata<'_>,
        bytes: usize,
        attributes: &mut dyn FnMut(&str) -> Option<String>,
    ) -> Exchange {
        let resolved = self
            .worker
            .resolve_shadow(table, protocol, source, metadata);
        Exchange::open(
            &self.worker,
            resolved,
            (source, bytes),
            None,
            metadata,
            &mut |_| metadata.refused,
            &mut |name: &str| attributes(name).map(Cow::Owned),
        )
    }

    /// A copy as a call, whose client is nobody.
    fn vanishing(&self, exchange: Exchange) -> Option<DrivenExchange> {
        let is_routed = exchange.routed() == Ok(Routed::Onward);
        is_routed.then(|| DrivenExchange {
            place: CallPlace::take(&self.worker, &exchange, WaitsFor::Connection),
            exchange,
            transport: None,
            worker: self.worker.clone(),
        })
    }
}

/// An attribute of a call, or of the connection that it came over.
pub(super) fn attribute<'a>(
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
