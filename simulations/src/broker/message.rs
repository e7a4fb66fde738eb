//! A message that was published, and how it is sent to whom.

use std::sync::Arc;
use std::time::{Duration, Instant};

use finback_mqtt::codec::properties::{Properties, Writer, id};
use finback_mqtt::codec::write;

use super::link::Link;

/// A message as it was published.
pub(super) struct Message {
    /// The client that it comes from.
    pub(super) from: String,
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) qos: u8,
    pub(super) retain: bool,
    /// What goes along as it is.
    properties: Vec<u8>,
    /// Seconds after which nobody wants it any more.
    expiry: Option<u32>,
    expires: Option<Instant>,
}

impl Message {
    pub(super) fn new(
        from: &str,
        topic: &str,
        payload: &[u8],
        (qos, retain): (u8, bool),
        properties: Properties<'_>,
    ) -> Self {
        let mut kept = Writer::default();
        for (own, _, piece) in properties.pieces() {
            match own {
                // They are of this step of its way only.
                id::MESSAGE_EXPIRY | id::TOPIC_ALIAS | id::SUBSCRIPTION_ID | id::WILL_DELAY => {}
                _ => kept.raw(piece),
            }
        }
        Self {
            from: from.to_owned(),
            topic: topic.to_owned(),
            payload: payload.to_vec(),
            qos,
            retain,
            properties: kept.into_bytes(),
            expiry: properties.number(id::MESSAGE_EXPIRY),
            expires: None,
        }
    }

    /// It is published now.
    pub(super) fn begin(&mut self, now: Instant) {
        let seconds = self
            .expiry
            .map(|seconds| Duration::from_secs(seconds.into()));
        self.expires = seconds.map(|seconds| now + seconds);
    }

    pub(super) fn has_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }
}

/// A message on its way to one subscriber.
#[derive(Clone)]
pub(super) struct Delivery {
    pub(super) message: Arc<Message>,
    pub(super) qos: u8,
    pub(super) retain: bool,
    /// Identifiers of the subscriptions that it is for.
    pub(super) subscriptions: Vec<u32>,
}

impl Delivery {
    /// Sends it, if the client takes packets of its length; whether it does.
    pub(super) fn send(
        &self,
        link: &mut Link,
        packet_id: Option<u16>,
        again: bool,
        now: Instant,
    ) -> bool {
        let message = &self.message;
        let mut properties = Writer::default();
        let mut topic = message.topic.as_str();
        let mut alias = None;
        if link.level.is_5() {
            properties.raw(&message.properties);
            if let Some(at) = message.expires {
                let left = at.saturating_duration_since(now).as_secs();
                let left = u32::try_from(left).unwrap_or(u32::MAX);
                properties.number(id::MESSAGE_EXPIRY, left);
            }
            for subscription in &self.subscriptions {
                properties.number(id::SUBSCRIPTION_ID, *subscription);
            }
            alias = link.alias(topic);
            if let Some((alias, known)) = alias {
                properties.number(id::TOPIC_ALIAS, alias.into());
                if known {
                    topic = "";
                }
            }
        }
        let first = 0x30 | u8::from(again) << 3 | self.qos << 1 | u8::from(self.retain);
        let (properties, length) = (properties.bytes(), message.payload.len());
        let mut packet =
            write::publish_head(first, link.level, topic, packet_id, properties, length);
        packet.extend_from_slice(&message.payload);
        let sent = link.send(packet);
        if let (false, Some((_, false))) = (sent, alias) {
            // The client has not heard what it stands for.
            link.forget(topic);
        }
        sent
    }
}
