//! Validation of packets: whether a whole one is sound.

use super::connect::Opening;
use super::properties::{Properties, PropertyPlace, id};
use super::publish::Publish;
use super::reader::{Fault, Reader};
use super::subscribe::TopicSubscription;
use super::{FixedHeader, Level, PacketType};
use crate::reason::Reason;

/// Who sends a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A client.
    Client,
    /// A server.
    Server,
}

/// Reads a whole packet as its receiver would.
///
/// # Errors
/// If it is none, or not for `from` to send.
pub fn check(packet: &[u8], head: &FixedHeader, level: Level, from: Side) -> Result<(), Fault> {
    let body = &packet[head.header..];
    let sender = match head.kind {
        PacketType::Connect
        | PacketType::Subscribe
        | PacketType::Unsubscribe
        | PacketType::Pingreq => Some(Side::Client),
        PacketType::Connack | PacketType::Suback | PacketType::Unsuback | PacketType::Pingresp => {
            Some(Side::Server)
        }
        _ => None,
    };
    // MQTT 5, section 2.1.2 has the direction of each packet.
    if sender.is_some_and(|sender| sender != from) {
        return Err(Fault::protocol("a packet that only the other side sends"));
    }
    match head.kind {
        PacketType::Connect => match Opening::read(body) {
            Ok(Opening::Connect(_)) => Ok(()),
            Ok(Opening::Unsupported { .. }) => Err(Fault::new(
                Reason::UNSUPPORTED_LEVEL,
                "a version that nobody here speaks",
            )),
            Err((_, fault)) => Err(fault),
        },
        PacketType::Connack => connack(body, level),
        PacketType::Publish => match Publish::read_by(packet, head, level, from)? {
            Some(publish) if from == Side::Client => {
                // MQTT 5, section 3.3.4.
                match publish.properties.number(id::SUBSCRIPTION_ID) {
                    Some(_) => Err(Fault::protocol(
                        "a client says for which subscription it is",
                    )),
                    None => Ok(()),
                }
            }
            Some(_) => Ok(()),
            None => Err(Fault::malformed("the packet is shorter than what it says")),
        },
        PacketType::Puback | PacketType::Pubrec | PacketType::Pubrel | PacketType::Pubcomp => {
            acknowledgement(body, head.kind, level, from)
        }
        PacketType::Subscribe => {
            TopicSubscription::read(body, level, PropertyPlace::Subscribe).map(drop)
        }
        PacketType::Unsubscribe => {
            TopicSubscription::read(body, level, PropertyPlace::Unsubscribe).map(drop)
        }
        PacketType::Suback | PacketType::Unsuback => subscribed(body, head.kind, level),
        PacketType::Pingreq | PacketType::Pingresp => Reader::new(body).end(),
        PacketType::Disconnect => disconnect(body, level, from),
        PacketType::Auth => authentication(body, from),
    }
}

fn connack(body: &[u8], level: Level) -> Result<(), Fault> {
    let mut reader = Reader::new(body);
    // MQTT 5, section 3.2.2.1.
    if reader.byte()? > 1 {
        return Err(Fault::malformed(
            "the flags of CONNACK contradict each other",
        ));
    }
    let code = reader.byte()?;
    if level.is_5() {
        // A broker that does not speak MQTT 5 refuses in the older form.
        let older = reader.rest().is_empty() && code <= 5;
        // MQTT 5, section 3.2.2.2.
        let known = matches!(
            code,
            0 | 0x80..=0x8a | 0x8c | 0x90 | 0x95 | 0x97 | 0x99..=0x9d | 0x9f
        );
        known_code(known || older)?;
        if !reader.rest().is_empty() {
            Properties::read_from(&mut reader, PropertyPlace::Connack, Side::Server)?;
        }
    } else {
        // MQTT 3.1.1, section 3.2.2.3.
        known_code(code <= 5)?;
    }
    reader.end()
}

fn known_code(known: bool) -> Result<(), Fault> {
    if known {
        Ok(())
    } else {
        Err(Fault::malformed("there is no such reason code here"))
    }
}

fn acknowledgement(body: &[u8], kind: PacketType, level: Level, from: Side) -> Result<(), Fault> {
    let mut reader = Reader::new(body);
    reader.packet_id()?;
    if level.is_5() && !reader.rest().is_empty() {
        let code = reader.byte()?;
        // MQTT 5, sections 3.4.2.1, 3.5.2.1, 3.6.2.1 and 3.7.2.1.
        known_code(match kind {
            PacketType::Puback | PacketType::Pubrec => {
                matches!(
                    code,
                    0 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99
                )
            }
            _ => matches!(code, 0 | 0x92),
        })?;
        if !reader.rest().is_empty() {
            Properties::read_from(&mut reader, PropertyPlace::Ack, from)?;
        }
    }
    reader.end()
}

fn subscribed(body: &[u8], kind: PacketType, level: Level) -> Result<(), Fault> {
    let mut reader = Reader::new(body);
    reader.packet_id()?;
    if !level.is_5() {
        let codes = reader.rest();
        return match kind {
            // MQTT 3.1.1 acknowledges all or nothing here.
            PacketType::Unsuback => reader.end(),
            _ => known_code(!codes.is_empty() && codes.iter().all(|c| matches!(c, 0..=2 | 0x80))),
        };
    }
    // MQTT 5, sections 3.9.3 and 3.11.3: a code for each filter.
    Properties::read_from(&mut reader, PropertyPlace::Ack, Side::Server)?;
    let codes = reader.rest();
    known_code(
        !codes.is_empty()
            && codes.iter().all(|code| {
                matches!(
                    (kind, code),
                    (PacketType::Suback, 0..=2 | 0x97 | 0x9e | 0xa1 | 0xa2)
                        | (PacketType::Unsuback, 0 | 0x11)
                        | (_, 0x80 | 0x83 | 0x87 | 0x8f | 0x91)
                )
            }),
    )
}

fn disconnect(body: &[u8], level: Level, from: Side) -> Result<(), Fault> {
    let mut reader = Reader::new(body);
    if !level.is_5() {
        if from == Side::Server {
            return Err(Fault::protocol("before MQTT 5, servers say no DISCONNECT"));
        }
        return reader.end();
    }
    if reader.rest().is_empty() {
        return Ok(());
    }
    let code = reader.byte()?;
    // MQTT 5, section 3.14.2.1.
    known_code(match from {
        Side::Client => matches!(
            code,
            0 | 4 | 0x80..=0x83 | 0x90 | 0x93..=0x99
        ),
        Side::Server => matches!(
            code,
            0 | 0x80..=0x83 | 0x87 | 0x89 | 0x8b | 0x8d..=0x90 | 0x93..=0xa2
        ),
    })?;
    if !reader.rest().is_empty() {
        let properties = Properties::read_from(&mut reader, PropertyPlace::Disconnect, from)?;
        // MQTT 5, section 3.14.2.2.2.
        if from == Side::Server && properties.number(id::SESSION_EXPIRY).is_some() {
            return Err(Fault::protocol("a server says when a session shall expire"));
        }
    }
    reader.end()
}

/// What follows the fixed header of a client's DISCONNECT of MQTT 5.
///
/// # Errors
/// If it is none.
pub fn read_disconnect(body: &[u8]) -> Result<(Reason, Properties<'_>), Fault> {
    let mut reader = Reader::new(body);
    if body.is_empty() {
        return Ok((Reason::SUCCESS, Properties::default()));
    }
    let reason = Reason(reader.byte()?);
    if reader.rest().is_empty() {
        return Ok((reason, Properties::default()));
    }
    Ok((
        reason,
        Properties::read(&mut reader, PropertyPlace::Disconnect)?,
    ))
}

/// What an AUTH says (MQTT 5, section 3.15).
fn authentication(body: &[u8], from: Side) -> Result<(), Fault> {
    let mut reader = Reader::new(body);
    if reader.rest().is_empty() {
        // That is "success", which only servers say (MQTT 5, section 3.15.2.1).
        return known_code(from == Side::Server);
    }
    known_code(matches!(
        (from, reader.byte()?),
        (Side::Server, 0) | (_, 0x18) | (Side::Client, 0x19)
    ))?;
    if from == Side::Server && reader.rest().is_empty() {
        return Ok(());
    }
    let properties = Properties::read_from(&mut reader, PropertyPlace::Auth, from)?;
    // MQTT 5, section 3.15.2.2.2.
    if properties.text(id::AUTHENTICATION_METHOD).is_none() {
        return Err(Fault::protocol("AUTH names no method"));
    }
    reader.end()
}

/// The method that an AUTH names.
pub(crate) fn authentication_method(body: &[u8]) -> Option<&str> {
    let mut reader = Reader::new(body);
    reader.byte().ok()?;
    let properties = Properties::read_from(&mut reader, PropertyPlace::Auth, Side::Server).ok()?;
    properties.text(id::AUTHENTICATION_METHOD)
}
