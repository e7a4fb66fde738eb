//! MQTT settings of a route as they may be written: its sessions, and their messages.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::Deserialize;

use super::ProduceKey;
use crate::config::forms::forms;
use crate::config::units::{Placed, Size, Time};

/// What is done with sessions of MQTT. In texts, `{client_id}`, `{username}`, `{identity}` and
/// `{common_name}` (of the client's certificate) stand for a session's own.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MqttPolicy {
    /// Who may do what; the first rule that fits decides, and what none fits is forbidden. Default:
    /// everything is allowed.
    #[serde(default)]
    pub acl: Vec<Placed<MqttRule>>,
    /// What stands before every topic at the broker. Default: nothing.
    pub mountpoint: Option<Placed<String>>,
    /// Beginnings of topics that are others at the broker. Default: none.
    #[serde(default)]
    pub rewrite: Vec<Placed<MqttRewrite>>,
    /// What becomes of a forbidden message that MQTT 3 has no answer for: `acknowledge` (it goes
    /// nowhere) or `close`. Default: acknowledge.
    pub denied: Option<Placed<String>>,
    /// The client identifier that the broker sees. Default: the client's own.
    pub client_id: Option<Placed<String>>,
    /// The user that the broker sees. Default: the client's own.
    pub username: Option<Placed<String>>,
    /// With `username`: a file with the password that the broker sees, relative to this one.
    /// Default: the client's own password, or none.
    pub password_file: Option<Placed<String>>,
    /// Whether the broker is told the client's address and identity, by version 2 of the PROXY
    /// protocol. Default: false.
    pub proxy_protocol: Option<Placed<bool>>,
    /// Messages per second of one client; one that says more is read more slowly. Default: any.
    pub messages_per_second: Option<NonZeroU32>,
    /// Bytes of messages per second of one client, likewise. Default: any.
    pub bytes_per_second: Option<Size>,
    /// Where clients of MQTT 5 are told to go when we go away. Default: they are not told.
    pub server_reference: Option<String>,
    /// Write messages to Kafka too. Default: nowhere.
    pub mirror: Option<Placed<MqttMirror>>,
    /// What a second session of one client identifier means: `broker` (the broker's affair),
    /// `take-over` (the former one is ended here) or `refuse`. Default: broker; with `produce`,
    /// take-over.
    pub duplicates: Option<Placed<String>>,
    /// With `produce`, where there is no broker to ask: how clients are authenticated, `none`,
    /// `certificate`, `{ users: FILE }` or `{ tokens: ... }`.
    pub authenticate: Option<Placed<MqttAuthenticate>>,
    /// With `produce`: how long a session of MQTT 3 is remembered while its client is away, unless it is
    /// clean. Default: 2h.
    pub session_expiry: Option<Placed<Time>>,
    /// With `produce`: what becomes of a message that Kafka will never take and that MQTT 3 has no
    /// answer for, `acknowledge` (it is logged and goes nowhere) or `close`. Default: acknowledge.
    pub refused: Option<Placed<String>>,
}

/// How clients are authenticated.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub enum MqttAuthenticate {
    /// `none` or `certificate`.
    Word(String),
    /// By what CONNECT says.
    By(MqttCredentials),
}

forms!(
    MqttAuthenticate,
    "none, certificate, { users: FILE } or { tokens: { key: FILE } }",
    Word,
    map By(MqttCredentials)
);

/// What CONNECT is to say. Exactly one of both.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MqttCredentials {
    /// A user and password of this file, which `mosquitto_passwd` writes; relative to this one, and read
    /// again when it changes.
    pub users: Option<Placed<String>>,
    /// A JSON Web Token as the password.
    pub tokens: Option<Placed<MqttTokens>>,
}

/// Which tokens are good.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MqttTokens {
    /// A file with what proves them, relative to this one and read again when it changes: a public key as
    /// PEM (RS256, ES256), a JSON Web Key Set, or a secret of 32 bytes or more (HS256).
    pub key: Placed<String>,
    /// Who they must be from (`iss`). Default: anybody with the key.
    pub issuer: Option<String>,
    /// Whom they must be for (`aud`). Default: tokens that are for somebody are refused.
    pub audience: Option<String>,
    /// What they must say, by claim; `{client_id}` and `{username}` stand for what CONNECT says.
    #[serde(default)]
    pub claims: BTreeMap<String, Placed<String>>,
}

/// Messages for Kafka besides their broker.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MqttMirror {
    /// The Kafka cluster's name.
    pub kafka: Placed<String>,
    /// The topic of Kafka. `{topic}` stands for the message's topic (HTTP: its path) with `.` for `/`,
    /// `{1}` to `{9}` for a level of it. What gives no name is refused.
    pub topic: Placed<String>,
    /// What decides about the partition: `client-id` (MQTT), `topic`, `none`, or
    /// `{ property: NAME }`: a user property or header. Default: client-id for MQTT, none for HTTP.
    pub key: Option<Placed<ProduceKey>>,
    /// Whether the broker's acknowledgement is held back until Kafka has the message too. Default:
    /// false; then what Kafka has no room for is left out there.
    #[serde(default)]
    pub wait: bool,
    /// Filters of the topics it is about. Default: all.
    #[serde(default)]
    pub topics: Vec<Placed<String>>,
}

/// A rule about topics. Exactly one of `allow` and `deny`: `publish`, `subscribe` or `all`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MqttRule {
    /// What it allows.
    pub allow: Option<String>,
    /// What it forbids.
    pub deny: Option<String>,
    /// Topic filters, as clients write them.
    pub topics: Placed<Vec<String>>,
}

/// A beginning of topics that is another at the broker.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MqttRewrite {
    /// As clients write it.
    pub from: String,
    /// As the broker has it.
    pub to: String,
}
