//! CONNACK: the session takes its place among those of its name, and the client is told the limits of
//! broker and proxy together.

use std::rc::Rc;

use bytes::Bytes;
use finback_core::driver::Caller;
use finback_core::rejection::Rejection;

use crate::codec::properties::{PropertyPlace, Value, Writer, id};
use crate::codec::reader::put_variable;
use crate::codec::{Connect, FixedHeader, Level, Properties, Reader, Side, write};
use crate::policy::Duplicates;
use crate::reason::Reason;
use crate::session::MAX_AWAITED;
use crate::takeover::{Key, Seat};
use crate::{Mqtt, NAME};

use super::admission::Admitted;
use super::broker::Granted;
use super::refusal::{answer_of, count, outcome};
use super::{Bounds, MAX_ALIASES, Opened, Refused, duplicates, here, patience};

/// The session that a broker has granted.
pub(super) fn opened(
    mqtt: &Mqtt,
    caller: &Rc<Caller>,
    mut admitted: Admitted<'_>,
    granted: Granted,
) -> Result<Opened, Refused> {
    let Granted {
        mut lease,
        endpoint,
        answer,
    } = granted;
    let level = admitted.connect.level;
    let properties = properties(&answer.packet, level);
    let given = properties.text(id::ASSIGNED_CLIENT_ID);
    let seat = seat(mqtt, &mut admitted, lease.cluster().name(), given)?;
    let exchange = &mut admitted.exchange;
    count(caller, Reason::SUCCESS);
    let outcome = outcome(Reason::SUCCESS);
    exchange.answered(answer_of(Reason::SUCCESS), answer.packet.len() as u64);
    exchange.settle(&mut lease, outcome);
    if let (Some(drawn), Some(given)) = (admitted.drawn, given) {
        mqtt.sticky.learn(given, drawn);
    }
    let connect = &admitted.connect;
    let keep_alive = properties
        .number(id::SERVER_KEEP_ALIVE)
        .unwrap_or(u32::from(connect.keep_alive));
    let client_takes = most_taken(connect.properties());
    let connack = seen(
        &answer.packet,
        level,
        admitted.growth_of_topics(),
        mqtt.config.packet,
        client_takes,
    );
    let name = given.unwrap_or(&connect.client_id);
    let listed = caller.list_session(NAME, name, Some(lease.address()));
    let mirror = admitted.policy.as_ref().and_then(|own| own.mirror.as_ref());
    let told = |name: &str| mirror.map(|_| name.to_owned()).unwrap_or_default();
    Ok(Opened {
        level,
        endpoint,
        listed,
        lease,
        seat,
        connack,
        patience: patience(keep_alive),
        client_takes,
        endpoint_takes: most_taken(properties),
        bounds: Bounds {
            packet: mqtt.config.packet,
            subscriptions: mqtt.config.subscriptions,
            answer: mqtt.config.answer_timeout,
        },
        is_kept: is_kept(&answer.packet, connect),
        method: connect.method().map(Box::from),
        client_id: told(&connect.client_id),
        username: told(connect.username.as_deref().unwrap_or_default()),
        tracing: admitted.exchange.tracing(),
        applied: admitted.applied,
        shadow: admitted.exchange.message_shadow(),
        filters: admitted.filters,
    })
}

/// Whether a broker says that it has a session of before (MQTT 5, section 3.2.2.1.1); before MQTT 3.1.1 it could not.
fn is_kept(connack: &Bytes, connect: &Connect<'_>) -> bool {
    let head = FixedHeader::read(connack, connect.level, usize::MAX)
        .ok()
        .flatten();
    let flags = head.and_then(|head| connack.get(head.header).copied());
    let says_so = flags.is_none_or(|flags| flags & 1 != 0);
    !connect.clean && (says_so || connect.level == Level::V31)
}

/// The session's place among those of its name at these brokers. Only now is it known who the client
/// is: servers authenticate before they look for an earlier session (MQTT 5, section 3.1.4).
fn seat(
    mqtt: &Mqtt,
    admitted: &mut Admitted<'_>,
    cluster: &str,
    given: Option<&str>,
) -> Result<Option<Seat>, Refused> {
    let client_id = given.unwrap_or(&admitted.seen_as);
    let key = Key::at(cluster, client_id);
    let entered = mqtt
        .sessions
        .enter(key, duplicates(admitted.applied.as_ref()));
    entered.map_err(|_| refuse_second(admitted))
}

/// Whether a session is to be refused before its broker is asked: one of its name is under way, which
/// the broker might end for it. That disturbs nobody.
pub(super) fn is_second(mqtt: &Mqtt, admitted: &Admitted<'_>, cluster: &str) -> bool {
    let key = Key::at(cluster, &admitted.seen_as);
    duplicates(admitted.applied.as_ref()) == Duplicates::Refuse && mqtt.sessions.has(&key)
}

/// Refuses a session because there is one of its name.
pub(super) fn refuse_second(admitted: &mut Admitted<'_>) -> Refused {
    admitted.exchange.rejected(Rejection::Denied);
    let why = "a session of this client identifier is under way";
    here(Reason::BAD_CLIENT_ID, why)
}

/// The longest packet that one takes who says so in these properties.
pub(super) fn most_taken(properties: Properties<'_>) -> usize {
    let own = properties.number(id::MAXIMUM_PACKET);
    own.map_or(usize::MAX, |own| own as usize)
}

/// The properties of a CONNACK.
fn properties(connack: &Bytes, level: Level) -> Properties<'_> {
    let head = FixedHeader::read(connack, level, usize::MAX).ok().flatten();
    match head {
        Some(head) if level.is_5() => of_body(&connack[head.header..]),
        _ => Properties::default(),
    }
}

fn of_body(body: &[u8]) -> Properties<'_> {
    let mut reader = Reader::new(body);
    let read = reader
        .u16()
        .and_then(|_| Properties::read_from(&mut reader, PropertyPlace::Connack, Side::Server));
    read.unwrap_or_default()
}

/// A broker's CONNACK with limits that hold for broker and proxy together (MQTT 5, section 3.2.2.3): a client
/// that was not told of one sends what is over it, again and again. `growth` is by how much names become longer on
/// their way to the broker, where topics are looked at.
fn seen(
    connack: &Bytes,
    level: Level,
    growth: Option<usize>,
    packet: usize,
    client_takes: usize,
) -> Vec<u8> {
    let head = FixedHeader::read(connack, level, usize::MAX).ok().flatten();
    let Some(head) = head.filter(|_| level.is_5()) else {
        return connack.to_vec();
    };
    let body = &connack[head.header..];
    if body.len() < 3 {
        return connack.to_vec();
    }
    let given = of_body(body);
    let broker = most_taken(given);
    let most = match broker {
        usize::MAX => packet,
        broker => packet.min(broker.saturating_sub(growth.unwrap_or(0))),
    };
    let mut limits = vec![(id::MAXIMUM_PACKET, bounded(most), broker)];
    if growth.is_some() {
        // MQTT 5, section 3.2.2.3.3: without the property, all that identifiers can tell apart.
        let awaited = given.number(id::RECEIVE_MAXIMUM);
        let awaited = awaited.map_or(usize::from(u16::MAX), |own| own as usize);
        limits.push((id::RECEIVE_MAXIMUM, bounded(MAX_AWAITED), awaited));
        // MQTT 5, section 3.2.2.3.8: without the property a client may use none.
        let aliases = given.number(id::TOPIC_ALIAS_MAXIMUM).unwrap_or(0);
        limits.push((
            id::TOPIC_ALIAS_MAXIMUM,
            MAX_ALIASES.into(),
            aliases as usize,
        ));
    }
    limits.retain(|(_, own, broker)| (*own as usize) < *broker);
    if limits.is_empty() {
        return connack.to_vec();
    }
    let written = limited(connack[0], body, given, &limits);
    match written.len() <= client_takes {
        true => written,
        // The client has a limit too (MQTT 5, section 3.1.2.11.4).
        false => connack.to_vec(),
    }
}

fn bounded(most: usize) -> u32 {
    u32::try_from(most.max(1)).unwrap_or(u32::MAX)
}

/// A CONNACK with these properties in the place of its own.
fn limited(first: u8, body: &[u8], given: Properties<'_>, limits: &[(u8, u32, usize)]) -> Vec<u8> {
    let mut writer = Writer::default();
    for (id, value, piece) in given.pieces() {
        match value {
            Value::Number(_) if limits.iter().any(|(own, ..)| *own == id) => {}
            _ => writer.raw(piece),
        }
    }
    for (id, most, _) in limits {
        writer.number(*id, *most);
    }
    let mut own = body[..2].to_vec();
    put_variable(&mut own, writer.bytes().len());
    own.extend_from_slice(writer.bytes());
    write::packet(first, &own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(connack: &[u8], packet: usize, takes: usize) -> (Option<u32>, usize) {
        let own = seen(
            &Bytes::copy_from_slice(connack),
            Level::V5,
            None,
            packet,
            takes,
        );
        let most = properties(&own.clone().into(), Level::V5).number(id::MAXIMUM_PACKET);
        (most, own.len())
    }

    #[test]
    fn a_client_is_told_the_lower_of_two_limits() {
        let none = b"\x20\x03\0\0\0";
        let low = b"\x20\x08\0\0\x05\x27\0\0\x10\0";
        let high = b"\x20\x08\0\0\x05\x27\x10\0\0\0";
        let max = usize::MAX;
        assert_eq!(limits(none, 1 << 20, max), (Some(1 << 20), 10));
        assert_eq!(limits(low, 1 << 20, max), (Some(0x1000), 10));
        assert_eq!(limits(high, 1 << 20, max), (Some(1 << 20), 10));
        // It takes no more than five bytes, and is told nothing.
        assert_eq!(limits(none, 1 << 20, 5), (None, 5));
    }
}
