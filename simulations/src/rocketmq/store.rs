//! What a broker keeps: the last messages of each queue, as consumers get them.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::BufMut;
use tokio::sync::Notify;

use super::QUEUES;
use super::frame::Frame;
use super::request;

/// Messages that a queue keeps, and their bytes: older ones are forgotten.
const KEPT: usize = 10_000;
const BYTES: usize = 8 << 20;
/// Queues that are kept, at most.
const MOST: usize = 4096;
/// Bytes of one answer to a pull, about.
const PULLED: usize = 1 << 20;
/// RocketMQ: MessageDecoder, `MESSAGE_MAGIC_CODE`.
const MAGIC: i32 = -626_843_481;
/// RocketMQ: MessageSysFlag, `TRANSACTION_PREPARED_TYPE`.
const PREPARED: i32 = 4;

/// A message as its producer sent it.
#[derive(Debug)]
pub(super) struct Message {
    topic: String,
    pub(super) queue: i32,
    flag: i32,
    sys_flag: i32,
    born: i64,
    properties: String,
    is_batch: bool,
    body: bytes::Bytes,
}

/// A queue's messages.
#[derive(Default)]
struct Queue {
    /// The place of the first that is kept.
    first: i64,
    kept: VecDeque<Vec<u8>>,
    bytes: usize,
    arrived: Arc<Notify>,
}

/// All queues.
#[derive(Default)]
pub(super) struct Store {
    queues: HashMap<(String, i32), Queue>,
    /// Where the next message would stand among all.
    place: i64,
}

/// What was found for a pull.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    pub(super) bytes: Vec<u8>,
    next: i64,
    bounds: (i64, i64),
    /// It asked for what is not there any more.
    pub(super) is_below: bool,
}

/// How many queues a topic has.
pub(super) fn queues_of(topic: &str) -> i32 {
    match topic.starts_with("%RETRY%") {
        true => 1,
        false => QUEUES,
    }
}

/// The name of a message by where it stands.
pub(super) fn id(broker: SocketAddr, place: i64) -> String {
    let ip = match broker.ip() {
        IpAddr::V4(ip) => u32::from(ip),
        IpAddr::V6(_) => 0,
    };
    format!("{ip:08X}{:08X}{place:016X}", broker.port())
}

impl Message {
    /// What a request sends; `None` if it sends nothing.
    pub(super) fn read(asked: &Frame) -> Option<Self> {
        // The one has names for its fields, the others a letter for each.
        let names = match asked.code {
            request::SEND => [
                "topic",
                "queueId",
                "flag",
                "sysFlag",
                "bornTimestamp",
                "properties",
                "batch",
            ],
            _ => ["b", "e", "h", "f", "g", "i", "m"],
        };
        let [topic, queue, flag, sys_flag, born, properties, batch] = names;
        let own = Self {
            topic: asked.text(topic),
            queue: i32::try_from(asked.number(queue)).ok()?,
            flag: asked.number(flag) as i32,
            sys_flag: asked.number(sys_flag) as i32,
            born: asked.number(born),
            properties: asked.text(properties),
            is_batch: asked.code == request::SEND_BATCH || asked.text(batch) == "true",
            body: asked.body.clone(),
        };
        let is_fit = !own.topic.is_empty() && own.topic.len() < 128;
        (is_fit && own.properties.len() <= i16::MAX as usize).then_some(own)
    }

    /// Whether it is the half of a transaction.
    pub(super) fn is_half(&self) -> bool {
        self.sys_flag & PREPARED != 0
    }

    /// Each message of it: flag, properties and body. Of a batch each stands there as (RocketMQ: MessageDecoder)
    ///
    /// ```text
    /// total size 4 | magic 4 | CRC 4 | flag 4 | body length 4, body | properties length 2, properties
    /// ```
    fn each(&self) -> Option<Vec<(i32, &str, &[u8])>> {
        if !self.is_batch {
            return Some(vec![(self.flag, &self.properties, &self.body)]);
        }
        let mut all = Vec::new();
        let mut rest = &self.body[..];
        while !rest.is_empty() {
            let number = |at: usize| {
                let own = rest.get(at..)?.first_chunk()?;
                Some(u32::from_be_bytes(*own))
            };
            let (size, flag) = (number(0)? as usize, number(12)?.cast_signed());
            let body = 20 + number(16)? as usize;
            let length = u16::from_be_bytes(*rest.get(body..)?.first_chunk()?);
            let properties = rest.get(body + 2..body + 2 + usize::from(length))?;
            all.push((flag, str::from_utf8(properties).ok()?, &rest[20..body]));
            rest = rest.get(size.max(body + 2)..)?;
        }
        Some(all)
    }
}

impl Store {
    /// Keeps a message, or those of a batch: the place of the first in its queue and among all; `None` if there is no
    /// such queue.
    pub(super) fn put(&mut self, own: Message, broker: SocketAddr) -> Option<(i64, i64)> {
        if !(0..queues_of(&own.topic)).contains(&own.queue) {
            return None;
        }
        let all = own.each()?;
        let key = (own.topic.clone(), own.queue);
        if self.queues.len() >= MOST && !self.queues.contains_key(&key) {
            return None;
        }
        let queue = self.queues.entry(key).or_default();
        let first = (queue.first + queue.kept.len() as i64, self.place);
        for (flag, properties, body) in all {
            let at = queue.first + queue.kept.len() as i64;
            let written = stored(&own, (flag, properties, body), (at, self.place), broker);
            self.place += written.len() as i64;
            queue.bytes += written.len();
            queue.kept.push_back(written);
        }
        while queue.kept.len() > KEPT || queue.bytes > BYTES && queue.kept.len() > 1 {
            let gone = queue.kept.pop_front().unwrap_or_default();
            queue.bytes -= gone.len();
            queue.first += 1;
        }
        queue.arrived.notify_waiters();
        Some(first)
    }

    /// Where a queue's messages begin and end.
    pub(super) fn bounds(&self, topic: &str, queue: i32) -> (i64, i64) {
        let own = self.queues.get(&(topic.to_owned(), queue));
        own.map_or((0, 0), |own| (own.first, own.first + own.kept.len() as i64))
    }

    /// Who is told when a message arrives there.
    pub(super) fn arrivals(&mut self, topic: &str, queue: i32) -> Arc<Notify> {
        let is_there = (0..queues_of(topic)).contains(&queue) && self.queues.len() < MOST;
        let key = (topic.to_owned(), queue);
        if !is_there && !self.queues.contains_key(&key) {
            return Arc::default();
        }
        self.queues.entry(key).or_default().arrived.clone()
    }

    /// Messages from there on.
    pub(super) fn fetch(&self, topic: &str, queue: i32, from: i64, most: i64) -> Fetched {
        let bounds = self.bounds(topic, queue);
        let mut fetched = Fetched {
            next: from.min(bounds.1),
            bounds,
            ..Fetched::default()
        };
        if from < bounds.0 {
            fetched.next = bounds.0;
            fetched.is_below = true;
            return fetched;
        }
        let Some(own) = self.queues.get(&(topic.to_owned(), queue)) else {
            return fetched;
        };
        let skipped = usize::try_from(from - own.first).unwrap_or(usize::MAX);
        let most = usize::try_from(most.max(1)).unwrap_or(1);
        for message in own.kept.iter().skip(skipped).take(most) {
            if !fetched.bytes.is_empty() && fetched.bytes.len() + message.len() > PULLED {
                break;
            }
            fetched.bytes.extend_from_slice(message);
            fetched.next += 1;
        }
        fetched
    }
}

impl Fetched {
    /// The answer with what every answer to a pull says (RocketMQ: PullMessageResponseHeader).
    pub(super) fn tell(&self, answer: Frame) -> Frame {
        answer
            .with("suggestWhichBrokerId", 0)
            .with("nextBeginOffset", self.next)
            .with("minOffset", self.bounds.0)
            .with("maxOffset", self.bounds.1)
    }
}

/// A message as consumers get it (RocketMQ: MessageDecoder).
fn stored(
    own: &Message,
    (flag, properties, body): (i32, &str, &[u8]),
    (offset, place): (i64, i64),
    broker: SocketAddr,
) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_millis() as i64);
    let host = |out: &mut Vec<u8>| {
        match broker.ip() {
            IpAddr::V4(ip) => out.put_slice(&ip.octets()),
            IpAddr::V6(_) => out.put_u32(0),
        }
        out.put_u32(broker.port().into());
    };
    let mut out = Vec::with_capacity(100 + own.topic.len() + properties.len() + body.len());
    out.put_u32(0);
    out.put_i32(MAGIC);
    // Clients do not look at the CRC unless they are told to.
    out.put_u32(0);
    out.put_i32(own.queue);
    out.put_i32(flag);
    out.put_i64(offset);
    out.put_i64(place);
    out.put_i32(own.sys_flag);
    out.put_i64(own.born);
    host(&mut out);
    out.put_i64(now);
    host(&mut out);
    out.put_i32(0);
    out.put_i64(0);
    out.put_u32(u32::try_from(body.len()).unwrap_or_default());
    out.put_slice(body);
    // A topic is shorter than 128 bytes, properties than 32 KiB.
    out.put_u8(u8::try_from(own.topic.len()).unwrap_or_default());
    out.put_slice(own.topic.as_bytes());
    out.put_u16(u16::try_from(properties.len()).unwrap_or_default());
    out.put_slice(properties.as_bytes());
    let size = u32::try_from(out.len()).unwrap_or_default();
    out[..4].copy_from_slice(&size.to_be_bytes());
    out
}
