//! Sessions without a broker: they end here, at a [`MessageSink`](crate::MessageSink) for what clients publish. A message
//! is acknowledged when the sink has it for certain, in the order in which messages came; there
//! is nothing to subscribe to.

pub(crate) mod connect;
mod packet;
mod pending;
mod publish;
pub(crate) mod state;
mod will;

use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use finback_core::clock::Now;
use finback_core::driver::Caller;
use finback_core::frame::Outcome;
use finback_core::log_limit::LogLimit;
use finback_core::net::{READS_PER_TURN, Timer, Turn, scratch};
use finback_core::record::Ending;
use finback_core::rejection::Rejection;
use finback_core::text::Escaped;

use crate::NAME;
use crate::channel::Channel;
use crate::codec::{Fault, FixedHeader, Level, PacketType, write};
use crate::entry::{farewell, session_ended};
use crate::filtered::Filters;
use crate::gate::Flow;
use crate::policy::{Applied, Denied};
use crate::reason::Reason;
use crate::sink::{MessageSink, NotTaken};
use crate::takeover::Seat;
use crate::tally::{Asked, Tally};

use pending::{Answer, Message, Pending};
use state::{Held, States};
use will::Will;

/// Messages of one client that may wait for the sink.
const WINDOW: u16 = 256;
/// A sink without room is asked again after so long; each time after twice as long, up to the most.
const AGAIN: Duration = Duration::from_millis(5);
const AGAIN_MOST: Duration = Duration::from_millis(250);
/// Answers that may wait for a client before it is read no more.
const MAX_ANSWERS: usize = 16 * 1024;
/// When we go away, messages on their way have so long to be confirmed; their client sends those
/// again that were not.
const LAST: Duration = Duration::from_secs(5);

/// How a session ended.
enum End {
    Goodbye,
    Gone,
    Fault(Fault),
    Silent,
    TakenOver,
    /// It is not allowed any more.
    Revoked,
    Leaving,
    /// What the client showed of itself is good no more.
    Expired,
    /// A message is not safe, and may be the next time: the client is to send it again, and no
    /// acknowledgement says that.
    Failed,
}

/// A session that ends here.
pub(crate) struct Terminal {
    caller: Rc<Caller>,
    level: Level,
    client: Channel,
    sink: Arc<dyn MessageSink>,
    applied: Applied,
    filters: Filters,
    seat: Option<Seat>,
    client_id: String,
    username: String,
    identity: String,
    will: Option<Will>,
    held: Held,
    /// How long its state outlives it; `None` = for ever.
    expiry: Option<Duration>,
    aliases: Vec<Option<Box<str>>>,
    partial: BytesMut,
    pending: Pending,
    /// The sink had no room: it is not asked before.
    retry: Option<Now>,
    /// How long the next refusal has it wait.
    again: Duration,
    /// The client says too much: it is not read before.
    resume: Option<Now>,
    messages: Flow,
    bytes: Flow,
    goodbye: bool,
    /// We go away then at the latest.
    leave: Option<Now>,
    /// What the client showed of itself is good no longer.
    until: Option<Now>,
    turn: Turn,
    tally: Tally,
    /// Silence of the client after which it is gone; `None` for `limits.idle`.
    patience: Option<Duration>,
    timer: Option<Timer>,
    limit: usize,
}

impl Terminal {
    /// Serves it to its end.
    pub(crate) async fn run(mut self, states: &States) {
        let caller = self.caller.clone();
        let _listed = caller.list_session(NAME, &self.client_id, None);
        caller.rest(self.patience);
        let seat = self.seat.take();
        let mut lost = std::pin::pin!(async {
            match &seat {
                Some(seat) => seat.lost().await,
                None => std::future::pending().await,
            }
        });
        let mut armed = false;
        let end = poll_fn(|cx| {
            if !armed {
                armed = true;
                let _ = lost.as_mut().poll(cx);
            }
            caller.worker().read_clock();
            if seat.as_ref().is_some_and(Seat::is_lost) {
                return Poll::Ready(End::TakenOver);
            }
            match self.poll(cx) {
                Err(end) => Poll::Ready(end),
                Ok(()) => Poll::Pending,
            }
        })
        .await;
        Box::pin(self.finish(end, states)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        self.caller.attend(cx);
        // Before anything more is taken: rules of now hold for it. Nothing can be subscribed to here.
        if self.filters.are_revoked(std::iter::empty()) {
            return Err(End::Revoked);
        }
        loop {
            self.exchange(cx)?;
            if self.caller.is_cut() {
                return Err(End::Leaving);
            }
            if self.watch(cx)?.is_pending() {
                return Ok(());
            }
        }
    }

    /// Takes what there is, and answers it.
    fn exchange(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        loop {
            if self.pending.hear(cx.waker()) {
                // What left the sink has made room there.
                self.retry = None;
            }
            self.acknowledge()?;
            let flushed = match self.client.poll_flush(cx) {
                Poll::Ready(Err(_)) => return Err(End::Gone),
                flushed => flushed.is_ready(),
            };
            // Those who must go have what they sent confirmed first.
            if self.caller.is_dismissed() && self.pending.is_empty() && flushed {
                return Err(End::Leaving);
            }
            if self.goodbye && self.pending.is_empty() {
                return Err(End::Goodbye);
            }
            if !self.may_go_on() || self.caller.is_dismissed() {
                return Ok(());
            }
            if self.take_packets()? {
                continue;
            }
            if self.goodbye || !self.may_go_on() {
                return Ok(());
            }
            if self.turn.take(cx, READS_PER_TURN).is_pending() {
                return Ok(());
            }
            let read = scratch(|bytes| {
                let read = self.client.poll_read(cx, bytes);
                if let Poll::Ready(Ok(length)) = read {
                    self.partial.extend_from_slice(&bytes[..length]);
                }
                read
            });
            match read {
                Poll::Pending => {
                    self.turn.end(READS_PER_TURN);
                    return Ok(());
                }
                Poll::Ready(Ok(length @ 1..)) => {
                    self.caller.rest(self.patience);
                    self.tally.up += length as u64;
                }
                Poll::Ready(_) => return Err(End::Gone),
            }
        }
    }

    /// Whether the client is read.
    fn may_go_on(&self) -> bool {
        self.retry.is_none()
            && self.resume.is_none()
            && self.pending.len() < usize::from(WINDOW)
            && self.client.waiting() <= MAX_ANSWERS
    }

    /// Answers the messages whose turn it is.
    fn acknowledge(&mut self) -> Result<(), End> {
        // MQTT 5, section 4.6: in the order in which their messages came.
        while let Some((Message { id, qos, .. }, answer)) = self.pending.next() {
            self.tally
                .answered(Asked::Publish(id), answer == Answer::Taken);
            let reason = self.reason(answer)?;
            let kind = if qos == 1 {
                PacketType::Puback
            } else {
                PacketType::Pubrec
            };
            self.client
                .queue(&write::acknowledgement(kind, self.level, id, reason));
        }
        Ok(())
    }

    /// What an acknowledgement says. MQTT 3 has no word but that it went well.
    fn reason(&self, answer: Answer) -> Result<Reason, End> {
        let policy = self.applied.policy();
        let (reason, otherwise) = match answer {
            Answer::Taken => return Ok(Reason::SUCCESS),
            Answer::Denied => (Reason::NOT_AUTHORIZED, policy.denied),
            Answer::NotTaken(why) if !why.is_final() => return Err(End::Failed),
            Answer::NotTaken(why) => {
                let refused = policy.produce.as_ref().map(|own| own.refused);
                (refusal(why), refused.unwrap_or_default())
            }
        };
        match otherwise {
            _ if self.level.is_5() => Ok(reason),
            Denied::Acknowledge => {
                static LOST: LogLimit = LogLimit::usual();
                if let Some(left_out) = LOST.admit(self.caller.worker().now()) {
                    let (client, reason) = (Escaped(&self.client_id), reason.name());
                    tracing::warn!(%client, reason, left_out, "a message is acknowledged, and goes nowhere");
                }
                Ok(Reason::SUCCESS)
            }
            Denied::Close => Err(End::Fault(Fault::new(
                reason,
                "a message that is not allowed, or not taken ever",
            ))),
        }
    }

    /// Takes whole packets off what was read; whether there was one.
    fn take_packets(&mut self) -> Result<bool, End> {
        let mut any = false;
        let whole = std::mem::take(&mut self.partial);
        let mut at = 0;
        while !self.goodbye && self.may_go_on() {
            let rest = &whole[at..];
            let head = FixedHeader::read(rest, self.level, self.limit).map_err(End::Fault)?;
            let Some(head) = head.filter(|head| rest.len() >= head.packet()) else {
                break;
            };
            if !self.packet(&rest[..head.packet()], &head)? {
                self.wait_for_room();
                break;
            }
            any = true;
            at += head.packet();
        }
        if at < whole.len() {
            self.partial.extend_from_slice(&whole[at..]);
        }
        Ok(any)
    }

    /// Nothing more is offered to the sink for a while.
    fn wait_for_room(&mut self) {
        self.retry = Some(self.caller.worker().now().after(self.again));
        self.again = (self.again * 2).min(AGAIN_MOST);
    }

    /// What time tells; ready when it is time to look again.
    fn watch(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, End> {
        let worker = self.caller.worker();
        let now = worker.now();
        if !self.may_go_on() {
            // It is not the client who is silent.
            self.caller.rest(self.patience);
        }
        if self.caller.is_idle() {
            return Err(End::Silent);
        }
        if self.caller.is_dismissed() && *self.leave.get_or_insert(now.after(LAST)) <= now {
            return Err(End::Leaving);
        }
        if self.until.is_some_and(|until| until <= now) {
            return Err(End::Expired);
        }
        let mut due = false;
        for moment in [&mut self.retry, &mut self.resume] {
            if moment.is_some_and(|at| at <= now) {
                *moment = None;
                due = true;
            }
        }
        if due {
            return Ok(Poll::Ready(()));
        }
        let moments = [self.retry, self.resume, self.leave, self.until];
        let Some(next) = moments.into_iter().flatten().min() else {
            self.timer = None;
            return Ok(Poll::Pending);
        };
        let at = worker.mesh().clock.instant(next);
        let timer = self.timer.get_or_insert_with(|| worker.timers().set(at));
        timer.reset(at);
        let rung = timer.poll(cx);
        if rung.is_ready() {
            worker.read_clock();
        }
        Ok(rung)
    }

    /// Reads the client no more for a while, if it says too much.
    fn throttle(&mut self, bytes: usize) {
        let policy = self.applied.policy();
        let now = self.caller.worker().now();
        let messages = policy.messages_per_second;
        let until = messages.and_then(|rate| self.messages.take(now, 1, rate.into()));
        let volume = policy.bytes_per_second;
        let also = volume.and_then(|rate| self.bytes.take(now, bytes as u64, rate));
        self.resume = self.resume.max(until).max(also);
    }

    async fn finish(mut self, end: End, states: &States) {
        let caller = self.caller.clone();
        let server = self.applied.policy().server_reference.clone();
        let reason = match &end {
            End::Fault(fault) => Some((fault.reason, fault.why)),
            End::Silent => Some((Reason::KEEP_ALIVE_TIMEOUT, "")),
            End::TakenOver => Some((Reason::TAKEN_OVER, "")),
            End::Leaving if server.is_some() => Some((Reason::USE_ANOTHER, "")),
            End::Leaving => Some((Reason::SHUTTING_DOWN, "")),
            End::Expired => Some((Reason::NOT_AUTHORIZED, "the token has ended")),
            End::Revoked => Some((Reason::NOT_AUTHORIZED, "")),
            End::Failed => Some((Reason::SERVER_BUSY, "a message is to be sent again")),
            End::Goodbye | End::Gone => None,
        };
        if let End::Fault(fault) = &end {
            caller.count_malformed();
            session_ended(&caller, fault);
        }
        self.tally.ended(match &end {
            End::Goodbye | End::TakenOver | End::Expired => Ending::Answered(Outcome::Success),
            End::Gone | End::Silent => Ending::Abandoned,
            End::Revoked => Ending::Rejected(Rejection::Denied),
            End::Fault(_) => Ending::Rejected(Rejection::BadRequest),
            End::Leaving => Ending::Rejected(Rejection::Draining),
            End::Failed => Ending::Answered(Outcome::Failed),
        });
        states.leave(&self.held, self.expiry, caller.worker().now());
        // MQTT 5, section 3.1.4: a will is published when another connection takes the session over, unless it
        // was to be delayed and the client is back before that.
        let taken_over = matches!(end, End::TakenOver);
        let will = self.will.take();
        if let Some(will) = will.filter(|will| !(taken_over && will.is_delayed())) {
            self.publish_will(will);
        }
        if let Some((reason, _)) = reason {
            self.client.set_close(reason.as_close());
        }
        let last = match reason {
            Some((reason, why)) if self.level.is_5() => {
                let server = server.filter(|_| reason == Reason::USE_ANOTHER);
                write::disconnect(reason, why, server.as_deref())
            }
            _ => Vec::new(),
        };
        tokio::select! {
            () = farewell(&caller, &mut self.client, &last) => {}
            () = caller.cut() => {}
        }
    }
}

/// What a client of MQTT 5 reads of a message that is not taken ever.
fn refusal(why: NotTaken) -> Reason {
    match why {
        NotTaken::BadTopic => Reason::BAD_TOPIC,
        NotTaken::Full | NotTaken::TooManyTopics => Reason::QUOTA,
        NotTaken::TooLarge | NotTaken::Loop | NotTaken::Failed => Reason::IMPLEMENTATION,
    }
}
