//! What a broker says to its client. It is trusted to be a broker: read is what routing needs.

use finback_core::record::Ending;
use finback_core::rejection::Rejection;

use crate::codec::properties::{Place, Properties};
use crate::codec::{BAD_ALIAS, Fault, Head, Kind, Publish, Reader, write};
use crate::reason::Reason;
use crate::tally::{Asked, method};

use super::lane::Fate;
use super::up::is_error;
use super::{MAX_AWAITED, Session};

impl Session {
    /// What becomes of a packet of the broker; `None` if more of it is needed to tell.
    pub(super) fn decide_down(
        &mut self,
        packet: &[u8],
        head: &Head,
    ) -> Result<Option<Fate>, Fault> {
        if head.kind == Kind::Publish {
            let Some(publish) = Publish::read(packet, head, self.level)? else {
                return Ok(None);
            };
            return self.deliver(head, &publish).map(Some);
        }
        let packet = &packet[..head.packet()];
        let body = &packet[head.header..];
        match head.kind {
            Kind::Puback | Kind::Pubrec | Kind::Pubcomp => {
                let id = Reader::new(body).packet_id()?;
                if head.kind != Kind::Pubrec || is_error(body) {
                    self.tally.answered(Asked::Publish(id), !is_error(body));
                }
                if head.kind != Kind::Pubcomp {
                    return Ok(Some(self.acknowledged(packet, head, id)));
                }
            }
            Kind::Pubrel => {
                let id = Reader::new(body).packet_id()?;
                if let Some(at) = self.state.swallowed.iter().position(|own| *own == id) {
                    self.state.swallowed.swap_remove(at);
                    let answer =
                        write::acknowledgement(Kind::Pubcomp, self.level, id, Reason::SUCCESS);
                    self.endpoint.queue(&answer);
                    return Ok(Some(Fate::Drop));
                }
            }
            Kind::Suback => return self.subscribed(packet, head).map(Some),
            Kind::Unsuback => {
                let id = Reader::new(body).packet_id()?;
                self.tally.answered(Asked::Packet(id), true);
            }
            Kind::Pingresp => self.tally.answered(Asked::Ping, true),
            Kind::Disconnect | Kind::Auth => {}
            Kind::Connack => return Err(Fault::protocol("a second CONNACK")),
            Kind::Connect | Kind::Publish | Kind::Subscribe | Kind::Unsubscribe | Kind::Pingreq => {
                return Err(Fault::protocol("a packet that only clients send"));
            }
        }
        Ok(Some(Fate::Pass))
    }

    /// An acknowledgement of a client's message, and what was to follow it.
    fn acknowledged(&mut self, packet: &[u8], head: &Head, id: u16) -> Fate {
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

    fn deliver(&mut self, head: &Head, publish: &Publish<'_>) -> Result<Fate, Fault> {
        let qos = usize::from(head.qos());
        let method = method::DELIVER[qos.min(2)];
        let Some(applied) = self.applied.as_ref().filter(|own| !own.names.are_plain()) else {
            self.tally_delivery(method, publish.topic, publish.packet_id, head.packet());
            return Ok(Fate::Pass);
        };
        if publish.topic.is_empty() {
            // It was told that this client knows no aliases.
            return Err(BAD_ALIAS);
        }
        let Some(renamed) = applied.names.down(publish.topic) else {
            return self.swallow(method, head, publish);
        };
        let properties = applied.names.properties(publish.properties, false);
        let payload = head.packet() - publish.head;
        let first = Kind::Publish.first_byte() | head.flags;
        let (level, id) = (self.level, publish.packet_id);
        let written = write::publish_head(first, level, &renamed, id, &properties, payload);
        if written.len() + payload > self.client_takes {
            // A broker that knew this name would not have sent it either (section 3.1.2.11.4).
            return self.swallow(method, head, publish);
        }
        let renamed = renamed.into_owned();
        self.tally_delivery(method, &renamed, publish.packet_id, head.packet());
        Ok(Fate::Replace(written, publish.head))
    }

    fn tally_delivery(&mut self, method: &'static str, topic: &str, id: Option<u16>, bytes: usize) {
        match id {
            None => self.tally.sent(method, topic, bytes, Ending::Sent),
            Some(id) => self.tally.asked(Asked::Deliver(id), method, topic, bytes),
        }
    }

    /// Takes a message that is not for this client in the client's place.
    fn swallow(
        &mut self,
        method: &'static str,
        head: &Head,
        publish: &Publish<'_>,
    ) -> Result<Fate, Fault> {
        let denied = Ending::Rejected(Rejection::Denied);
        self.tally
            .sent(method, publish.topic, head.packet(), denied);
        if let Some(id) = publish.packet_id {
            let kind = if head.qos() == 1 {
                Kind::Puback
            } else {
                Kind::Pubrec
            };
            if head.qos() == 2 && !self.state.swallowed.contains(&id) {
                if self.state.swallowed.len() >= MAX_AWAITED {
                    return Err(Fault::quota("too many messages wait for their release"));
                }
                self.state.swallowed.push(id);
            }
            let answer = write::acknowledgement(kind, self.level, id, Reason::SUCCESS);
            self.endpoint.queue(&answer);
        }
        Ok(Fate::Drop)
    }

    /// Puts codes of filters that the broker did not see among those of the others.
    fn subscribed(&mut self, packet: &[u8], head: &Head) -> Result<Fate, Fault> {
        let mut reader = Reader::new(&packet[head.header..]);
        let id = reader.packet_id()?;
        let properties = if self.level.is_5() {
            Properties::read(&mut reader, Place::Ack)?
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
        let written = write::subscribed(Kind::Suback, self.level, id, bytes, &codes);
        Ok(Fate::Replace(written, packet.len()))
    }
}
