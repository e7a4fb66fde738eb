//! One client connection of a framed protocol: frames in, exchanges opened, answers out.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;

use crate::cluster::Cluster;
use crate::codec::{Codec, Signal};
use crate::frame::{Edit, Head, Kind, Malformed, Metadata, Outcome, Reading};
use crate::mesh::{Attempt, Exchange, Gauges, Lease, SiteCache, Verdict};
use crate::protocol::Served;
use crate::rejection::Rejection;

use super::inbox::{Inbox, Read};
use super::link::Link;
use super::listener::{Connection, Listening, Presence};
use super::tls::Transport;
use super::upstream::Call;
use super::worker::Worker;

/// Reads per wake-up, so that one busy client cannot keep others waiting.
const READS_PER_TURN: usize = 4;
/// While draining, a client that was quiet for this long has nothing on its way to us.
const QUIET: Duration = Duration::from_secs(1);
/// How long a connection that we ended is read on, so that its last answers are not lost to a
/// reset.
const LINGER: Duration = Duration::from_secs(1);

/// Serves one accepted connection of a framed protocol to its end.
#[must_use]
pub fn serve(
    codec: Arc<dyn Codec>,
    protocol: &'static str,
    connection: Connection,
    worker: Rc<Worker>,
) -> Served {
    let Connection {
        mut socket,
        transport,
        peer,
        listening,
        presence,
    } = connection;
    let prefix = socket.take_prefix();
    let (reader, writer) = socket.into_halves();
    let client = Rc::new(Client {
        link: Link::new(writer),
        codec,
        protocol,
        source: peer.ip(),
        transport,
        listening,
        sites: RefCell::default(),
        in_flight: Cell::new(0),
        holds: Cell::new(0),
        phase: Cell::new(Phase::Serving),
        heard: Cell::new(worker.now()),
        cue: Cell::new(None),
        leaving: Cell::new(None),
    });
    let session = Session {
        inbox: Inbox::new(reader, &prefix),
        client,
        worker,
        _presence: presence,
    };
    Box::pin(session.run())
}

/// Where a client connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Requests are read.
    Serving,
    /// No more requests are read; what is in flight is finished.
    Finishing,
    /// Everything is said; waiting for the client to hang up.
    Lingering(crate::clock::Now),
    /// Over; answers that still come have nobody to go to.
    Gone,
}

/// Since when a connection is to go away, and until when new calls are still served on it.
#[derive(Clone, Copy)]
struct Leaving {
    grace_ends: crate::clock::Now,
}

/// A client connection, as the calls in flight know it.
pub(crate) struct Client {
    link: Rc<Link>,
    codec: Arc<dyn Codec>,
    protocol: &'static str,
    source: IpAddr,
    /// What its TLS tells.
    transport: Option<Rc<Transport>>,
    pub(crate) listening: Rc<Listening>,
    sites: RefCell<SiteCache>,
    in_flight: Cell<u32>,
    /// Upstream connections that want no more from this client for now.
    holds: Cell<u32>,
    phase: Cell<Phase>,
    heard: Cell<crate::clock::Now>,
    /// The last frame read: the dialect for messages of our own.
    cue: Cell<Option<Head>>,
    leaving: Cell<Option<Leaving>>,
}

/// Why an attempt came to nothing.
#[derive(Clone, Copy)]
pub(crate) struct Failure {
    pub(crate) rejection: Rejection,
    /// Whether the endpoint may have run the call.
    pub(crate) sent: bool,
}

impl Failure {
    pub(crate) fn lost(rejection: Rejection) -> Self {
        Self {
            rejection,
            sent: true,
        }
    }
}

// === Requests ===

impl Client {
    fn receive(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        head: Head,
        wire: &[u8],
    ) -> Result<(), Malformed> {
        match head.kind {
            Kind::Request | Kind::OneWay => {
                self.cue.set(Some(head));
                self.request(worker, head, wire)
            }
            Kind::Ping => {
                self.cue.set(Some(head));
                let codec = &self.codec;
                self.link.append(worker, |out| {
                    codec.signal(Signal::Pong { wire }, &head, out)
                });
                self.check_queue(worker);
                Ok(())
            }
            // We ask nothing of clients, so there is nothing they could answer.
            Kind::Response | Kind::Pong | Kind::Goodbye | Kind::Welcome | Kind::Notice => Ok(()),
        }
    }

    fn request(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        mut head: Head,
        wire: &[u8],
    ) -> Result<(), Malformed> {
        let codec = &self.codec;
        let metadata = match codec.read(&head, wire) {
            Ok(Reading::Call(metadata)) => metadata,
            Ok(Reading::Answer(_)) => return Err(Malformed::Garbage("not a call")),
            Err(Malformed::Content(why)) => {
                self.refuse_unreadable(worker, &head, Rejection::BadRequest, why);
                return Ok(());
            }
            Err(malformed) => return Err(malformed),
        };
        head.note = metadata.note;
        let variant = pool_variant(&head, &metadata);
        let site = self.sites.borrow_mut().find(
            worker,
            &self.listening,
            self.protocol,
            self.source,
            &metadata,
        );
        let mut attributes = |name: &str| self.attribute(wire, &metadata, name);
        let (mut exchange, routed) = Exchange::open(
            worker,
            site,
            self.source,
            wire.len(),
            metadata.timeout,
            &mut attributes,
        );
        self.in_flight.set(self.in_flight.get() + 1);
        if let Err(rejection) = routed {
            self.refuse(worker, &head, exchange, rejection);
            return Ok(());
        }
        if self
            .leaving
            .get()
            .is_some_and(|leaving| leaving.grace_ends <= worker.now())
        {
            self.refuse(worker, &head, exchange, Rejection::Draining);
            self.finish();
            return Ok(());
        }
        match exchange.attempt(worker, &mut attributes) {
            Ok(Attempt::Go(lease)) => {
                self.transmit(worker, (head, variant), wire, None, exchange, lease);
            }
            Ok(Attempt::Wait(cluster)) => {
                let wire = Bytes::copy_from_slice(wire);
                self.park(worker, head, wire, exchange, cluster);
            }
            Err(rejection) => self.refuse(worker, &head, exchange, rejection),
        }
        Ok(())
    }

    /// Hands one attempt to a connection of the leased endpoint.
    fn transmit(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        (head, variant): (Head, u8),
        wire: &[u8],
        retained: Option<Bytes>,
        exchange: Exchange,
        lease: Lease,
    ) {
        let pool = lease
            .seat
            .clone()
            .pool(worker, &self.codec, self.protocol, variant);
        let deadline = exchange.attempt_deadline();
        let Some(upstream) = pool.choose(worker) else {
            return self.refuse(worker, &head, exchange, Rejection::Overloaded);
        };
        let call = Call {
            client: self.clone(),
            head,
            exchange,
            lease,
            deadline,
            wire: retained,
        };
        if let Err(call) = upstream.send(worker, call, wire) {
            let Call { head, exchange, .. } = call;
            self.refuse(worker, &head, exchange, Rejection::Overloaded);
        }
    }

    /// Keeps a call until its service's first snapshot is there, or its deadline passes.
    fn park(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        head: Head,
        wire: Bytes,
        exchange: Exchange,
        cluster: Arc<Cluster>,
    ) {
        if !worker.take_parking(wire.len()) {
            return self.refuse(worker, &head, exchange, Rejection::Overloaded);
        }
        let client = self.clone();
        let worker = worker.clone();
        tokio::task::spawn_local(async move {
            let deadline = worker.mesh().clock.instant(exchange.deadline).into();
            let ready = tokio::time::timeout_at(deadline, cluster.until_ready()).await;
            worker.read_clock();
            worker.leave_parking(wire.len());
            match ready {
                Ok(()) => client.again(&worker, head, wire, exchange, Rejection::NoService),
                Err(_) => {
                    tracing::warn!(cluster = %cluster.name(), "no word from the registry");
                    client.refuse(&worker, &head, exchange, Rejection::DeadlineExceeded);
                }
            }
        });
    }

    /// Tries (again) to send a call whose bytes were kept; if no attempt is to be had, its
    /// caller learns `cause`.
    fn again(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        head: Head,
        wire: Bytes,
        mut exchange: Exchange,
        cause: Rejection,
    ) {
        if self.phase.get() == Phase::Gone {
            return self.finished(worker);
        }
        let Ok(Reading::Call(metadata)) = self.codec.read(&head, &wire) else {
            return self.refuse(worker, &head, exchange, cause);
        };
        let first = exchange.attempts() == 0;
        let mut attributes = |name: &str| self.attribute(&wire, &metadata, name);
        match exchange.attempt(worker, &mut attributes) {
            Ok(Attempt::Go(lease)) => {
                let variant = pool_variant(&head, &metadata);
                let kept = Some(wire.clone());
                self.transmit(worker, (head, variant), &wire, kept, exchange, lease);
            }
            Ok(Attempt::Wait(cluster)) => {
                drop(metadata);
                self.park(worker, head, wire.clone(), exchange, cluster);
            }
            Err(rejection) if first => self.refuse(worker, &head, exchange, rejection),
            Err(_) => self.refuse(worker, &head, exchange, cause),
        }
    }

    /// An attribute of a call, or of the connection that it came over.
    fn attribute<'a>(
        &'a self,
        wire: &'a [u8],
        metadata: &Metadata<'_>,
        name: &str,
    ) -> Option<Cow<'a, str>> {
        if Transport::names(name) {
            let found = self.transport.as_deref()?.attribute(name)?;
            return Some(Cow::Borrowed(found));
        }
        self.codec.attribute(wire, metadata, name)
    }

    // === Answers ===

    /// Passes an answer on to its caller, or tries elsewhere if the server refused the call.
    pub(crate) fn deliver(
        mut call: Call,
        worker: &Rc<Worker>,
        head: &Head,
        wire: &[u8],
        outcome: Outcome,
    ) {
        call.conclude(match outcome {
            Outcome::Success | Outcome::Exception => Verdict::Good,
            Outcome::Failed | Outcome::Refused | Outcome::TimedOut => Verdict::Bad,
        });
        if outcome == Outcome::Refused && call.wire.is_some() && call.exchange.may_retry(true, true)
        {
            let Call {
                client,
                head,
                exchange,
                lease,
                wire,
                ..
            } = call;
            drop(lease);
            if let Some(wire) = wire {
                client.again(worker, head, wire, exchange, Rejection::Overloaded);
            }
            return;
        }
        let Call {
            client,
            head: asked,
            mut exchange,
            ..
        } = call;
        if client.phase.get() != Phase::Gone {
            client.link.append(worker, |out| {
                let edit = Edit {
                    id: asked.id,
                    attributes: &[],
                };
                let used = client.codec.encode(head, wire, &edit, out);
                out.extend_from_slice(wire.get(used..).unwrap_or_default());
            });
            exchange.answered(outcome, wire.len());
            client.check_queue(worker);
        }
        client.finished(worker);
    }

    /// Deals with an attempt that came to nothing: another one where that is safe, else the
    /// mesh's own answer.
    pub(crate) fn settle(mut call: Call, worker: &Rc<Worker>, failure: Failure) {
        call.conclude(Verdict::Bad);
        let Call {
            client,
            head,
            mut exchange,
            lease,
            wire,
            ..
        } = call;
        drop(lease);
        if let Some(wire) = wire
            && exchange.may_retry(failure.sent, false)
        {
            return client.again(worker, head, wire, exchange, failure.rejection);
        }
        client.refuse(worker, &head, exchange, failure.rejection);
    }

    /// Answers in the service's place.
    fn refuse(&self, worker: &Worker, head: &Head, mut exchange: Exchange, why: Rejection) {
        if self.phase.get() != Phase::Gone {
            let text = exchange.explain(why);
            tracing::debug!(protocol = self.protocol, source = %self.source, text, "rejected");
            self.link
                .append(worker, |out| self.codec.reject(head, why, &text, out));
            exchange.rejected(why);
            self.check_queue(worker);
        }
        self.finished(worker);
    }

    /// Answers a request of which nothing but the fixed header can be used.
    fn refuse_unreadable(&self, worker: &Rc<Worker>, head: &Head, why: Rejection, detail: &str) {
        let nothing = Metadata::default();
        let site = worker.site(&self.listening, self.protocol, self.source, &nothing);
        let mut exchange = Exchange::unreadable(worker, site, self.source, head.len);
        exchange.rejected(why);
        let text = format!("{}: {detail}", exchange.explain(why));
        self.link
            .append(worker, |out| self.codec.reject(head, why, &text, out));
        self.check_queue(worker);
    }

    /// One call less in flight.
    pub(crate) fn finished(&self, worker: &Worker) {
        let left = self.in_flight.get().saturating_sub(1);
        self.in_flight.set(left);
        let resume = left == worker.in_flight_per_connection() / 2;
        if resume || (left == 0 && self.phase.get() != Phase::Serving) {
            self.link.wake_owner();
        }
    }

    // === Bounds ===

    /// A client that does not read its answers is disconnected before they fill the memory.
    fn check_queue(&self, worker: &Worker) {
        if self.link.queued() > worker.queue_hard() && self.phase.get() != Phase::Gone {
            tracing::warn!(
                source = %self.source, listener = %self.listening.name,
                "client does not read its answers; its connection is closed"
            );
            Gauges::add(&worker.mesh().gauges.slow_readers);
            self.phase.set(Phase::Gone);
            self.link.wake_owner();
        }
    }

    /// Stops reading from the client on behalf of an upstream connection; false if its reading
    /// is not held back by that.
    pub(crate) fn hold(&self) -> bool {
        let serving = self.phase.get() == Phase::Serving && self.holds.get() == 0;
        if serving {
            self.holds.set(1);
        }
        serving
    }

    /// Takes one [`hold`](Self::hold) back.
    pub(crate) fn release(&self) {
        self.holds.set(self.holds.get().saturating_sub(1));
        self.link.wake_owner();
    }

    fn paused(&self, worker: &Worker) -> bool {
        if self.link.queued() > worker.queue_soft() {
            self.link.wake_when_drained();
            return true;
        }
        self.holds.get() > 0 || self.in_flight.get() >= worker.in_flight_per_connection()
    }

    // === Going away ===

    /// Reads no more requests; the connection ends when those in flight are answered.
    fn finish(&self) {
        if self.phase.get() == Phase::Serving {
            self.phase.set(Phase::Finishing);
            self.link.wake_owner();
        }
    }

    /// Says goodbye where the protocol can, and has the connection end once nothing is in
    /// flight; new calls are served until `grace_ends`.
    pub(crate) fn leave(&self, worker: &Worker, grace_ends: crate::clock::Now) {
        if self.leaving.get().is_some() {
            return;
        }
        self.leaving.set(Some(Leaving { grace_ends }));
        if let Some(cue) = self.cue.get() {
            let codec = &self.codec;
            let goodbye = Signal::Goodbye {
                id: worker.random(),
            };
            self.link
                .append(worker, |out| codec.signal(goodbye, &cue, out));
        }
        self.link.wake_owner();
    }

    /// Housekeeping: ends connections that are idle for too long, or leaving and quiet.
    pub(crate) fn tick(&self, worker: &Worker) {
        let now = worker.now();
        let quiet = now.since(self.heard.get());
        match self.phase.get() {
            Phase::Serving if self.in_flight.get() == 0 => {
                let leaving = self.leaving.get().is_some() && quiet >= QUIET;
                if leaving || quiet >= worker.idle() {
                    self.finish();
                }
            }
            Phase::Lingering(until) if until <= now => self.link.wake_owner(),
            _ => {}
        }
    }

    /// Ends it at once: draining has taken too long.
    pub(crate) fn cut(&self) {
        self.finish();
    }
}

/// What frames on one upstream connection must have in common.
fn pool_variant(head: &Head, metadata: &Metadata<'_>) -> u8 {
    head.variant ^ metadata.writer << 4
}

/// The task of one client connection.
struct Session {
    inbox: Inbox,
    client: Rc<Client>,
    worker: Rc<Worker>,
    _presence: Presence,
}

impl Session {
    async fn run(mut self) {
        let number = self.worker.enlist(&self.client);
        self.take_prefix();
        std::future::poll_fn(|cx| self.poll(cx)).await;
        self.client.phase.set(Phase::Gone);
        self.worker.strike_off(number);
    }

    fn take_prefix(&mut self) {
        let (client, worker) = (&self.client, &self.worker);
        worker.read_clock();
        let taken = self.inbox.split_prefix(&*client.codec, |head, wire| {
            client.receive(worker, head, wire)
        });
        if let Err(malformed) = taken {
            self.reject_malformed(malformed);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let client = self.client.clone();
        client.link.owned_by(cx);
        if client.link.blocked() {
            client.link.flush(&self.worker);
        }
        for _ in 0..READS_PER_TURN {
            if client.link.failed() {
                return Poll::Ready(());
            }
            match client.phase.get() {
                Phase::Serving if client.paused(&self.worker) => return Poll::Pending,
                Phase::Serving => ready!(self.poll_requests(cx)),
                Phase::Finishing => ready!(self.poll_finish(cx)),
                Phase::Lingering(until) => return self.poll_linger(cx, until),
                Phase::Gone => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_requests(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self {
            inbox,
            client,
            worker,
            ..
        } = self;
        let read = inbox.poll_frames(cx, worker, &*client.codec, |head, wire| {
            client.receive(worker, head, wire)
        });
        match ready!(read) {
            Read::Bytes => client.heard.set(worker.now()),
            // The client may only have closed its sending side: what it asked is answered.
            Read::End => client.finish(),
            Read::Failed(_) => client.phase.set(Phase::Gone),
            Read::Malformed(malformed) => self.reject_malformed(malformed),
        }
        Poll::Ready(())
    }

    /// Answers what can be answered, reads nothing more, and finishes what is in flight.
    fn reject_malformed(&self, malformed: Malformed) {
        let Self { client, worker, .. } = self;
        tracing::info!(
            source = %client.source, listener = %client.listening.name,
            protocol = client.protocol, %malformed, "client sent what cannot be read"
        );
        Gauges::add(&worker.mesh().gauges.malformed);
        if let Malformed::TooLarge { head, .. } = &malformed {
            let detail = malformed.to_string();
            client.refuse_unreadable(worker, head, Rejection::TooLarge, &detail);
        }
        client.finish();
    }

    fn poll_finish(&self, cx: &mut Context<'_>) -> Poll<()> {
        let client = &self.client;
        if client.in_flight.get() > 0 {
            return Poll::Pending;
        }
        if client.link.queued() > 0 {
            client.link.wake_when_drained();
            return Poll::Pending;
        }
        ready!(client.link.poll_shutdown(cx));
        client
            .phase
            .set(Phase::Lingering(self.worker.now().after(LINGER)));
        Poll::Ready(())
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>, until: crate::clock::Now) -> Poll<()> {
        if until <= self.worker.now() {
            return Poll::Ready(());
        }
        loop {
            match ready!(self.inbox.poll_discard(cx, &self.worker)) {
                Read::Bytes => {}
                Read::End | Read::Failed(_) | Read::Malformed(_) => return Poll::Ready(()),
            }
        }
    }
}
