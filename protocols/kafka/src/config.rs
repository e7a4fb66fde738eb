//! A producer's configuration, and what it takes unless it is told otherwise.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;

use crate::security::{self, Sasl, Tls};

/// What a producer is set to unless its options say otherwise.
const DEFAULTS: &[(&str, &str)] = &[
    // No message twice for a retry of ours, and none before another.
    ("enable.idempotence", "true"),
    ("linger.ms", "2"),
    ("compression.type", "lz4"),
    // A broker has started again by then, and what was on its way is written once.
    ("message.timeout.ms", "120000"),
    ("queue.buffering.max.messages", "100000"),
    ("queue.buffering.max.kbytes", "65536"),
    ("client.id", "finback"),
];

/// What librdkafka takes of a message unless `message.max.bytes` says otherwise.
const MESSAGE_LIMIT: usize = 1_000_000;

/// Where a Kafka cluster is, and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its first brokers: `host:port,host:port`.
    pub brokers: String,
    /// Speak TLS.
    pub tls: Option<Tls>,
    /// Log in.
    pub sasl: Option<Sasl>,
    /// Names of topics in use at a time.
    pub topics: usize,
    /// A name that nobody has written to for so long is in use no more.
    pub topic_idle: Duration,
    /// Settings of librdkafka's that differ from ours, by their names there.
    pub options: BTreeMap<String, String>,
}

impl Config {
    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (name, value) in DEFAULTS {
            config.set(*name, *value);
        }
        for (name, value) in &self.options {
            config.set(name, value);
        }
        security::apply(&mut config, self.tls.as_ref(), self.sasl.as_ref());
        config.set("bootstrap.servers", &self.brokers);
        config.set_log_level(RDKafkaLogLevel::Warning);
        config
    }

    /// Bytes of the longest message, with its key and headers.
    #[must_use]
    pub fn message_limit(&self) -> usize {
        let known = self.client().create_native_config();
        let limit = known.and_then(|known| known.get("message.max.bytes"));
        limit.map_or(MESSAGE_LIMIT, |limit| {
            limit.parse().unwrap_or(MESSAGE_LIMIT)
        })
    }

    /// Whether a producer can be made of it.
    ///
    /// # Errors
    /// Which setting is wrong.
    pub fn check(&self) -> Result<(), String> {
        let ours = |name: &str, typed: bool| {
            name == "bootstrap.servers"
                || name == "metadata.broker.list"
                || typed && security::TYPED.contains(&name)
        };
        let typed = self.tls.is_some() || self.sasl.is_some();
        if let Some(name) = self.options.keys().find(|name| ours(name, typed)) {
            return Err(format!(
                "`{name}` is said by a key of its own: `brokers`, `tls` or `sasl`"
            ));
        }
        match self.client().create_native_config() {
            Ok(_) => Ok(()),
            Err(KafkaError::ClientConfig(_, why, name, value)) => {
                let secret = ["password", "secret", "pem", "jaas"];
                match secret.iter().any(|part| name.contains(part)) {
                    true => Err(format!("`{name}`: its value is not taken")),
                    false => Err(format!("`{name}: {value}`: {why}")),
                }
            }
            Err(error) => Err(error.to_string()),
        }
    }
}
