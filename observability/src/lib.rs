//! Turns records into metrics and traces, and shows them to those who look at single exchanges.

mod metrics;
mod prometheus;
pub mod trace;
mod watchers;

pub use metrics::{BOUNDS, Metrics, Totals};
pub use prometheus::Page;
pub use watchers::{Watched, Watcher, Watchers, Watching};
