//! Copies of messages of quality of service 0 for a shadow. A worker has one session of its own with each shadow, over which it
//! publishes them; what waits for it is bounded, and nobody who published waits for it.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use finback_core::driver::{Caller, MessageShadow, ShadowRoom};
use finback_core::mesh::{AttemptEnd, Lease, Resend};
use finback_core::net::Socket;
use finback_core::rejection::Rejection;
use finback_core::stats::increment;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::NAME;
use crate::codec::properties::{Writer, id};
use crate::codec::{Connect, FixedHeader, Level, PacketType, Properties, write};
use crate::open::{answer_of, metadata, outcome};
use crate::propagation::propagate;
use crate::reason::Reason;

/// The longest packet that is copied.
const LONGEST: usize = 64 * 1024;
/// Copies that wait for one session, at most, and their bytes.
const MOST: usize = 512;
const BYTES: usize = 4 * 1024 * 1024;
/// The longest answer to CONNECT that is read.
const MAX_CONNACK: usize = 64 * 1024;
/// A broker hears something so often, and forgets a session that says nothing for one and a half times of it.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// A broker takes what is written within this time, or is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// One that could not be reached is asked again after so long, each time after twice as long, up to the most.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_MOST: Duration = Duration::from_secs(30);

/// A message to copy.
pub(crate) struct Message<'a> {
    pub(crate) level: Level,
    pub(crate) retain: bool,
    /// Where it is published, as the broker knows it.
    pub(crate) topic: &'a str,
    pub(crate) properties: Properties<'a>,
    pub(crate) payload: &'a [u8],
}

/// What tells sessions with shadows apart: the shadow, and whether they speak MQTT 5.
type Key = (Arc<str>, bool);

/// The sessions of one worker.
#[derive(Default)]
struct Publishers(RefCell<HashMap<Key, Rc<Publisher>>>);

/// What waits for one session with a shadow.
#[derive(Default)]
struct Publisher {
    waiting: RefCell<VecDeque<Waiting>>,
    bytes: Cell<usize>,
    waker: RefCell<Option<Waker>>,
}

struct Waiting {
    packet: Vec<u8>,
    _room: ShadowRoom,
}

/// How a session with a shadow ended.
enum End {
    /// Nothing was left to copy for a while, or we are going away.
    Over,
    /// There is no such shadow any more.
    Gone,
    /// It could not be opened, or broke.
    Broken,
}

/// Whether messages like this are copied: those that nobody acknowledges, if they are not too long to be kept.
pub(crate) fn is_copied(head: &FixedHeader) -> bool {
    head.qos() == 0 && head.packet() <= LONGEST
}

/// Copies a message, if it is among the share; one that finds no room is left out and counted.
pub(crate) fn copy(caller: &Rc<Caller>, shadow: &MessageShadow, message: &Message<'_>) {
    let worker = caller.worker();
    // Names of the broker's own are nothing that clients publish to elsewhere.
    if message.topic.starts_with('$') || !shadow.holds(worker) {
        return;
    }
    let publishers = worker.state::<Publishers>();
    let key = (shadow.name().clone(), message.level.is_5());
    let known = publishers.0.borrow().get(&key).cloned();
    let publisher = known.unwrap_or_else(|| {
        let publisher = Rc::<Publisher>::default();
        let mut all = publishers.0.borrow_mut();
        all.insert(key.clone(), publisher.clone());
        let carried = carry(publisher.clone(), caller.apart(), shadow.clone(), key);
        worker.spawn("a session with a shadow", carried);
        publisher
    });
    let packet = packet(shadow, message);
    if !publisher.has_room(packet.len()) {
        increment(&worker.mesh().stats.shadows_dropped);
        return;
    }
    if let Some(room) = ShadowRoom::take(worker, packet.len()) {
        publisher.push(packet, room);
    }
}

/// A copy as it is published.
fn packet(shadow: &MessageShadow, message: &Message<'_>) -> Vec<u8> {
    let mut properties = Vec::new();
    if message.level.is_5() {
        let mut writer = Writer::default();
        for (kind, _, piece) in message.properties.pieces() {
            // Aliases mean something on their own connection only.
            if kind != id::TOPIC_ALIAS {
                writer.raw(piece);
            }
        }
        let marks: Vec<_> = shadow.marks(NAME).collect();
        properties = propagate(Properties::of(&writer), &marks);
    }
    let first = PacketType::Publish.first_byte() | u8::from(message.retain);
    let (level, topic) = (message.level, message.topic);
    let payload = message.payload;
    let mut packet = write::publish_head(first, level, topic, None, &properties, payload.len());
    packet.extend_from_slice(payload);
    packet
}

impl Publisher {
    fn has_room(&self, bytes: usize) -> bool {
        self.waiting.borrow().len() < MOST && self.bytes.get() + bytes <= BYTES
    }

    fn push(&self, packet: Vec<u8>, room: ShadowRoom) {
        self.bytes.set(self.bytes.get() + packet.len());
        let waiting = Waiting {
            packet,
            _room: room,
        };
        self.waiting.borrow_mut().push_back(waiting);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn pop(&self) -> Option<Waiting> {
        let waiting = self.waiting.borrow_mut().pop_front()?;
        self.bytes.set(self.bytes.get() - waiting.packet.len());
        Some(waiting)
    }

    /// Waits until something is to be copied.
    async fn filled(&self) {
        poll_fn(|cx| {
            if !self.waiting.borrow().is_empty() {
                return Poll::Ready(());
            }
            self.waker.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

/// Keeps a session with a shadow as long as there is something to copy.
async fn carry(publisher: Rc<Publisher>, caller: Rc<Caller>, shadow: MessageShadow, key: Key) {
    let mut pause = AGAIN;
    loop {
        let opened = open(&caller, &shadow, key.1).await;
        let is_open = opened.is_ok();
        let end = match opened {
            Ok((socket, lease)) => publish(&publisher, &caller, socket, lease).await,
            Err(end) => end,
        };
        if caller.is_dismissed() || matches!(end, End::Gone) {
            break;
        }
        if matches!(end, End::Over) {
            // Unless something came while it said goodbye.
            match publisher.waiting.borrow().is_empty() {
                true => break,
                false => continue,
            }
        }
        pause = if is_open {
            AGAIN
        } else {
            (2 * pause).min(AGAIN_MOST)
        };
        tokio::select! {
            biased;
            () = caller.dismissed() => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
    let publishers = caller.worker().state::<Publishers>();
    publishers.0.borrow_mut().remove(&key);
}

/// Opens a session with one of a shadow's brokers.
async fn open(
    caller: &Rc<Caller>,
    shadow: &MessageShadow,
    is_5: bool,
) -> Result<(Socket, Lease), End> {
    let level = if is_5 { Level::V5 } else { Level::V311 };
    let worker = caller.worker();
    let exchange = caller.open_message_shadow(shadow, NAME, &metadata(level));
    let mut exchange = exchange.ok_or(End::Gone)?;
    let mut lease = match exchange.attempt(&mut |_| None).await {
        Ok(lease) => lease,
        Err(rejection) => {
            exchange.rejected(rejection);
            return Err(End::Broken);
        }
    };
    let ends = caller.ends(caller.peer().ip());
    let dialling = Box::pin(worker.connect_for(&lease, Some(b"mqtt"), ends, caller.known()));
    let due = exchange.attempt_deadline().min(Instant::now() + PATIENCE);
    let (end, why) = match worker.timers().within(due, dialling).await {
        Ok(Ok(mut socket)) => {
            let said = Box::pin(introduce(&mut socket, level));
            match worker.timers().within(due, said).await {
                Ok(Some(reason)) => {
                    exchange.answered(answer_of(reason), 0);
                    if reason == Reason::SUCCESS {
                        exchange.settle(&mut lease, outcome(reason));
                        return Ok((socket, lease));
                    }
                    let end = AttemptEnd::Answered(outcome(reason));
                    exchange.conclude(&mut lease, end, Resend::Impossible);
                    return Err(End::Broken);
                }
                Ok(None) => {
                    let end = AttemptEnd::Lost { reused: false };
                    (end, Rejection::ConnectionLost)
                }
                Err(late) => (
                    exchange.unopened(&lease, late.stalled),
                    Rejection::DeadlineExceeded,
                ),
            }
        }
        Ok(Err(error)) => (AttemptEnd::from(&error), Rejection::ConnectFailed),
        Err(_) => (AttemptEnd::Unsent, Rejection::ConnectFailed),
    };
    exchange.conclude(&mut lease, end, Resend::Impossible);
    exchange.rejected(why);
    Err(End::Broken)
}

/// Says CONNECT; what CONNACK answers, if one comes.
async fn introduce(socket: &mut Socket, level: Level) -> Option<Reason> {
    // As many letters and digits as every broker takes (MQTT 3.1.1, section 3.1.3.1).
    let drawn = RandomState::new().build_hasher().finish();
    let connect = Connect {
        level,
        bridge: false,
        clean: true,
        keep_alive: u16::try_from(KEEP_ALIVE.as_secs()).unwrap_or(u16::MAX),
        properties: Vec::new().into(),
        client_id: format!("finback{drawn:016x}").into(),
        will: None,
        username: None,
        password: None,
    };
    socket.write_all(&connect.write().ok()?).await.ok()?;
    let mut heard = BytesMut::new();
    loop {
        if let Some(head) = FixedHeader::read(&heard, level, MAX_CONNACK).ok()?
            && heard.len() >= head.packet()
        {
            let code = *heard.get(head.header + 1)?;
            return (head.kind == PacketType::Connack).then(|| Reason::of_connack(level, code));
        }
        if socket.read_buf(&mut heard).await.ok()? == 0 {
            return None;
        }
    }
}

/// Publishes what there is, until nothing is left for a while or the session breaks.
async fn publish(
    publisher: &Publisher,
    caller: &Rc<Caller>,
    mut socket: Socket,
    mut lease: Lease,
) -> End {
    let timers = caller.worker().timers().clone();
    let mut heard = [0; 512];
    let mut is_quiet = false;
    loop {
        while let Some(copy) = publisher.pop() {
            is_quiet = false;
            let due = Instant::now() + PATIENCE;
            let written = timers.within(due, socket.write_all(&copy.packet)).await;
            if !matches!(written, Ok(Ok(()))) {
                lease.fell_silent();
                return End::Broken;
            }
        }
        let due = Instant::now() + KEEP_ALIVE;
        tokio::select! {
            biased;
            () = caller.dismissed() => break,
            read = socket.read(&mut heard) => match read {
                // What a broker says to it is of no use.
                Ok(1..) => {}
                _ => {
                    lease.fell_silent();
                    return End::Broken;
                }
            },
            waited = timers.within(due, publisher.filled()) => {
                if waited.is_err() && is_quiet {
                    break;
                }
                if waited.is_err() {
                    is_quiet = true;
                    let ping = write::packet(PacketType::Pingreq.first_byte(), &[]);
                    let _ = socket.write_all(&ping).await;
                }
            }
        }
    }
    let goodbye = write::packet(PacketType::Disconnect.first_byte(), &[]);
    let _ = socket.write_all(&goodbye).await;
    let _ = socket.shutdown().await;
    End::Over
}
