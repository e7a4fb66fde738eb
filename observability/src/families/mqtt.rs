//! Sessions and messages of MQTT: metrics of their own, since neither is a call.

use std::collections::BTreeMap;

use finback_core::metric::Family;

use super::{Labels, bytes, each, outcomes};
use crate::metrics::Row;
use crate::sink::{MetricSink, MetricValue};

/// The protocol's name.
pub(super) const NAME: &str = "mqtt";

/// Services of records that are about no topic: how sessions begin, what CONNACKs say (the method is the
/// reason), and what else happens within sessions.
const CONNECT: &str = "(mqtt)";
const CONNACK: &str = "(connack)";
const SESSION: &str = "(session)";
/// The method of the record that ends a session.
const ENDED: &str = "session";
/// The method of the CONNACK that begins one.
const BEGUN: &str = "success";

pub(super) fn collect(rows: &[Row], sink: &mut dyn MetricSink) {
    let all: Vec<&Row> = rows
        .iter()
        .filter(|row| row.name.protocol == NAME)
        .collect();
    sessions(&all, sink);
    packets(&all, sink);
    messages(&all, sink);
}

fn of<'a>(rows: &'a [&'a Row], service: &'a str) -> impl Iterator<Item = &'a Row> {
    let own = rows.iter().copied();
    own.filter(move |row| *row.name.service == *service)
}

fn listener(row: &Row) -> Labels<'_> {
    vec![&row.listener]
}

fn with_method(row: &Row) -> Labels<'_> {
    vec![&row.listener, &row.name.method]
}

fn sessions(rows: &[&Row], sink: &mut dyn MetricSink) {
    open(rows, sink);
    outcomes(
        sink,
        const {
            &Family::counter(
                "finback_mqtt_connects_total",
                "sessions",
                &["listener", "outcome"],
                "CONNECTs that were routed, by what came of them.",
            )
        },
        of(rows, CONNECT),
        listener,
    );
    each(
        sink,
        const {
            &Family::histogram(
                "finback_mqtt_connect_duration_seconds",
                "seconds",
                &["listener"],
                "From a CONNECT to its CONNACK.",
            )
        },
        of(rows, CONNECT),
        listener,
        |sums| MetricValue::Latencies(&sums.latencies),
    );
    each(
        sink,
        const {
            &Family::counter(
                "finback_mqtt_connacks_total",
                "sessions",
                &["listener", "reason"],
                "CONNACKs by their reason.",
            )
        },
        of(rows, CONNACK),
        with_method,
        |sums| MetricValue::Count(sums.latencies.count()),
    );
    let ended = || of(rows, SESSION).filter(|row| *row.name.method == *ENDED);
    outcomes(
        sink,
        const {
            &Family::counter(
                "finback_mqtt_sessions_ended_total",
                "sessions",
                &["listener", "outcome"],
                "Sessions that ended, by how.",
            )
        },
        ended(),
        listener,
    );
    bytes(
        sink,
        const {
            &Family::counter(
                "finback_mqtt_session_bytes_total",
                "bytes",
                &["listener", "direction"],
                "Bytes of sessions that ended: received from clients, and sent to them.",
            )
        },
        ended(),
        listener,
    );
}

/// Sessions that began and did not end yet.
fn open(rows: &[&Row], sink: &mut dyn MetricSink) {
    let mut open: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for row in of(rows, CONNACK).filter(|row| *row.name.method == *BEGUN) {
        open.entry(&row.listener).or_default().0 += row.sums.latencies.count();
    }
    for row in of(rows, SESSION).filter(|row| *row.name.method == *ENDED) {
        open.entry(&row.listener).or_default().1 += row.sums.latencies.count();
    }
    sink.family(
        const {
            &Family::gauge(
                "finback_mqtt_sessions",
                "sessions",
                &["listener"],
                "Sessions that are open.",
            )
        },
    );
    for (listener, (begun, ended)) in open {
        sink.series(&[listener], MetricValue::Count(begun.saturating_sub(ended)));
    }
}

fn packets(rows: &[&Row], sink: &mut dyn MetricSink) {
    let own = || of(rows, SESSION).filter(|row| *row.name.method != *ENDED);
    outcomes(
        sink,
        const {
            &Family::counter(
                "finback_mqtt_packets_total",
                "packets",
                &["listener", "packet", "outcome"],
                "SUBSCRIBE, UNSUBSCRIBE and PINGREQ, by how they were answered.",
            )
        },
        own(),
        with_method,
    );
    each(
        sink,
        const {
            &Family::histogram(
                "finback_mqtt_packet_duration_seconds",
                "seconds",
                &["listener", "packet"],
                "From one of these packets to its answer.",
            )
        },
        own(),
        with_method,
        |sums| MetricValue::Latencies(&sums.latencies),
    );
}

fn messages(rows: &[&Row], sink: &mut dyn MetricSink) {
    let own = || {
        let is_message = |row: &&Row| !matches!(&*row.name.service, CONNECT | CONNACK | SESSION);
        rows.iter().copied().filter(is_message)
    };
    outcomes(
        sink,
        const {
            &Family::counter(
                "finback_mqtt_messages_total",
                "messages",
                &["listener", "topic", "kind", "qos", "outcome"],
                "Messages by the first level of their topic: published by clients, delivered to them, or left out where they were to be mirrored (mirror).",
            )
        },
        own(),
        message,
    );
    each(
        sink,
        const {
            &Family::histogram(
                "finback_mqtt_message_duration_seconds",
                "seconds",
                &["listener", "topic", "kind", "qos"],
                "From a message to its acknowledgement; those of quality 0 have none.",
            )
        },
        own().filter(|row| row.name.method.ends_with(['1', '2'])),
        message,
        |sums| MetricValue::Latencies(&sums.latencies),
    );
    each(
        sink,
        const {
            &Family::counter(
                "finback_mqtt_message_bytes_total",
                "bytes",
                &["listener", "topic", "kind", "qos"],
                "Bytes of messages.",
            )
        },
        own(),
        message,
        |sums| MetricValue::Count(sums.request_bytes),
    );
}

/// Listener, topic, kind and quality of service; a message's method is `publish.qos1`, say.
fn message(row: &Row) -> Labels<'_> {
    let method = &*row.name.method;
    let (kind, qos) = method.split_once(".qos").unwrap_or((method, ""));
    vec![&row.listener, &row.name.service, kind, qos]
}
