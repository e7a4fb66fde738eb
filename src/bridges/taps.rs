//! Message copies: what clients of RocketMQ send through us goes to a shadow cluster, and to Kafka, too.
//!
//! Neither holds a producer up or changes what it is told. Halves of transactions are nobody's business: whether they become
//! messages is said later, by a request without them.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use finback_bridges::{BRIDGE, Confirm, Failure, Message, Outlet, Template, way};
use finback_core::frame::{Answer, Kind, Outcome};
use finback_core::rng::Share;
use finback_core::tap::{Tap, Tapped, Tapping};
use finback_rocketmq::{is_system_topic, is_topic, properties};

use super::kafka::KafkaOutlet;
use super::rocketmq::{Parcel, RocketMqOutlet};

/// Bytes of messages whose brokers have not answered yet, at most, for one route.
const KEPT: usize = 64 << 20;
/// What a message takes besides what it says.
const OVERHEAD: usize = 512;
/// Beginnings of headers that only we write.
const OURS: &str = "rocketmq.";

/// What becomes of the messages of one route besides their way to their broker.
#[derive(Debug, Default)]
pub struct SendTap {
    /// A cluster that copies go to.
    pub shadow: Option<SendShadow>,
    /// Where in Kafka they are written.
    pub mirror: Option<Mirror>,
}

/// Copies for another RocketMQ cluster.
#[derive(Debug)]
pub struct SendShadow {
    /// The cluster.
    pub outlet: Arc<RocketMqOutlet>,
    /// What stands before and after a message's own topic there.
    pub topic: (String, String),
    /// How many of the messages are copied.
    pub share: Share,
    /// Properties that tell copies from other messages.
    pub marks: Vec<(String, String)>,
    /// How long a copy may take; `None`: as any message to the cluster.
    pub timeout: Option<Duration>,
}

/// What decides about the partition in Kafka.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum MirrorKey {
    /// Its keys.
    #[default]
    Keys,
    /// Its broker and queue, so that each queue keeps its order.
    Queue,
    /// One of its properties.
    Property(String),
    /// Nothing.
    None,
}

/// What brokers have taken, for Kafka.
#[derive(Debug)]
pub struct Mirror {
    /// The cluster.
    pub outlet: Arc<KafkaOutlet>,
    /// The topic there.
    pub topic: Template,
    /// What decides about the partition.
    pub key: MirrorKey,
    /// Bytes that wait for answers.
    pub kept: Arc<AtomicUsize>,
}

impl Tap for SendTap {
    fn begins(&self, call: &Tapping<'_>) -> Option<Box<dyn Tapped>> {
        let message = finback_rocketmq::Message::read(call.head, call.wire)?;
        if message.is_half() || is_system_topic(&message.topic) {
            return None;
        }
        if let Some(shadow) = self
            .shadow
            .as_ref()
            .filter(|own| own.share.holds(call.random))
        {
            shadow.copy(&message);
        }
        // Nobody says of a one-way whether a broker has it.
        let mirror = self
            .mirror
            .as_ref()
            .filter(|_| call.head.kind == Kind::Request)?;
        Some(Box::new(mirror.keep(&message)?))
    }

    fn explain(&self) -> Vec<String> {
        let shadow = self.shadow.as_ref().map(|own| {
            format!(
                "{} % of its messages are copied to RocketMQ cluster {}, topic {}",
                own.share.as_percent(),
                own.outlet.name,
                own.topic("{topic}")
            )
        });
        let mirror = self.mirror.as_ref().map(|own| {
            format!(
                "messages that a broker has taken are written to Kafka cluster {}, topic {}",
                own.outlet.name, own.topic
            )
        });
        shadow.into_iter().chain(mirror).collect()
    }
}

impl SendShadow {
    /// The name of a topic there.
    #[must_use]
    pub fn topic(&self, own: &str) -> String {
        let (before, after) = &self.topic;
        format!("{before}{own}{after}")
    }

    fn copy(&self, message: &finback_rocketmq::Message<'_>) {
        let Some(producer) = self.outlet.producer() else {
            return;
        };
        let counts = &producer.counts;
        match self.parcel(message) {
            Ok(parcel) => match producer.send(parcel, "", self.timeout, None) {
                Ok(()) => {}
                Err(_) => {
                    counts.left_out.fetch_add(1, Relaxed);
                }
            },
            Err(failure) => {
                tracing::debug!(topic = %finback_core::text::Escaped(&message.topic), %failure, "a message is not copied");
                counts.left_out.fetch_add(1, Relaxed);
            }
        }
    }

    fn parcel(&self, message: &finback_rocketmq::Message<'_>) -> Result<Parcel, Failure> {
        let topic = self.topic(&message.topic);
        if !is_topic(&topic) {
            return Err(Failure::NoTopic);
        }
        let before = properties::find(&message.properties, BRIDGE).unwrap_or_default();
        let way = way(before, &*self.outlet, &topic)?;
        let marks = self.marks.iter().map(|(name, value)| (&**name, &**value));
        let added: Vec<(&str, &str)> = marks.chain([(BRIDGE, &*way)]).collect();
        Ok(Parcel {
            topic: topic.into(),
            // What is in one queue stays in one queue, in its order.
            key: Some(queue_of(message).into_bytes().into()),
            properties: properties::with(&message.properties, &added),
            sys_flag: message.sys_flag,
            flag: message.flag,
            born: message.born,
            is_batch: message.is_batch,
            body: message.body.to_vec(),
        })
    }
}

fn queue_of(message: &finback_rocketmq::Message<'_>) -> String {
    format!("{}/{}", message.broker, message.queue)
}

/// A message, or a batch, whose broker has not answered.
struct Kept {
    outlet: Arc<KafkaOutlet>,
    topic: String,
    messages: Vec<Copied>,
    room: Room,
}

/// One message for Kafka.
struct Copied {
    key: Option<String>,
    headers: Vec<(String, String)>,
    payload: Vec<u8>,
}

/// Room for what is kept; given back when dropped.
struct Room {
    kept: Arc<AtomicUsize>,
    bytes: usize,
}

impl Room {
    fn take(kept: &Arc<AtomicUsize>, bytes: usize) -> Option<Self> {
        let all = kept.fetch_add(bytes, Relaxed) + bytes;
        let own = Self {
            kept: kept.clone(),
            bytes,
        };
        (all <= KEPT).then_some(own)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.kept.fetch_sub(self.bytes, Relaxed);
    }
}

impl Mirror {
    fn keep(&self, message: &finback_rocketmq::Message<'_>) -> Option<Kept> {
        let bytes = message.body.len() + message.properties.len() + OVERHEAD;
        let room = Room::take(&self.kept, bytes);
        let (Some(room), Some(topic)) = (room, self.topic.fill(&message.topic)) else {
            self.outlet.leave_out();
            return None;
        };
        let messages = match message.is_batch {
            false => vec![self.copied(message, &message.properties, message.body, &topic)?],
            true => {
                let members = message.members()?.into_iter();
                members
                    .map(|own| self.copied(message, own.properties, own.body, &topic))
                    .collect::<Option<_>>()?
            }
        };
        Some(Kept {
            outlet: self.outlet.clone(),
            topic,
            messages,
            room,
        })
    }

    /// What a message becomes; `None` if it goes round in a loop.
    fn copied(
        &self,
        message: &finback_rocketmq::Message<'_>,
        all: &str,
        payload: &[u8],
        topic: &str,
    ) -> Option<Copied> {
        let property = |name| properties::find(all, name);
        let before = property(BRIDGE).unwrap_or_default();
        let Ok(way) = way(before, &*self.outlet, topic) else {
            self.outlet.leave_out();
            return None;
        };
        let key = match &self.key {
            MirrorKey::Keys => property("KEYS").map(str::to_owned),
            MirrorKey::Queue => Some(queue_of(message)),
            MirrorKey::Property(name) => property(name).map(str::to_owned),
            MirrorKey::None => None,
        };
        let queue = message.queue.to_string();
        let born = message.born.to_string();
        let told: [(&str, Cow<'_, str>); 10] = [
            ("rocketmq.topic", message.topic.clone()),
            ("rocketmq.group", message.group.clone()),
            ("rocketmq.broker", message.broker.clone()),
            ("rocketmq.queue", queue.into()),
            ("rocketmq.born", born.into()),
            ("rocketmq.keys", property("KEYS").unwrap_or_default().into()),
            ("rocketmq.tags", property("TAGS").unwrap_or_default().into()),
            (
                "rocketmq.message_id",
                property("UNIQ_KEY").unwrap_or_default().into(),
            ),
            (
                "rocketmq.compression",
                message.compression().unwrap_or_default().into(),
            ),
            (BRIDGE, way.into()),
        ];
        let told = told.into_iter().filter(|(_, value)| !value.is_empty());
        let mut headers: Vec<(String, String)> = told
            .map(|(name, value)| (name.to_owned(), value.into_owned()))
            .collect();
        for (name, value) in properties::each(all) {
            let is_own = properties::is_reserved(name) || name.starts_with(OURS) || name == BRIDGE;
            // What was taken away has no value.
            if !is_own && !value.is_empty() {
                headers.push((name.to_owned(), value.to_owned()));
            }
        }
        Some(Copied {
            key,
            headers,
            payload: payload.to_vec(),
        })
    }
}

impl Mirror {
    /// Whether another one was configured in the same way.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.outlet.is_same(&other.outlet)
            && self.topic.to_string() == other.topic.to_string()
            && self.key == other.key
    }

    /// Has Kafka take a message that a broker has; `confirm` is told when it has it, or does not get it.
    ///
    /// # Errors
    /// If it is not taken; nobody is told then.
    pub fn write(
        &self,
        message: &finback_rocketmq::Message<'_>,
        confirm: Confirm,
    ) -> Result<(), Failure> {
        let topic = self.topic.fill(&message.topic).ok_or(Failure::NoTopic)?;
        let copied = self.copied(message, &message.properties, message.body, &topic);
        copied
            .ok_or(Failure::Loop)?
            .send(&self.outlet, &topic, Some(confirm))
    }
}

impl Copied {
    fn send(
        &self,
        outlet: &KafkaOutlet,
        topic: &str,
        confirm: Option<Confirm>,
    ) -> Result<(), Failure> {
        let headers: Vec<(&str, &[u8])> = self
            .headers
            .iter()
            .map(|(name, value)| (&**name, value.as_bytes()))
            .collect();
        let written = Message {
            topic,
            owner: "",
            key: self.key.as_deref().map(str::as_bytes),
            tag: None,
            payload: &self.payload,
            headers: &headers,
        };
        outlet.send(&written, confirm)
    }
}

impl Tapped for Kept {
    fn answered(self: Box<Self>, answer: &Answer) {
        if answer.outcome != Outcome::Success {
            return;
        }
        let Self {
            outlet,
            topic,
            messages,
            room,
        } = *self;
        for own in &messages {
            if own.send(&outlet, &topic, None).is_err() {
                outlet.leave_out();
            }
        }
        drop(room);
    }
}
