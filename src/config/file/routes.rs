//! Route tables: which calls, where to, and how often.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Headers, MqttPolicy, Produce, Redirect, Respond, Rewrite, RocketMqPolicy, RouteTracing,
};
use crate::config::forms::forms;
use crate::config::units::{FractionalPercent, Placed, Time};

/// One rule of a route table; the first that matches wins.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Its name in logs. Default: table and number.
    pub name: Option<String>,
    /// Which calls it is for. Default: all.
    #[serde(rename = "match")]
    pub when: Option<Match>,
    /// Where they go; not beside `respond`, `redirect` or `produce`.
    pub to: Option<Placed<To>>,
    /// MQTT, HTTP: write them to Kafka or RocketMQ. `match` says which of the two it is for.
    pub produce: Option<Placed<Produce>>,
    /// HTTP: answer here.
    pub respond: Option<Placed<Respond>>,
    /// HTTP: have the client ask elsewhere.
    pub redirect: Option<Placed<Redirect>>,
    /// HTTP: ask the endpoint for another host or path.
    pub rewrite: Option<Placed<Rewrite>>,
    /// HTTP: change the request's headers.
    pub request_headers: Option<Headers>,
    /// HTTP: change the response's headers.
    pub response_headers: Option<Headers>,
    /// MQTT: who may publish and hear what, under which names, how much.
    pub mqtt: Option<Placed<MqttPolicy>>,
    /// RocketMQ: write messages to Kafka, too.
    pub rocketmq: Option<Placed<RocketMqPolicy>>,
    /// Copies of its calls that go to another cluster, and whose answers nobody hears. Default: none.
    pub shadow: Option<Placed<Shadow>>,
    /// The filters that its calls pass, after those of their listener, in this order. Default: none.
    #[serde(default)]
    pub filters: Vec<Placed<String>>,
    /// The longest that a call may take; a caller's own shorter limit holds.
    pub timeout: Option<Placed<Time>>,
    /// When a call is tried again.
    pub retry: Option<Placed<Retry>>,
    /// Which calls are shed first by a cluster's `adaptive_concurrency`: `sheddable` first, `critical` last.
    /// Default: default.
    #[schemars(extend("enum" = ["critical", "default", "sheddable"]))]
    pub priority: Option<Placed<String>>,
    /// Its calls wait for something to happen: `adaptive_concurrency` leaves them out. Default: false.
    pub long_poll: Option<Placed<bool>>,
    /// Which of its calls are traced. Default: as all calls are.
    pub tracing: Option<Placed<RouteTracing>>,
}

/// Copies of calls that go to another cluster, and whose answers nobody hears.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shadow {
    /// The cluster; none that the route itself leads to.
    pub cluster: Option<Placed<String>>,
    /// RocketMQ: in place of `cluster`, the RocketMQ cluster that copies of messages are sent to.
    pub rocketmq: Option<Placed<String>>,
    /// RocketMQ: the topic there, with `{topic}` for the message's own. Default: the same.
    pub topic: Option<Placed<String>>,
    /// The share of the calls that is copied, in percent. Default: 100.
    pub percent: Option<FractionalPercent>,
    /// What tells copies from other calls: `sofa`, `takin`, `triple-pressure`, or attributes by name. Default:
    /// nothing.
    pub mark: Option<Placed<ShadowMark>>,
    /// The longest that a copy may take. Default: as long as its call.
    pub timeout: Option<Time>,
}

/// What tells copies from other calls.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub enum ShadowMark {
    /// As a framework does.
    Word(String),
    /// Attributes by name.
    Attributes(BTreeMap<String, String>),
}

forms!(
    ShadowMark,
    "sofa, takin, triple-pressure, or { NAME: VALUE }",
    Word,
    map Attributes(BTreeMap<String, String>)
);

/// Conditions; all must hold.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// On the protocol's name.
    pub protocol: Option<Placed<Text>>,
    /// On the service, without version and group.
    pub service: Option<Placed<Text>>,
    /// On the method.
    pub method: Option<Placed<Text>>,
    /// On the service's version.
    pub version: Option<Placed<Text>>,
    /// On the service's group (SOFA: unique id).
    pub group: Option<Placed<Text>>,
    /// On headers or attachments by name; one that the call lacks fails.
    #[serde(default)]
    pub attributes: BTreeMap<String, Placed<Text>>,
    /// TLS: on the name that the client asked for.
    pub sni: Option<Placed<Text>>,
    /// TLS: on a name in the client's certificate: its SPIFFE ID (`spiffe://...`), one of its DNS
    /// names, or, where it has neither, its common name after `cn:`. How the text begins tells which
    /// kind of name it is for; it is compared with no other.
    pub identity: Option<Placed<Text>>,
    /// MQTT: on the client identifier.
    pub client_id: Option<Placed<Text>>,
    /// MQTT: on the user name.
    pub username: Option<Placed<Text>>,
    /// MQTT: on the topic of the will.
    pub will_topic: Option<Placed<Text>>,
    /// HTTP: on the host that was asked for, with its port where one was given.
    pub host: Option<Placed<Text>>,
    /// HTTP: on the path, without the query.
    pub path: Option<Placed<Text>>,
    /// HTTP: on parameters of the query by name, without escapes.
    #[serde(default)]
    pub query: BTreeMap<String, Placed<Text>>,
    /// HTTP: on the request's method.
    pub http_method: Option<Placed<Text>>,
    /// On the caller's address: an address or range, or a list of them.
    pub source: Option<Placed<OneOrMany>>,
}

/// A text as it is, or a rule for texts.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub enum Text {
    /// Exactly this text.
    Exact(String),
    /// Texts that fit a rule.
    Rule(TextRule),
}

forms!(
    Text,
    "a text (in quotes if it looks like a number), { prefix: TEXT } or { regex: TEXT }",
    Exact,
    map Rule(TextRule)
);

/// A rule for texts. Exactly one of the keys.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TextRule {
    /// Texts that begin so.
    pub prefix: Option<String>,
    /// Texts that match this regular expression as a whole.
    pub regex: Option<String>,
}

/// One text or several.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

forms!(
    OneOrMany,
    "an address range such as 10.0.0.0/8, or a list of them",
    One,
    list Many(Vec<String>)
);

/// Where a route leads.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
#[expect(
    clippy::large_enum_variant,
    reason = "there are few, and they are gone once the file is read"
)]
pub enum To {
    /// `registry`: the only registry there is.
    Word(String),
    /// A registry or a cluster.
    One(Target),
    /// Several clusters by weight.
    Several(Vec<Placed<Target>>),
}

forms!(
    To,
    "registry, { registry: NAME }, { cluster: NAME } or a list of clusters",
    Word,
    map One(Target),
    list Several(Vec<Placed<Target>>)
);

/// Where calls go: `registry` (and `layout`), or `cluster` (and the other keys).
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The registry in which to look up the call's own service, or several.
    pub registry: Option<Placed<RegistryNames>>,
    /// `dubbo`, `sofa`, `spring`, `grpc`, `native`, ... Default: the protocol's own.
    pub layout: Option<Placed<String>>,
    /// The cluster's name.
    pub cluster: Option<Placed<String>>,
    /// Its share; 0 gets nothing. Default: 1.
    pub weight: Option<u32>,
    /// Labels that its endpoints must have.
    pub subset: Option<BTreeMap<String, String>>,
    /// What is done if none has them: `none` (reject), `any`, or other labels. Default: none.
    pub fallback: Option<Placed<Fallback>>,
    /// Whether the others take its share while it has no endpoints. Default: true.
    pub spill: Option<Placed<bool>>,
}

/// One registry, or several that are asked together.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub enum RegistryNames {
    /// This one.
    One(String),
    /// Of several, the first that has endpoints of the service.
    InOrder(InOrder),
    /// The endpoints of all.
    Union(Vec<Placed<String>>),
}

forms!(
    RegistryNames,
    "the name of a registry, a list of them, or { in_order: LIST }",
    One,
    map InOrder(InOrder),
    list Union(Vec<Placed<String>>)
);

/// Registries by preference.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InOrder {
    /// Their names; of each service, the first that has endpoints is used.
    pub in_order: Vec<Placed<String>>,
}

/// What a subset without endpoints gives instead.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub enum Fallback {
    /// `none` or `any`.
    Word(String),
    /// The endpoints with these labels.
    Labels(BTreeMap<String, String>),
}

forms!(
    Fallback,
    "none, any or { LABEL: VALUE }",
    Word,
    map Labels(BTreeMap<String, String>)
);

/// When a call is tried again.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Attempts in all, the first included. Default: 2.
    pub attempts: Option<Placed<u32>>,
    /// Whether a call may run twice. Default: false; then only calls of which nothing was sent
    /// are tried again.
    #[serde(default)]
    pub idempotent: bool,
    /// Whether a call that the server says it did not run is tried elsewhere. Default: false.
    pub refused: Option<bool>,
    /// How long one attempt may take. Default: as long as the call.
    pub per_try_timeout: Option<Time>,
    /// How long an attempt may take before another is made beside it, at another endpoint; the first answer counts. Needs
    /// `idempotent: true`. Default: attempts follow each other.
    pub hedging_delay: Option<Placed<Time>>,
}
