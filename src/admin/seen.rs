//! An ended exchange, as tap and lists show it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use finback_core::frame::Outcome;
use finback_core::record::{Ending, Record, SeriesKey};
use finback_core::text;
use serde_json::{Value, json};

use crate::protocols;

/// Names are cut to this many bytes: callers choose them.
const MAX_TEXT: usize = 256;

/// Milliseconds, to a thousandth.
pub(super) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// Whether whoever called did not get what was asked for. An exception of the application is an error
/// to its caller, too.
pub(super) fn is_error(ending: Ending) -> bool {
    !matches!(ending, Ending::Answered(Outcome::Success) | Ending::Sent)
}

/// One exchange as a value.
pub(super) fn shown(key: &SeriesKey, record: &Record<'_>) -> Value {
    let cut = |own: &str| text::cut(own, MAX_TEXT).to_owned();
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    json!({
        "time": now.unwrap_or_default().as_secs_f64(),
        "protocol": key.protocol,
        "listener": &*key.listener,
        "service": cut(&key.service),
        "method": cut(&key.method),
        "version": cut(record.about.version()),
        "group": cut(record.about.group()),
        "outcome": record.ending.name(),
        "status": protocols::status_name(key.protocol, record.status),
        "took_ms": millis(record.took()),
        "attempts": record.attempts,
        "route": record.about.route(),
        "filter": record.about.filter(),
        "lane": record.about.lane(),
        "cluster": cut(record.about.cluster()),
        "endpoint": record.about.endpoint().map(|own| own.to_string()),
        "source": record.about.source().to_string(),
        "request_bytes": record.request_bytes,
        "response_bytes": record.response_bytes,
        "trace_id": record.trace.is_some().then(|| record.trace.to_string()),
    })
}
