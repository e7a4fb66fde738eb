//! Turns records into metrics.

mod metrics;
mod prometheus;

pub use metrics::Metrics;
pub use prometheus::Page;
