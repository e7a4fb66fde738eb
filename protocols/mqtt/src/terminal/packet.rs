//! Packets of a client, other than its messages.

use std::time::Duration;

use finback_core::record::Ending;
use finback_core::rejection::Rejection;

use crate::codec::properties::{PropertyPlace, id};
use crate::codec::{
    Fault, FixedHeader, Level, PacketType, Properties, Reader, Side, TopicSubscription, check,
    write,
};
use crate::reason::Reason;
use crate::sink::Stage;
use crate::tally::{SESSION, method};

use super::{End, Terminal};

/// What DISCONNECT says where its client asks for its will (MQTT 5, section 3.14.2.1).
const WITH_WILL: u8 = 4;
/// The interval that never ends (MQTT 5, section 3.1.2.11.2).
pub(super) const FOR_EVER: u32 = u32::MAX;

/// A session expiry interval as a time; `None` = never.
pub(super) fn expiry(seconds: u32) -> Option<Duration> {
    (seconds != FOR_EVER).then(|| Duration::from_secs(seconds.into()))
}

impl Terminal {
    /// Does what a packet asks for; whether there was room to.
    pub(super) fn packet(&mut self, packet: &[u8], head: &FixedHeader) -> Result<bool, End> {
        check(packet, head, self.level, Side::Client).map_err(End::Fault)?;
        let body = &packet[head.header..];
        match head.kind {
            PacketType::Publish => return self.publish(packet, head),
            // MQTT 5, section 3.1.
            PacketType::Connect => return Err(End::Fault(Fault::protocol("a second CONNECT"))),
            PacketType::Pubrel => {
                let id = Reader::new(body).packet_id().map_err(End::Fault)?;
                self.release(id)?;
            }
            // MQTT 5, section 3.12.4.
            PacketType::Pingreq => self.client.queue(&[PacketType::Pingresp.first_byte(), 0]),
            PacketType::Subscribe | PacketType::Unsubscribe => self.subscribe(packet, head)?,
            PacketType::Disconnect => self.disconnect(body)?,
            PacketType::Auth => {
                // MQTT 5, section 4.12: CONNECT named no method.
                let why = "AUTH without an authentication method in CONNECT";
                return Err(End::Fault(Fault::protocol(why)));
            }
            _ => {}
        }
        Ok(true)
    }

    /// PUBREL: the client will not send this message again.
    fn release(&mut self, id: u16) -> Result<(), End> {
        if let Some(Stage::Sent(_)) = self.held.exactly.stage(id) {
            // MQTT 5, section 4.3.3: PUBREL is the answer to PUBREC, which it has not been sent.
            let why = "PUBREL of a message that has not been acknowledged";
            return Err(End::Fault(Fault::protocol(why)));
        }
        let known = self.held.exactly.release(id);
        // MQTT 5, section 3.7.2.1.
        let reason = match known || !self.level.is_5() {
            true => Reason::SUCCESS,
            false => Reason::UNKNOWN_PACKET_ID,
        };
        self.client.queue(&write::acknowledgement(
            PacketType::Pubcomp,
            self.level,
            id,
            reason,
        ));
        Ok(())
    }

    fn disconnect(&mut self, body: &[u8]) -> Result<(), End> {
        self.goodbye = true;
        // MQTT 5, section 3.14.4: who says goodbye has no will published, unless it asks for that.
        if body.first() != Some(&WITH_WILL) {
            self.will = None;
        }
        if !self.level.is_5() || body.len() < 2 {
            return Ok(());
        }
        let mut reader = Reader::new(&body[1..]);
        let properties =
            Properties::read(&mut reader, PropertyPlace::Disconnect).map_err(End::Fault)?;
        let Some(seconds) = properties.number(id::SESSION_EXPIRY) else {
            return Ok(());
        };
        // MQTT 5, section 3.14.2.2.2: a session that was to end with its connection does.
        if self.expiry == Some(Duration::ZERO) && seconds > 0 {
            let why = "DISCONNECT makes a session last that was not to";
            return Err(End::Fault(Fault::protocol(why)));
        }
        self.expiry = expiry(seconds);
        Ok(())
    }

    /// There is nothing to subscribe to.
    fn subscribe(&mut self, packet: &[u8], head: &FixedHeader) -> Result<(), End> {
        let (place, kind) = match head.kind {
            PacketType::Subscribe => (PropertyPlace::Subscribe, PacketType::Suback),
            _ => (PropertyPlace::Unsubscribe, PacketType::Unsuback),
        };
        let read = TopicSubscription::read(&packet[head.header..], self.level, place);
        let subscription = read.map_err(End::Fault)?;
        let code = match (kind, self.level) {
            (PacketType::Unsuback, _) => Reason::NO_SUBSCRIPTION,
            (_, Level::V5) => Reason::IMPLEMENTATION,
            _ => Reason::UNSPECIFIED,
        };
        // MQTT 5, sections 3.9.3 and 3.11.3: a code for each filter.
        let codes = vec![code.0; subscription.filters().count()];
        let id = subscription.packet_id;
        self.client
            .queue(&write::subscribed(kind, self.level, id, &[], &codes));
        let denied = Ending::Rejected(Rejection::Denied);
        self.tally
            .sent(method::SUBSCRIBE, SESSION, packet.len(), denied);
        Ok(())
    }
}
