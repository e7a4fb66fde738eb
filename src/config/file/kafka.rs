//! Kafka and RocketMQ clusters, and what messages and requests become there.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{ClusterTls, Servers};
use crate::config::forms::forms;
use crate::config::units::{Placed, Size, Time};

/// A Kafka cluster that messages are written to.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    /// Its first brokers, `host:port`, or a list of them.
    pub brokers: Servers,
    /// Speak TLS; brokers' certificates are asked for their host. Default: no.
    pub tls: Option<Placed<KafkaTls>>,
    /// Log in. Default: as nobody.
    pub sasl: Option<Placed<KafkaSasl>>,
    /// Topics that messages may be written to at a time; those to others are refused. Default: 1000.
    pub topics: Option<NonZeroUsize>,
    /// A topic that nobody has written to for so long counts no more. Default: 10m.
    pub topic_idle: Option<Time>,
    /// Settings of librdkafka's that differ from ours, by their names there.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// TLS to a Kafka cluster.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaTls {
    /// Authorities that brokers' certificates must descend from, as PEM. Default: the public ones.
    pub ca: Option<String>,
    /// Our own certificate chain, as PEM, if brokers ask for one.
    pub certificate: Option<String>,
    /// Its key.
    pub key: Option<String>,
}

/// How to log in to a Kafka cluster: with a user and password, or with a token.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaSasl {
    /// `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512` or `OAUTHBEARER`.
    pub mechanism: Placed<String>,
    /// The user.
    pub username: Option<String>,
    /// A file with the user's password, relative to this one.
    pub password_file: Option<Placed<String>>,
    /// OAUTHBEARER: a file with the token, relative to this one; read again before the token ends.
    pub token_file: Option<String>,
}

/// A subscription of our own at a broker that speaks MQTT 5, whose messages go to Kafka.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MqttSubscription {
    /// The broker: `host:port`.
    pub broker: Placed<String>,
    /// The client identifier, by which the broker keeps the session for a week.
    pub client_id: Placed<String>,
    /// The user to log in as. Default: none.
    pub username: Option<String>,
    /// A file with the user's password, relative to this one.
    pub password_file: Option<Placed<String>>,
    /// Speak TLS. Default: no.
    pub tls: Option<Placed<ClusterTls>>,
    /// Topic filters; quality of service 1 is asked for.
    pub topics: Placed<Vec<String>>,
    /// Where the messages go.
    pub produce: Placed<Produce>,
}

/// A RocketMQ cluster that messages are sent to.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RocketMqCluster {
    /// Its name servers, `host:port`, or a list of them.
    pub name_servers: Placed<Servers>,
    /// TLS to its name servers and brokers. Default: none is spoken.
    pub tls: Option<Placed<ClusterTls>>,
    /// The group that messages are sent as. Default: finback.
    pub group: Option<Placed<String>>,
    /// The access key of an ACL, whose signature brokers ask for. Default: requests are not signed.
    pub access_key: Option<String>,
    /// A file with its secret key, relative to this one.
    pub secret_key_file: Option<Placed<String>>,
    /// How long a message may take until a broker has it, all attempts included. Default: 10s.
    pub timeout: Option<Time>,
    /// The longest message, its properties included; brokers take 4 MiB unless they are told otherwise. Default: 4MiB.
    pub longest_message: Option<Placed<Size>>,
    /// Topics that messages may be sent to at a time; those to others are refused. Default: 1000.
    pub topics: Option<NonZeroUsize>,
    /// A topic that nobody has sent to for so long counts no more. Default: 10m.
    pub topic_idle: Option<Time>,
}

/// A consumer group of our own at a RocketMQ cluster.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RocketMqGroup {
    /// The RocketMQ cluster's name.
    pub rocketmq: Placed<String>,
    /// The group's name, by which brokers keep where it is.
    pub group: Placed<String>,
    /// The topics that it consumes, 64 at most.
    pub topics: Placed<Vec<String>>,
    /// Where the messages go.
    pub mirror: Placed<RocketMqMirror>,
}

/// What a route does with the messages that clients of RocketMQ send.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RocketMqPolicy {
    /// Messages that a broker has taken are written to Kafka, too.
    pub mirror: Placed<RocketMqMirror>,
}

/// Messages of RocketMQ for Kafka besides their broker.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RocketMqMirror {
    /// The Kafka cluster's name.
    pub kafka: Placed<String>,
    /// The topic of Kafka; `{topic}` stands for the message's own.
    pub topic: Placed<String>,
    /// What decides about the partition: `keys`, `queue`, `none`, or `{ property: NAME }`. Default: keys.
    pub key: Option<Placed<ProduceKey>>,
}

/// Messages for Kafka or RocketMQ: of MQTT, whose sessions end here then, or bodies of HTTP's POST.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Produce {
    /// The Kafka cluster's name; or else:
    pub kafka: Option<Placed<String>>,
    /// The RocketMQ cluster's name.
    pub rocketmq: Option<Placed<String>>,
    /// The topic there. `{topic}` stands for the message's topic (HTTP: its path) with `.` for `/` (RocketMQ: `_`),
    /// `{1}` to `{9}` for a level of it. What gives no name is refused.
    pub topic: Placed<String>,
    /// What decides about the partition or queue: `client-id` (MQTT), `topic`, `none`, or
    /// `{ property: NAME }`: a user property or header. Default: client-id for MQTT, none for HTTP.
    pub key: Option<Placed<ProduceKey>>,
    /// RocketMQ: the message's tag: a text, or `{ property: NAME }`. Default: none.
    pub tag: Option<Placed<ProduceTag>>,
    /// HTTP: headers that go along, besides those of traces and the content's type. Default: none.
    #[serde(default)]
    pub headers: Vec<Placed<String>>,
}

/// A message's tag.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub enum ProduceTag {
    /// This one.
    Word(String),
    /// A user property or header.
    Property(KeyProperty),
}

forms!(
    ProduceTag,
    "a tag, or { property: NAME }",
    Word,
    map Property(KeyProperty)
);

/// What decides about a message's partition.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub enum ProduceKey {
    /// `client-id`, `topic` or `none`.
    Word(String),
    /// A user property or header.
    Property(KeyProperty),
}

forms!(
    ProduceKey,
    "client-id, topic, none or { property: NAME }",
    Word,
    map Property(KeyProperty)
);

/// A user property or header as the key.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyProperty {
    /// Its name.
    pub property: String,
}
