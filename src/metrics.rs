//! Metrics: every number of the process, collected by one walk that Prometheus's page and StatsD share.

mod clusters;
mod filters;
mod groups;
mod process;
mod registries;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use finback_core::driver::WorkerStatus;
use finback_core::metric::Family;
use finback_kafka::Counts;
use finback_observability::{MetricSink, MetricValue, Page};

use crate::access_log::AccessLogStatus;
use crate::bridges::kafka::KafkaOutlet;
use crate::bridges::rocketmq::{self, RocketMqOutlet};
use crate::log;
use crate::rocketmq::LANE_COUNTS;
use crate::running::Running;

/// A family, and what it shows of a `T`.
type Shown<T, V> = (&'static Family, fn(&T) -> V);
/// One of the counts of a Kafka cluster.
type CountOf = fn(&Counts) -> &AtomicU64;

/// A name that callers or registries chose is cut to this many bytes.
const MAX_LABEL: usize = 256;

static BUILD: Family = Family::gauge(
    "finback_build_info",
    "1",
    &["version", "commit"],
    "Always 1; the labels say what runs.",
);
static RELOADS: Family = Family::counter(
    "finback_reloads_total",
    "reloads",
    &[],
    "Configurations put in force after the first.",
);
static REFUSED: Family = Family::counter(
    "finback_reloads_refused_total",
    "reloads",
    &[],
    "Configurations refused.",
);
static RELOADED_AT: Family = Family::gauge(
    "finback_reload_last_seconds",
    "seconds",
    &[],
    "When a configuration was put in force last, in seconds since 1970.",
);
static REFUSED_AT: Family = Family::gauge(
    "finback_reload_refused_last_seconds",
    "seconds",
    &[],
    "When a configuration was refused last, in seconds since 1970; 0 if none was.",
);
static LINES_DROPPED: Family = Family::counter(
    "finback_log_lines_dropped_total",
    "lines",
    &[],
    "Lines of the log that were dropped: whoever reads it did not keep up.",
);
static STATSD_PACKETS: Family = Family::counter(
    "finback_statsd_packets_total",
    "packets",
    &[],
    "Packets sent to the StatsD server.",
);
static STATSD_FAILED: Family = Family::counter(
    "finback_statsd_packets_failed_total",
    "packets",
    &[],
    "Packets for the StatsD server that were not taken; counters in them go with later ones.",
);
static LONGEST_TURN: Family = Family::gauge(
    "finback_control_longest_turn_seconds",
    "seconds",
    &["thread"],
    "For how long at most somebody held a thread of the control side in the last one to two minutes, by looks at it ten \
     times a second.",
);
static CONTROL_STALLS: Family = Family::counter(
    "finback_control_stalls_total",
    "stalls",
    &["thread"],
    "Times that somebody held a thread of the control side for more than 50 ms.",
);

const WORKER: &[&str] = &["worker"];
static WORKER_CONNECTIONS: Family = Family::gauge(
    "finback_worker_connections",
    "connections",
    WORKER,
    "Client connections of each worker.",
);
static WORKER_BUSY: Family = Family::counter(
    "finback_worker_busy_seconds_total",
    "seconds",
    WORKER,
    "Time in which a worker had something to do; its rate is the busy share.",
);
static WORKER_QUEUED: Family = Family::gauge(
    "finback_worker_queued_bytes",
    "bytes",
    WORKER,
    "Bytes that wait to be written to clients and endpoints of framed protocols.",
);

/// All metrics in Prometheus's text format.
#[must_use]
pub fn page(running: &Running) -> String {
    let mut page = Page::default();
    collect(running, &mut page);
    page.into_text()
}

/// Puts every number into a sink.
pub fn collect(running: &Running, sink: &mut dyn MetricSink) {
    running.metrics.collect(sink);
    for (family, value) in running.mesh.stats.rows() {
        sink.single(family, read(value));
    }
    clusters::collect(&running.mesh.status(), sink);
    filters::collect(&running.mesh.filter_decisions(), sink);
    registries::collect(
        &running.registries.status(),
        &running.registries.registrations(),
        sink,
    );
    let outlets = running.outlets();
    kafka(&outlets.kafka, sink);
    rocketmq(&outlets.rocketmq, sink);
    groups::collect(&running.groups(), sink);
    running.certificates.collect(sink);
    workers(&running.workers.status(), sink);
    access_logs(&running.access_logs.status(), sink);
    running.tracer.collect(sink);
    control(running, sink);
    process::collect(sink);
    sink.family(&BUILD);
    let commit = option_env!("FINBACK_COMMIT").unwrap_or_default();
    let labels = [env!("CARGO_PKG_VERSION"), commit];
    sink.series(&labels, MetricValue::Count(1));
}

fn read(value: &AtomicU64) -> MetricValue<'static> {
    MetricValue::Count(value.load(Relaxed))
}

/// The side that keeps the workers supplied, and what leaves the process besides calls.
fn control(running: &Running, sink: &mut dyn MetricSink) {
    let reloads = &running.reloads;
    sink.single(&RELOADS, read(&reloads.accepted));
    sink.single(&REFUSED, read(&reloads.refused));
    sink.single(&RELOADED_AT, read(&reloads.accepted_at));
    sink.single(&REFUSED_AT, read(&reloads.refused_at));
    sink.single(&LINES_DROPPED, MetricValue::Count(log::dropped()));
    let packets = running.statsd.packets();
    sink.single(&STATSD_PACKETS, read(&packets.sent));
    sink.single(&STATSD_FAILED, read(&packets.failed));
    sink.family(&LONGEST_TURN);
    for (thread, turns) in &running.turns {
        let longest = turns.longest().as_secs_f64();
        sink.series(&[thread], MetricValue::Number(longest));
    }
    sink.family(&CONTROL_STALLS);
    for (thread, turns) in &running.turns {
        sink.series(&[thread], MetricValue::Count(turns.stalls()));
    }
}

static LOG_LINES: Family = Family::counter(
    "finback_access_log_lines_total",
    "lines",
    &["path"],
    "Lines written to an access log.",
);
static LOG_DROPPED: Family = Family::counter(
    "finback_access_log_lines_dropped_total",
    "lines",
    &["path"],
    "Lines of an access log that were dropped: nobody took them, or they could not be written.",
);

fn access_logs(logs: &[AccessLogStatus], sink: &mut dyn MetricSink) {
    let families: [Shown<AccessLogStatus, u64>; 2] = [
        (&LOG_LINES, |log| log.written),
        (&LOG_DROPPED, |log| log.dropped),
    ];
    for (family, value) in families {
        sink.family(family);
        for log in logs {
            sink.series(&[&log.target], MetricValue::Count(value(log)));
        }
    }
}

fn workers(workers: &[WorkerStatus], sink: &mut dyn MetricSink) {
    let families: [Shown<WorkerStatus, MetricValue<'static>>; 3] = [
        (&WORKER_CONNECTIONS, |own| {
            MetricValue::Count(own.connections as u64)
        }),
        (&WORKER_BUSY, |own| {
            MetricValue::Number(own.busy.as_secs_f64())
        }),
        (&WORKER_QUEUED, |own| MetricValue::Count(own.queued as u64)),
    ];
    for (family, value) in families {
        sink.family(family);
        for (index, worker) in workers.iter().enumerate() {
            sink.series(&[&index.to_string()], value(worker));
        }
    }
}

static KAFKA_MESSAGES: Family = Family::counter(
    "finback_kafka_messages_total",
    "messages",
    &["kafka", "outcome"],
    "Messages for Kafka, by what became of them.",
);
static KAFKA_FULL: Family = Family::counter(
    "finback_kafka_full_total",
    "messages",
    &["kafka"],
    "Messages that waited because a producer had no room.",
);
static KAFKA_REBUILT: Family = Family::counter(
    "finback_kafka_rebuilt_total",
    "producers",
    &["kafka"],
    "Producers that were given up after an error that nothing can mend.",
);

fn kafka(outlets: &[Arc<KafkaOutlet>], sink: &mut dyn MetricSink) {
    let of =
        |outlet: &Arc<KafkaOutlet>| Some((outlet.name.clone(), outlet.producer()?.counts.clone()));
    let all: Vec<(String, Arc<Counts>)> = outlets.iter().filter_map(of).collect();
    sink.family(&KAFKA_MESSAGES);
    for (kafka, counts) in &all {
        for (outcome, value) in [
            ("taken", &counts.taken),
            ("confirmed", &counts.confirmed),
            ("failed", &counts.failed),
            ("left_out", &counts.left_out),
        ] {
            sink.series(&[kafka, outcome], read(value));
        }
    }
    let families: [(&'static Family, CountOf); 2] = [
        (&KAFKA_FULL, |counts| &counts.full),
        (&KAFKA_REBUILT, |counts| &counts.rebuilt),
    ];
    for (family, value) in families {
        sink.family(family);
        for (kafka, counts) in &all {
            sink.series(&[kafka], read(value(counts)));
        }
    }
}

static ROCKETMQ_MESSAGES: Family = Family::counter(
    "finback_rocketmq_messages_total",
    "messages",
    &["rocketmq", "outcome"],
    "Messages for RocketMQ, by what became of them.",
);
static ROCKETMQ_FULL: Family = Family::counter(
    "finback_rocketmq_full_total",
    "messages",
    &["rocketmq"],
    "Messages for RocketMQ that a producer had no room for.",
);

static LANE_MESSAGES: Family = Family::counter(
    "finback_lane_messages_total",
    "messages",
    &["outcome"],
    "Messages of RocketMQ that lanes without consumers had left: `handed_back` to the base, `refused` by a broker and tried \
     again, `left_out` after it had refused them often enough.",
);

fn rocketmq(outlets: &[Arc<RocketMqOutlet>], sink: &mut dyn MetricSink) {
    let of = |outlet: &Arc<RocketMqOutlet>| {
        Some((outlet.name.clone(), outlet.producer()?.counts.clone()))
    };
    let all: Vec<(String, Arc<rocketmq::Counts>)> = outlets.iter().filter_map(of).collect();
    sink.family(&ROCKETMQ_MESSAGES);
    for (name, counts) in &all {
        for (outcome, value) in [
            ("taken", &counts.taken),
            ("confirmed", &counts.confirmed),
            ("failed", &counts.failed),
            ("left_out", &counts.left_out),
        ] {
            sink.series(&[name, outcome], read(value));
        }
    }
    sink.family(&ROCKETMQ_FULL);
    for (name, counts) in &all {
        sink.series(&[name], read(&counts.full));
    }
    sink.family(&LANE_MESSAGES);
    for (outcome, value) in [
        ("handed_back", &LANE_COUNTS.handed_back),
        ("refused", &LANE_COUNTS.refused),
        ("left_out", &LANE_COUNTS.left_out),
    ] {
        sink.series(&[outcome], read(value));
    }
}
