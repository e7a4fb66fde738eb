//! Families of metrics that exchanges are counted in: calls, and the sessions and messages of protocols that have those.

mod mqtt;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use finback_core::metric::Family;

use crate::counts::{End, Sums};
use crate::lags;
use crate::metrics::{Fill, Row, StatusName};
use crate::sink::{MetricSink, MetricValue};

/// Puts all of them into a sink; a family without series as well, for that it is there is worth knowing.
pub(crate) fn collect(rows: &[Row], status_name: StatusName, sink: &mut dyn MetricSink) {
    calls(rows, status_name, sink);
    mqtt::collect(rows, sink);
    tcp(rows, sink);
}

/// How far behind groups of consumers are, by listener.
pub(crate) fn lags(listeners: &[(Arc<str>, lags::Sums)], sink: &mut dyn MetricSink) {
    sink.family(
        const {
            &Family::gauge(
                "finback_consumer_lag",
                "messages",
                &["listener", "service", "group"],
                "Messages of a topic that a group of consumers has not fetched yet, as answers to its fetches told \
                 in the last two minutes.",
            )
        },
    );
    for (listener, sums) in listeners {
        for ((service, group), messages) in sums {
            sink.series(&[listener, service, group], MetricValue::Count(*messages));
        }
    }
}

/// The values of labels.
type Labels<'a> = Vec<&'a str>;

/// One series for each outcome of each row.
fn outcomes<'a>(
    sink: &mut dyn MetricSink,
    family: &'static Family,
    rows: impl Iterator<Item = &'a Row>,
    labels: impl Fn(&'a Row) -> Labels<'a>,
) {
    sink.family(family);
    for row in rows {
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for ((ending, _), count) in &row.sums.ends {
            *sums.entry(ending.name()).or_default() += count;
        }
        for (outcome, count) in sums {
            let mut labels = labels(row);
            labels.push(outcome);
            sink.series(&labels, MetricValue::Count(count));
        }
    }
}

/// One series for each outcome and status of each row.
fn statuses<'a>(
    sink: &mut dyn MetricSink,
    family: &'static Family,
    rows: impl Iterator<Item = &'a Row>,
    labels: impl Fn(&'a Row) -> Labels<'a>,
    status_name: StatusName,
) {
    sink.family(family);
    for row in rows {
        let mut sums: BTreeMap<(&str, Cow<'static, str>), u64> = BTreeMap::new();
        for (end, count) in &row.sums.ends {
            let status = status(row.name.protocol, end, status_name);
            *sums.entry((end.0.name(), status)).or_default() += count;
        }
        for ((outcome, status), count) in sums {
            let mut labels = labels(row);
            labels.extend([outcome, &*status]);
            sink.series(&labels, MetricValue::Count(count));
        }
    }
}

/// A status as a label: "" if there is none.
fn status(protocol: &str, (_, status): &End, status_name: StatusName) -> Cow<'static, str> {
    if !status.is_some() {
        return Cow::Borrowed("");
    }
    status_name(protocol, *status).unwrap_or(Cow::Borrowed(OTHER))
}

/// The status of what no name is known of.
const OTHER: &str = "(other)";

/// One series for each row.
fn each<'a>(
    sink: &mut dyn MetricSink,
    family: &'static Family,
    rows: impl Iterator<Item = &'a Row>,
    labels: impl Fn(&'a Row) -> Labels<'a>,
    value: impl Fn(&'a Sums) -> MetricValue<'a>,
) {
    sink.family(family);
    for row in rows {
        sink.series(&labels(row), value(&row.sums));
    }
}

/// Bytes in both directions: what clients sent, and what they were sent.
fn bytes<'a>(
    sink: &mut dyn MetricSink,
    family: &'static Family,
    rows: impl Iterator<Item = &'a Row>,
    labels: impl Fn(&'a Row) -> Labels<'a>,
) {
    sink.family(family);
    for row in rows {
        for (direction, count) in [
            ("received", row.sums.request_bytes),
            ("sent", row.sums.response_bytes),
        ] {
            let mut labels = labels(row);
            labels.push(direction);
            sink.series(&labels, MetricValue::Count(count));
        }
    }
}

fn calls(rows: &[Row], status_name: StatusName, sink: &mut dyn MetricSink) {
    let own = || {
        let is_call = |row: &&Row| !matches!(row.name.protocol, mqtt::NAME | TCP);
        rows.iter().filter(is_call)
    };
    statuses(
        sink,
        const {
            &Family::counter(
                "finback_requests_total",
                "calls",
                &[
                    "protocol", "listener", "service", "method", "outcome", "status",
                ],
                "Calls by how they ended: the outcome, and the status in the protocol's own words.",
            )
        },
        own(),
        call_labels,
        status_name,
    );
    each(
        sink,
        const {
            &Family::histogram(
                "finback_request_duration_seconds",
                "seconds",
                &["protocol", "listener", "service", "method"],
                "From a request's arrival to its answer's departure.",
            )
        },
        own(),
        call_labels,
        |sums| MetricValue::Latencies(&sums.latencies),
    );
    each(
        sink,
        const {
            &Family::counter(
                "finback_request_bytes_total",
                "bytes",
                &["protocol", "listener", "service", "method"],
                "Bytes of requests.",
            )
        },
        own(),
        call_labels,
        |sums| MetricValue::Count(sums.request_bytes),
    );
    each(
        sink,
        const {
            &Family::counter(
                "finback_response_bytes_total",
                "bytes",
                &["protocol", "listener", "service", "method"],
                "Bytes of responses.",
            )
        },
        own(),
        call_labels,
        |sums| MetricValue::Count(sums.response_bytes),
    );
}

fn call_labels(row: &Row) -> Labels<'_> {
    let name = &row.name;
    vec![name.protocol, &row.listener, &name.service, &name.method]
}

/// A connection passed through is no call: nobody knows what is said on it.
const TCP: &str = "tcp";

fn tcp(rows: &[Row], sink: &mut dyn MetricSink) {
    let own = || rows.iter().filter(|row| row.name.protocol == TCP);
    fn labels(row: &Row) -> Labels<'_> {
        vec![&row.listener, &row.name.service]
    }
    outcomes(
        sink,
        const {
            &Family::counter(
                "finback_tcp_connections_total",
                "connections",
                &["listener", "service", "outcome"],
                "Connections passed through, by how they ended.",
            )
        },
        own(),
        labels,
    );
    each(
        sink,
        const {
            &Family::histogram(
                "finback_tcp_connection_duration_seconds",
                "seconds",
                &["listener", "service"],
                "For how long connections were passed through.",
            )
        },
        own(),
        labels,
        |sums| MetricValue::Latencies(&sums.latencies),
    );
    bytes(
        sink,
        const {
            &Family::counter(
                "finback_tcp_bytes_total",
                "bytes",
                &["listener", "service", "direction"],
                "Bytes passed through: received from clients, and sent to them.",
            )
        },
        own(),
        labels,
    );
}

/// What one of these families shows of a listener.
type FillOf = fn(&Fill) -> u64;

/// How full the series of exchanges are: what is beyond a bound is counted as `(other)`.
pub(crate) fn series(fill: &[Fill], sink: &mut dyn MetricSink) {
    let families: [(&'static Family, FillOf); 3] = [
        (
            const {
                &Family::gauge(
                    "finback_metric_series",
                    "series",
                    &["listener"],
                    "Series of exchanges that a listener has; it may have 4096.",
                )
            },
            |own| own.series as u64,
        ),
        (
            const {
                &Family::counter(
                    "finback_metric_series_refused_total",
                    "series",
                    &["listener"],
                    "Series that a listener had no room for: they are counted as service (other).",
                )
            },
            |own| own.refused.series,
        ),
        (
            const {
                &Family::counter(
                    "finback_metric_methods_refused_total",
                    "series",
                    &["listener"],
                    "Methods beyond the 256 of a service: they are counted as method (other).",
                )
            },
            |own| own.refused.methods,
        ),
    ];
    for (family, value) in families {
        sink.family(family);
        for own in fill {
            let listener: &Arc<str> = &own.listener;
            sink.series(&[listener], MetricValue::Count(value(own)));
        }
    }
}
