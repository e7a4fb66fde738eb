//! Bridges: what messages of one system become in another, and who takes them there.

pub mod kafka;
pub mod rocketmq;
pub mod sink;
pub mod taps;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use kafka::KafkaOutlet;
use rocketmq::RocketMqOutlet;

/// Everywhere that messages leave.
#[derive(Clone, Debug, Default)]
pub struct Outlets {
    /// Kafka clusters.
    pub kafka: Vec<Arc<KafkaOutlet>>,
    /// RocketMQ clusters.
    pub rocketmq: Vec<Arc<RocketMqOutlet>>,
}

impl Outlets {
    /// Starts producers, or goes on with those of clusters that were configured in the same way before.
    ///
    /// # Errors
    /// If one cannot be started.
    pub fn start(&self, before: &Self) -> anyhow::Result<()> {
        for outlet in &self.kafka {
            let started = outlet.start(&before.kafka);
            started
                .with_context(|| format!("cannot speak to the Kafka cluster {}", outlet.name))?;
        }
        for outlet in &self.rocketmq {
            let started = outlet.start(&before.rocketmq);
            started
                .with_context(|| format!("cannot speak to the RocketMQ cluster {}", outlet.name))?;
        }
        Ok(())
    }

    /// Writes what is still on its way; waits no longer than this for each cluster. Blocks.
    pub fn flush(&self, limit: Duration) {
        kafka::flush(&self.kafka, limit);
        rocketmq::flush(&self.rocketmq, limit);
    }
}
