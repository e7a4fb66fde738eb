//! PUBLISH (MQTT 5, section 3.3): a client's message, offered to the sink.

use std::borrow::Cow;

use finback_core::filter::MessageFlow;
use finback_core::frame::Outcome;
use finback_core::log_limit::LogLimit;
use finback_core::record::Ending;
use finback_core::rejection::Rejection;
use finback_core::text::Escaped;

use crate::codec::{BAD_ALIAS, Fault, FixedHeader, Properties, Publish};
use crate::open::MAX_ALIASES;
use crate::propagation::{Spans, propagate, reading};
use crate::reason::Reason;
use crate::sink::{NotTaken, OutgoingMessage, Receipt, Release, Stage};
use crate::tally::{Asked, method};

use super::pending::Answer;
use super::{AGAIN, End, Terminal};

/// Messages of quality of service 2 that one client may leave unreleased.
const MAX_UNRELEASED: usize = 1024;

impl Terminal {
    /// Offers a message to the sink; whether there was room for it.
    pub(super) fn publish(&mut self, packet: &[u8], head: &FixedHeader) -> Result<bool, End> {
        let read = Publish::read(packet, head, self.level).map_err(End::Fault)?;
        let Some(publish) = read else { return Ok(true) };
        let topic = self.resolve(&publish).map_err(End::Fault)?;
        let qos = head.qos();
        let id = publish.packet_id.unwrap_or(0);
        // MQTT 5, sections 4.3.2 and 4.3.3.
        if qos > 0 && self.pending.contains(id) {
            // Sent again while it is on its way: what it comes to is answered once.
            return Ok(true);
        }
        if qos == 2 {
            // MQTT 5, section 4.3.3: until PUBREL the same identifier is the same message.
            match self.held.exactly.stage(id) {
                Some(Stage::Safe) => {
                    self.pending.answered(id, qos, Answer::Taken);
                    return Ok(true);
                }
                // It came over an earlier connection, and nobody knows yet what becomes of it.
                Some(Stage::Sent(_)) => return Ok(false),
                // MQTT 5, section 3.3.4: more than Receive Maximum.
                None if self.held.exactly.len() >= MAX_UNRELEASED => {
                    let why = "too many messages wait for their release";
                    return Err(End::Fault(Fault::new(Reason::RECEIVE_MAXIMUM, why)));
                }
                None => {}
            }
        }
        let method = method::PUBLISH[usize::from(qos).min(2)];
        let refused = match self.applied.may_publish(&topic) {
            true => self.refusal_of_message(&topic, packet.len() - publish.head),
            false => Some(Rejection::Denied),
        };
        if let Some(why) = refused {
            let ending = Ending::Rejected(why);
            self.tally.sent(method, &*topic, packet.len(), ending);
            if qos > 0 {
                self.pending.answered(id, qos, Answer::Denied);
            }
            self.throttle(packet.len());
            return Ok(true);
        }
        let (tally, length) = (&self.tally, packet.len());
        let mut spans = tally.trace(publish.properties, &topic, &self.client_id);
        match self.offer(packet, head, &publish, &topic, &mut spans) {
            Ok(()) if qos == 0 => {
                let sent = Ending::Sent;
                self.tally
                    .message_sent(method, &*topic, length, sent, spans);
            }
            Ok(()) => {
                let asked = Asked::Publish(id);
                self.tally
                    .message_asked(asked, method, &*topic, length, spans);
            }
            Err(NotTaken::Full) => return Ok(false),
            Err(why) => {
                let failed = Ending::Answered(Outcome::Failed);
                self.tally
                    .message_sent(method, &*topic, length, failed, spans);
                self.note_refused(&topic, why);
                if qos > 0 {
                    self.pending.answered(id, qos, Answer::NotTaken(why));
                }
            }
        }
        self.again = AGAIN;
        self.throttle(packet.len());
        Ok(true)
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

    /// Hands a message to the sink, with somebody to tell if it is to be answered.
    fn offer(
        &mut self,
        packet: &[u8],
        head: &FixedHeader,
        publish: &Publish<'_>,
        topic: &str,
        spans: &mut Spans,
    ) -> Result<(), NotTaken> {
        let (qos, id) = (head.qos(), publish.packet_id.unwrap_or(0));
        let number = self.pending.number();
        let exactly = (qos == 2).then(|| self.held.exactly.begin(id));
        let release = exactly.map(|number| Release {
            of: self.held.exactly.clone(),
            id,
            number,
        });
        let receipt = match qos {
            0 => Receipt::unheard(),
            _ => Receipt::new(self.pending.told(), number, release),
        };
        let names = &self.applied.names;
        let properties = match names.are_plain() {
            true => Cow::Borrowed(publish.properties.bytes()),
            false => names.properties(publish.properties, true),
        };
        let renamed = names.up(topic);
        let properties = self.propagated(properties, &renamed, packet.len(), spans);
        let message = OutgoingMessage {
            topic: &renamed,
            client_id: &self.client_id,
            username: &self.username,
            identity: &self.identity,
            qos,
            retain: head.retain(),
            properties: Properties::trusted(&properties),
            payload: &packet[publish.head..],
        };
        let taken = self.sink.take(&message, receipt);
        match (taken, exactly) {
            (Ok(()), _) if qos > 0 => self.pending.taken(number, id, qos),
            (Err(_), Some(number)) => self.held.exactly.settle(id, number, false),
            _ => {}
        }
        taken
    }

    /// A message's properties with the context of its trace, if there is room for that.
    fn propagated<'a>(
        &self,
        properties: Cow<'a, [u8]>,
        topic: &str,
        length: usize,
        spans: &mut Spans,
    ) -> Cow<'a, [u8]> {
        let Some(spans) = spans else {
            return properties;
        };
        let Some((system, destination)) = self.sink.destination(topic) else {
            return properties;
        };
        let came = Properties::trusted(&properties);
        let now = self.caller.worker().now();
        let context = spans.send(now, system, &destination, &mut reading(came));
        let Some(context) = context else {
            return properties;
        };
        let written = propagate(came, &context);
        let longer = written.len().saturating_sub(properties.len());
        if length + longer > self.limit {
            return properties;
        }
        Cow::Owned(written)
    }

    fn note_refused(&self, topic: &str, why: NotTaken) {
        static REFUSED: LogLimit = LogLimit::usual();
        if let Some(left_out) = REFUSED.admit(self.caller.worker().now()) {
            let (client, topic) = (Escaped(&self.client_id), Escaped(topic));
            tracing::warn!(%client, %topic, ?why, left_out, "a message is not taken");
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
        // MQTT 5, section 3.3.2.3.4.
        let known = &mut self.aliases[usize::from(alias)];
        if !publish.topic.is_empty() {
            *known = Some(publish.topic.into());
        }
        known.as_deref().map(str::to_owned).ok_or(BAD_ALIAS)
    }
}
