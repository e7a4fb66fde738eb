//! Sessions that end here: no broker behind, but a [`Sink`](crate::Sink) for what clients publish. A message
//! is acknowledged when the sink has it for certain, in the order in which messages came; there
//! is nothing to subscribe to.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use finback_core::driver::Caller;
use finback_core::frame::Outcome;
use finback_core::log_limit::LogLimit;
use finback_core::net::{READS_PER_TURN, Timer, Turn, scratch};
use finback_core::record::Ending;
use finback_core::rejection::Rejection;
use finback_core::text::Escaped;
use tokio::time::Instant;

use crate::channel::Channel;
use crate::codec::properties::{Place, Writer, id};
use crate::codec::{
    BAD_ALIAS, Connect, Fault, Head, Kind, Level, Properties, Publish, Reader, Side, Subscription,
    check, write,
};
use crate::entry::{farewell, session_ended};
use crate::open::{MAX_ALIASES, patience};
use crate::policy::Applied;
use crate::reason::Reason;
use crate::sink::{Exactly, NotTaken, Outgoing, Receipt, Sink, Stage, Told};
use crate::takeover::Seat;
use crate::tally::{Asked, SESSION, Tally, method};

/// Messages of one client that may wait for the sink.
const WINDOW: u16 = 256;
/// Messages of quality of service 2 that one client may leave unreleased.
const MAX_UNRELEASED: usize = 1024;
/// Clients whose messages of quality of service 2 are remembered while they are away.
const MAX_KEPT: usize = 10_000;
/// After so long a sink without room is asked again.
const AGAIN: Duration = Duration::from_millis(5);
/// A will waits this long for room.
const WILL: Duration = Duration::from_secs(10);
/// Answers that may wait for a client before it is read no more.
const MAX_ANSWERS: usize = 16 * 1024;

/// What is remembered of sessions between connections.
#[derive(Default)]
pub(crate) struct Kept(Mutex<HashMap<Box<str>, Arc<Exactly>>>);

impl Kept {
    /// What there is of a session, and whether there was one.
    fn take_up(&self, client_id: &str, clean: bool) -> (Arc<Exactly>, bool) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if clean {
            kept.remove(client_id);
        }
        if let Some(known) = kept.get(client_id) {
            return (known.clone(), true);
        }
        if kept.len() >= MAX_KEPT {
            // Those with nothing to remember first.
            kept.retain(|_, own| Arc::strong_count(own) > 1 || own.len() > 0);
        }
        let fresh = Arc::<Exactly>::default();
        if kept.len() < MAX_KEPT {
            kept.insert(client_id.into(), fresh.clone());
        }
        (fresh, false)
    }

    fn forget(&self, client_id: &str, own: &Arc<Exactly>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept
            .get(client_id)
            .is_some_and(|known| Arc::ptr_eq(known, own))
        {
            kept.remove(client_id);
        }
    }
}

/// What is to be published when a client goes away without a word.
struct Will {
    topic: String,
    payload: Vec<u8>,
    properties: Vec<u8>,
    qos: u8,
    retain: bool,
}

/// A message that waits for the sink, and what came of it.
struct Pending {
    number: u64,
    id: u16,
    qos: u8,
    came: Option<Result<(), NotTaken>>,
}

/// How a session ended.
enum End {
    Goodbye,
    Gone,
    Fault(Fault),
    Silent,
    TakenOver,
    Leaving,
    /// A message failed that MQTT 3 has no answer for: the client is to send it again.
    Failed,
}

/// A session that ends here.
pub(crate) struct Terminal {
    caller: Rc<Caller>,
    level: Level,
    client: Channel,
    sink: Arc<dyn Sink>,
    applied: Option<Applied>,
    seat: Option<Seat>,
    client_id: String,
    username: String,
    will: Option<Will>,
    exactly: Arc<Exactly>,
    lasting: bool,
    aliases: Vec<Option<Box<str>>>,
    partial: BytesMut,
    pending: VecDeque<Pending>,
    told: Arc<Told>,
    next: u64,
    /// The sink had no room.
    full: bool,
    goodbye: bool,
    turn: Turn,
    tally: Tally,
    /// Silence of the client after which it is gone; `None` for `limits.idle`.
    patience: Option<Duration>,
    timer: Option<Timer>,
    limit: usize,
}

/// What a session begins with.
pub(crate) struct Beginning {
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) applied: Option<Applied>,
    pub(crate) seat: Option<Seat>,
    /// The longest packet.
    pub(crate) limit: usize,
}

impl Terminal {
    /// Accepts a session; its CONNACK waits to be written.
    pub(crate) fn accept(
        caller: &Rc<Caller>,
        client: Channel,
        connect: &Connect<'_>,
        kept: &Kept,
        beginning: Beginning,
    ) -> Self {
        let level = connect.level;
        let given = connect.client_id.is_empty();
        let client_id = if given {
            format!("finback-{:016x}", caller.worker().random())
        } else {
            connect.client_id.to_string()
        };
        let (exactly, present) = kept.take_up(&client_id, connect.clean);
        let expiry = connect.properties().number(id::SESSION_EXPIRY).unwrap_or(0);
        let lasting = if level.is_5() {
            expiry > 0
        } else {
            !connect.clean
        };
        let limit = beginning.limit;
        let mut body = vec![u8::from(present), 0];
        if level.is_5() {
            let mut properties = Writer::default();
            properties.number(id::RECEIVE_MAXIMUM, WINDOW.into());
            properties.number(id::TOPIC_ALIAS_MAXIMUM, MAX_ALIASES.into());
            properties.number(id::MAXIMUM_PACKET, u32::try_from(limit).unwrap_or(u32::MAX));
            properties.number(id::WILDCARDS_AVAILABLE, 0);
            properties.number(id::SUBSCRIPTION_IDS_AVAILABLE, 0);
            properties.number(id::SHARED_AVAILABLE, 0);
            if given {
                properties.text(id::ASSIGNED_CLIENT_ID, &client_id);
            }
            crate::codec::reader::put_variable(&mut body, properties.bytes().len());
            body.extend_from_slice(properties.bytes());
        }
        let mut terminal = Self {
            tally: Tally::new(caller.clone(), None),
            caller: caller.clone(),
            level,
            client,
            sink: beginning.sink,
            applied: beginning.applied,
            seat: beginning.seat,
            client_id,
            username: connect.username.as_deref().unwrap_or_default().to_owned(),
            will: connect.will.as_ref().map(|will| Will {
                topic: will.topic.to_string(),
                payload: will.payload.to_vec(),
                properties: will.properties.to_vec(),
                qos: will.qos,
                retain: will.retain,
            }),
            exactly,
            lasting,
            aliases: Vec::new(),
            partial: BytesMut::new(),
            pending: VecDeque::new(),
            told: Arc::default(),
            next: 0,
            full: false,
            goodbye: false,
            turn: Turn::new(),
            patience: patience(connect.keep_alive.into()),
            timer: None,
            limit,
        };
        terminal
            .client
            .queue(&write::packet(Kind::Connack.first_byte(), &body));
        terminal
    }

    /// Serves it to its end.
    pub(crate) async fn run(mut self, kept: &Kept) {
        let caller = self.caller.clone();
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
        Box::pin(self.finish(end, kept)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        self.caller.attend(cx);
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
            self.hear_news(cx)?;
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
            if self.full || self.goodbye || !self.may_go_on() {
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

    fn may_go_on(&self) -> bool {
        self.pending.len() < usize::from(WINDOW) && self.client.waiting() <= MAX_ANSWERS
    }

    /// Takes what the sink says, and acknowledges what is its turn.
    fn hear_news(&mut self, cx: &Context<'_>) -> Result<(), End> {
        let news = self.told.take(cx.waker());
        let first = self.pending.front().map_or(0, |pending| pending.number);
        for (number, came) in news {
            // Numbers go up by one; those of messages that were not taken are unknown.
            let at = number
                .checked_sub(first)
                .and_then(|at| usize::try_from(at).ok());
            if let Some(pending) = at.and_then(|at| self.pending.get_mut(at)) {
                pending.came.get_or_insert(came);
            }
        }
        while let Some(&Pending { id, qos, came, .. }) = self.pending.front() {
            let Some(came) = came else { break };
            self.pending.pop_front();
            self.tally.answered(Asked::Publish(id), came.is_ok());
            let reason = match came {
                Ok(()) => Reason::SUCCESS,
                Err(_) if !self.level.is_5() => return Err(End::Failed),
                Err(NotTaken::BadTopic) => Reason::BAD_TOPIC,
                Err(NotTaken::Full) => Reason::QUOTA,
                Err(NotTaken::TooLarge | NotTaken::Failed) => Reason::IMPLEMENTATION,
            };
            let kind = if qos == 1 { Kind::Puback } else { Kind::Pubrec };
            self.client
                .queue(&write::acknowledgement(kind, self.level, id, reason));
        }
        Ok(())
    }

    /// Takes whole packets off what was read; whether there was one.
    fn take_packets(&mut self) -> Result<bool, End> {
        self.full = false;
        let mut any = false;
        let whole = std::mem::take(&mut self.partial);
        let mut at = 0;
        while !self.goodbye && self.may_go_on() {
            let rest = &whole[at..];
            let head = Head::read(rest, self.level, self.limit).map_err(End::Fault)?;
            let Some(head) = head.filter(|head| rest.len() >= head.packet()) else {
                break;
            };
            if !self.packet(&rest[..head.packet()], &head)? {
                self.full = true;
                break;
            }
            any = true;
            at += head.packet();
        }
        if at < whole.len() {
            self.partial.extend_from_slice(&whole[at..]);
        }
        Ok(any && !self.full)
    }

    /// Does what a packet asks for; whether there was room to.
    fn packet(&mut self, packet: &[u8], head: &Head) -> Result<bool, End> {
        check(packet, head, self.level, Side::Client).map_err(End::Fault)?;
        let body = &packet[head.header..];
        match head.kind {
            Kind::Publish => return self.publish(packet, head),
            Kind::Connect => return Err(End::Fault(Fault::protocol("a second CONNECT"))),
            Kind::Pubrel => {
                let id = Reader::new(body).packet_id().map_err(End::Fault)?;
                self.exactly.set(id, None);
                let done = Reason::SUCCESS;
                self.client
                    .queue(&write::acknowledgement(Kind::Pubcomp, self.level, id, done));
            }
            Kind::Pingreq => self.client.queue(&[Kind::Pingresp.first_byte(), 0]),
            Kind::Subscribe | Kind::Unsubscribe => self.subscribe(packet, head)?,
            Kind::Disconnect => {
                self.goodbye = true;
                // A client of MQTT 5 may ask for its will.
                if body.first() != Some(&4) {
                    self.will = None;
                }
            }
            Kind::Auth => {
                let why = "nobody authenticates anybody here";
                return Err(End::Fault(Fault::protocol(why)));
            }
            _ => {}
        }
        Ok(true)
    }

    fn publish(&mut self, packet: &[u8], head: &Head) -> Result<bool, End> {
        let read = Publish::read(packet, head, self.level).map_err(End::Fault)?;
        let Some(publish) = read else { return Ok(true) };
        let topic = self.resolve(&publish).map_err(End::Fault)?;
        let qos = head.qos();
        let method = method::PUBLISH[usize::from(qos).min(2)];
        let id = publish.packet_id.unwrap_or(0);
        if qos > 0 && self.pending.iter().any(|pending| pending.id == id) {
            // Sent again while it is on its way: what it comes to is answered once.
            return Ok(true);
        }
        let answered = match self.exactly.stage(id).filter(|_| qos == 2) {
            Some(Stage::Safe) => Some(Ok(())),
            // It came over an earlier connection, and nobody knows yet what becomes of it.
            Some(Stage::Sent) => return Ok(false),
            None if self
                .applied
                .as_ref()
                .is_none_or(|own| own.may_publish(&topic)) =>
            {
                None
            }
            None => {
                let denied = Ending::Rejected(Rejection::Denied);
                self.tally.sent(method, &*topic, packet.len(), denied);
                return self.deny(qos, id).map(|()| true);
            }
        };
        if qos == 2 && answered.is_none() && self.exactly.len() >= MAX_UNRELEASED {
            let why = "too many messages wait for their release";
            return Err(End::Fault(Fault::new(Reason::RECEIVE_MAXIMUM, why)));
        }
        let number = self.next;
        if qos > 0 {
            self.pending.push_back(Pending {
                number,
                id,
                qos,
                came: answered,
            });
            self.next += 1;
        }
        if answered.is_some() {
            return Ok(true);
        }
        let receipt = match qos {
            0 => Receipt::unheard(),
            1 => Receipt::new(&self.told, number, None),
            _ => {
                self.exactly.set(id, Some(Stage::Sent));
                Receipt::new(&self.told, number, Some((self.exactly.clone(), id)))
            }
        };
        let renamed = self.applied.as_ref().map(|own| own.names.up(&topic));
        let message = Outgoing {
            topic: renamed.as_deref().unwrap_or(&topic),
            client_id: &self.client_id,
            username: &self.username,
            qos,
            retain: head.retain(),
            properties: publish.properties,
            payload: &packet[publish.head..],
        };
        match self.sink.take(&message, receipt) {
            Ok(()) if qos == 0 => self.tally.sent(method, &*topic, packet.len(), Ending::Sent),
            Ok(()) => self
                .tally
                .asked(Asked::Publish(id), method, &*topic, packet.len()),
            Err(NotTaken::Full) => {
                if qos > 0 {
                    self.pending.pop_back();
                }
                return Ok(false);
            }
            Err(failed) => {
                let ending = Ending::Answered(Outcome::Failed);
                self.tally.sent(method, &*topic, packet.len(), ending);
                if let Some(pending) = self.pending.back_mut().filter(|_| qos > 0) {
                    pending.came = Some(Err(failed));
                }
            }
        }
        Ok(true)
    }

    fn deny(&mut self, qos: u8, id: u16) -> Result<(), End> {
        let refused = Fault::new(Reason::NOT_AUTHORIZED, "a message that is not allowed");
        match qos {
            0 => Ok(()),
            _ if !self.level.is_5() => Err(End::Fault(refused)),
            _ => {
                let kind = if qos == 1 { Kind::Puback } else { Kind::Pubrec };
                let answer = write::acknowledgement(kind, self.level, id, refused.reason);
                self.client.queue(&answer);
                Ok(())
            }
        }
    }

    fn resolve(&mut self, publish: &Publish<'_>) -> Result<String, Fault> {
        let Some(alias) = publish.alias() else {
            return Ok(publish.topic.to_owned());
        };
        if alias > MAX_ALIASES {
            return Err(BAD_ALIAS);
        }
        self.aliases.resize(usize::from(MAX_ALIASES) + 1, None);
        let known = &mut self.aliases[usize::from(alias)];
        if !publish.topic.is_empty() {
            *known = Some(publish.topic.into());
        }
        known.as_deref().map(str::to_owned).ok_or(BAD_ALIAS)
    }

    /// There is nothing to subscribe to.
    fn subscribe(&mut self, packet: &[u8], head: &Head) -> Result<(), End> {
        let (place, kind) = match head.kind {
            Kind::Subscribe => (Place::Subscribe, Kind::Suback),
            _ => (Place::Unsubscribe, Kind::Unsuback),
        };
        let read = Subscription::read(&packet[head.header..], self.level, place);
        let subscription = read.map_err(End::Fault)?;
        let code = match (kind, self.level) {
            (Kind::Unsuback, _) => Reason::NO_SUBSCRIPTION,
            (_, Level::V5) => Reason::IMPLEMENTATION,
            _ => Reason::UNSPECIFIED,
        };
        let codes = vec![code.0; subscription.filters().count()];
        let id = subscription.packet_id;
        self.client
            .queue(&write::subscribed(kind, self.level, id, &[], &codes));
        let denied = Ending::Rejected(Rejection::Denied);
        self.tally
            .sent(method::SUBSCRIBE, SESSION, packet.len(), denied);
        Ok(())
    }

    /// What time tells; ready when it is time to look again.
    fn watch(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, End> {
        if self.full || !self.may_go_on() {
            // It is not the client who is silent.
            self.caller.rest(self.patience);
        }
        if self.caller.is_idle() {
            return Err(End::Silent);
        }
        if !self.full {
            self.timer = None;
            return Ok(Poll::Pending);
        }
        let worker = self.caller.worker();
        let timer = self
            .timer
            .get_or_insert_with(|| worker.timers().set(worker.instant() + AGAIN));
        let again = timer.poll(cx);
        if again.is_ready() {
            self.timer = None;
        }
        Ok(again)
    }

    async fn finish(mut self, end: End, kept: &Kept) {
        let caller = self.caller.clone();
        let reason = match &end {
            End::Fault(fault) => Some((fault.reason, fault.why)),
            End::Silent => Some((Reason::KEEP_ALIVE_TIMEOUT, "")),
            End::TakenOver => Some((Reason::TAKEN_OVER, "")),
            End::Leaving => Some((Reason::SHUTTING_DOWN, "")),
            End::Goodbye | End::Gone | End::Failed => None,
        };
        if let End::Fault(fault) = &end {
            caller.count_malformed();
            session_ended(&caller, fault);
        }
        self.tally.ended(match &end {
            End::Goodbye | End::TakenOver => Ending::Answered(Outcome::Success),
            End::Gone | End::Silent => Ending::Abandoned,
            End::Fault(_) => Ending::Rejected(Rejection::BadRequest),
            End::Leaving => Ending::Rejected(Rejection::Draining),
            End::Failed => Ending::Answered(Outcome::Failed),
        });
        if !self.lasting {
            kept.forget(&self.client_id, &self.exactly);
        }
        if let Some(will) = self.will.take().filter(|_| !matches!(end, End::TakenOver)) {
            self.publish_will(will);
        }
        let last = match reason {
            Some((reason, why)) if self.level.is_5() => write::disconnect(reason, why, None),
            _ => Vec::new(),
        };
        tokio::select! {
            () = farewell(&caller, &mut self.client, &last) => {}
            () = caller.cut() => {}
        }
    }

    /// Publishes a will, if there is room for it in time.
    fn publish_will(&self, will: Will) {
        let sink = self.sink.clone();
        let (client_id, username) = (self.client_id.clone(), self.username.clone());
        let topic = match &self.applied {
            Some(applied) => applied.names.up(&will.topic).into_owned(),
            None => will.topic.clone(),
        };
        let worker = self.caller.worker().clone();
        self.caller.worker().spawn("a will", async move {
            let deadline = Instant::now() + WILL;
            loop {
                let message = Outgoing {
                    topic: &topic,
                    client_id: &client_id,
                    username: &username,
                    qos: will.qos,
                    retain: will.retain,
                    properties: Properties::trusted(&will.properties),
                    payload: &will.payload,
                };
                match sink.take(&message, Receipt::unheard()) {
                    Err(NotTaken::Full) if Instant::now() < deadline => {}
                    Ok(()) => return,
                    Err(why) => {
                        static LOST: LogLimit = LogLimit::usual();
                        if let Some(left_out) = LOST.admit(worker.now()) {
                            let client = Escaped(&client_id);
                            tracing::warn!(%client, ?why, left_out, "a will was not published");
                        }
                        return;
                    }
                }
                tokio::time::sleep(AGAIN).await;
            }
        });
    }
}
