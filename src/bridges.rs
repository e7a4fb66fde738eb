//! Bridges: what messages of one system become in another, and who takes them there.

pub mod kafka;
pub mod rocketmq;
pub mod sink;
pub mod taps;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use finback_bridges::Outlet;

use kafka::KafkaOutlet;
use rocketmq::RocketMqOutlet;

/// The cluster that messages of a route or subscription go to.
#[derive(Clone, Debug)]
pub enum BridgeOutlet {
    /// One of Kafka.
    Kafka(Arc<KafkaOutlet>),
    /// One of RocketMQ.
    RocketMq(Arc<RocketMqOutlet>),
}

impl BridgeOutlet {
    /// What takes the messages.
    #[must_use]
    pub fn get(&self) -> &dyn Outlet {
        match self {
            Self::Kafka(own) => &**own,
            Self::RocketMq(own) => &**own,
        }
    }

    /// Whether another one is of the same system and was configured in the same way.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Kafka(own), Self::Kafka(other)) => own.is_same(other),
            (Self::RocketMq(own), Self::RocketMq(other)) => own.is_same(other),
            (Self::Kafka(_), Self::RocketMq(_)) | (Self::RocketMq(_), Self::Kafka(_)) => false,
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn kafka(brokers: &str) -> BridgeOutlet {
        let config = finback_kafka::Config {
            brokers: brokers.to_owned(),
            tls: None,
            sasl: None,
            topics: 1,
            topic_idle: Duration::from_secs(1),
            options: Default::default(),
        };
        BridgeOutlet::Kafka(Arc::new(KafkaOutlet::new("one", config)))
    }

    fn rocketmq(server: &str) -> BridgeOutlet {
        let config = rocketmq::Config {
            names: vec![server.to_owned()],
            group: "g".to_owned(),
            tls: None,
            credentials: None,
            timeout: Duration::from_secs(1),
            longest: 1,
            topics: 1,
            topic_idle: Duration::from_secs(1),
        };
        BridgeOutlet::RocketMq(Arc::new(RocketMqOutlet::new("one", config)))
    }

    #[test]
    fn outlets_are_the_same_by_system_and_configuration() {
        let make: [fn(&str) -> BridgeOutlet; 2] = [kafka, rocketmq];
        for (own, of) in make.iter().enumerate() {
            assert!(of("a:1").is_same(&of("a:1")));
            assert!(!of("a:1").is_same(&of("b:1")));
            let others = make.iter().enumerate().filter(|(other, _)| *other != own);
            for (_, other) in others {
                assert!(!of("a:1").is_same(&other("a:1")), "of two systems");
            }
        }
    }
}
