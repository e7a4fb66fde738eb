//! The configuration file's types: what may be written, nothing about what it means.

mod admin;
mod clusters;
mod filters;
mod http;
mod kafka;
mod listeners;
mod mqtt;
mod observing;
mod registries;
mod routes;

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};

use super::forms::extensions;
use schemars::JsonSchema;
use serde::Deserialize;

use super::units::{Pause, Placed, Size, Time};

pub use admin::{Admin, AdminListener, AdminTls};
pub use clusters::{
    AdaptiveConcurrency, Balance, Cluster, ClusterLimits, ClusterTls, ConsistentHash, Discover,
    Endpoint, FailurePercentage, FullEndpoint, HashAttribute, HashOn, HealthCheck, Heartbeat,
    Outlier, Policy, SuccessRate,
};
pub use filters::{
    Authorization, AuthorizationRule, DescriptorEntry, ExternalAuthorization, Fault, Filter, Jwt,
    JwtIssuer, Lane, LaneRule, Per, RateLimit, RateLimitService, Sentinel, Strip,
};
pub use http::{Headers, PathChange, PathRule, Redirect, Respond, Rewrite};
pub use kafka::{
    Kafka, KafkaSasl, KafkaTls, KeyProperty, MqttSubscription, Produce, ProduceKey, ProduceTag,
    RocketMqCluster, RocketMqGroup, RocketMqMirror, RocketMqPolicy,
};
pub use listeners::{
    AclKey, ConsumerLanes, HttpListener, KeyPair, Listener, ListenerTls, MqttListener,
    RocketMqListener,
};
pub use mqtt::{
    MqttAuthenticate, MqttCredentials, MqttMirror, MqttPolicy, MqttRewrite, MqttRule, MqttTokens,
};
pub use observing::{
    AccessLog, HeaderFile, HeaderText, Log, Metrics, Propagation, Rotate, RouteTracing, Statsd,
    Tails, Tracing,
};
pub use registries::{
    BasePaths, Bridge, Dns, Eager, End, HttpList, MeshRegistry, Register, Registry, Servers,
    Service, Snapshots, Tls,
};
pub use routes::{
    Fallback, InOrder, Match, OneOrMany, RegistryNames, Retry, Route, Shadow, ShadowMark, Target,
    Text, TextRule, To,
};

/// The whole file: keys at its top that begin with `x-` are left to whoever wrote them, for anchors to stand in.
#[derive(Clone, Debug)]
pub struct Whole(pub File);

extensions!(Whole, File);

/// A Finback configuration.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Finback configuration", extend("patternProperties" = { "^x-": {} }))]
pub struct File {
    /// Worker threads. Default: one per core. Read at the start only.
    pub workers: Option<Placed<usize>>,
    /// The admin port: pages, metrics, health. Read at the start only.
    pub admin: Option<Placed<Admin>>,
    /// Traces: which calls leave spans, and where those go. Default: none do.
    pub tracing: Option<Placed<Tracing>>,
    /// Where metrics are sent. Default: nowhere; the admin port has them for Prometheus.
    #[serde(default)]
    pub metrics: Metrics,
    /// Registries by name.
    #[serde(default)]
    pub registries: BTreeMap<String, Placed<Registry>>,
    /// Where registries' endpoints are kept for a start while a registry is away. Default:
    /// nowhere. Read at the start only.
    pub snapshots: Option<Snapshots>,
    /// Local services to register on behalf of their application.
    #[serde(default)]
    pub register: Vec<Register>,
    /// Services of one registry to mirror into another.
    #[serde(default)]
    pub bridges: Vec<Bridge>,
    /// SOFA-RPC's mesh registry, for Java applications. Read at the start only.
    pub mesh_registry: Option<MeshRegistry>,
    /// Kafka clusters by name.
    #[serde(default)]
    pub kafka: BTreeMap<String, Placed<Kafka>>,
    /// RocketMQ clusters by name, that messages are sent to.
    #[serde(default)]
    pub rocketmq: BTreeMap<String, Placed<RocketMqCluster>>,
    /// Subscriptions of our own at brokers of MQTT, whose messages go to Kafka or RocketMQ.
    #[serde(default)]
    pub subscriptions: Vec<MqttSubscription>,
    /// Consumer groups of our own at RocketMQ clusters, whose messages go to Kafka.
    #[serde(default)]
    pub groups: Vec<RocketMqGroup>,
    /// Addresses to accept on; at least one.
    pub listeners: Placed<Vec<Listener>>,
    /// Filters by name: policies that decide about calls, for listeners and routes to name.
    #[serde(default)]
    pub filters: BTreeMap<String, Placed<Filter>>,
    /// Route tables by name.
    #[serde(default)]
    pub routes: BTreeMap<String, Vec<Placed<Route>>>,
    /// Clusters by name.
    #[serde(default)]
    pub clusters: BTreeMap<String, Placed<Cluster>>,
    /// The policy of clusters that routes to a registry make: a cluster without endpoints.
    pub registry_clusters: Option<Placed<Policy>>,
    /// Bounds of connections and calls; the guide says of which protocols each one is.
    #[serde(default)]
    pub limits: Limits,
    /// The log of what Finback itself does.
    #[serde(default)]
    pub log: Log,
}

/// Bounds that hold for every connection and call.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// The longest frame, not over `queue_hard`. Default: 16 MiB for bolt, 8 MiB (and header) for
    /// dubbo, 1 MiB for mqtt, or `queue_hard` where that is less.
    pub frame: Option<Placed<Size>>,
    /// A frame that has begun is cut off if it comes more slowly, in bytes a second on the average of
    /// 10 s; 0 for any rate. Default: 1KiB.
    pub frame_rate: Option<Size>,
    /// Bytes of unfinished frames of all clients; above it, the slowest are cut off. Default: 128MiB.
    pub unfinished: Option<Size>,
    /// Client connections in all. Default: 40 % of the process's descriptors.
    pub connections: Option<NonZeroUsize>,
    /// Connections to endpoints in all; at the limit, idle ones make room. Default: what clients leave of
    /// the process's descriptors, less a reserve for the admin port and registries.
    pub upstream_connections: Option<NonZeroUsize>,
    /// Calls in flight of one client connection. Default: 4096.
    pub in_flight_per_connection: Option<NonZeroU32>,
    /// A client that leaves so many bytes unread is read from no more. Default: 256KiB.
    pub queue_soft: Option<Placed<Size>>,
    /// A client that leaves so many bytes unread is disconnected. Default: 16MiB.
    pub queue_hard: Option<Size>,
    /// A client without traffic is disconnected after this. Default: 3m.
    pub idle: Option<Time>,
    /// The time a connection has to show its protocol, from its first byte. Default: 5s.
    pub detect_timeout: Option<Time>,
    /// The deadline of calls for which nobody gives one. Default: 60s.
    pub call_timeout: Option<Time>,
    /// Bounds the deadline that a caller sets itself, where its route does not. Default: 1h.
    pub call_timeout_max: Option<Time>,
    /// A client that closed its sending side, and only that, is still answered for this long.
    /// Default: 5s.
    pub half_closed: Option<Pause>,
    /// Services watched because calls named them. Default: 10000.
    pub services: Option<NonZeroUsize>,
    /// While stopping, new calls are served for this long where the protocol cannot tell clients to go away.
    /// Default: 5s.
    pub drain_grace: Option<Pause>,
    /// Stopping takes no longer than this, `drain_delay` apart. Default: 30s.
    pub drain: Option<Pause>,
    /// When told to stop, it is not ready at once, but accepts and serves for this long. Default: 5s
    /// after SIGTERM, 0s after SIGINT.
    pub drain_delay: Option<Pause>,
    /// After the start, it is not ready until registries of routes and clusters answered, or this is
    /// over. Read at the start only. Default: 15s.
    pub registry_wait: Option<Pause>,
}
