//! One connection to an endpoint, shared by the calls of many clients.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::clock::Now;
use crate::codec::Signal;
use crate::frame::{Edit, Head, Kind, Malformed, Outcome, Reading};
use crate::gauges::Gauges;
use crate::log_limit::LogLimit;
use crate::mesh::{AttemptEnd, Fitting, Told};
use crate::net::{READS_PER_TURN, Socket, Turn};
use crate::rejection::Rejection;
use crate::trace::Field;

use super::call::{Call, deliver, settle};
use super::hedge::{self, Pair, Second};
use super::inbox::{Inbox, Read, Take};
use super::link::Link;
use super::pool::Pool;
use super::reply::Reply;
use super::survey::{Oldest, WaitsFor};
use super::table::{Claim, Table};
use super::worker::Worker;

/// Calls given up, their ids blocked, before a connection is replaced by a fresh one.
const ABANDONED: usize = 1024;
/// A peer that read nothing of a full queue for this long takes no more calls.
const STALLED: Duration = Duration::from_secs(1);
/// An endpoint that said goodbye is avoided this long.
const LEAVING: Duration = Duration::from_secs(10);
/// What the calls of one turn may put into a queue before it counts as a backlog, in bytes.
const TURN: usize = 1024 * 1024;
/// Deadlines of connections that are one client's own are looked at in steps of so many microseconds.
const STEP: u64 = 250_000;
/// A connection beyond the first that carried no call for this long is closed.
const SPARE_IDLE: Duration = Duration::from_secs(60);

/// What an id of a connection stands for.
enum Entry {
    Call(Box<Call>),
    /// An attempt beside that of a call that is on another connection.
    Second(Box<Second>),
    Ping,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Open,
    /// Finishes what is in flight, takes nothing new.
    Leaving,
    /// To be ended by its task.
    Closed,
    /// Ended; nothing leads here any more.
    Gone,
}

/// One connection to an endpoint.
pub(crate) struct Upstream {
    pool: Rc<Pool>,
    link: OnceCell<Rc<Link>>,
    table: RefCell<Table<Entry>>,
    /// One-ways that wait for the connection.
    #[expect(clippy::vec_box, reason = "calls come in boxes")]
    waiting: RefCell<Vec<Box<Call>>>,
    waiting_bytes: Cell<usize>,
    state: Cell<State>,
    /// No deadline of a call here is earlier; never later than the earliest.
    earliest: Cell<Now>,
    heard: Cell<Now>,
    called: Cell<Now>,
    pinged: Cell<Now>,
    ping: Cell<Option<u64>>,
    /// Heartbeats sent since anything was heard: silence while we did not ask, or did not listen,
    /// tells nothing.
    misses: Cell<u32>,
    /// The last request sent: the dialect for messages of our own.
    cue: Cell<Option<Head>>,
    /// When the queue was first seen full; clients that wait for it to empty.
    full_since: Cell<Option<Now>>,
    /// It stayed full for too long: no more calls until it has emptied.
    stalled: Cell<bool>,
    paused: RefCell<Vec<Rc<dyn Reply>>>,
}

/// Sees to it that a connection whose task ends, however it ends, is given up.
struct Closing {
    upstream: Rc<Upstream>,
    worker: Rc<Worker>,
}

impl Drop for Closing {
    fn drop(&mut self) {
        if self.upstream.state.get() != State::Gone {
            let end = AttemptEnd::Lost { reused: false };
            self.upstream
                .close(&self.worker, end, Rejection::ConnectionLost);
        }
    }
}

impl Upstream {
    /// Begins to connect.
    pub(crate) fn start(pool: &Rc<Pool>, worker: &Rc<Worker>) -> Rc<Self> {
        let id_bits = pool.codec.sharing().id_bits();
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
            misses: Cell::new(0),
            cue: Cell::new(None),
            full_since: Cell::new(None),
            stalled: Cell::new(false),
            paused: RefCell::default(),
        });
        let run = upstream.clone().run(worker.clone());
        worker.spawn("an upstream connection", run);
        upstream
    }

    /// Whether it may carry one more call.
    pub(crate) fn takes_calls(&self) -> bool {
        matches!(self.state.get(), State::Connecting | State::Open) && !self.stalled.get()
    }

    /// Whether it carries no more calls than it does: its peer goes, or is gone.
    pub(crate) fn is_finishing(&self) -> bool {
        !matches!(self.state.get(), State::Connecting | State::Open)
    }

    /// Shows its calls.
    pub(super) fn see_calls(&self, oldest: &mut Oldest<(Told, WaitsFor)>) {
        let waits_for = match self.state.get() {
            State::Connecting => WaitsFor::Connection,
            State::Open | State::Leaving | State::Closed | State::Gone => WaitsFor::Answer,
        };
        let mut see = |call: &Call| {
            let exchange = &call.exchange;
            oldest.see(exchange.started(), || (exchange.told(), waits_for));
        };
        self.table.borrow().each(|entry| match entry {
            Entry::Call(call) => see(call),
            Entry::Second(_) | Entry::Ping => {}
        });
        self.waiting.borrow().iter().for_each(|call| see(call));
    }

    /// Calls in flight on it.
    pub(crate) fn load(&self) -> usize {
        self.table.borrow().len()
    }

    /// Bytes that wait to be written on it.
    pub(crate) fn queued(&self) -> usize {
        match self.link.get() {
            Some(link) => link.queued(),
            None => self.waiting_bytes.get(),
        }
    }

    /// Bytes that hold up what comes after them: those that the socket does not take. What merely waits
    /// for the end of the turn, or for the connection to be made, does not count, unless it is much.
    pub(crate) fn backlog(&self) -> usize {
        match self.link.get() {
            Some(link) if link.blocked() => link.queued(),
            Some(link) => link.queued().saturating_sub(TURN),
            None => self.waiting_bytes.get().saturating_sub(TURN),
        }
    }

    /// Since when it has carried no call; `None` while it does.
    pub(crate) fn idle_since(&self) -> Option<Now> {
        let pings = usize::from(self.ping.get().is_some());
        let idle = self.state.get() == State::Open && self.load() == pings && self.queued() == 0;
        (idle && self.pool.owner.is_none()).then(|| self.called.get())
    }

    // === Sending ===

    /// Sends a call, or keeps it until the connection is made. Gives the call back if it cannot
    /// be taken.
    pub(crate) fn send(
        self: &Rc<Self>,
        worker: &Worker,
        mut call: Box<Call>,
        wire: &[u8],
    ) -> Result<(), Box<Call>> {
        self.called.set(worker.now());
        let open = self
            .link
            .get()
            .filter(|_| self.state.get() != State::Connecting);
        let Some(link) = open else {
            return self.keep(worker, call, wire);
        };
        self.cue.set(Some(call.head));
        let (queued, limits) = (link.queued(), worker.limits());
        let (holds, full) = (queued > holds_above(&limits), queued > limits.queue_hard);
        drop(limits);
        if holds {
            self.hold_back(worker, &call.reply);
        }
        if full {
            return Err(call);
        }
        let head = call.head;
        let fitting = call.fitting();
        let propagated = call.take_propagated().unwrap_or_default();
        if head.kind == Kind::OneWay {
            let id = self.table.borrow_mut().one_way_id();
            self.put(
                worker,
                link,
                (&head, fitting.as_ref(), &propagated),
                wire,
                id,
            );
            call.exchange.sent();
            call.reply.finished(worker);
            return Ok(());
        }
        if call.exchange.may_need_resending() {
            call.keep(wire);
            hedge::arm(&mut call, self, worker.now());
        }
        let id = self.enter(worker, call)?;
        self.put(
            worker,
            link,
            (&head, fitting.as_ref(), &propagated),
            wire,
            id,
        );
        Ok(())
    }

    fn keep(
        self: &Rc<Self>,
        worker: &Worker,
        mut call: Box<Call>,
        wire: &[u8],
    ) -> Result<(), Box<Call>> {
        let before = self.waiting_bytes.get();
        // Compared before this one is added: a frame within its limit is never too much alone.
        if before > worker.limits().queue_hard {
            return Err(call);
        }
        self.waiting_bytes.set(before + wire.len());
        call.keep(wire);
        if call.head.kind == Kind::OneWay {
            self.waiting.borrow_mut().push(call);
            return Ok(());
        }
        if call.exchange.may_need_resending() {
            hedge::arm(&mut call, self, worker.now());
        }
        self.enter(worker, call).map(|_| ())
    }

    /// Gives the call an id.
    fn enter(&self, worker: &Worker, call: Box<Call>) -> Result<u64, Box<Call>> {
        let mut deadline = call.due();
        if self.pool.owner.is_some() {
            // Many clients with few calls each: they are looked at together.
            deadline = Now(deadline.0.div_ceil(STEP).saturating_mul(STEP));
        }
        let entered = self.table.borrow_mut().insert(Entry::Call(call));
        let id = entered.map_err(|entry| match entry {
            Entry::Call(call) => call,
            Entry::Second(_) | Entry::Ping => unreachable!("a call went in"),
        })?;
        self.expect(worker, deadline);
        Ok(id)
    }

    fn expect(&self, worker: &Worker, deadline: Now) {
        if deadline < self.earliest.get() {
            self.earliest.set(deadline);
            worker.expect_deadline(deadline);
        }
    }

    fn put(
        &self,
        worker: &Worker,
        link: &Rc<Link>,
        (head, fitting, propagated): (&Head, Option<&Fitting>, &[Field]),
        wire: &[u8],
        id: u64,
    ) {
        let propagated: Vec<(&str, &str)> = propagated
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        link.append(worker, |out| {
            let edit = Edit {
                id,
                attributes: &propagated,
                fit: fitting.map(Fitting::fit),
                body: None,
                onward: true,
            };
            let used = self.pool.codec.encode(head, wire, &edit, out);
            out.extend_from_slice(wire.get(used..).unwrap_or_default());
        });
    }

    /// The peer does not read fast enough: stops reading from the client that sends to it.
    fn hold_back(&self, worker: &Worker, reply: &Rc<dyn Reply>) {
        if self.full_since.get().is_none() {
            self.full_since.set(Some(worker.now()));
        }
        if !self.stalled.get() && reply.hold() {
            self.paused.borrow_mut().push(reply.clone());
        }
    }

    fn let_go(&self) {
        let paused = self.paused.take();
        for reply in paused {
            reply.release();
        }
    }

    // === The connection's own task ===

    async fn run(self: Rc<Self>, worker: Rc<Worker>) {
        let closing = Closing {
            upstream: self.clone(),
            worker: worker.clone(),
        };
        let Pool {
            cluster, endpoint, ..
        } = &*self.pool;
        // Boxed: connecting is short, and what it needs is large.
        let ends = self.pool.owner.as_ref().and_then(|owner| owner.ends());
        let connected = Box::pin(worker.dial(cluster, endpoint, None, ends)).await;
        worker.read_clock();
        let socket = match connected {
            Ok(socket) => Rc::new(RefCell::new(socket)),
            Err(error) => {
                tracing::debug!(address = %endpoint.address, %error, "cannot connect");
                let end = AttemptEnd::from(&error);
                return self.close(&worker, end, Rejection::ConnectFailed);
            }
        };
        if self.state.get() == State::Closed {
            // Its client went meanwhile.
            if !self.waiting.borrow().is_empty() {
                Box::pin(self.say_last_words(&worker, socket)).await;
            }
            return self.close(&worker, AttemptEnd::Abandoned, Rejection::ConnectionLost);
        }
        let link = Link::new(socket.clone());
        // Cannot be set yet: only this task sets it.
        let _ = self.link.set(link.clone());
        self.heard.set(worker.now());
        self.state.set(State::Open);
        self.send_waiting(&worker, &link);
        let mut inbox = Inbox::new(socket, &worker);
        let mut turn = Turn::new();
        std::future::poll_fn(|cx| self.poll(cx, &worker, &link, &mut inbox, &mut turn)).await;
        worker.read_clock();
        if self.load() > 0 {
            endpoint.health.connection_lost();
        }
        drop(closing);
    }

    fn send_waiting(self: &Rc<Self>, worker: &Worker, link: &Rc<Link>) {
        let mut table = self.table.borrow_mut();
        // Nothing was sent yet, so no answer can come for what was given up meanwhile.
        table.release_abandoned();
        for (id, entry) in table.iter_mut() {
            let call = match entry {
                Entry::Call(call) => call,
                Entry::Second(own) => {
                    self.cue.set(Some(own.head));
                    let parts = (&own.head, own.fitting.as_ref(), own.lease.propagated());
                    self.put(worker, link, parts, &own.wire, id);
                    continue;
                }
                Entry::Ping => continue,
            };
            self.cue.set(Some(call.head));
            if let Some(wire) = &call.wire {
                self.put(
                    worker,
                    link,
                    (&call.head, call.fitting().as_ref(), call.propagated()),
                    wire,
                    id,
                );
            }
            if !call.exchange.may_need_resending() {
                call.wire = None;
            }
        }
        drop(table);
        self.send_one_ways(worker, link);
    }

    fn send_one_ways(&self, worker: &Worker, link: &Rc<Link>) {
        for mut call in self.waiting.take() {
            let id = self.table.borrow_mut().one_way_id();
            if let Some(wire) = call.wire.take() {
                let fitting = call.fitting();
                let parts = (&call.head, fitting.as_ref(), call.propagated());
                self.put(worker, link, parts, &wire, id);
            }
            call.exchange.sent();
            call.reply.finished(worker);
        }
    }

    /// Sends the one-ways of a client that went before the connection was made: it has sent them, and nobody could
    /// tell it otherwise.
    async fn say_last_words(&self, worker: &Rc<Worker>, socket: Rc<RefCell<Socket>>) {
        let link = Link::new(socket);
        self.send_one_ways(worker, &link);
        let written = std::future::poll_fn(|cx| {
            link.owned_by(cx);
            link.flush(worker);
            match link.queued() == 0 || link.failed() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        let patience = self.pool.cluster.spec.policy.connect_timeout;
        // What an endpoint does not read in that time is lost: there is nobody to wait for it.
        let _ = tokio::time::timeout(patience, written).await;
        worker.read_clock();
    }

    fn poll(
        self: &Rc<Self>,
        cx: &mut Context<'_>,
        worker: &Rc<Worker>,
        link: &Rc<Link>,
        inbox: &mut Inbox,
        turn: &mut Turn,
    ) -> Poll<()> {
        link.owned_by(cx);
        if link.blocked() {
            link.flush(worker);
        }
        if link.failed() || self.state.get() == State::Closed {
            return Poll::Ready(());
        }
        self.resume_if_drained(worker, link);
        let mut take = Answers {
            upstream: self,
            worker,
            link,
        };
        loop {
            ready!(turn.take(cx, READS_PER_TURN));
            match inbox.poll_frames(cx, worker, &*self.pool.codec, &mut take) {
                Poll::Pending => {
                    turn.end(READS_PER_TURN);
                    return Poll::Pending;
                }
                Poll::Ready(Read::Bytes) => {
                    self.heard.set(worker.now());
                    self.misses.set(0);
                }
                Poll::Ready(Read::End) => return Poll::Ready(()),
                Poll::Ready(Read::Failed(error)) => {
                    tracing::debug!(address = %self.pool.endpoint.address, %error, "lost");
                    return Poll::Ready(());
                }
                Poll::Ready(Read::Malformed(why)) => {
                    static LINES: LogLimit = LogLimit::usual();
                    if let Some(left_out) = LINES.admit(worker.now()) {
                        tracing::warn!(
                            address = %self.pool.endpoint.address, protocol = self.pool.protocol,
                            %why, left_out, "endpoint sent what cannot be read; its connection is closed"
                        );
                    }
                    return Poll::Ready(());
                }
            }
        }
    }

    /// Lets held clients go on once half of what held them is written.
    fn resume_if_drained(&self, worker: &Worker, link: &Link) {
        if self.full_since.get().is_some() && link.queued() <= holds_above(&worker.limits()) / 2 {
            self.full_since.set(None);
            self.stalled.set(false);
            self.let_go();
        }
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
        // An endpoint that asks on and on, and does not read what it is told, is told nothing more.
        let is_deaf = link.queued() > worker.limits().queue_hard;
        match head.kind {
            Kind::Response => return self.answer(worker, head, wire),
            Kind::Ping | Kind::Request if is_deaf => {}
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
                static LINES: LogLimit = LogLimit::usual();
                if let Some(left_out) = LINES.admit(worker.now()) {
                    tracing::info!(
                        address = %self.pool.endpoint.address, left_out, "endpoint says goodbye"
                    );
                }
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
            Kind::Request | Kind::OneWay | Kind::Notice => {
                let owner = self.pool.owner.as_ref();
                if owner.is_some_and(|owner| owner.called_back(worker, self, &head, wire)) {
                    return Ok(());
                }
                let (why, text) = match owner {
                    // A server that calls its client: on a shared connection it cannot be known
                    // which client is meant.
                    None => (
                        Rejection::Denied,
                        "[finback] a shared connection takes no calls from the server",
                    ),
                    Some(_) => (
                        Rejection::Overloaded,
                        "[finback] the client has not answered earlier calls",
                    ),
                };
                link.append(worker, |out| codec.reject(&head, why, text, out));
            }
        }
        Ok(())
    }

    /// Gives the endpoint its client's answer to a call of its own.
    pub(crate) fn pass_back(&self, worker: &Rc<Worker>, wire: &[u8]) {
        if let Some(link) = self.link.get()
            && link.queued() <= worker.limits().queue_hard
        {
            link.append(worker, |out| out.extend_from_slice(wire));
        }
    }

    /// Ends it: its client is gone.
    pub(crate) fn end_with_client(&self, worker: &Worker) {
        match self.link.get() {
            Some(link) if self.state.get() != State::Gone => {
                // The last that it said is worth one attempt.
                link.flush(worker);
                self.end(link);
            }
            Some(_) => {}
            None => self.state.set(State::Closed),
        }
    }

    fn set_leaving(&self, until: Now) {
        let leaving = &self.pool.endpoint.health.leaving_until;
        leaving.store(until.0, std::sync::atomic::Ordering::Relaxed);
    }

    fn answer(&self, worker: &Rc<Worker>, head: Head, wire: &[u8]) -> Result<(), Malformed> {
        let claim = self.table.borrow_mut().claim(head.id);
        let gauges = &worker.mesh().gauges;
        let entry = match claim {
            Claim::Live(Entry::Ping) => {
                self.ping.set(None);
                return Ok(());
            }
            Claim::Live(entry) => entry,
            Claim::Late => {
                // Too late for its caller, but it is there.
                let Pool {
                    cluster, endpoint, ..
                } = &*self.pool;
                let outlier = &cluster.spec.policy.outlier;
                outlier.answered(&endpoint.health, worker.now(), None);
                Gauges::add(&gauges.late_answers);
                return Ok(());
            }
            Claim::Unknown => {
                Gauges::add(&gauges.unknown_answers);
                return Ok(());
            }
        };
        let answer = match self.pool.codec.read(&head, wire) {
            Ok(Reading::Answer(answer)) => answer,
            // Passed on as it is: its client may read more of it than we can.
            Ok(Reading::Call(_)) | Err(Malformed::Content(_)) => Outcome::Failed.into(),
            Err(malformed) => {
                let end = AttemptEnd::Unreadable;
                end_entry(entry, worker, end, Rejection::ConnectionLost);
                return Err(malformed);
            }
        };
        match entry {
            Entry::Call(call) => deliver(call, worker, &head, wire, answer),
            Entry::Second(second) => hedge::answered(worker, *second, (&head, wire), answer),
            Entry::Ping => {}
        }
        Ok(())
    }

    /// An answer that is longer than a frame may be costs its own call, and nobody else anything.
    fn refuse_too_large(&self, worker: &Rc<Worker>, head: &Head, limit: usize) {
        Gauges::add(&worker.mesh().gauges.skipped_answers);
        let claim = self.table.borrow_mut().claim(head.id);
        static LINES: LogLimit = LogLimit::usual();
        if let Some(left_out) = LINES.admit(worker.now()) {
            tracing::warn!(
                address = %self.pool.endpoint.address, bytes = head.len, limit, left_out,
                "an answer is over the limit of a frame; its caller is told so"
            );
        }
        if let Claim::Live(entry) = claim {
            end_entry(entry, worker, AttemptEnd::TooLarge, Rejection::TooLarge);
        }
    }

    // === Time ===

    /// Gives up calls whose deadline has passed; `stalled` says that it passed while this worker
    /// did not run.
    pub(crate) fn expire(self: &Rc<Self>, worker: &Rc<Worker>, stalled: bool) {
        let now = worker.now();
        if self.earliest.get() > now {
            return;
        }
        let passed = |entry: &Entry| match entry {
            Entry::Call(call) => call.deadline() <= now,
            Entry::Second(second) => second.lease.deadline <= now,
            Entry::Ping => false,
        };
        let mut table = self.table.borrow_mut();
        let expired = table.abandon_where(passed);
        let mut due = Vec::new();
        let mut earliest = Now(u64::MAX);
        for (_, entry) in table.iter_mut() {
            let next = match entry {
                Entry::Call(call) => {
                    if call.hedge.is_some() {
                        due.extend(hedge::due(worker, call, stalled));
                    }
                    call.due()
                }
                Entry::Second(second) => second.lease.deadline,
                Entry::Ping => continue,
            };
            earliest = earliest.min(next);
        }
        self.earliest.set(earliest);
        drop(table);
        for each in due {
            hedge::send(worker, each);
        }
        self.replace_if_blocked();
        let sent = self.state.get() != State::Connecting;
        for entry in expired {
            if let Entry::Call(call) = entry {
                let whose = call.whose_deadline(worker.stall(stalled));
                let end = AttemptEnd::TimedOut { whose, sent };
                settle(call, worker, end, Rejection::DeadlineExceeded);
            }
        }
    }

    // === Second attempts ===

    /// Sends an attempt beside another one, or keeps it until the connection is made; false if it cannot be taken.
    pub(super) fn send_second(self: &Rc<Self>, worker: &Worker, mut second: Box<Second>) -> bool {
        let limits = worker.limits();
        let (most, least) = (limits.queue_hard, holds_above(&limits));
        drop(limits);
        let deadline = second.lease.deadline;
        let link = self.link.get();
        let link = link.filter(|_| self.state.get() != State::Connecting);
        let (head, wire) = (second.head, second.wire.clone());
        match link {
            None => {
                let before = self.waiting_bytes.get();
                if before > most
                    || self
                        .table
                        .borrow_mut()
                        .insert(Entry::Second(second))
                        .is_err()
                {
                    return false;
                }
                self.waiting_bytes.set(before + wire.len());
            }
            Some(link) => {
                if link.queued() > least {
                    return false;
                }
                let fitting = second.fitting.take();
                let propagated = second.lease.take_propagated().unwrap_or_default();
                let Ok(id) = self.table.borrow_mut().insert(Entry::Second(second)) else {
                    return false;
                };
                self.cue.set(Some(head));
                let parts = (&head, fitting.as_ref(), &*propagated);
                self.put(worker, link, parts, &wire, id);
            }
        }
        self.called.set(worker.now());
        self.expect(worker, deadline);
        true
    }

    /// Gives up the second attempt of a pair here, and takes it out.
    pub(super) fn take_second(&self, pair: &Rc<Pair>) -> Option<Box<Second>> {
        let is_its = |entry: &Entry| match entry {
            Entry::Second(second) => Rc::ptr_eq(&second.pair, pair),
            Entry::Call(_) | Entry::Ping => false,
        };
        let taken = self.table.borrow_mut().abandon_where(is_its).pop();
        self.replace_if_blocked();
        match taken {
            Some(Entry::Second(second)) => Some(second),
            _ => None,
        }
    }

    /// Gives up the attempt of a call here, and takes the call out, since its second attempt was answered.
    pub(super) fn take_call(&self, pair: &Rc<Pair>) -> Option<Box<Call>> {
        let is_its = |entry: &Entry| match entry {
            Entry::Call(call) => call.hedge.as_ref().is_some_and(|own| own.is_of(pair)),
            Entry::Second(_) | Entry::Ping => false,
        };
        let taken = self.table.borrow_mut().abandon_where(is_its).pop();
        self.replace_if_blocked();
        match taken {
            Some(Entry::Call(call)) => Some(call),
            _ => None,
        }
    }

    /// Tells the call of a second attempt, which is here, that that one came to nothing.
    pub(super) fn end_second(&self, second: Second, end: AttemptEnd) {
        let mut table = self.table.borrow_mut();
        let call = table.iter_mut().find_map(|(_, entry)| match entry {
            Entry::Call(call) => {
                let hedge = call.hedge.as_ref();
                hedge
                    .is_some_and(|own| own.is_of(&second.pair))
                    .then_some(call)
            }
            Entry::Second(_) | Entry::Ping => None,
        });
        if let Some(call) = call
            && let Some(stays) = &call.lease
        {
            call.exchange.over(second.lease, end, stays);
        }
    }

    /// Puts a call whose first attempt came to nothing in the place of its second; gives it back if that is not here.
    pub(super) fn promote(
        &self,
        mut call: Box<Call>,
        pair: &Rc<Pair>,
        end: AttemptEnd,
    ) -> Result<(), Box<Call>> {
        let mut table = self.table.borrow_mut();
        let place = table.iter_mut().find_map(|(_, entry)| match entry {
            Entry::Second(second) if Rc::ptr_eq(&second.pair, pair) => Some(entry),
            _ => None,
        });
        let Some(place) = place else {
            return Err(call);
        };
        let Entry::Second(second) = std::mem::replace(place, Entry::Ping) else {
            return Err(call);
        };
        let lost = call.lease.replace(second.lease);
        if let (Some(lost), Some(stays)) = (lost, &call.lease) {
            call.exchange.over(lost, end, stays);
        }
        *place = Entry::Call(call);
        Ok(())
    }

    /// A connection whose ids are blocked by calls that were given up takes no more.
    fn replace_if_blocked(&self) {
        if self.table.borrow().abandoned() > ABANDONED && self.state.get() == State::Open {
            tracing::warn!(
                address = %self.pool.endpoint.address,
                "endpoint left too many calls unanswered; its connection is replaced"
            );
            self.state.set(State::Leaving);
        }
        // Nobody waits for an answer on it any more.
        if self.state.get() == State::Leaving
            && self.calls() == 0
            && let Some(link) = self.link.get()
        {
            self.end(link);
        }
    }

    /// Calls in flight on it, heartbeats left out.
    fn calls(&self) -> usize {
        self.load() - usize::from(self.ping.get().is_some())
    }

    /// Gives up the calls of a client that is gone: their places are free at once, their ids when the
    /// answers come.
    pub(crate) fn abandon_calls_of(&self, gone: &dyn Reply) {
        let is_its = |entry: &Entry| match entry {
            Entry::Call(call) => std::ptr::addr_eq(Rc::as_ptr(&call.reply), gone),
            Entry::Second(_) | Entry::Ping => false,
        };
        let mut table = self.table.borrow_mut();
        let abandoned = table.abandon_where(is_its);
        drop(table);
        self.replace_if_blocked();
        // Dropped outside of the table: exchanges record themselves, leases give places back.
        drop(abandoned);
    }

    /// Answers every call of one client in its endpoint's place.
    pub(crate) fn refuse_calls_of(&self, worker: &Rc<Worker>, client: &dyn Reply, why: Rejection) {
        let is_its = |entry: &Entry| match entry {
            Entry::Call(call) => std::ptr::addr_eq(Rc::as_ptr(&call.reply), client),
            Entry::Second(_) | Entry::Ping => false,
        };
        let abandoned = self.table.borrow_mut().abandon_where(is_its);
        self.replace_if_blocked();
        for entry in abandoned {
            if let Entry::Call(call) = entry {
                settle(call, worker, AttemptEnd::Abandoned, why);
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
        if matches!(self.state.get(), State::Closed | State::Gone) {
            return;
        }
        let now = worker.now();
        // A reload may have changed what is compared with.
        self.resume_if_drained(worker, link);
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
        let quiet_since = self.heard.get().max(self.pinged.get());
        // The client of a session has heartbeats of its own.
        let asks = self.cue.get().is_some() && !interval.is_zero() && self.pool.owner.is_none();
        if asks && now.since(quiet_since) >= interval {
            // The first interval of silence passes before anything is asked.
            if self.misses.get() >= policy.heartbeat_misses.saturating_sub(1).max(1) {
                let silent = now.since(self.heard.get());
                static LINES: LogLimit = LogLimit::usual();
                if let Some(left_out) = LINES.admit(now) {
                    tracing::warn!(
                        address = %self.pool.endpoint.address, ?silent, left_out,
                        "endpoint answers no heartbeat; its connection is closed"
                    );
                }
                Gauges::add(&worker.mesh().gauges.heartbeat_failures);
                return self.end(link);
            }
            self.send_ping(worker, link, now);
        }
        let calls = self.calls();
        let spare = self.pool.len() > 1 && now.since(self.called.get()) >= SPARE_IDLE;
        let unwanted = spare || self.state.get() == State::Leaving || !self.pool.is_wanted();
        if calls == 0 && unwanted && link.queued() == 0 {
            self.end(link);
        }
    }

    fn send_ping(&self, worker: &Worker, link: &Rc<Link>, now: Now) {
        let Some(cue) = self.cue.get() else { return };
        self.pinged.set(now);
        self.misses.set(self.misses.get() + 1);
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

    /// Closes it to make room for another: it is idle.
    pub(crate) fn make_room(&self) {
        if let Some(link) = self.link.get() {
            self.end(link);
        }
    }

    /// Answers every call in flight: draining takes too long. None is sent again.
    pub(crate) fn abandon_all(self: &Rc<Self>, worker: &Rc<Worker>) {
        self.fail_calls(worker, AttemptEnd::Draining, Rejection::Draining);
    }

    /// The connection is gone, or was never made.
    fn close(self: &Rc<Self>, worker: &Rc<Worker>, end: AttemptEnd, why: Rejection) {
        self.state.set(State::Gone);
        self.pool.forget(self);
        self.let_go();
        self.fail_calls(worker, end, why);
        if let (Some(owner), Some(_)) = (&self.pool.owner, self.link.get()) {
            owner.end_session(worker);
        }
    }

    fn fail_calls(self: &Rc<Self>, worker: &Rc<Worker>, end: AttemptEnd, why: Rejection) {
        let entries = self.table.borrow_mut().drain();
        self.ping.set(None);
        for entry in entries {
            end_entry(entry, worker, end, why);
        }
        for call in self.waiting.take() {
            settle(call, worker, end, why);
        }
    }
}

/// Deals with an attempt that came to nothing.
fn end_entry(entry: Entry, worker: &Rc<Worker>, end: AttemptEnd, why: Rejection) {
    match entry {
        Entry::Call(call) => settle(call, worker, end, why),
        Entry::Second(second) => hedge::failed(*second, end),
        Entry::Ping => {}
    }
}

/// A client is held while this much waits to be written to the endpoint: less would let one large
/// frame hold up what the same client sends to others.
fn holds_above(limits: &crate::mesh::Limits) -> usize {
    limits.queue_soft.max(limits.queue_hard / 2)
}

/// What takes the frames of one upstream connection.
struct Answers<'a> {
    upstream: &'a Rc<Upstream>,
    worker: &'a Rc<Worker>,
    link: &'a Rc<Link>,
}

impl Take for Answers<'_> {
    fn frame(&mut self, head: Head, wire: &[u8]) -> Result<(), Malformed> {
        self.upstream.receive(self.worker, self.link, head, wire)
    }

    fn too_large(&mut self, head: Head, limit: usize) -> bool {
        if head.kind == Kind::Response {
            self.upstream.refuse_too_large(self.worker, &head, limit);
        }
        true
    }
}
