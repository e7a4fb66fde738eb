//! Packets from a broker to its client. It is trusted to be a broker: read is what routing needs.

use finback_core::log_limit::LogLimit;
use finback_core::mesh::Propagated;
use finback_core::record::Ending;
use finback_core::rejection::Rejection;
use finback_core::text::Escaped;

use crate::codec::properties::{Properties, PropertyPlace};
use crate::codec::{Delivery, Fault, FixedHeader, PacketType, Reader, Side, Unreadable, write};
use crate::propagation::{Spans, propagate, reading};
use crate::reason::Reason;
use crate::tally::{Asked, method};

use super::Session;
use super::direction::Fate;
use super::up::is_error;

/// Why a message is left out.
const TOO_LONG: (Rejection, &str) = (Rejection::TooLarge, "it is longer than its client takes");
const UNREADABLE: (Rejection, &str) = (Rejection::BadRequest, "it cannot be read");
const FOREIGN: (Rejection, &str) = (Rejection::Denied, "its topic is not for this client");

impl Session {
    /// What becomes of a packet of the broker; `None` if more of it is needed to tell.
    pub(super) fn decide_down(
        &mut self,
        packet: &[u8],
        head: &FixedHeader,
    ) -> Result<Option<Fate>, Fault> {
        if head.kind == PacketType::Publish {
            return self.deliver(packet, head);
        }
        let packet = &packet[..head.packet()];
        let body = &packet[head.header..];
        match head.kind {
            PacketType::Puback | PacketType::Pubrec | PacketType::Pubcomp => {
                let id = Reader::new(body).packet_id()?;
                if head.kind != PacketType::Pubrec || is_error(body) {
                    self.tally.answered(Asked::Publish(id), !is_error(body));
                }
                if head.kind != PacketType::Pubcomp {
                    return Ok(Some(self.acknowledged(packet, head, id)));
                }
            }
            PacketType::Pubrel => {
                let id = Reader::new(body).packet_id()?;
                if self.state.swallowed.remove(&id) {
                    let answer = write::acknowledgement(
                        PacketType::Pubcomp,
                        self.level,
                        id,
                        Reason::SUCCESS,
                    );
                    self.endpoint.queue(&answer);
                    return Ok(Some(Fate::Drop));
                }
            }
            PacketType::Suback => return self.subscribed(packet, head).map(Some),
            PacketType::Unsuback => {
                let id = Reader::new(body).packet_id()?;
                self.tally.answered(Asked::Packet(id), true);
            }
            PacketType::Pingresp if self.take_own_answer() => return Ok(Some(Fate::Drop)),
            PacketType::Pingresp => self.tally.answered(Asked::Ping, true),
            PacketType::Disconnect => self.state.dismissed = true,
            PacketType::Auth => {}
            // MQTT 5, section 3.2.
            PacketType::Connack => return Err(Fault::protocol("a second CONNACK")),
            PacketType::Connect
            | PacketType::Publish
            | PacketType::Subscribe
            | PacketType::Unsubscribe
            | PacketType::Pingreq => {
                return Err(Fault::protocol("a packet that only clients send"));
            }
        }
        Ok(Some(Fate::Pass))
    }

    /// An acknowledgement of a client's message, and what was to follow it.
    fn acknowledged(&mut self, packet: &[u8], head: &FixedHeader, id: u16) -> Fate {
        let followers = self.state.order.followers(head.kind, id);
        if self.holds_back(id, packet) {
            if !followers.is_empty() {
                let _ = self.holds_back_too(followers);
            }
            return Fate::Drop;
        }
        if followers.is_empty() {
            return Fate::Pass;
        }
        Fate::Replace([packet, &followers].concat(), packet.len())
    }

    /// What becomes of a message; `None` if more of it is needed to tell. Whatever is wrong with it
    /// costs this message and not the session: a message that is kept would end the next one too.
    fn deliver(&mut self, packet: &[u8], head: &FixedHeader) -> Result<Option<Fate>, Fault> {
        let Some(message) = Delivery::read(packet, head)? else {
            return Ok(None);
        };
        let method = method::DELIVER[usize::from(head.qos()).min(2)];
        // A broker that keeps to its client's limit sends nothing longer (MQTT 5, section 3.1.2.11.4).
        if head.packet() > self.client_takes {
            return Ok(Some(self.leave_out(method, head, &message, TOO_LONG)));
        }
        let Some(applied) = self.applied.as_ref().filter(|own| !own.names.are_plain()) else {
            if !self.may_hear(message.topic) {
                return Ok(Some(self.leave_out(method, head, &message, FOREIGN)));
            }
            return Ok(self.pass_delivery(packet, head, &message));
        };
        let read = message.properties(packet, head, self.level, self.bounds.packet);
        let (properties, start) = match read {
            Ok(None) => return Ok(None),
            Ok(Some(read)) => read,
            Err(_) => return Ok(Some(self.leave_out(method, head, &message, UNREADABLE))),
        };
        if message.topic.is_empty() {
            // Its broker was told that this client knows no aliases.
            return Ok(Some(self.leave_out(method, head, &message, UNREADABLE)));
        }
        let renamed = applied.names.down(message.topic);
        let Some(renamed) =
            renamed.filter(|own| applied.may_hear(message.topic) && self.may_hear(own))
        else {
            return Ok(Some(self.leave_out(method, head, &message, FOREIGN)));
        };
        let renamed_properties = applied.names.properties(properties, false);
        let plain = self.redelivered(head, &message, &renamed, &renamed_properties, start);
        // By its other name it may have become too long.
        let Some(plain) = plain.filter(|_| !renamed.is_empty()) else {
            return Ok(Some(self.leave_out(method, head, &message, TOO_LONG)));
        };
        let (spans, context) = self.trace_delivery(properties, &renamed);
        let written = context.and_then(|context| {
            let own = propagate(Properties::trusted(&renamed_properties), &context);
            self.redelivered(head, &message, &renamed, &own, start)
        });
        let renamed = renamed.into_owned();
        self.tally_delivery(head, &renamed, &message, spans);
        Ok(Some(Fate::Replace(written.unwrap_or(plain), start)))
    }

    /// Whether filters let the client have a message of a subscription about which they were not asked.
    fn may_hear(&self, topic: &str) -> bool {
        !self.is_kept || !self.filters.are_any() || self.filters.may_hear(topic)
    }

    /// Passes a message on under its own name: as it is, or with the context of its trace; `None` if more of it is
    /// needed to tell.
    fn pass_delivery(
        &mut self,
        packet: &[u8],
        head: &FixedHeader,
        message: &Delivery<'_>,
    ) -> Option<Fate> {
        let read = match self.tally.is_traced() && message.is_text {
            true => message.properties(packet, head, self.level, self.bounds.packet),
            false => Err(Unreadable),
        };
        let (properties, start) = match read {
            Ok(read) => read?,
            Err(Unreadable) => {
                self.tally_delivery(head, message.topic, message, None);
                return Some(Fate::Pass);
            }
        };
        let (spans, context) = self.trace_delivery(properties, message.topic);
        // A message that has no room for it goes without.
        let written = context.and_then(|context| {
            let own = propagate(properties, &context);
            self.redelivered(head, message, message.topic, &own, start)
        });
        self.tally_delivery(head, message.topic, message, spans);
        Some(written.map_or(Fate::Pass, |own| Fate::Replace(own, start)))
    }

    /// The spans of a message, and the context that it goes on with: before MQTT 5 there is no place for one.
    fn trace_delivery(
        &self,
        properties: Properties<'_>,
        topic: &str,
    ) -> (Spans, Option<Propagated>) {
        let spans = self
            .tally
            .trace_delivery(properties, topic, &self.client_id);
        let own = spans.as_ref().filter(|_| self.level.is_5());
        let context = own.and_then(|own| own.pass_on(&mut reading(properties)));
        (spans, context)
    }

    /// A message with another head; `None` if it is longer than its client takes.
    fn redelivered(
        &self,
        head: &FixedHeader,
        message: &Delivery<'_>,
        topic: &str,
        properties: &[u8],
        start: usize,
    ) -> Option<Vec<u8>> {
        if topic.len() > usize::from(u16::MAX) {
            return None;
        }
        let payload = head.packet() - start;
        let first = PacketType::Publish.first_byte() | head.flags;
        let (level, id) = (self.level, message.packet_id);
        let written = write::publish_head(first, level, topic, id, properties, payload);
        (written.len() + payload <= self.client_takes).then_some(written)
    }

    fn tally_delivery(
        &mut self,
        head: &FixedHeader,
        topic: &str,
        message: &Delivery<'_>,
        spans: Spans,
    ) {
        let method = method::DELIVER[usize::from(head.qos()).min(2)];
        let (tally, bytes) = (&mut self.tally, head.packet());
        match message.packet_id {
            None => tally.message_sent(method, topic, bytes, Ending::Sent, spans),
            Some(id) => tally.message_asked(Asked::Deliver(id), method, topic, bytes, spans),
        }
    }

    /// Takes a message in the client's place that it cannot be given: acknowledged, as if it had been
    /// sent (MQTT 5, section 3.1.2.11.4), counted, and logged at a bounded rate.
    fn leave_out(
        &mut self,
        method: &'static str,
        head: &FixedHeader,
        message: &Delivery<'_>,
        (rejection, why): (Rejection, &'static str),
    ) -> Fate {
        static LEFT_OUT: LogLimit = LogLimit::usual();
        let ending = Ending::Rejected(rejection);
        self.tally
            .sent(method, message.topic, head.packet(), ending);
        // A subscription from before may select what is not for this client all the time.
        if rejection != Rejection::Denied
            && let Some(left_out) = LEFT_OUT.admit(self.caller.worker().now())
        {
            let (client, bytes) = (self.caller.peer(), head.packet());
            let topic = Escaped(message.topic);
            tracing::warn!(%client, %topic, bytes, why, left_out, "a message was left out");
        }
        let Some(id) = message.packet_id else {
            return Fate::Drop;
        };
        let kind = if head.qos() == 1 {
            PacketType::Puback
        } else {
            // As many as there are identifiers.
            self.state.swallowed.insert(id);
            PacketType::Pubrec
        };
        let answer = write::acknowledgement(kind, self.level, id, Reason::SUCCESS);
        self.endpoint.queue(&answer);
        Fate::Drop
    }

    /// Puts codes of filters that the broker did not see among those of the others.
    fn subscribed(&mut self, packet: &[u8], head: &FixedHeader) -> Result<Fate, Fault> {
        let mut reader = Reader::new(&packet[head.header..]);
        let id = reader.packet_id()?;
        let properties = if self.level.is_5() {
            Properties::read_from(&mut reader, PropertyPlace::Ack, Side::Server)?
        } else {
            Properties::default()
        };
        let well = reader.rest().iter().any(|code| *code < 0x80);
        self.tally.answered(Asked::Packet(id), well);
        let Some(at) = self.state.partial.iter().position(|(own, _)| *own == id) else {
            return Ok(Fate::Pass);
        };
        let (_, own) = self.state.partial.swap_remove(at);
        let mut others = reader.rest().iter().copied();
        let codes: Vec<u8> = own
            .into_iter()
            .map(|code| code.or_else(|| others.next()).unwrap_or(0x80))
            .collect();
        let bytes = properties.bytes();
        let written = write::subscribed(PacketType::Suback, self.level, id, bytes, &codes);
        Ok(Fate::Replace(written, packet.len()))
    }
}
