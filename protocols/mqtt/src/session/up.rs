//! Packets from a client to its broker: passed, changed, dropped or answered.

use std::borrow::Cow;

use finback_core::filter::MessageFlow;
use finback_core::record::Ending;
use finback_core::rejection::Rejection;

use crate::codec::properties::id;
use crate::codec::{
    BAD_ALIAS, Fault, FixedHeader, PacketType, Properties, Publish, Reader, Side, check, write,
};
use crate::open::{MAX_ALIASES, check_auth};
use crate::policy::Denied;
use crate::propagation::{Spans, propagate, reading};
use crate::reason::Reason;
use crate::shadow;
use crate::tally::{Asked, SESSION, method};
use crate::topic;

use super::direction::Fate;
use super::mirror::Mirroring;
use super::{MAX_AWAITED, Session};

/// AUTH that begins another authentication within a session (MQTT 5, section 4.12.1).
const AGAIN: u8 = 0x19;

impl Session {
    /// What becomes of a packet of the client; `None` if more of it is needed to tell.
    pub(super) fn decide_up(
        &mut self,
        packet: &[u8],
        head: &FixedHeader,
    ) -> Result<Option<Fate>, Fault> {
        if head.kind == PacketType::Publish {
            let Some(publish) = Publish::read(packet, head, self.level)? else {
                return Ok(None);
            };
            return self.publish(packet, head, &publish);
        }
        let packet = &packet[..head.packet()];
        check(packet, head, self.level, Side::Client)?;
        let body = &packet[head.header..];
        match head.kind {
            // MQTT 5, section 3.1.
            PacketType::Connect => return Err(Fault::protocol("a second CONNECT")),
            PacketType::Subscribe => return self.subscribe(packet, head).map(Some),
            PacketType::Unsubscribe => return self.unsubscribe(packet, head).map(Some),
            PacketType::Pubrel => {
                let id = Reader::new(body).packet_id()?;
                if let Some(at) = self.state.taken.iter().position(|taken| *taken == id) {
                    self.state.taken.swap_remove(at);
                    let answer = write::acknowledgement(
                        PacketType::Pubcomp,
                        self.level,
                        id,
                        Reason::SUCCESS,
                    );
                    self.client.queue(&answer);
                    return Ok(Some(Fate::Drop));
                }
            }
            PacketType::Puback | PacketType::Pubcomp => {
                let id = Reader::new(body).packet_id()?;
                self.tally.answered(Asked::Deliver(id), !is_error(body));
            }
            PacketType::Pubrec if is_error(body) => {
                let id = Reader::new(body).packet_id()?;
                self.tally.answered(Asked::Deliver(id), false);
            }
            PacketType::Pingreq => {
                self.tally
                    .asked(Asked::Ping, method::PING, SESSION, head.packet());
            }
            PacketType::Auth => check_auth(body, self.method.as_deref(), AGAIN)?,
            PacketType::Disconnect => self.state.goodbye = true,
            _ => {}
        }
        Ok(Some(Fate::Pass))
    }

    fn publish(
        &mut self,
        packet: &[u8],
        head: &FixedHeader,
        publish: &Publish<'_>,
    ) -> Result<Option<Fate>, Fault> {
        // MQTT 5, section 3.3.4: only servers say for which subscription a message is.
        if publish.properties.number(id::SUBSCRIPTION_ID).is_some() {
            return Err(Fault::protocol(
                "a client says for which subscription it is",
            ));
        }
        let qos = usize::from(head.qos());
        let method = method::PUBLISH[qos.min(2)];
        let applied = self.applied.as_ref().filter(|own| own.is_about_topics());
        let is_looked_at = applied.is_some() || self.filters.are_any() || self.shadow.is_some();
        if !is_looked_at {
            self.throttle(head.packet());
            let mut spans = self.tally.trace(publish.properties, publish.topic, "");
            let fate = self.rename(head, publish, publish.topic, &mut spans)?;
            self.tally_publish(
                method,
                publish.topic,
                (publish.packet_id, head.packet()),
                spans,
            );
            return Ok(Some(fate));
        }
        let mirrored = applied.is_some_and(|own| own.policy().mirror.is_some());
        let is_copied = self.shadow.is_some() && shadow::is_copied(head);
        if (mirrored || is_copied) && packet.len() < head.packet() {
            return Ok(None);
        }
        let topic = resolve(&mut self.state.aliases, publish)?;
        let refused = match applied.is_none_or(|own| own.may_publish(&topic)) {
            true => self.refusal_of_message(&topic, head.packet() - publish.head),
            false => Some(Rejection::Denied),
        };
        if let Some(why) = refused {
            self.throttle(head.packet());
            let ending = Ending::Rejected(why);
            self.tally.sent(method, &*topic, head.packet(), ending);
            return self.deny(head, publish.packet_id, why).map(Some);
        }
        if mirrored {
            let whole = &packet[..head.packet()];
            if let Mirroring::Later = self.mirror(whole, head, publish, &topic) {
                return Ok(Some(Fate::Wait));
            }
        }
        if is_copied {
            self.copy(&packet[..head.packet()], head, publish, &topic);
        }
        self.throttle(head.packet());
        let mut spans = self
            .tally
            .trace(publish.properties, &topic, &self.client_id);
        let renamed = self.rename(head, publish, &topic, &mut spans)?;
        self.state.order.passed(head.qos(), publish.packet_id);
        self.tally_publish(method, &topic, (publish.packet_id, head.packet()), spans);
        Ok(Some(renamed))
    }

    /// Sends a copy to the shadow, under the name that the broker knows.
    fn copy(&self, packet: &[u8], head: &FixedHeader, publish: &Publish<'_>, topic: &str) {
        let Some(shadow) = &self.shadow else { return };
        let names = self.applied.as_ref().map(|own| &own.names);
        let topic = names.map_or(Cow::Borrowed(topic), |own| own.up(topic));
        let message = shadow::Message {
            level: self.level,
            retain: head.retain(),
            topic: &topic,
            properties: publish.properties,
            payload: &packet[publish.head..],
        };
        shadow::copy(&self.caller, shadow, &message);
    }

    /// A message as its broker shall see it: under another name, or with the context of its trace.
    fn rename(
        &self,
        head: &FixedHeader,
        publish: &Publish<'_>,
        topic: &str,
        spans: &mut Spans,
    ) -> Result<Fate, Fault> {
        let (now, endpoint) = (self.caller.worker().now(), Some(self.lease.address()));
        let mut reading = reading(publish.properties);
        let context = spans
            .as_mut()
            .and_then(|own| own.attempt(now, endpoint, &mut reading));
        let context = context.filter(|_| self.level.is_5());
        let names = self.applied.as_ref().map(|own| &own.names);
        let names = names.filter(|own| !own.leave(publish));
        let (renamed, properties) = match (names, &context) {
            (None, None) => return Ok(Fate::Pass),
            (None, Some(_)) => (
                Cow::Borrowed(publish.topic),
                Cow::Borrowed(publish.properties.bytes()),
            ),
            (Some(names), _) => {
                let renamed = names.up(topic);
                // Bounds hold for the name that is passed on.
                topic::check_renamed(&renamed, Reason::BAD_TOPIC)?;
                (renamed, names.properties(publish.properties, true))
            }
        };
        let plain = self.rewritten(head, publish, &renamed, &properties);
        let Some(context) = context else {
            return plain;
        };
        // A message that has no room for it goes without.
        let properties = propagate(Properties::trusted(&properties), &context);
        let written = self.rewritten(head, publish, &renamed, &properties);
        match (written, names) {
            (Ok(written), _) => Ok(written),
            (Err(_), None) => Ok(Fate::Pass),
            (Err(_), Some(_)) => plain,
        }
    }

    /// A message with another head.
    fn rewritten(
        &self,
        head: &FixedHeader,
        publish: &Publish<'_>,
        renamed: &str,
        properties: &[u8],
    ) -> Result<Fate, Fault> {
        let payload = head.packet() - publish.head;
        let longer = renamed.len() > usize::from(u16::MAX);
        let first = PacketType::Publish.first_byte() | head.flags;
        let (level, id) = (self.level, publish.packet_id);
        let written = write::publish_head(first, level, renamed, id, properties, payload);
        if longer || written.len() + payload > self.endpoint_takes {
            let why = "the message is longer than its broker takes";
            return Err(Fault::new(Reason::TOO_LARGE, why));
        }
        Ok(Fate::Replace(written, publish.head))
    }

    fn tally_publish(
        &mut self,
        method: &'static str,
        topic: &str,
        (id, bytes): (Option<u16>, usize),
        spans: Spans,
    ) {
        let tally = &mut self.tally;
        match id {
            None => tally.message_sent(method, topic, bytes, Ending::Sent, spans),
            Some(id) => tally.message_asked(Asked::Publish(id), method, topic, bytes, spans),
        }
    }

    /// Reads the client no more for a while, if it says too much.
    fn throttle(&mut self, bytes: usize) {
        let Some(applied) = &self.applied else { return };
        let policy = applied.policy();
        let now = self.caller.worker().now();
        let messages = policy.messages_per_second;
        let until = messages.and_then(|rate| self.state.messages.take(now, 1, rate.into()));
        let volume = policy.bytes_per_second;
        let also = volume.and_then(|rate| self.state.bytes.take(now, bytes as u64, rate));
        self.resume = self.resume.max(until).max(also);
    }

    /// Why filters refuse a message, if they do; its client may have to wait before the next one.
    fn refusal_of_message(&mut self, topic: &str, bytes: usize) -> Option<Rejection> {
        match self.filters.publish(topic, bytes) {
            MessageFlow::Continue => None,
            MessageFlow::Pause(until) => {
                self.resume = self.resume.max(Some(until));
                None
            }
            MessageFlow::Refuse(refusal) => Some(refusal.why),
        }
    }

    /// Answers a message in the broker's place that does not get there.
    fn deny(
        &mut self,
        head: &FixedHeader,
        packet_id: Option<u16>,
        why: Rejection,
    ) -> Result<Fate, Fault> {
        let reason = Reason::of_message(why);
        let Some(id) = packet_id else {
            return Ok(Fate::Drop);
        };
        let close = || {
            let denied = self.applied.as_ref().map(|own| own.policy().denied);
            !self.level.is_5() && denied == Some(Denied::Close)
        };
        if close() {
            return Err(Fault::new(reason, "a message that is not allowed"));
        }
        // MQTT 5, section 3.3.4: what answers a message of each quality of service.
        let kind = if head.qos() == 1 {
            PacketType::Puback
        } else {
            PacketType::Pubrec
        };
        // MQTT 5, section 4.3.3: an error ends the exchange there; MQTT 3.1.1 has none, so PUBREL follows.
        if head.qos() == 2 && !self.level.is_5() && !self.state.taken.contains(&id) {
            if self.state.taken.len() >= MAX_AWAITED {
                return Err(Fault::quota("too many messages wait for their release"));
            }
            self.state.taken.push(id);
        }
        let answer = write::acknowledgement(kind, self.level, id, reason);
        self.answer_in_order(kind, answer)?;
        Ok(Fate::Drop)
    }
}

/// Whether an acknowledgement says that it went wrong.
pub(super) fn is_error(body: &[u8]) -> bool {
    body.get(2).is_some_and(|code| *code >= 0x80)
}

/// The topic of a message, by its alias if it has only that.
fn resolve(aliases: &mut Vec<Option<Box<str>>>, publish: &Publish<'_>) -> Result<String, Fault> {
    let Some(alias) = publish.alias() else {
        return Ok(publish.topic.to_owned());
    };
    if alias > MAX_ALIASES {
        return Err(BAD_ALIAS);
    }
    // MQTT 5, section 3.3.2.3.4: a topic beside an alias gives it that meaning, for this connection.
    let at = usize::from(alias);
    if publish.topic.is_empty() {
        let known = aliases.get(at).and_then(Option::as_deref);
        return known.map(str::to_owned).ok_or(BAD_ALIAS);
    }
    if aliases.len() <= at {
        aliases.resize(at + 1, None);
    }
    aliases[at] = Some(publish.topic.into());
    Ok(publish.topic.to_owned())
}
