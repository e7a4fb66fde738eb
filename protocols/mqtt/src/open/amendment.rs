//! The CONNECT as the broker shall see it: names, credentials, topics, and the PROXY header before it.

use bytes::Bytes;
use finback_core::driver::Caller;
use finback_core::rejection::Rejection;
use finback_core::trace::Field;

use crate::channel::Channel;
use crate::codec::properties::{Writer, id};
use crate::codec::{Connect, Level};
use crate::policy::{Applied, Facts};
use crate::propagation::propagate;
use crate::proxied;
use crate::reason::Reason;
use crate::topic;

use super::admission::{Admitted, facts};
use super::{Refused, here, reject};

/// What is said to a broker first; `packet` is what the client said.
pub(super) fn said(
    caller: &Caller,
    client: &Channel,
    packet: &Bytes,
    admitted: &mut Admitted<'_>,
) -> Result<Bytes, Refused> {
    let hears_by_name = !admitted.connect.clean && admitted.filters.are_any();
    let edited = edited(&admitted.connect, admitted.exchange.edits());
    let edited = edited.as_ref().unwrap_or(&admitted.connect);
    let Some(applied) = &admitted.applied else {
        let mut own = edited.clone();
        if hears_by_name {
            without(&mut own, id::TOPIC_ALIAS_MAXIMUM);
        }
        let written = written(packet, &own, &admitted.connect);
        return written.map_err(|rejection| reject(&mut admitted.exchange, rejection));
    };
    let connect = &admitted.connect;
    let exchange = &mut admitted.exchange;
    let mut own = amended(applied, edited, &facts(caller, connect))
        .map_err(|rejection| reject(exchange, rejection))?;
    if hears_by_name {
        without(&mut own, id::TOPIC_ALIAS_MAXIMUM);
    }
    if let Some(will) = &own.will
        && applied.is_about_topics()
        && topic::check_renamed(&will.topic, Reason::BAD_TOPIC).is_err()
    {
        exchange.rejected(Rejection::Denied);
        let why = "the topic of the will has too many levels";
        return Err(here(Reason::BAD_TOPIC, why));
    }
    let said = written(packet, &own, connect).map_err(|rejection| reject(exchange, rejection))?;
    if own.client_id != connect.client_id {
        // Clients that are one to their broker belong at one broker.
        admitted.key = own.client_id.to_string();
        admitted.seen_as.clone_from(&admitted.key);
    }
    if !applied.policy().proxy_protocol {
        return Ok(said);
    }
    let header = proxied::header(caller, client.socket())
        .map_err(|_| reject(exchange, Rejection::ConnectFailed))?;
    Ok([&header[..], &said].concat().into())
}

/// A CONNECT with what filters change in its user properties (MQTT 5, section 3.1.2.11.8), if they change something. Before
/// MQTT 5 it has none.
fn edited<'a>(connect: &Connect<'a>, edits: &[Field]) -> Option<Connect<'a>> {
    (connect.level == Level::V5 && !edits.is_empty()).then(|| {
        let mut own = connect.clone();
        own.properties = propagate(connect.properties(), edits).into();
        own
    })
}

/// The packet of a CONNECT, which may be the client's `packet` still.
fn written(packet: &Bytes, own: &Connect<'_>, said: &Connect<'_>) -> Result<Bytes, Rejection> {
    if own == said {
        return Ok(packet.clone());
    }
    let written = own.write().map_err(|_| Rejection::TooLarge)?;
    Ok(written.into())
}

/// A CONNECT as the route has it.
pub(super) fn amended<'a>(
    applied: &Applied,
    connect: &Connect<'a>,
    facts: &Facts<'_>,
) -> Result<Connect<'a>, Rejection> {
    if let Some(will) = &connect.will
        && !applied.may_publish(&will.topic)
    {
        return Err(Rejection::Denied);
    }
    let mut own = connect.clone();
    applied
        .amend(&mut own, facts)
        .map_err(|_| Rejection::Denied)?;
    if applied.is_about_topics() {
        // Topics are looked at, so the broker is not to hide them behind aliases.
        without(&mut own, id::TOPIC_ALIAS_MAXIMUM);
    }
    Ok(own)
}

fn without(connect: &mut Connect<'_>, unwanted: u8) {
    let properties = connect.properties();
    if properties.number(unwanted).is_none() {
        return;
    }
    let mut writer = Writer::default();
    for (id, _, piece) in properties.pieces() {
        if id != unwanted {
            writer.raw(piece);
        }
    }
    connect.properties = writer.into_bytes().into();
}
