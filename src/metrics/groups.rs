//! Consumer groups of our own, topic by topic.

use std::sync::atomic::AtomicU64;

use finback_core::metric::Family;
use finback_observability::{MetricSink, MetricValue};

use super::read;
use crate::groups::{GroupCounts, GroupStatus};

static MESSAGES: Family = Family::counter(
    "finback_group_messages_total",
    "messages",
    &["rocketmq", "group", "topic", "outcome"],
    "Messages of consumer groups of Finback's own: `taken` from brokers, `delivered` to Kafka, `failed` and tried again, \
     `left_out` because Kafka will never take them.",
);
static LAG: Family = Family::gauge(
    "finback_group_lag",
    "messages",
    &["rocketmq", "group", "topic"],
    "Messages that a consumer group of Finback's own has still before it, in the queues that this process has.",
);

/// What became of a topic's messages.
fn outcomes(counts: &GroupCounts) -> [(&'static str, &AtomicU64); 4] {
    [
        ("taken", &counts.taken),
        ("delivered", &counts.delivered),
        ("failed", &counts.failed),
        ("left_out", &counts.left_out),
    ]
}

pub(super) fn collect(all: &[GroupStatus], sink: &mut dyn MetricSink) {
    let topics = || {
        all.iter().flat_map(|own| {
            let topics = own.topics.iter();
            topics.map(|(topic, counts)| ([&*own.cluster, &*own.group, &**topic], counts))
        })
    };
    sink.family(&MESSAGES);
    for ([cluster, group, topic], counts) in topics() {
        for (outcome, value) in outcomes(counts) {
            sink.series(&[cluster, group, topic, outcome], read(value));
        }
    }
    sink.family(&LAG);
    for (labels, counts) in topics() {
        if let Some(lag) = counts.lag() {
            sink.series(&labels, MetricValue::Count(lag));
        }
    }
}
