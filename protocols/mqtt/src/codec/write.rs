//! Packets of our own.

use finback_core::text::{ANSWER_LIMIT, cut};

use super::properties::{Writer, id};
use super::reader::{put_text, put_variable};
use super::{Level, PacketType};
use crate::reason::Reason;

/// A packet of this first byte and body.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(5 + body.len());
    packet.push(first);
    put_variable(&mut packet, body.len());
    packet.extend_from_slice(body);
    packet
}

fn put_properties(body: &mut Vec<u8>, properties: &[u8]) {
    put_variable(body, properties.len());
    body.extend_from_slice(properties);
}

/// CONNACK.
pub fn connack(level: Level, reason: Reason, why: &str, server: Option<&str>) -> Vec<u8> {
    let mut body = vec![0, reason.0];
    if level.is_5() {
        let mut properties = Writer::default();
        if !why.is_empty() {
            properties.text(id::REASON_STRING, cut(why, ANSWER_LIMIT));
        }
        if let Some(server) = server {
            properties.text(id::SERVER_REFERENCE, server);
        }
        put_properties(&mut body, properties.bytes());
    } else {
        body[1] = reason.as_return_code();
    }
    packet(PacketType::Connack.first_byte(), &body)
}

/// CONNACK of a client that is accepted, with what it is granted.
pub fn accepted(level: Level, session_present: bool, properties: &[u8]) -> Vec<u8> {
    let mut body = vec![session_present.into(), 0];
    if level.is_5() {
        put_properties(&mut body, properties);
    } else if level == Level::V31 {
        // There was no such flag yet.
        body[0] = 0;
    }
    packet(PacketType::Connack.first_byte(), &body)
}

/// DISCONNECT of MQTT 5 from a server.
pub fn disconnect(reason: Reason, why: &str, server: Option<&str>) -> Vec<u8> {
    let mut properties = Writer::default();
    if !why.is_empty() {
        properties.text(id::REASON_STRING, cut(why, ANSWER_LIMIT));
    }
    if let Some(server) = server {
        properties.text(id::SERVER_REFERENCE, server);
    }
    let mut body = vec![reason.0];
    put_properties(&mut body, properties.bytes());
    packet(PacketType::Disconnect.first_byte(), &body)
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
pub fn acknowledgement(kind: PacketType, level: Level, packet_id: u16, reason: Reason) -> Vec<u8> {
    let [high, low] = packet_id.to_be_bytes();
    let mut bytes = vec![kind.first_byte(), 2, high, low];
    if level.is_5() && reason != Reason::SUCCESS {
        bytes[1] = 3;
        bytes.push(reason.0);
    }
    bytes
}

/// SUBACK or UNSUBACK, with what a server's had in properties, if there was one.
pub fn subscribed(
    kind: PacketType,
    level: Level,
    packet_id: u16,
    properties: &[u8],
    codes: &[u8],
) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    if level.is_5() {
        put_properties(&mut body, properties);
    }
    if level.is_5() || kind == PacketType::Suback {
        body.extend_from_slice(codes);
    }
    packet(kind.first_byte(), &body)
}

/// SUBSCRIBE or UNSUBSCRIBE of these filters and options.
pub fn subscription<'a>(
    first: u8,
    level: Level,
    packet_id: u16,
    properties: &[u8],
    filters: impl Iterator<Item = (std::borrow::Cow<'a, str>, Option<u8>)>,
) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    if level.is_5() {
        put_properties(&mut body, properties);
    }
    for (filter, options) in filters {
        put_text(&mut body, &filter);
        body.extend(options);
    }
    packet(first, &body)
}

/// The head of a PUBLISH whose payload of so many bytes follows.
pub fn publish_head(
    first: u8,
    level: Level,
    topic: &str,
    packet_id: Option<u16>,
    properties: &[u8],
    payload: usize,
) -> Vec<u8> {
    let mut body = Vec::with_capacity(topic.len() + properties.len() + 8);
    put_text(&mut body, topic);
    if let Some(packet_id) = packet_id {
        body.extend_from_slice(&packet_id.to_be_bytes());
    }
    if level.is_5() {
        put_properties(&mut body, properties);
    }
    let mut head = Vec::with_capacity(body.len() + 5);
    head.push(first);
    put_variable(&mut head, body.len() + payload);
    head.extend_from_slice(&body);
    head
}
