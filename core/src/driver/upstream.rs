//! One connection to an endpoint, shared by the calls of many clients.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Now;
use crate::codec::{Sharing, Signal};
use crate::frame::{Edit, Head, Kind, Malformed, Outcome, Reading};
use crate::mesh::{Exchange, Gauges, Lease, Verdict};
use crate::rejection::Rejection;

use super::framed::{Client, Failure};
use super::inbox::{Inbox, Read};
use super::link::Link;
use super::pool::Pool;
use super::socket::dial;
use super::table::{Claim, Table};
use super::worker::Worker;

/// Calls given up, their ids blocked, before a connection is replaced by a fresh one.
const ABANDONED: usize = 1024;
/// A peer that read nothing of a full queue for this long takes no more calls.
const STALLED: Duration = Duration::from_secs(1);
/// An endpoint that said goodbye is avoided this long.
const LEAVING: Duration = Duration::from_secs(10);
/// A connection beyond the first that carried no call for this long is closed.
const SPARE_IDLE: Duration = Duration::from_secs(60);
/// Reads per wake-up, so that one busy peer cannot keep others waiting.
const READS_PER_TURN: usize = 4;

/// A call on its way: everything that is needed to answer its caller, or to send it again.
pub(crate) struct Call {
    pub(crate) client: Rc<Client>,
    pub(crate) head: Head,
    pub(crate) exchange: Exchange,
    pub(crate) lease: Lease,
    pub(crate) deadline: Now,
    /// The request's bytes, if it may have to be sent (again).
    pub(crate) wire: Option<Bytes>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are calls, and a box each would be an allocation per call"
)]
enum Entry {
    Call(Call),
    Ping,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Open,
    /// Finishes what is in flight, takes nothing new.
    Leaving,
    Closed,
}

/// One connection to an endpoint.
pub(crate) struct Upstream {
    pool: Rc<Pool>,
    link: OnceCell<Rc<Link>>,
    table: RefCell<Table<Entry>>,
    /// One-ways that wait for the connection.
    waiting: RefCell<Vec<Call>>,
    waiting_bytes: Cell<usize>,
    state: Cell<State>,
    /// No deadline of a call here is earlier; never later than the earliest.
    earliest: Cell<Now>,
    heard: Cell<Now>,
    called: Cell<Now>,
    pinged: Cell<Now>,
    ping: Cell<Option<u64>>,
    /// The last request sent: the dialect for messages of our own.
    cue: Cell<Option<Head>>,
    /// When the queue was first seen full; clients that wait for it to empty.
    full_since: Cell<Option<Now>>,
    /// It stayed full for too long: no more calls until it has emptied.
    stalled: Cell<bool>,
    paused: RefCell<Vec<Rc<Client>>>,
}

impl Upstream {
    /// Begins to connect.
    pub(crate) fn start(pool: &Rc<Pool>, worker: &Rc<Worker>) -> Rc<Self> {
        let Sharing::Multiplexed { id_bits } = pool.codec.sharing();
        let now = worker.now();
        let upstream = Rc::new(Self {
            pool: pool.clone(),
            link: OnceCell::new(),
            table: RefCell::new(Table::new(id_bits)),
            waiting: RefCell::default(),
            waiting_bytes: Cell::new(0),
            state: Cell::new(State::Connecting),
            earliest: Cell::new(Now(u64::MAX)),
            heard: Cell::new(now),
            called: Cell::new(now),
            pinged: Cell::new(now),
            ping: Cell::new(None),
            cue: Cell::new(None),
            full_since: Cell::new(None),
            stalled: Cell::new(false),
            paused: RefCell::default(),
        });
        tokio::task::spawn_local(upstream.clone().run(worker.clone()));
        upstream
    }

    /// Whether it may carry one more call.
    pub(crate) fn takes_calls(&self) -> bool {
        matches!(self.state.get(), State::Connecting | State::Open) && !self.stalled.get()
    }

    /// Calls in flight on it.
    pub(crate) fn load(&self) -> usize {
        self.table.borrow().len()
    }

    // === Sending ===

    /// Sends a call, or keeps it until the connection is made. Gives the call back if it cannot
    /// be taken.
    #[expect(
        clippy::result_large_err,
        reason = "the error is the call itself, given back"
    )]
    pub(crate) fn send(
        self: &Rc<Self>,
        worker: &Worker,
        mut call: Call,
        wire: &[u8],
    ) -> Result<(), Call> {
        self.called.set(worker.now());
        let open = self
            .link
            .get()
            .filter(|_| self.state.get() != State::Connecting);
        let Some(link) = open else {
            return self.keep(worker, call, wire);
        };
        self.cue.set(Some(call.head));
        if link.queued() > worker.queue_soft() {
            self.hold_back(worker, &call.client);
            if link.queued() > worker.queue_hard() {
                return Err(call);
            }
        }
        let head = call.head;
        if head.kind == Kind::OneWay {
            let id = self.table.borrow_mut().one_way_id();
            self.put(worker, link, &head, wire, id);
            call.exchange.sent();
            call.client.finished(worker);
            return Ok(());
        }
        if call.wire.is_none() && call.exchange.may_need_resending() {
            call.wire = Some(Bytes::copy_from_slice(wire));
        }
        let id = self.enter(worker, call)?;
        self.put(worker, link, &head, wire, id);
        Ok(())
    }

    #[expect(
        clippy::result_large_err,
        reason = "the error is the call itself, given back"
    )]
    fn keep(self: &Rc<Self>, worker: &Worker, mut call: Call, wire: &[u8]) -> Result<(), Call> {
        let bytes = self.waiting_bytes.get() + wire.len();
        if bytes > worker.queue_hard() {
            return Err(call);
        }
        self.waiting_bytes.set(bytes);
        call.wire
            .get_or_insert_with(|| Bytes::copy_from_slice(wire));
        if call.head.kind == Kind::OneWay {
            self.waiting.borrow_mut().push(call);
            return Ok(());
        }
        self.enter(worker, call).map(|_| ())
    }

    /// Gives the call an id.
    #[expect(
        clippy::result_large_err,
        reason = "the error is the call itself, given back"
    )]
    fn enter(&self, worker: &Worker, call: Call) -> Result<u64, Call> {
        let deadline = call.deadline;
        let entered = self.table.borrow_mut().insert(Entry::Call(call));
        let id = entered.map_err(|entry| match entry {
            Entry::Call(call) => call,
            Entry::Ping => unreachable!("a call went in"),
        })?;
        if deadline < self.earliest.get() {
            self.earliest.set(deadline);
            worker.expect_deadline(deadline);
        }
        Ok(id)
    }

    fn put(&self, worker: &Worker, link: &Rc<Link>, head: &Head, wire: &[u8], id: u64) {
        link.append(worker, |out| {
            let edit = Edit {
                id,
                attributes: &[],
            };
            let used = self.pool.codec.encode(head, wire, &edit, out);
            out.extend_from_slice(wire.get(used..).unwrap_or_default());
        });
    }

    /// The peer does not read fast enough: stops reading from the client that sends to it.
    fn hold_back(&self, worker: &Worker, client: &Rc<Client>) {
        if self.full_since.get().is_none() {
            self.full_since.set(Some(worker.now()));
        }
        if !self.stalled.get() && client.hold() {
            self.paused.borrow_mut().push(client.clone());
        }
    }

    fn let_go(&self) {
        for client in self.paused.borrow_mut().drain(..) {
            client.release();
        }
    }

    // === The connection's own task ===

    async fn run(self: Rc<Self>, worker: Rc<Worker>) {
        let gauges = &worker.mesh().gauges;
        let address = self.pool.endpoint.address;
        // Boxed: connecting is short, and what it needs is large.
        let connected = Box::pin(dial(&self.pool.cluster, address, None)).await;
        worker.read_clock();
        let socket = match connected {
            Ok(socket) => socket,
            Err(error) => {
                tracing::debug!(%address, %error, "cannot connect");
                Gauges::add(&gauges.connect_failures);
                return self.close(&worker, Rejection::ConnectFailed);
            }
        };
        Gauges::add(&gauges.upstream_connections);
        let (reader, writer) = socket.into_halves();
        let link = Link::new(writer);
        // Cannot be set yet: only this task sets it.
        let _ = self.link.set(link.clone());
        self.heard.set(worker.now());
        self.state.set(State::Open);
        self.send_waiting(&worker, &link);
        let mut inbox = Inbox::new(reader, &[]);
        std::future::poll_fn(|cx| self.poll(cx, &worker, &link, &mut inbox)).await;
        worker.read_clock();
        Gauges::sub(&gauges.upstream_connections);
        self.close(&worker, Rejection::ConnectionLost);
    }

    fn send_waiting(self: &Rc<Self>, worker: &Worker, link: &Rc<Link>) {
        let mut table = self.table.borrow_mut();
        // Nothing was sent yet, so no answer can come for what was given up meanwhile.
        table.release_abandoned();
        for (id, entry) in table.iter_mut() {
            let Entry::Call(call) = entry else { continue };
            self.cue.set(Some(call.head));
            if let Some(wire) = &call.wire {
                self.put(worker, link, &call.head, wire, id);
            }
            if !call.exchange.may_need_resending() {
                call.wire = None;
            }
        }
        drop(table);
        for mut call in self.waiting.take() {
            let id = self.table.borrow_mut().one_way_id();
            if let Some(wire) = call.wire.take() {
                self.put(worker, link, &call.head, &wire, id);
            }
            call.exchange.sent();
            call.client.finished(worker);
        }
    }

    fn poll(
        self: &Rc<Self>,
        cx: &mut Context<'_>,
        worker: &Rc<Worker>,
        link: &Rc<Link>,
        inbox: &mut Inbox,
    ) -> Poll<()> {
        link.owned_by(cx);
        if link.blocked() {
            link.flush(worker);
        }
        if link.failed() || self.state.get() == State::Closed {
            return Poll::Ready(());
        }
        if self.full_since.get().is_some() && link.queued() <= worker.queue_soft() / 2 {
            self.full_since.set(None);
            self.stalled.set(false);
            self.let_go();
        }
        for _ in 0..READS_PER_TURN {
            let codec = &*self.pool.codec;
            let read = inbox.poll_frames(cx, worker, codec, |head, wire| {
                self.receive(worker, link, head, wire)
            });
            match read {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Read::Bytes) => self.heard.set(worker.now()),
                Poll::Ready(Read::End) => return Poll::Ready(()),
                Poll::Ready(Read::Failed(error)) => {
                    tracing::debug!(address = %self.pool.endpoint.address, %error, "lost");
                    return Poll::Ready(());
                }
                Poll::Ready(Read::Malformed(why)) => {
                    tracing::warn!(
                        address = %self.pool.endpoint.address, protocol = self.pool.protocol,
                        %why, "endpoint sent what cannot be read; its connection is closed"
                    );
                    return Poll::Ready(());
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    // === Receiving ===

    fn receive(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        link: &Rc<Link>,
        head: Head,
        wire: &[u8],
    ) -> Result<(), Malformed> {
        let codec = &self.pool.codec;
        match head.kind {
            Kind::Response => return self.answer(worker, head, wire),
            Kind::Ping => {
                link.append(worker, |out| {
                    codec.signal(Signal::Pong { wire }, &head, out)
                });
            }
            Kind::Pong => {
                if self.ping.get() == Some(head.id) {
                    self.ping.set(None);
                    self.table.borrow_mut().claim(head.id);
                }
            }
            Kind::Goodbye => {
                tracing::info!(address = %self.pool.endpoint.address, "endpoint says goodbye");
                let until = worker.now().after(LEAVING);
                self.set_leaving(until);
                self.state.set(State::Leaving);
            }
            Kind::Welcome => {
                self.set_leaving(Now(0));
                if self.state.get() == State::Leaving {
                    self.state.set(State::Open);
                }
            }
            Kind::Request => {
                // A server that calls its client: on a shared connection it cannot be known
                // which client is meant.
                let text = "[finback] a shared connection takes no calls from the server";
                link.append(worker, |out| {
                    codec.reject(&head, Rejection::Denied, text, out)
                });
            }
            Kind::OneWay | Kind::Notice => {}
        }
        Ok(())
    }

    fn set_leaving(&self, until: Now) {
        let leaving = &self.pool.endpoint.health.leaving_until;
        leaving.store(until.0, std::sync::atomic::Ordering::Relaxed);
    }

    fn answer(&self, worker: &Rc<Worker>, head: Head, wire: &[u8]) -> Result<(), Malformed> {
        let claim = self.table.borrow_mut().claim(head.id);
        let gauges = &worker.mesh().gauges;
        let call = match claim {
            Claim::Live(Entry::Call(call)) => call,
            Claim::Live(Entry::Ping) => {
                self.ping.set(None);
                return Ok(());
            }
            Claim::Late => {
                Gauges::add(&gauges.late_answers);
                return Ok(());
            }
            Claim::Unknown => {
                Gauges::add(&gauges.unknown_answers);
                return Ok(());
            }
        };
        let outcome = match self.pool.codec.read(&head, wire) {
            Ok(Reading::Answer(outcome)) => outcome,
            // Passed on as it is: its client may read more of it than we can.
            Ok(Reading::Call(_)) | Err(Malformed::Content(_)) => Outcome::Failed,
            Err(malformed) => {
                Client::settle(call, worker, Failure::lost(Rejection::ConnectionLost));
                return Err(malformed);
            }
        };
        Client::deliver(call, worker, &head, wire, outcome);
        Ok(())
    }

    // === Time ===

    /// Gives up calls whose deadline has passed.
    pub(crate) fn expire(self: &Rc<Self>, worker: &Rc<Worker>) {
        let now = worker.now();
        if self.earliest.get() > now {
            return;
        }
        let passed = |entry: &Entry| match entry {
            Entry::Call(call) => call.deadline <= now,
            Entry::Ping => false,
        };
        let mut table = self.table.borrow_mut();
        let expired = table.abandon_where(passed);
        let deadlines = table.iter().filter_map(|entry| match entry {
            Entry::Call(call) => Some(call.deadline),
            Entry::Ping => None,
        });
        self.earliest.set(deadlines.min().unwrap_or(Now(u64::MAX)));
        let too_many = table.abandoned() > ABANDONED;
        drop(table);
        if too_many && self.state.get() == State::Open {
            tracing::warn!(
                address = %self.pool.endpoint.address,
                "endpoint left too many calls unanswered; its connection is replaced"
            );
            self.state.set(State::Leaving);
        }
        let sent = self.state.get() != State::Connecting;
        for entry in expired {
            if let Entry::Call(call) = entry {
                let failure = Failure {
                    rejection: Rejection::DeadlineExceeded,
                    sent,
                };
                Client::settle(call, worker, failure);
            }
        }
    }

    /// No deadline of a call here is earlier than this.
    pub(crate) fn earliest(&self) -> Now {
        self.earliest.get()
    }

    /// Housekeeping, several times a second.
    pub(crate) fn tick(self: &Rc<Self>, worker: &Rc<Worker>) {
        let Some(link) = self.link.get() else { return };
        if self.state.get() == State::Closed {
            return;
        }
        let now = worker.now();
        let policy = &self.pool.cluster.spec.policy;
        let interval = policy.heartbeat_interval;
        if self
            .full_since
            .get()
            .is_some_and(|since| now.since(since) >= STALLED)
        {
            // Waiting longer would only stall the clients' calls to other endpoints.
            self.stalled.set(true);
            self.let_go();
        }
        let silent = now.since(self.heard.get());
        if self.cue.get().is_some()
            && !interval.is_zero()
            && silent >= interval * policy.heartbeat_misses.max(1)
        {
            tracing::warn!(
                address = %self.pool.endpoint.address, ?silent,
                "endpoint answers no heartbeat; its connection is closed"
            );
            Gauges::add(&worker.mesh().gauges.heartbeat_failures);
            return self.end(link);
        }
        let quiet_since = self.heard.get().max(self.pinged.get());
        if !interval.is_zero() && now.since(quiet_since) >= interval {
            self.send_ping(worker, link, now);
        }
        let calls = self.load() - usize::from(self.ping.get().is_some());
        let spare = self.pool.len() > 1 && now.since(self.called.get()) >= SPARE_IDLE;
        let unwanted = spare || self.state.get() == State::Leaving || !self.pool.is_wanted();
        if calls == 0 && unwanted && link.queued() == 0 {
            self.end(link);
        }
    }

    fn send_ping(&self, worker: &Worker, link: &Rc<Link>, now: Now) {
        let Some(cue) = self.cue.get() else { return };
        self.pinged.set(now);
        let id = match self.ping.get() {
            Some(id) => id,
            None => match self.table.borrow_mut().insert(Entry::Ping) {
                Ok(id) => id,
                Err(_) => return,
            },
        };
        self.ping.set(Some(id));
        let codec = &self.pool.codec;
        link.append(worker, |out| codec.signal(Signal::Ping { id }, &cue, out));
    }

    /// Has the connection's task end.
    fn end(&self, link: &Rc<Link>) {
        self.state.set(State::Closed);
        link.wake_owner();
    }

    /// Answers every call in flight with `rejection`, on shutdown.
    pub(crate) fn abandon_all(self: &Rc<Self>, worker: &Rc<Worker>, rejection: Rejection) {
        self.fail_calls(worker, rejection);
    }

    /// The connection is gone, or was never made.
    fn close(self: &Rc<Self>, worker: &Rc<Worker>, rejection: Rejection) {
        self.state.set(State::Closed);
        self.pool.forget(self);
        self.let_go();
        self.fail_calls(worker, rejection);
    }

    fn fail_calls(self: &Rc<Self>, worker: &Rc<Worker>, rejection: Rejection) {
        let failure = Failure {
            rejection,
            sent: rejection != Rejection::ConnectFailed,
        };
        let entries = self.table.borrow_mut().drain();
        self.ping.set(None);
        for entry in entries {
            if let Entry::Call(call) = entry {
                Client::settle(call, worker, failure);
            }
        }
        for call in self.waiting.take() {
            Client::settle(call, worker, failure);
        }
    }
}

impl Call {
    /// Ends the lease with what the attempt told about its endpoint.
    pub(crate) fn conclude(&mut self, verdict: Verdict) {
        self.lease.conclude(verdict);
    }
}
