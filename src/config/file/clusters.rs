//! Clusters: endpoints, and how they are chosen, tried and spoken to.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::Deserialize;

use super::RegistryNames;
use crate::config::forms::forms;
use crate::config::units::{Pause, Percent, Placed, Time};

/// TLS to the endpoints of a cluster. Files are PEM, relative to this one.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterTls {
    /// Authorities that endpoints' certificates must descend from. Default: the public ones.
    pub ca: Option<String>,
    /// With `ca`: lists of revoked certificates, PEM or DER; for each authority in endpoints' chains but
    /// the last one. Endpoints whose certificates no current list knows are refused.
    #[serde(default)]
    pub crl: Vec<Placed<String>>,
    /// Our own certificate chain, where endpoints ask for one.
    pub certificate: Option<String>,
    /// Its key.
    pub key: Option<String>,
    /// The name that certificates must be for. Default: the endpoint's address.
    pub server_name: Option<String>,
}

/// A named set of endpoints: `endpoints` or `discover`, and the policy's keys.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Its endpoints: `IP:PORT`, or `HOST:PORT` for every address that the host's name has.
    pub endpoints: Option<Vec<Placed<Endpoint>>>,
    /// How often host names in `endpoints` are asked for again. Default: 5s.
    pub refresh: Option<Placed<Time>>,
    /// Where to look them up.
    pub discover: Option<Placed<Discover>>,
    /// `round-robin`, `random`, `least-request`, `peak-ewma`, `primary`, `{ consistent-hash: source }`,
    /// `{ consistent-hash: client-id }` or `{ consistent-hash: { attribute: NAME } }`. Default: round-robin.
    pub balance: Option<Placed<Balance>>,
    /// How long a connection may take to be made. Default: 1s.
    pub connect_timeout: Option<Time>,
    /// Connections per endpoint and worker, at most. Default: 4; any number where each carries one
    /// request at a time, as in HTTP/1.1.
    pub connections: Option<NonZeroU32>,
    /// Heartbeats to silent endpoints.
    pub heartbeat: Option<Heartbeat>,
    /// Calls in flight.
    pub limits: Option<ClusterLimits>,
    /// Finds out how many calls may be in flight. Default: `limits` alone hold.
    pub adaptive_concurrency: Option<Placed<AdaptiveConcurrency>>,
    /// When an endpoint is left alone.
    pub outlier: Option<Outlier>,
    /// Asking endpoints whether they are well. Default: nobody is asked.
    pub health_check: Option<Placed<HealthCheck>>,
    /// Retries in flight, at most, in percent of the calls in flight. Default: 20.
    pub retry_budget: Option<u32>,
    /// The version of HTTP that endpoints are spoken to in: `"1.1"` or `"2"`. Default: 2 for gRPC
    /// and Triple, else 1.1.
    pub http: Option<Placed<String>>,
    /// TLS, if it is spoken to endpoints.
    pub tls: Option<Placed<ClusterTls>>,
    /// The version of the PROXY protocol's header by which endpoints are told whose a connection is: `v1` or
    /// `v2`. Such a connection is never shared by clients. Default: none is sent.
    pub proxy_protocol: Option<Placed<String>>,
}

/// How calls to a cluster are spread, bounded and kept away from bad endpoints.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// `round-robin`, `random`, `least-request`, `peak-ewma`, `primary`, `{ consistent-hash: source }`,
    /// `{ consistent-hash: client-id }` or `{ consistent-hash: { attribute: NAME } }`. Default: round-robin.
    pub balance: Option<Placed<Balance>>,
    /// How long a connection may take to be made. Default: 1s.
    pub connect_timeout: Option<Time>,
    /// Connections per endpoint and worker, at most. Default: 4; any number where each carries one
    /// request at a time, as in HTTP/1.1.
    pub connections: Option<NonZeroU32>,
    /// Heartbeats to silent endpoints.
    pub heartbeat: Option<Heartbeat>,
    /// Calls in flight.
    pub limits: Option<ClusterLimits>,
    /// Finds out how many calls may be in flight. Default: `limits` alone hold.
    pub adaptive_concurrency: Option<Placed<AdaptiveConcurrency>>,
    /// When an endpoint is left alone.
    pub outlier: Option<Outlier>,
    /// Asking endpoints whether they are healthy. Default: nobody is asked.
    pub health_check: Option<Placed<HealthCheck>>,
    /// Retries in flight, at most, in percent of the calls in flight. Default: 20.
    pub retry_budget: Option<u32>,
    /// The version of HTTP that endpoints are spoken to in: `"1.1"` or `"2"`. Default: 2 for gRPC
    /// and Triple, else 1.1.
    pub http: Option<Placed<String>>,
    /// TLS, if it is spoken to endpoints.
    pub tls: Option<Placed<ClusterTls>>,
}

/// An endpoint: its address, or more about it.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub enum Endpoint {
    /// `IP:PORT` or `HOST:PORT`.
    Address(String),
    /// Address, weight and labels.
    Full(FullEndpoint),
}

forms!(
    Endpoint,
    "an address such as \"127.0.0.1:12200\", or { address: ..., weight: ..., labels: ... }",
    Address,
    map Full(FullEndpoint)
);

/// An endpoint with weight and labels.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FullEndpoint {
    /// `IP:PORT` or `HOST:PORT`.
    pub address: String,
    /// Its share of the calls, that of each address of a host; 0 takes none. Default: 100.
    pub weight: Option<u32>,
    /// Labels that subsets select by.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// A service in a registry.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Discover {
    /// The registry's name, or several.
    pub registry: Placed<RegistryNames>,
    /// Where the registry keeps it: `dubbo`, `sofa`, `spring`, `grpc`, `native`, ...; only for
    /// ZooKeeper and etcd.
    pub layout: Option<Placed<String>>,
    /// The service; for DNS `host` or `host:port`.
    pub service: Placed<String>,
    /// Its version. Default: none.
    #[serde(default)]
    pub version: String,
    /// Its group or unique id. Default: none.
    #[serde(default)]
    pub group: String,
    /// What its providers shall speak, where a framework registers several: `dubbo` or `triple`.
    /// Default: what is usual in the layout.
    #[serde(default)]
    pub protocol: String,
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub enum Balance {
    /// A policy without a key.
    #[schemars(extend("enum" = ["round-robin", "random", "least-request", "peak-ewma", "primary"]))]
    Word(String),
    /// The same endpoint for the same key.
    Hash(ConsistentHash),
}

forms!(
    Balance,
    "round-robin, random, least-request, peak-ewma, primary or { consistent-hash: ... }",
    Word,
    map Hash(ConsistentHash)
);

/// Consistent hashing.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsistentHash {
    /// `source`, `client-id`, or `{ attribute: NAME }`.
    #[serde(rename = "consistent-hash")]
    pub on: HashOn,
}

/// The key of consistent hashing.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub enum HashOn {
    /// `source`: the caller's address; `client-id`: that of a session.
    Word(String),
    /// An attribute of the call.
    Attribute(HashAttribute),
}

forms!(
    HashOn,
    "source, client-id or { attribute: NAME }",
    Word,
    map Attribute(HashAttribute)
);

/// An attribute as the key.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HashAttribute {
    /// Its name.
    pub attribute: String,
}

/// Heartbeats to silent endpoints.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// After this much silence one is sent; 0s sends none. Default: 5s.
    pub interval: Option<Pause>,
    /// After so many silent intervals the connection is given up. Default: 3.
    pub misses: Option<NonZeroU32>,
}

/// Calls in flight.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterLimits {
    /// To the whole cluster; 0 = no limit. Default: 10000.
    pub in_flight: Option<u32>,
    /// To one endpoint; 0 = no limit. Default: 0.
    pub per_endpoint: Option<u32>,
}

/// Finds out how many calls may be in flight to a cluster, by how long they take.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdaptiveConcurrency {
    /// The limit is never below. Default: 4.
    pub min: Option<NonZeroU32>,
    /// The limit is never above. Default: 1000.
    pub max: Option<NonZeroU32>,
    /// Of the answers in a window, so many percent count: the quickest ones. Default: 99.
    pub percentile: Option<Percent>,
    /// Answers may take so many percent longer than where nothing waits before the limit shrinks. Default: 25.
    pub buffer: Option<Percent>,
}

/// Endpoints that fail more calls than the others do.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SuccessRate {
    /// So many endpoints must have had enough calls. Default: 5.
    pub min_endpoints: Option<NonZeroU32>,
    /// Calls in an interval that are enough. Default: 100.
    pub volume: Option<NonZeroU32>,
    /// An endpoint is left alone whose success rate is below the mean of all less so many standard deviations.
    /// Default: 1.9.
    pub stdev_factor: Option<Placed<f64>>,
}

/// Endpoints that fail most of their calls.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FailurePercentage {
    /// An endpoint is left alone that fails so many percent of its calls, or more. Default: 85.
    pub threshold: Option<Percent>,
    /// So many endpoints must have had enough calls. Default: 5.
    pub min_endpoints: Option<NonZeroU32>,
    /// Calls in an interval that are enough. Default: 50.
    pub volume: Option<NonZeroU32>,
}

/// When an endpoint is left alone.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Outlier {
    /// After so many failures in a row; 0 never. Default: 5.
    pub consecutive: Option<u32>,
    /// If it fails more calls than the others do. Default: that does not matter.
    pub success_rate: Option<SuccessRate>,
    /// If it fails most of its calls. Default: that does not matter.
    pub failure_percentage: Option<FailurePercentage>,
    /// Calls are counted in intervals of this length for these two. Default: 10s.
    pub interval: Option<Placed<Time>>,
    /// For how long, times the number of ejections. Default: 30s.
    pub base: Option<Time>,
    /// The longest. Default: 5m.
    pub max: Option<Time>,
    /// At most this share of the endpoints at a time. Default: 10.
    pub max_percent: Option<Percent>,
    /// If fewer than this share is available, all are used. Default: 50.
    pub panic_percent: Option<Percent>,
}

/// How endpoints are asked whether they are healthy.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// How: `tcp` (it accepts connections), `http`, `grpc` (its health checking protocol), `bolt`
    /// or `dubbo` (heartbeat), `mqtt` (CONNECT).
    #[schemars(extend("enum" = ["tcp", "http", "grpc", "bolt", "dubbo", "mqtt"]))]
    pub protocol: String,
    /// HTTP: what is asked for. Default: `/`.
    pub path: Option<String>,
    /// HTTP, gRPC: the host that is asked for. Default: `health`.
    pub host: Option<String>,
    /// HTTP: the lowest and the highest status of one that is healthy. Default: `[200, 399]`.
    pub status: Option<(u16, u16)>,
    /// gRPC: the service that is asked about. Default: the server.
    pub service: Option<String>,
    /// MQTT: the client identifier. Default: one of its own in each check.
    pub client_id: Option<String>,
    /// MQTT: as whom to ask. Default: nobody.
    pub username: Option<String>,
    /// MQTT, with `username`: a file with the password, relative to this one. Default: none.
    pub password_file: Option<Placed<String>>,
    /// Another port than the endpoint's.
    pub port: Option<std::num::NonZeroU16>,
    /// From one check to the next. Default: 5s.
    pub interval: Option<Time>,
    /// How long an answer may take. Default: 1s.
    pub timeout: Option<Time>,
    /// So many failures in a row make an endpoint unhealthy. Default: 3.
    pub unhealthy: Option<NonZeroU32>,
    /// So many successes in a row make it healthy again. Default: 2.
    pub healthy: Option<NonZeroU32>,
}
