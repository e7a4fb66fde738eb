//! One connection to an endpoint, shared by the calls of many clients.

mod answers;
mod second;
mod sending;
mod upkeep;

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::clock::Now;
use crate::frame::Head;
use crate::log_limit::LogLimit;
use crate::mesh::{AttemptEnd, Told};
use crate::net::{LINGER, Linger, READS_PER_TURN, Socket, Turn};
use crate::rejection::Rejection;

use super::call::Call;
use super::frame_reader::{FrameReader, Read};
use super::hedge::Second;
use super::in_flight::InFlight;
use super::pool::Pool;
use super::reply::Reply;
use super::survey::{Oldest, WaitsFor};
use super::worker::Worker;
use super::write_queue::WriteQueue;

use answers::Answers;

/// What the calls of one turn may put into a queue before it counts as a backlog, in bytes.
const TURN: usize = 1024 * 1024;

/// What an id of a connection stands for.
enum Entry {
    Call(Box<Call>),
    /// An attempt beside that of a call that is on another connection.
    Second(Box<Second>),
    Ping,
}

/// Where a connection to an endpoint is in its life.
///
/// ```text
///                 connected                GoAway, or too many
///   Connecting --------------> Open ---- calls given up: avoided ----> Leaving
///       |                       |  ^                                    |  |
///       | refused, late, or     |  +-------- Resume --------------------+  | no call in flight
///       | its client went       |                                          |
///       |                       | idle and unwanted, silent, or            |
///       |                       v its client went                          |
///       |                     Closed <-------------------------------------+
///       |                       | its task ends
///       v                       v
///      Gone <-------------------+<--- end of the bytes, a failure, a frame that makes no sense
/// ```
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
    link: OnceCell<Rc<WriteQueue>>,
    table: RefCell<InFlight<Entry>>,
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
    /// The last request sent: messages of our own have its version and serialization.
    last_head: Cell<Option<Head>>,
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
            table: RefCell::new(InFlight::new(id_bits)),
            waiting: RefCell::default(),
            waiting_bytes: Cell::new(0),
            state: Cell::new(State::Connecting),
            earliest: Cell::new(Now(u64::MAX)),
            heard: Cell::new(now),
            called: Cell::new(now),
            pinged: Cell::new(now),
            ping: Cell::new(None),
            misses: Cell::new(0),
            last_head: Cell::new(None),
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
        let link = WriteQueue::new(socket.clone());
        // Cannot be set yet: only this task sets it.
        let _ = self.link.set(link.clone());
        self.heard.set(worker.now());
        self.state.set(State::Open);
        self.send_waiting(&worker, &link);
        let mut inbox = FrameReader::new(socket.clone(), &worker);
        let mut turn = Turn::new();
        std::future::poll_fn(|cx| self.poll(cx, &worker, &link, &mut inbox, &mut turn)).await;
        worker.read_clock();
        if self.load() > 0 {
            endpoint.health.connection_lost();
        }
        let is_left = self.pool.owner.is_some() && self.state.get() == State::Closed;
        if is_left && self.load() == 0 && !link.failed() {
            drop(inbox);
            Box::pin(Self::part(&worker, &link, &socket)).await;
        }
        drop(closing);
    }

    /// Sends the one-ways of a client that went before the connection was made: it has sent them, and nobody could
    /// tell it otherwise.
    async fn say_last_words(&self, worker: &Rc<Worker>, socket: Rc<RefCell<Socket>>) {
        let link = WriteQueue::new(socket.clone());
        self.send_one_ways(worker, &link);
        Self::part(worker, &link, &socket).await;
    }

    /// Ends a connection whose client went: what that said last arrives, as a kernel would have it, also where the
    /// endpoint still says something.
    async fn part(worker: &Rc<Worker>, link: &Rc<WriteQueue>, socket: &Rc<RefCell<Socket>>) {
        Self::write_out(worker, link).await;
        if link.is_busy() || link.failed() {
            return;
        }
        let mut linger = Linger::begin(worker.timers());
        std::future::poll_fn(|cx| linger.poll(cx, &mut socket.borrow_mut())).await;
        worker.read_clock();
    }

    /// Writes what is queued, for no longer than [`LINGER`]: what an endpoint does not read in that time is lost, for
    /// there is nobody to wait for it.
    async fn write_out(worker: &Rc<Worker>, link: &Rc<WriteQueue>) {
        let written = std::future::poll_fn(|cx| {
            link.owned_by(cx);
            link.flush(worker);
            match !link.is_busy() || link.failed() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        let _ = tokio::time::timeout(LINGER, written).await;
        worker.read_clock();
    }

    fn poll(
        self: &Rc<Self>,
        cx: &mut Context<'_>,
        worker: &Rc<Worker>,
        link: &Rc<WriteQueue>,
        inbox: &mut FrameReader,
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
                            %why, left_out, "endpoint sent malformed bytes; its connection is closed"
                        );
                    }
                    return Poll::Ready(());
                }
            }
        }
    }
}
