//! Services that are called: totals by service and method, of which two tell rates and quantiles.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use finback_observability::BOUNDS;
use serde_json::{Map, Value, json};

use crate::running::Running;

/// Series that are shown, those with the most calls.
const MOST: usize = 2000;

pub(super) fn totals(running: &Running) -> Value {
    let seconds = |moment: SystemTime| {
        let since = moment.duration_since(UNIX_EPOCH);
        since.unwrap_or_default().as_secs_f64()
    };
    let mut all = running.metrics.totals();
    // A worker that has met a name, but ended no call of it yet.
    all.retain(|own| !own.outcomes.is_empty());
    let calls = |buckets: &[u64]| buckets.iter().sum::<u64>();
    all.sort_by_key(|own| std::cmp::Reverse(calls(&own.buckets)));
    all.truncate(MOST);
    let series = all.iter().map(|own| {
        let mut outcomes = BTreeMap::<_, u64>::new();
        for (name, count) in &own.outcomes {
            *outcomes.entry(*name).or_default() += count;
        }
        let outcomes = outcomes
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count.into()));
        json!({
            "listener": &*own.listener,
            "protocol": own.protocol,
            "service": &*own.service,
            "method": &*own.method,
            "outcomes": outcomes.collect::<Map<_, _>>(),
            "buckets": own.buckets,
        })
    });
    json!({
        "at": seconds(SystemTime::now()),
        "started_at": seconds(running.started),
        "bounds_ms": BOUNDS.map(|micros| micros as f64 / 1000.0),
        "series": series.collect::<Vec<_>>(),
    })
}
