//! Turns records into metrics, for Prometheus and StatsD, and into traces, and shows them to those who look at
//! single exchanges.

mod counts;
mod families;
mod lags;
mod metrics;
mod prometheus;
mod sink;
pub mod statsd;
pub mod trace;
mod watchers;

pub use metrics::{Metrics, StatusName, Totals};
pub use prometheus::Page;
pub use sink::{BOUNDS, Latencies, MetricSink, MetricValue};
pub use watchers::{NO_SUCCESS, Watched, Watcher, Watchers, Watching};
