//! Turns records into metrics, and shows them to those who look at single exchanges.

mod metrics;
mod prometheus;
mod watchers;

pub use metrics::{BOUNDS, Metrics, Totals};
pub use prometheus::Page;
pub use watchers::{Watched, Watcher, Watchers, Watching};
