//! Filters as they may be written.

use std::num::NonZeroU64;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Match, OneOrMany};
use crate::config::units::{Pause, Placed, Rate, Share, Time};

/// A policy that decides about calls of every protocol alike, by the name that listeners and routes use. Exactly one
/// of the keys.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Who may call what.
    pub authorization: Option<Placed<Authorization>>,
    /// How many calls, or messages, there may be in a time.
    pub rate_limit: Option<Placed<RateLimit>>,
    /// What callers would see if something were broken.
    pub fault: Option<Placed<Fault>>,
}

/// Who may call what. A rule that denies wins over any that allows.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Authorization {
    /// What holds for calls that no rule is about: `allow` or `deny`. Default: deny.
    #[schemars(extend("enum" = ["allow", "deny"]))]
    pub default: Option<Placed<String>>,
    /// Whether nothing is refused, only counted. Default: false.
    #[serde(default)]
    pub dry_run: bool,
    /// The rules; their order does not matter.
    #[serde(default)]
    pub rules: Vec<Placed<AuthorizationRule>>,
}

/// One rule of an authorization.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthorizationRule {
    /// Its name in metrics and logs. Default: its number, from 0.
    pub name: Option<String>,
    /// `allow` or `deny`.
    #[schemars(extend("enum" = ["allow", "deny"]))]
    pub effect: Placed<String>,
    /// The calls, or sessions, that it is about, as routes choose theirs. Default: all.
    #[serde(rename = "match")]
    pub when: Option<Match>,
    /// MQTT: what it is about in these sessions: `connect`, `publish`, `subscribe`. Default: all.
    pub actions: Option<Placed<Vec<String>>>,
    /// MQTT: filters of the topics that are published to, or subscribed to. Default: any.
    pub topics: Option<Placed<Vec<String>>>,
    /// Whether it refuses nothing and is only counted. Default: false.
    #[serde(default)]
    pub dry_run: bool,
}

/// How many calls, or messages, there may be in a time.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// How many in which time: `100/s`, `6000/m`, `5/100ms`.
    pub rate: Rate,
    /// What is counted: `calls` (sessions of MQTT and connections of TCP when they begin), `messages` or
    /// `message_bytes` (MQTT: what clients publish). Default: calls.
    #[schemars(extend("enum" = ["calls", "messages", "message_bytes"]))]
    pub unit: Option<Placed<String>>,
    /// How many may come at once. Default: what comes in 100 ms, at least 1.
    pub burst: Option<NonZeroU64>,
    /// Whose share a bucket: `listener`, `route`, `service`, `method`, `source`, `identity`, `topic`, or
    /// `{ attribute: NAME }`; several together. Default: all that pass the filter.
    #[serde(default)]
    pub per: Vec<Placed<Per>>,
    /// How long what is over the limit waits for its turn before it is refused. Default: 0s, for messages 1m.
    pub wait: Option<Pause>,
}

/// Whose calls share a bucket.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub enum Per {
    /// A word.
    Word(String),
    /// The value of an attribute.
    Attribute(PerAttribute),
}

crate::config::forms::forms!(
    Per,
    "listener, route, service, method, source, identity, topic, or { attribute: NAME }",
    Word,
    map Attribute(PerAttribute)
);

/// The value of an attribute.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PerAttribute {
    /// Its name: a header, an attachment, a property.
    pub attribute: String,
}

/// What callers would see if something were broken. At least one of the keys.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Calls that begin later.
    pub delay: Option<Delay>,
    /// Calls that are answered with an error.
    pub refuse: Option<Placed<Refuse>>,
    /// Calls that are carried out, and whose callers never hear of it.
    pub drop_answer: Option<Placed<DropAnswer>>,
    /// Callers that may ask for faults themselves.
    pub on_request: Option<OnRequest>,
}

/// Calls that begin later.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Delay {
    /// Their share in percent.
    pub percent: Share,
    /// By how much.
    pub time: Time,
}

/// Calls that are answered with an error.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Refuse {
    /// Their share in percent.
    pub percent: Share,
    /// The reason, as metrics call it: `overloaded`, `deadline_exceeded`, `connection_lost`, ...
    pub reason: Placed<String>,
}

/// Calls whose callers never hear of them.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DropAnswer {
    /// Their share in percent.
    pub percent: Share,
}

/// Callers that may ask for faults themselves.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OnRequest {
    /// The header, attachment or property in which they do: `delay=200ms`, `refuse=REASON` or `drop`.
    pub attribute: String,
    /// Their addresses: an address or range, or a list of them. From others the attribute is taken away.
    pub source: Placed<OneOrMany>,
}
