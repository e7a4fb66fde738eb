//! PUBLISH (section 3.3): what stands before its payload.

use super::properties::{Place, Properties, id};
use super::reader::{Fault, Reader};
use super::{Head, Level};
use crate::reason::Reason;
use crate::topic;

/// A message's head; its payload is whatever follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Where it is published; "" where an alias stands for it.
    pub topic: &'a str,
    /// Its identifier, unless it is of quality of service 0.
    pub packet_id: Option<u16>,
    /// Its properties.
    pub properties: Properties<'a>,
    /// Bytes of the packet before its payload.
    pub head: usize,
}

impl<'a> Publish<'a> {
    /// Reads the head of a message from the packet's first bytes; `None` if some are missing.
    ///
    /// # Errors
    /// If it is none.
    pub fn read(packet: &'a [u8], head: &Head, level: Level) -> Result<Option<Self>, Fault> {
        let whole = packet.len() >= head.packet();
        let bytes = &packet[head.header..packet.len().min(head.packet())];
        let mut reader = Reader::new(bytes);
        let read = Self::read_from(&mut reader, head, level);
        match read {
            Ok((topic, packet_id, properties)) => Ok(Some(Self {
                topic,
                packet_id,
                properties,
                head: head.header + bytes.len() - reader.rest().len(),
            })),
            // Of a packet cut short, any fault may be of what is missing.
            Err(_) if !whole && is_short(bytes, head, level) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    fn read_from(
        reader: &mut Reader<'a>,
        head: &Head,
        level: Level,
    ) -> Result<(&'a str, Option<u16>, Properties<'a>), Fault> {
        let topic = reader.text()?;
        let packet_id = match head.qos() {
            0 => None,
            _ => Some(reader.packet_id()?),
        };
        let properties = if level.is_5() {
            Properties::read(reader, Place::Publish)?
        } else {
            Properties::default()
        };
        if !topic.is_empty() {
            topic::check_name(topic)?;
        } else if !level.is_5() {
            return Err(Fault::malformed("a message without a topic"));
        } else if properties.number(id::TOPIC_ALIAS).is_none() {
            return Err(Fault::protocol(
                "a message without a topic and without an alias",
            ));
        }
        if let Some(topic) = properties.text(id::RESPONSE_TOPIC) {
            topic::check_name(topic)?;
        }
        Ok((topic, packet_id, properties))
    }

    /// The alias of its topic, if it has one.
    #[must_use]
    pub fn alias(&self) -> Option<u16> {
        let alias = self.properties.number(id::TOPIC_ALIAS)?;
        u16::try_from(alias).ok()
    }
}

/// Whether the bytes end within the head.
fn is_short(bytes: &[u8], head: &Head, level: Level) -> bool {
    let mut reader = Reader::new(bytes);
    let before = if head.qos() == 0 { 0 } else { 2 };
    if reader.binary().is_err() || reader.take(before).is_err() {
        return true;
    }
    level.is_5()
        && match super::reader::variable(reader.rest()) {
            Ok(None) => true,
            Ok(Some((length, own))) => reader.rest().len() < own + length as usize,
            Err(_) => false,
        }
}

/// The fault of a message that came with an alias that is not agreed on.
pub(crate) const BAD_ALIAS: Fault = Fault::new(Reason::BAD_ALIAS, "a topic alias that is unknown");
