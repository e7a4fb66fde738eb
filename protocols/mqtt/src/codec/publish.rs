//! PUBLISH (MQTT 5, section 3.3): what stands before its payload.

use super::properties::{Properties, PropertyPlace, id};
use super::reader::{Fault, Reader};
use super::{FixedHeader, Level, Side};
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
    /// Reads the head of a client's message from the packet's first bytes; `None` if some are
    /// missing.
    ///
    /// # Errors
    /// If it is none.
    pub fn read(packet: &'a [u8], head: &FixedHeader, level: Level) -> Result<Option<Self>, Fault> {
        Self::read_by(packet, head, level, Side::Client)
    }

    /// The same of either side's. A server's message has no bounds of ours.
    ///
    /// # Errors
    /// If it is none.
    pub fn read_by(
        packet: &'a [u8],
        head: &FixedHeader,
        level: Level,
        from: Side,
    ) -> Result<Option<Self>, Fault> {
        let whole = packet.len() >= head.packet();
        let bytes = &packet[head.header..packet.len().min(head.packet())];
        let mut reader = Reader::new(bytes);
        let read = Self::read_from(&mut reader, head, level, from);
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
        head: &FixedHeader,
        level: Level,
        from: Side,
    ) -> Result<(&'a str, Option<u16>, Properties<'a>), Fault> {
        let topic = reader.text()?;
        let packet_id = match head.qos() {
            0 => None,
            _ => Some(reader.packet_id()?),
        };
        let properties = if level.is_5() {
            Properties::read_from(reader, PropertyPlace::Publish, from)?
        } else {
            Properties::default()
        };
        if !topic.is_empty() {
            // MQTT 5, section 3.3.2.1.
            topic::check_name(topic, from)?;
        } else if !level.is_5() {
            return Err(Fault::malformed("a message without a topic"));
        } else if properties.number(id::TOPIC_ALIAS).is_none() {
            // MQTT 5, section 3.3.2.1: one of both is there.
            return Err(Fault::protocol(
                "a message without a topic and without an alias",
            ));
        }
        // MQTT 5, section 3.3.2.3.5: no wildcards there either.
        if let Some(topic) = properties.text(id::RESPONSE_TOPIC) {
            topic::check_name(topic, from)?;
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

/// A broker's message as far as it must be read to be passed on. It may be longer than anything a
/// client may send, or what its receiver will not like: that is between broker and receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delivery<'a> {
    /// Where it was published; "" where an alias stands for it, or what stands there is no text.
    pub(crate) topic: &'a str,
    pub(crate) packet_id: Option<u16>,
    /// What stands where its topic is makes sense, be it nothing.
    pub(crate) is_text: bool,
    /// Bytes of the packet before its properties, or its payload where there are none.
    start: usize,
}

impl<'a> Delivery<'a> {
    /// Reads topic and identifier from the packet's first bytes; `None` if some are missing.
    ///
    /// # Errors
    /// If the packet ends before them: then nothing after it can be read either.
    pub(crate) fn read(packet: &'a [u8], head: &FixedHeader) -> Result<Option<Self>, Fault> {
        let bytes = &packet[head.header..packet.len().min(head.packet())];
        let mut reader = Reader::new(bytes);
        let read = reader.binary().and_then(|topic| {
            let packet_id = match head.qos() {
                0 => None,
                _ => Some(reader.packet_id()?),
            };
            Ok((topic, packet_id))
        });
        match read {
            Ok((topic, packet_id)) => {
                let text = std::str::from_utf8(topic);
                Ok(Some(Self {
                    topic: text.unwrap_or_default(),
                    packet_id,
                    is_text: text.is_ok(),
                    start: head.header + bytes.len() - reader.rest().len(),
                }))
            }
            Err(_) if packet.len() < head.packet() => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Its properties, and the bytes of the packet before its payload; `None` if bytes are missing.
    ///
    /// # Errors
    /// If they make no sense, or are longer than `most`.
    pub(crate) fn properties(
        &self,
        packet: &'a [u8],
        head: &FixedHeader,
        level: Level,
        most: usize,
    ) -> Result<Option<(Properties<'a>, usize)>, Unreadable> {
        if !level.is_5() {
            return Ok(Some((Properties::default(), self.start)));
        }
        let bytes = &packet[..packet.len().min(head.packet())];
        let whole = bytes.len() == head.packet();
        let mut reader = Reader::new(&bytes[self.start..]);
        let (length, own) = match super::reader::variable(reader.rest()) {
            Ok(Some((length, own))) => (length as usize, own),
            Ok(None) if !whole => return Ok(None),
            Ok(None) | Err(_) => return Err(Unreadable),
        };
        let end = self.start + own + length;
        if length > most || end > head.packet() {
            return Err(Unreadable);
        }
        if bytes.len() < end {
            return Ok(None);
        }
        let read = Properties::read_from(&mut reader, PropertyPlace::Publish, Side::Server);
        read.map(|properties| Some((properties, end)))
            .map_err(|_| Unreadable)
    }
}

/// What stands there makes no sense.
pub(crate) struct Unreadable;

/// Whether the bytes end within the head.
fn is_short(bytes: &[u8], head: &FixedHeader, level: Level) -> bool {
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

/// The fault of a message whose alias has no topic (MQTT 5, section 3.3.2.3.4).
pub(crate) const BAD_ALIAS: Fault = Fault::new(Reason::BAD_ALIAS, "a topic alias that is unknown");
