//! Kafka clusters of the configuration, as places where messages leave.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use finback_bridges::{Confirm, Failure, Message, Outlet};
use finback_kafka::Producer;

/// A Kafka cluster of the configuration, and its producer once that has been started.
pub struct KafkaOutlet {
    /// Its name.
    pub name: String,
    /// How it is spoken to.
    pub config: finback_kafka::Config,
    /// Bytes of the longest message.
    limit: usize,
    producer: OnceLock<Arc<Producer>>,
}

impl fmt::Debug for KafkaOutlet {
    /// Options may hold passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaOutlet")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl KafkaOutlet {
    /// One that has not been started.
    #[must_use]
    pub fn new(name: &str, config: finback_kafka::Config) -> Self {
        Self {
            name: name.to_owned(),
            limit: config.message_limit(),
            config,
            producer: OnceLock::new(),
        }
    }

    /// Starts its producer, or goes on with that of one that was configured in the same way.
    ///
    /// # Errors
    /// If no producer can be made of its configuration.
    pub fn start(&self, before: &[Arc<Self>]) -> anyhow::Result<()> {
        let same = before.iter().find(|own| own.is_same(self));
        let producer = match same.and_then(|own| own.producer.get().cloned()) {
            Some(producer) => producer,
            None => Producer::start(&self.name, self.config.clone()).map_err(anyhow::Error::msg)?,
        };
        let _ = self.producer.set(producer);
        Ok(())
    }

    /// Counts a copy that is left out.
    pub(crate) fn leave_out(&self) {
        if let Some(producer) = self.producer.get() {
            producer.counts.left_out.fetch_add(1, Relaxed);
        }
    }

    /// Whether another one was configured in the same way.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.name == other.name && self.config == other.config
    }

    /// Its producer, if it has been started.
    #[must_use]
    pub fn producer(&self) -> Option<&Arc<Producer>> {
        self.producer.get()
    }
}

impl Outlet for KafkaOutlet {
    fn system(&self) -> &'static str {
        "kafka"
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn limit(&self) -> usize {
        self.limit
    }

    fn send(&self, message: &Message<'_>, confirm: Option<Confirm>) -> Result<(), Failure> {
        let producer = self.producer.get().ok_or(Failure::Failed)?;
        producer.send(message, confirm)
    }
}

/// Writes what is still on its way; waits no longer than this for each. Blocks.
pub fn flush(outlets: &[Arc<KafkaOutlet>], limit: Duration) {
    for producer in outlets.iter().filter_map(|own| own.producer()) {
        producer.flush(limit);
    }
}
