//! A session under way: packets passed on both ways until one side ends it.
//!
//! Its phases, and who ends each. `entry` and `open` carry it up to CONNACK, `Session` from there on.
//!
//! ```text
//!  connected ---- CONNECT ----> admitted ---- CONNECT of ours ----> introduced ---- CONNACK 0 ----> open
//!      |                            |                                   |  ^                          |
//!      |                            |                                   +--+ AUTH, both ways          |
//!      v                            v                                   v                             |
//!  no CONNECT in time:       CONNACK with a reason:            another broker, or CONNACK             |
//!  closed, no word           denied, no route                  with its reason: refused               |
//!                                                                                                     |
//!      +----------------------------------------------------------------------------------------------+
//!      | DISCONNECT or end of one side          -> the other side is told, `farewell`, closed
//!      | silence (keep-alive), a fault          -> DISCONNECT with a reason, `farewell`, closed
//!      | its name taken over, revoked, draining -> the same, and the broker publishes no will for a goodbye
//! ```

mod denied;
mod direction;
mod down;
mod ending;
mod mirror;
mod moving;
mod silence;
mod subscriptions;
mod up;

use std::collections::HashSet;
use std::future::Future;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use finback_core::clock::Now;
use finback_core::driver::{Caller, MessageShadow, SessionPlace};
use finback_core::mesh::Lease;
use finback_core::net::{READS_PER_TURN, Socket, Timer, give_way, scratch};

use tokio::time::Instant;

use crate::channel::Channel;
use crate::codec::{Fault, Level};
use crate::filtered;
use crate::gate::Flow;
use crate::open::{Bounds, Opened};
use crate::policy::Applied;
use crate::propagation::Tracing;
use crate::takeover::Seat;
use crate::tally::Tally;

pub(crate) use moving::Moved;

use direction::Direction;
use silence::Silence;
use subscriptions::Filters;

/// Reads in one direction per turn, so that one busy session cannot keep others waiting.
const TURN: usize = READS_PER_TURN as usize;
/// Answers of our own that may wait for a client before it is read no more.
const MAX_ANSWERS: usize = 16 * 1024;
/// Packet identifiers whose exchange is finished here, at most.
pub(crate) const MAX_AWAITED: usize = 100;

/// Between the end of a session at its broker and the beginning of the one that takes its place, at most.
const SUCCESSION: Duration = Duration::from_millis(200);

/// How a session ended.
#[derive(Debug)]
enum End {
    /// The client said goodbye, or its connection ended.
    Client,
    /// The broker ended it.
    Endpoint,
    /// The broker owes an answer, and says nothing at all.
    Hung,
    /// The client sent what it may not.
    Fault(Fault),
    /// The broker sent what it may not.
    EndpointFault(Fault),
    /// The client has been silent for too long.
    Silent,
    /// Another session has its place.
    TakenOver,
    /// It is not allowed any more.
    Revoked,
    /// We are going away.
    Leaving,
}

/// Both sides of a session and what is between them.
struct Session {
    caller: Rc<Caller>,
    level: Level,
    client_id: String,
    username: String,
    client: Channel,
    endpoint: Channel,
    up: Direction,
    down: Direction,
    /// What the route does with it, where that is about single packets.
    applied: Option<Box<Applied>>,
    /// What filters do with what is done in it.
    filters: filtered::Filters,
    /// Where copies of its messages go.
    shadow: Option<MessageShadow>,
    state: State,
    tally: Tally,
    lease: Lease,
    seat: Option<Seat>,
    /// Silence of the client after which it is gone; without a keep-alive, `limits.idle` holds for both
    /// sides together.
    patience: Option<Duration>,
    /// The client is not read, by our own doing: it cannot be silent.
    unread: bool,
    /// It is not read before.
    resume: Option<Now>,
    /// Packets of it wait for that.
    held: bool,
    leave: Option<Now>,
    timer: Option<Timer>,
    silence: Silence,
    bounds: Bounds,
    /// Its broker kept what it was subscribed to before: filters have not been asked about that.
    is_kept: bool,
    /// How the client authenticates itself in AUTH packets, if it does.
    method: Option<Box<str>>,
    client_takes: usize,
    endpoint_takes: usize,
}

/// What a session remembers between packets.
#[derive(Default)]
struct State {
    /// Topics of the client's aliases, by alias.
    aliases: Vec<Option<Box<str>>>,
    /// Messages of quality of service 2 that we took from the client in the broker's place.
    taken: Vec<u16>,
    /// The same of the broker's, in the client's place.
    swallowed: HashSet<u16>,
    /// Subscriptions of which the broker saw a part only: codes of the others.
    partial: Vec<(u16, Vec<Option<u8>>)>,
    messages: Flow,
    bytes: Flow,
    /// The client said DISCONNECT.
    goodbye: bool,
    /// The broker did.
    dismissed: bool,
    filters: Filters,
    mirrored: mirror::Mirrored,
    order: denied::Order,
}

/// Carries a session to its end.
pub(crate) async fn run(caller: &Rc<Caller>, client: Channel, opened: Box<Opened>) {
    let Opened {
        level,
        endpoint,
        listed,
        lease,
        applied,
        filters,
        shadow,
        seat,
        connack,
        patience,
        client_takes,
        endpoint_takes,
        bounds,
        is_kept,
        method,
        client_id,
        username,
        tracing,
    } = *opened;
    let tracing = Tracing {
        choice: tracing,
        target: Some(lease.target()),
    };
    let mut session = Box::new(Session {
        tally: Tally::new(caller.clone(), Some(lease.address()), tracing),
        lease,
        caller: caller.clone(),
        level,
        client_id,
        username,
        client,
        endpoint,
        up: Direction::default(),
        down: Direction::default(),
        applied: applied.map(Box::new),
        filters,
        shadow,
        state: State::default(),
        seat,
        patience,
        unread: false,
        resume: None,
        held: false,
        leave: None,
        timer: None,
        silence: Silence::default(),
        bounds,
        is_kept,
        method,
        client_takes,
        endpoint_takes,
    });
    session.client.queue(&connack);
    drop(connack);
    session.live(listed).await;
}

/// Carries a session to its end that another worker had until now.
async fn go_on(caller: &Rc<Caller>, socket: Socket, moved: Box<Moved>) {
    if let Some((session, listed)) = Session::resume(caller, socket, *moved) {
        session.live(listed).await;
    }
}

impl Session {
    /// Goes on until it ends, or leaves for another worker.
    async fn live(mut self: Box<Self>, listed: SessionPlace) {
        self.caller.rest(self.patience);
        let Some(end) = self.carry().await else {
            return self.leave_worker(&listed);
        };
        self.caller.set_movable(false);
        let applied = self.applied.as_ref();
        let server = applied.and_then(|applied| applied.policy().server_reference.clone());
        Box::pin(self.finish(end, server.as_deref())).await;
    }

    /// Waits for the end; `None` if it is to leave for another worker, and can. What else may end it is waited for with one poll, whose waker stays
    /// the task's; afterwards flags and the clock tell, which costs a packet nothing.
    async fn carry(&mut self) -> Option<End> {
        let seat = self.seat.take();
        let end = self.carry_in(seat.as_ref()).await;
        if end.is_none() {
            self.seat = seat;
        }
        end
    }

    /// The same, in this place among those of its name.
    async fn carry_in(&mut self, seat: Option<&Seat>) -> Option<End> {
        let mut lost = std::pin::pin!(async {
            match seat {
                Some(seat) => seat.lost().await,
                None => std::future::pending().await,
            }
        });
        let mut armed = false;
        let end = std::future::poll_fn(|cx| {
            if !armed {
                armed = true;
                let _ = lost.as_mut().poll(cx);
            }
            self.caller.worker().read_clock();
            if seat.is_some_and(Seat::is_lost) {
                return Poll::Ready(Some(End::TakenOver));
            }
            match self.poll(cx) {
                Poll::Pending if self.can_leave() => Poll::Ready(None),
                polled => polled.map(Some),
            }
        })
        .await;
        // A broker that gives its place to another ends this one first (MQTT 5, section 3.1.4), maybe without
        // the word that it owes, and accepts the other then.
        if matches!(end, Some(End::Endpoint)) && seat.is_some() && !self.state.goodbye {
            let timers = self.caller.worker().timers().clone();
            let due = Instant::now() + SUCCESSION;
            if timers.within(due, lost).await.is_ok() {
                return Some(End::TakenOver);
            }
        }
        end
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.caller.attend(cx);
        // Before anything more is passed on: rules of now hold for it.
        if self.filters.are_revoked(self.state.filters.iter()) {
            return Poll::Ready(End::Revoked);
        }
        self.caller.set_movable(!self.filters.are_any());
        loop {
            if let Err(end) = self.exchange(cx) {
                return Poll::Ready(end);
            }
            if let Some(end) = self.watch() {
                return Poll::Ready(end);
            }
            ready!(self.poll_timer(cx));
        }
    }

    /// Passes on what there is.
    fn exchange(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let mut turns = [TURN; 2];
        let mirrored = self.is_mirrored();
        loop {
            if mirrored {
                self.let_go(cx.waker()).map_err(End::Fault)?;
            }
            let to_client = match self.client.poll_flush(cx) {
                Poll::Ready(Err(_)) => return Err(End::Client),
                flushed => flushed.is_ready(),
            };
            let to_endpoint = match self.endpoint.poll_flush(cx) {
                // What a broker said before it went is still to be read.
                Poll::Ready(Err(_)) => false,
                flushed => flushed.is_ready(),
            };
            let mut moved = false;
            if self.held && self.resume.is_none() && to_endpoint {
                self.held = false;
                self.pass(cx, &[], true)?;
                continue;
            }
            self.unread =
                !to_endpoint || self.client.waiting() > MAX_ANSWERS || self.resume.is_some();
            if !self.unread {
                moved |= self.read(cx, true, &mut turns[0])?;
            }
            if to_client && self.endpoint.waiting() <= MAX_ANSWERS {
                moved |= self.read(cx, false, &mut turns[1])?;
            }
            if !moved {
                return Ok(());
            }
        }
    }

    /// Reads one side once, and passes on what came; whether something did.
    fn read(&mut self, cx: &mut Context<'_>, up: bool, turns: &mut usize) -> Result<bool, End> {
        if *turns == 0 {
            give_way(cx);
            return Ok(false);
        }
        scratch(|bytes| {
            let from = if up {
                &mut self.client
            } else {
                &mut self.endpoint
            };
            match from.poll_read(cx, bytes) {
                Poll::Pending => Ok(false),
                Poll::Ready(Ok(length @ 1..)) => {
                    *turns -= 1;
                    self.pass(cx, &bytes[..length], up).map(|()| true)
                }
                Poll::Ready(_) if up => Err(End::Client),
                Poll::Ready(_) => Err(End::Endpoint),
            }
        })
    }

    fn pass(&mut self, cx: &mut Context<'_>, bytes: &[u8], up: bool) -> Result<(), End> {
        if up || self.patience.is_none() {
            self.caller.rest(self.patience);
        }
        if up {
            self.tally.up += bytes.len() as u64;
        } else {
            self.tally.down += bytes.len() as u64;
        }
        let passed = self.pass_bytes(cx, bytes, up);
        if !up {
            self.heard();
        }
        passed
    }

    fn pass_bytes(&mut self, cx: &mut Context<'_>, bytes: &[u8], up: bool) -> Result<(), End> {
        let direction = if up { &mut self.up } else { &mut self.down };
        if direction.partial.is_empty() {
            let used = self.split(cx, bytes, up)?;
            let direction = if up { &mut self.up } else { &mut self.down };
            direction.partial.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        direction.partial.extend_from_slice(bytes);
        let whole = std::mem::take(&mut direction.partial);
        let used = self.split(cx, &whole, up)?;
        let direction = if up { &mut self.up } else { &mut self.down };
        if used < whole.len() {
            direction.partial.extend_from_slice(&whole[used..]);
        }
        Ok(())
    }

    /// What time and others tell.
    fn watch(&mut self) -> Option<End> {
        let now = self.caller.worker().now();
        if self.caller.is_cut() {
            return Some(End::Leaving);
        }
        if self.unread && self.patience.is_some() {
            self.caller.rest(self.patience);
        }
        if self.caller.is_idle() {
            return Some(End::Silent);
        }
        if let Some(end) = self.watch_broker() {
            return Some(end);
        }
        if self.caller.is_dismissed() {
            let grace = self.caller.worker().drain_grace();
            let leave = *self.leave.get_or_insert_with(|| {
                // Not all at once: those who come back come to the others.
                let share = self.caller.worker().random() % 1000;
                now.after(grace.mul_f64(f64::from(u32::try_from(share).unwrap_or(0)) / 1000.0))
            });
            if leave <= now && self.down.is_between_packets() {
                return Some(End::Leaving);
            }
        }
        None
    }

    /// Waits until it is time to look again.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let worker = self.caller.worker();
        let now = worker.now();
        if self.resume.is_some_and(|at| at <= now) {
            self.resume = None;
            self.caller.rest(self.patience);
            return Poll::Ready(());
        }
        let Some(next) = [self.resume, self.leave].into_iter().flatten().min() else {
            self.timer = None;
            return Poll::Pending;
        };
        // Whoever is to leave may have to wait for the end of a packet.
        let at = worker.mesh().clock.instant(next.max(Now(now.0 + 1000)));
        let timer = self.timer.get_or_insert_with(|| worker.timers().set(at));
        timer.reset(at);
        ready!(timer.poll(cx));
        worker.read_clock();
        Poll::Ready(())
    }
}
