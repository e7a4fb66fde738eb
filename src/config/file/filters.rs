//! Filters as they may be written.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{ClusterTls, Match, OneOrMany};
use crate::config::units::{FractionalPercent, Pause, Placed, Rate, Time};

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
    /// Who may call what, as another server says by Envoy's external authorization (gRPC, version 3).
    pub external_authorization: Option<ExternalAuthorization>,
    /// Who calls, by bearer tokens: JSON Web Tokens.
    pub jwt: Option<Placed<Jwt>>,
    /// How many calls there may be, as another server says by Envoy's rate limit service (gRPC, version 3).
    pub rate_limit_service: Option<RateLimitService>,
    /// How many calls there may be, as a token server of Sentinel says.
    pub sentinel: Option<Sentinel>,
    /// Which calls go to other versions of their services, from the first to the last.
    pub lane: Option<Placed<Lane>>,
    /// What only some callers may say, taken away from the calls of others.
    pub strip: Option<Placed<Strip>>,
}

/// What only some callers may say. At least one of `marks` and `attributes`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Strip {
    /// Marks of stress traffic: `sofa`, `takin`, `triple-pressure`. Default: none.
    #[serde(default)]
    pub marks: Vec<Placed<String>>,
    /// Headers, attachments, properties. Default: none.
    #[serde(default)]
    pub attributes: Vec<Placed<String>>,
    /// Callers that may say it: an address or range, or a list of them. Default: loopback.
    pub source: Option<Placed<OneOrMany>>,
}

/// Which calls go to other versions of their services, from the first to the last.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lane {
    /// Which calls are put into a lane where they come in; the first rule that is about a call, and whose share
    /// holds, decides. Default: none.
    #[serde(default)]
    pub rules: Vec<Placed<LaneRule>>,
    /// The header, attachment or property in which the lane travels. Default: x-lane.
    pub attribute: Option<Placed<String>>,
    /// The same in some protocols, by their names. Default: dubbo.tag in dubbo.
    #[serde(default)]
    pub attributes: BTreeMap<String, Placed<String>>,
    /// The label of endpoints that says in which lane they stand. Default: lane.
    pub label: Option<String>,
    /// Callers whose word is taken: an address or range, or a list of them. From others the attribute is taken away.
    /// Default: loopback.
    pub source: Option<Placed<OneOrMany>>,
    /// How long it is remembered which lane a trace is in; 0s for not at all. Default: 60s.
    pub remember: Option<Pause>,
    /// Where calls of a lane without endpoints go: `base`, to those in no lane, or `none`. Default: base.
    #[schemars(extend("enum" = ["base", "none"]))]
    pub fallback: Option<Placed<String>>,
}

/// Which calls are put into a lane.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LaneRule {
    /// The lane.
    pub lane: Placed<String>,
    /// The calls, as routes choose theirs. Default: all.
    #[serde(rename = "match")]
    pub when: Option<Match>,
    /// Their share in percent. Default: 100.
    pub percent: Option<FractionalPercent>,
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
    /// MQTT: what it is about in these sessions: `connect`, `publish`, `subscribe`. RocketMQ: `send`, `consume`.
    /// Default: all.
    pub actions: Option<Placed<Vec<String>>>,
    /// MQTT: filters of the topics that are published to, or subscribed to. RocketMQ: topics. Default: any.
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
    pub drop_response: Option<Placed<DropResponse>>,
    /// Callers that may ask for faults themselves.
    pub on_request: Option<OnRequest>,
}

/// Calls that begin later.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Delay {
    /// Their share in percent.
    pub percent: FractionalPercent,
    /// By how much.
    pub time: Time,
}

/// Calls that are answered with an error.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Refuse {
    /// Their share in percent.
    pub percent: FractionalPercent,
    /// The reason, as metrics call it: `overloaded`, `deadline_exceeded`, `connection_lost`, ...
    pub reason: Placed<String>,
}

/// Calls whose callers never hear of them.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DropResponse {
    /// Their share in percent.
    pub percent: FractionalPercent,
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

/// Who may call what, as another server says.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExternalAuthorization {
    /// The server, such as `http://127.0.0.1:9191`; by `https` it is spoken to with TLS.
    pub server: Placed<String>,
    /// With `https`: authorities and keys, read anew for each connection.
    pub tls: Option<Placed<ClusterTls>>,
    /// An answer may take so long. Default: 200ms.
    pub timeout: Option<Time>,
    /// Calls that may wait for an answer at a time; about more it is not asked. Default: 1000.
    pub in_flight: Option<Placed<usize>>,
    /// The headers, attachments or properties that it is told. Default: none.
    #[serde(default)]
    pub attributes: Vec<String>,
    /// What else it is told, as context extensions, beside the call's own names. Default: nothing.
    #[serde(default)]
    pub context: BTreeMap<String, Placed<String>>,
    /// Whether calls pass where it does not answer. Default: false.
    #[serde(default)]
    pub failure_mode_allow: bool,
    /// Whether nothing is refused and nothing changed, only counted. Default: false.
    #[serde(default)]
    pub dry_run: bool,
}

/// How many calls there may be, as another server says.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimitService {
    /// The server, such as `http://127.0.0.1:8081`; by `https` it is spoken to with TLS.
    pub server: Placed<String>,
    /// With `https`: authorities and keys, read anew for each connection.
    pub tls: Option<Placed<ClusterTls>>,
    /// An answer may take so long. Default: 20ms.
    pub timeout: Option<Time>,
    /// Calls that may wait for an answer at a time; about more it is not asked. Default: 1000.
    pub in_flight: Option<Placed<usize>>,
    /// The domain of the server's limits.
    pub domain: Placed<String>,
    /// What is counted: descriptors, each a list of entries.
    pub descriptors: Placed<Vec<Placed<Vec<Placed<DescriptorEntry>>>>>,
    /// Whether calls are refused where it does not answer. Default: false.
    #[serde(default)]
    pub failure_mode_deny: bool,
}

/// How many calls there may be, as a token server of Sentinel says.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sentinel {
    /// The token server: `HOST:PORT`.
    pub server: Placed<String>,
    /// For whom tokens are asked: a namespace that the server knows. Default: default.
    pub namespace: Option<Placed<String>>,
    /// The number of the rule there (`flowId`).
    pub flow_id: i64,
    /// Values of which each has a limit of its own there, by a rule for parameters: `listener`, `route`, `service`, `method`,
    /// `source`, `identity`, `{ attribute: NAME }`; up to three. Default: none.
    #[serde(default)]
    pub values: Vec<Placed<Per>>,
    /// Whether a call over the limit may take a token of the time to come, and waits for it. Default: false.
    #[serde(default)]
    pub prioritized: bool,
    /// An answer may take so long. Default: 20ms.
    pub timeout: Option<Time>,
    /// Calls that may wait for an answer at a time; about more it is not asked. Default: 1000.
    pub in_flight: Option<Placed<usize>>,
    /// Whether calls are refused where it does not answer, or has no such rule. Default: false.
    #[serde(default)]
    pub failure_mode_deny: bool,
}

/// One entry of a descriptor: exactly one of `value` and `of`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DescriptorEntry {
    /// Its key.
    pub key: Placed<String>,
    /// Its value, the same of all calls.
    pub value: Option<Placed<String>>,
    /// What of the call is its value: `listener`, `route`, `service`, `method`, `source`, `identity`, or
    /// `{ attribute: NAME }`.
    pub of: Option<Placed<Per>>,
}

/// Who calls, by bearer tokens: JSON Web Tokens.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Jwt {
    /// Who makes tokens; at least one.
    pub issuers: Vec<Placed<JwtIssuer>>,
    /// The headers, attachments or properties in which callers send one, alone or after `Bearer`; the first that is
    /// there counts. Default: authorization.
    #[serde(default)]
    pub attributes: Vec<String>,
    /// Clocks may be apart by so much. Default: 60s.
    pub clock_skew: Option<Pause>,
    /// Whether calls without a token pass, without claims. Default: false.
    #[serde(default)]
    pub optional: bool,
    /// Whether the token goes on to the endpoint. Default: true.
    pub forward: Option<bool>,
}

/// Who makes tokens. Exactly one of `key` and `jwks_url`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JwtIssuer {
    /// Its name, as the claim `iss` of its tokens.
    pub issuer: String,
    /// Whom its tokens are for: one of these has to stand in the claim `aud`.
    pub audiences: Vec<String>,
    /// A file of keys: a JSON Web Key Set, a public key as PEM, or a secret. It is read again when it changes.
    pub key: Option<Placed<String>>,
    /// Where its JSON Web Key Set is.
    pub jwks_url: Option<Placed<String>>,
    /// With `https`: authorities and keys, read anew for each connection.
    pub tls: Option<Placed<ClusterTls>>,
    /// The set is asked for so often. Default: 5m.
    pub refresh: Option<Time>,
}
