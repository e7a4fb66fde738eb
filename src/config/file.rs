//! The configuration file's types: what may be written, nothing about what it means.

mod admin;
mod filters;

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};

use super::forms::{extensions, forms};
use schemars::JsonSchema;
use serde::Deserialize;

use super::units::{Pause, Percent, Placed, Share, Size, Time};

pub use admin::{Admin, AdminListener, AdminTls};
pub use filters::{
    Authorization, AuthorizationRule, DescriptorEntry, ExternalAuthorization, Fault, Filter, Per,
    RateLimit, RateLimitService,
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
    /// Subscriptions of our own at brokers of MQTT, whose messages go to Kafka.
    #[serde(default)]
    pub subscriptions: Vec<MqttSubscription>,
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

/// The log of what Finback itself does, on stderr. The environment's `RUST_LOG` goes before `level` and
/// `modules`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// How a line looks: `text` or `json`. Default: text.
    #[schemars(extend("enum" = ["text", "json"]))]
    pub format: Option<Placed<String>>,
    /// Which lines are written: `error`, `warn`, `info`, `debug`, `trace` or `off`. Default: info.
    #[schemars(extend("enum" = ["error", "warn", "info", "debug", "trace", "off"]))]
    pub level: Option<Placed<String>>,
    /// Other levels for modules, by their names, such as `finback_http`. Default: none.
    #[serde(default)]
    pub modules: BTreeMap<String, Placed<String>>,
}

/// Traces: which calls leave spans, and where those go.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tracing {
    /// The collector, such as `http://127.0.0.1:4317`; by `https` it is spoken to with TLS.
    pub endpoint: Placed<String>,
    /// What OTLP is written in: `grpc`, or `http` (protobuf). Default: grpc.
    pub protocol: Option<Placed<String>>,
    /// With `https`: authorities and keys, read anew for each connection.
    pub tls: Option<Placed<ClusterTls>>,
    /// What else requests to the collector say: a text, or `{ file: FILE }` that holds it.
    #[serde(default)]
    pub headers: BTreeMap<String, Placed<HeaderText>>,
    /// A request to the collector may take so long. Default: 10s.
    pub timeout: Option<Time>,
    /// Calls of one listener whose spans may wait to be exported; more are dropped and counted. Default: 8192.
    pub queue: Option<Placed<usize>>,
    /// Who we are in traces. Default: finback.
    pub service_name: Option<Placed<String>>,
    /// What else all spans say of us, such as `deployment.environment.name`.
    #[serde(default)]
    pub resource: BTreeMap<String, String>,
    /// Which calls are traced: `always` (all), `never` (none), `ratio` (a share of all traces), or
    /// `parent-based` (what the caller decided; of traces that begin here, a share). Default: parent-based.
    pub sampling: Option<Placed<String>>,
    /// That share, from 0 to 1. Default: 0.01.
    pub ratio: Option<Placed<f64>>,
    /// Calls that are traced although they were not chosen. Default: none.
    pub tails: Option<Tails>,
    /// Such calls of one listener in one second, at most. Default: 100.
    pub tails_per_second: Option<NonZeroU32>,
    /// The formats of traces' contexts.
    #[serde(default)]
    pub propagation: Propagation,
}

/// A header's value.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub enum HeaderText {
    /// The value.
    Text(String),
    /// A file that holds it.
    File(HeaderFile),
}

forms!(
    HeaderText,
    "a text, or { file: FILE }",
    Text,
    map File(HeaderFile)
);

/// A file that holds a header's value.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderFile {
    /// Its path. It is read for each request, so that what it holds may change.
    pub file: String,
}

/// Calls that are traced although they were not chosen.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tails {
    /// Those that take longer. Default: none.
    pub slower_than: Option<Time>,
    /// Those that fail: not by their caller's fault alone, and not with an exception of the
    /// application's. Default: false.
    #[serde(default)]
    pub failed: bool,
}

/// The formats of traces' contexts: `w3c`, `jaeger`, `b3`, `b3-multi`, `skywalking`, `sofatracer`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Propagation {
    /// Those that are looked for, in this order; what came in one of them goes on in it, too.
    /// Default: w3c.
    pub read: Option<Placed<Vec<String>>>,
    /// Those that are written, whatever came. Default: w3c.
    pub write: Option<Placed<Vec<String>>>,
}

/// Which calls of a route are traced; what it leaves out is as for all calls.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteTracing {
    /// `always`, `never`, `ratio` or `parent-based`, as the `sampling` of all calls.
    pub sampling: Option<Placed<String>>,
    /// That share, from 0 to 1.
    pub ratio: Option<Placed<f64>>,
    /// Calls that are traced although they were not chosen.
    pub tails: Option<Tails>,
}

/// Where metrics are sent.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// A StatsD server.
    pub statsd: Option<Statsd>,
}

/// A StatsD server.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Statsd {
    /// Where it listens: `host:port` (UDP), or `unix:/path` of a socket of datagrams.
    pub address: Placed<String>,
    /// `plain`: labels are parts of names, as Etsy's server and Graphite have them; `dogstatsd`: labels are
    /// tags. Default: plain.
    pub format: Option<Placed<String>>,
    /// What every name begins with; may be empty. Default: finback.
    pub prefix: Option<Placed<String>>,
    /// How often it is told. Default: 10s.
    pub interval: Option<Placed<Time>>,
    /// Bytes of a packet, at most. Default: 1432, of a socket in the file system 8192.
    pub packet_size: Option<Placed<Size>>,
    /// Tags of every line, with `format: dogstatsd`. Default: none.
    #[serde(default)]
    pub tags: BTreeMap<String, Placed<String>>,
}

/// Where services are registered. Exactly one of `zookeeper`, `etcd`, `file`, `memory`, `dns` and
/// `http`;
/// the other keys are for the first two.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    /// ZooKeeper servers: `host:port,host:port/chroot`.
    pub zookeeper: Option<Placed<String>>,
    /// etcd servers: `host:port` or a URL, or a list of them.
    pub etcd: Option<Placed<Servers>>,
    /// A file of services and endpoints, relative to this one; read again when it changes.
    pub file: Option<String>,
    /// Services and endpoints right here.
    pub memory: Option<Vec<Service>>,
    /// Names that the system resolves: services are called `host` or `host:port`.
    pub dns: Option<Dns>,
    /// A list of addresses that a server gives by HTTP, as RocketMQ's address server does: one service, by any name.
    pub http: Option<HttpList>,
    /// The user to log in as.
    pub user: Option<Placed<String>>,
    /// The user's password.
    pub password: Option<String>,
    /// A file with the user's password, relative to this one, in place of `password`.
    pub password_file: Option<Placed<String>>,
    /// How to log in to ZooKeeper: `digest` or `sasl` (DIGEST-MD5). Default: digest.
    pub authentication: Option<Placed<String>>,
    /// Speak TLS. Default: no.
    pub tls: Option<Tls>,
    /// How long a ZooKeeper session outlives its connection. Default: 20s.
    pub session: Option<Time>,
    /// How long it is doubted when all providers of a service vanish at once. Default: 30s.
    pub empty_protection: Option<Time>,
    /// Services that are watched from the start, not only from their first call. Default: none.
    #[serde(default)]
    pub eager: Vec<Eager>,
    /// Where layouts begin.
    #[serde(default)]
    pub base_paths: BasePaths,
}

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

/// Host names as services.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// The port of names that state none. Default: 80.
    pub port: Option<std::num::NonZeroU16>,
    /// How often a name is asked for again. Default: 5s.
    pub refresh: Option<Time>,
}

/// A list of `host:port`, separated by semicolons, commas or white space.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpList {
    /// Where it is asked for: `http://host:port/path`.
    pub url: Placed<String>,
    /// How often. Default: 30s.
    pub refresh: Option<Time>,
}

/// One or several servers.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub enum Servers {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

forms!(
    Servers,
    "a server such as 127.0.0.1:2379, or a list of them",
    One,
    list Many(Vec<String>)
);

/// Certificates, as PEM files relative to this one.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Authorities that the servers' certificates must descend from. Default: the public ones.
    pub ca: Option<String>,
    /// Our own certificate chain, where servers ask for one.
    pub certificate: Option<Placed<String>>,
    /// Its key.
    pub key: Option<Placed<String>>,
}

/// Services that are watched from the start.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Eager {
    /// The layout they are in.
    pub layout: Placed<String>,
    /// Their names. Default: all there are.
    pub services: Option<Vec<String>>,
}

/// Where layouts begin in a registry.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BasePaths {
    /// Dubbo's group. Default: /dubbo.
    pub dubbo: Option<Placed<String>>,
    /// Where Dubbo's applications and Spring Cloud's services are. Default: /services.
    pub services: Option<Placed<String>>,
    /// SOFA-RPC's. Default: /sofa-rpc.
    pub sofa: Option<Placed<String>>,
    /// What stands before a gRPC service's name. Default: nothing.
    pub grpc: Option<Placed<String>>,
    /// That of `native`. Default: /finback/services.
    pub native: Option<Placed<String>>,
}

/// A local service to register.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// The registry's name; one with servers.
    pub registry: Placed<String>,
    /// The layout to write.
    pub layout: Placed<String>,
    /// The service.
    pub service: Placed<String>,
    /// Its version. Default: none.
    #[serde(default)]
    pub version: String,
    /// Its group (SOFA: unique id). Default: none.
    #[serde(default)]
    pub group: String,
    /// What consumers connect to, such as `10.0.0.5:12220`; no loopback for Dubbo.
    pub address: Placed<String>,
    /// What is spoken there, as the framework calls it. Default: the layout's usual.
    pub protocol: Option<String>,
    /// Its weight. Default: 100.
    pub weight: Option<u32>,
    /// The application's name. Default: finback.
    pub application: Option<String>,
    /// Labels. Default: none.
    #[serde(default)]
    pub labels: BTreeMap<String, Placed<String>>,
    /// What else consumers act on, as the framework calls it, such as Dubbo's `timeout` and
    /// `retries`. Default: nothing.
    #[serde(default)]
    pub parameters: BTreeMap<String, Placed<String>>,
    /// Registered only while something listens at this address. Default: always.
    pub check: Option<Placed<String>>,
}

/// Services of one registry to mirror into another.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bridge {
    /// What is mirrored.
    pub from: Placed<End>,
    /// What it is mirrored into.
    pub to: Placed<End>,
    /// Names of services, each exact or with a `*` at its end.
    pub services: Placed<Vec<String>>,
    /// What consumers connect to: one of our listeners. Default: the providers themselves.
    pub address: Option<Placed<String>>,
    /// What is spoken there, as the framework calls it. Default: what the providers speak.
    pub protocol: Option<String>,
}

/// One end of a bridge.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// The registry's name; one with servers.
    pub registry: Placed<String>,
    /// The layout.
    pub layout: Placed<String>,
}

/// SOFA-RPC's mesh registry: an HTTP interface through which an application registers and
/// looks up by its sidecar.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MeshRegistry {
    /// Where it listens; applications expect 127.0.0.1:13330.
    pub address: Placed<String>,
    /// The registry to register with.
    pub registry: Placed<String>,
    /// Where the application itself listens. Default: 127.0.0.1:12200.
    pub application: Option<Placed<String>>,
    /// What other consumers connect to; a listener of ours, or the application.
    pub advertise: Placed<String>,
    /// Our listener for the application's own calls; it always connects to port 12220 of this
    /// host. Default: 127.0.0.1:12220.
    pub outbound: Option<Placed<String>>,
}

/// Snapshots of registries on disk.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Snapshots {
    /// The folder, relative to this file; made if need be.
    pub folder: String,
}

/// A service of a `memory` registry.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Its name.
    pub service: Placed<String>,
    /// Its version. Default: none.
    #[serde(default)]
    pub version: String,
    /// Its group. Default: none.
    #[serde(default)]
    pub group: String,
    /// Where it listens.
    pub endpoints: Vec<Placed<Endpoint>>,
}

/// An address to accept on.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Its name in logs and metrics. Default: the address.
    pub name: Option<String>,
    /// Where to listen, such as `0.0.0.0:12220`; port 0 takes a free one.
    pub address: Placed<String>,
    /// `bolt`, `dubbo`, `mqtt`, `http`, `rocketmq`, `tcp`, or `auto` to tell by a connection's first bytes.
    /// Default: auto.
    #[schemars(extend("enum" = ["auto", "mqtt", "bolt", "dubbo", "http", "rocketmq", "tcp"]))]
    pub protocol: Option<Placed<String>>,
    /// The filters that all its calls pass, in this order, before those of their routes. Default: none.
    #[serde(default)]
    pub filters: Vec<Placed<String>>,
    /// With `auto`: whether what is none of its protocols is passed through as TCP, to where
    /// routes for `tcp` lead. Default: false.
    #[serde(default)]
    pub tcp_fallback: Option<Placed<bool>>,
    /// The route table for its calls.
    pub routes: Placed<String>,
    /// TLS, if it is spoken there.
    pub tls: Option<Placed<ListenerTls>>,
    /// Networks of proxies in front, which are believed about whom a request or connection is from.
    /// Default: nobody.
    pub trusted_proxies: Option<Placed<OneOrMany>>,
    /// Which connections begin with a header of the PROXY protocol, version 1 or 2: `require` for all, which
    /// then have to come from `trusted_proxies`; `trusted` for those from there, while others are served as
    /// they are. Default: none.
    pub proxy_protocol: Option<Placed<String>>,
    /// Whether clients are told the addresses of endpoints that failed them; MQTT's never are.
    /// Default: false.
    #[serde(default)]
    pub reveal_endpoints: bool,
    /// The service as which calls are routed whose serialization cannot be read.
    /// Default: `(opaque)`.
    pub opaque_service: Option<String>,
    /// MQTT: bounds on clients before they have a session.
    pub mqtt: Option<Placed<MqttListener>>,
    /// HTTP: bounds on requests and connections.
    pub http: Option<Placed<HttpListener>>,
    /// RocketMQ: where its clients reach brokers. A listener that speaks it stands for name servers.
    pub rocketmq: Option<Placed<RocketMqListener>>,
    /// A line for each exchange. Default: none.
    pub access_log: Option<Placed<AccessLog>>,
}

/// One line for each exchange of a listener; exactly one of `path` and `stdout` says where.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessLog {
    /// A file or a named pipe, relative to this file. SIGUSR1 has it opened again.
    pub path: Option<String>,
    /// The process's standard output.
    #[serde(default)]
    pub stdout: bool,
    /// `json`, `text`, or a template with fields, such as `{time} {service} {outcome}`. Default: json.
    pub format: Option<Placed<String>>,
    /// `failures` leaves out exchanges that succeeded. Default: all.
    #[schemars(extend("enum" = ["failures"]))]
    pub only: Option<Placed<String>>,
    /// The share of the exchanges that succeeded which are written, above 0 and up to 1; failures always
    /// are. Default: 1.
    pub sample: Option<Placed<f64>>,
    /// When the file is moved away. Default: never.
    pub rotate: Option<Placed<Rotate>>,
}

/// When a log file is moved away, as `PATH.1`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotate {
    /// When it has so many bytes, 64KiB at least.
    pub size: Size,
    /// So many former files are kept. Default: 5.
    pub keep: Option<u32>,
}

/// Bounds on requests of HTTP and on their connections.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpListener {
    /// The longest request line and headers of a request together, 256KiB at most. Default: 32KiB.
    pub header_size: Option<Placed<Size>>,
    /// The same of a response. Default: 64KiB.
    pub response_header_size: Option<Placed<Size>>,
    /// Headers of a request, 256 at most. Default: 100.
    pub header_count: Option<Placed<NonZeroUsize>>,
    /// The longest URI of a request. Default: 8KiB.
    pub uri_size: Option<Size>,
    /// How long a request's headers may take. Default: 10s.
    pub header_timeout: Option<Time>,
    /// Bytes that a request's body has to bring per second, on the average of a `call_timeout`;
    /// 0 for any. A conversation, such as a stream of gRPC, may take its time. Default: 100.
    pub body_rate: Option<Size>,
    /// Requests in flight on one connection of HTTP/2. Default: 100.
    pub streams: Option<NonZeroU32>,
    /// Requests on one connection of HTTP/2, which is asked to go when it has been silent for a
    /// second then, or has made twice as many; 0 for any number. Default: 10000.
    pub requests: Option<u64>,
    /// A connection without a request in flight is closed after this. Default: 5m.
    pub idle: Option<Time>,
    /// Paths are normalized before routes look at them, and endpoints get them so: no `.`, `..` or
    /// empty segments, and no escape of a character that needs none. Default: true.
    pub normalize_path: Option<bool>,
    /// Pass `Expect: 100-continue` on and leave the answer to the endpoint; else clients are told to
    /// go on when their request's body is asked for. Default: true.
    pub proxy_100_continue: Option<bool>,
    /// Let clients go on in HTTP/2 after a request of HTTP/1.1 with `Upgrade: h2c`. Default: false.
    pub h2c_upgrade: Option<bool>,
}

/// Bounds on clients of MQTT before they have a session.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MqttListener {
    /// How long a client may take to say CONNECT. Default: 5s.
    pub connect_timeout: Option<Time>,
    /// The longest CONNECT. Default: 128KiB.
    pub connect_packet: Option<Size>,
    /// How long a broker may take to answer CONNECT; then the next one is asked. Default: 4s.
    pub connack_timeout: Option<Time>,
    /// How long client and broker may take to authenticate by AUTH packets. Default: 10s.
    pub auth_timeout: Option<Time>,
    /// How long a broker may be silent that owes a session an answer. Then it is asked by a PINGREQ, and
    /// after half as long again the session ends. Default: 10s.
    pub answer_timeout: Option<Time>,
    /// Clients that may wait for one broker's answer to CONNECT at a time, in each worker; others are
    /// refused. Default: 1000.
    pub connecting: Option<NonZeroUsize>,
    /// Sessions that one address may begin per second; others are refused. Default: any number.
    pub connect_rate: Option<NonZeroU32>,
    /// Topic filters that one session may be subscribed to at a time; others are refused. Default: 10000.
    pub subscriptions: Option<NonZeroUsize>,
    /// Origins whose pages may open a WebSocket, such as `https://app.acme.test`. Default: any.
    #[serde(default)]
    pub origins: Vec<Placed<String>>,
}

/// Where clients of RocketMQ reach brokers: each broker that a name server tells of is given a listener of its own.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RocketMqListener {
    /// Ports for brokers, three for each, such as `20000-20299`.
    pub broker_ports: Placed<String>,
    /// The cluster whose policy (TLS, timeouts, limits) holds for brokers. Default: the one that all routes of
    /// the listener lead to.
    pub broker_cluster: Option<Placed<String>>,
    /// Whether operators' requests pass, which change or take away topics, groups, rights and settings. Default:
    /// false; then they are answered with NO_PERMISSION.
    #[serde(default)]
    pub administration: bool,
    /// The host that clients dial for brokers. Default: the address at which they reached this listener.
    pub advertise: Option<Placed<String>>,
}

/// TLS of a listener. Files are PEM, relative to this one, and read again when they change.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerTls {
    /// Certificates by the names in them; the first is for clients that name nobody known.
    pub certificates: Vec<KeyPair>,
    /// Authorities that clients' certificates must descend from. Default: none are asked for.
    pub client_ca: Option<String>,
    /// With `client_ca`: lists of revoked certificates, PEM or DER; for each authority in clients' chains
    /// but the last one. Clients whose certificates no current list knows are refused.
    #[serde(default)]
    pub crl: Vec<Placed<String>>,
    /// With `client_ca`: whether clients without a certificate are served too. Default: false.
    #[serde(default)]
    pub client_optional: bool,
    /// With `client_ca`: whether connections end when the certificate of their client does: goodbye is
    /// said, what is in flight is finished within `limits.drain`. Default: false; then only new
    /// connections need a certificate that has not ended.
    #[serde(default)]
    pub close_expired: bool,
    /// Whether connections without TLS are served too, on the same port. Default: false.
    #[serde(default)]
    pub plain: bool,
}

/// A certificate and its key.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyPair {
    /// The certificate chain, our own first.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// An OCSP response about the certificate, in DER, which clients that ask for it are shown as long
    /// as it is current. Default: none.
    pub ocsp: Option<String>,
}

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
    /// MQTT, HTTP: write them to Kafka. `match` says which of the two it is for.
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
    pub cluster: Placed<String>,
    /// The share of the calls that is copied, in percent. Default: 100.
    pub percent: Option<Share>,
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

/// Messages for Kafka: of MQTT, whose sessions end here then, or bodies of HTTP's POST.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Produce {
    /// The Kafka cluster's name.
    pub kafka: Placed<String>,
    /// The topic of Kafka. `{topic}` stands for the message's topic (HTTP: its path) with `.` for `/`,
    /// `{1}` to `{9}` for a level of it. What gives no name is refused.
    pub topic: Placed<String>,
    /// What decides about the partition: `client-id` (MQTT), `topic`, `none`, or
    /// `{ property: NAME }`: a user property or header. Default: client-id for MQTT, none for HTTP.
    pub key: Option<Placed<ProduceKey>>,
}

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

/// An answer of the route's own.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Respond {
    /// Its status, 200 to 599.
    pub status: u16,
    /// Its body. Default: nothing.
    #[serde(default)]
    pub body: String,
    /// Its type. Default: `text/plain; charset=utf-8`.
    pub content_type: Option<String>,
}

/// Where to ask instead; what is left out stays as it was asked for.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308. Default: 302.
    pub status: Option<u16>,
    /// `http` or `https`. Default: http.
    pub scheme: Option<String>,
    /// Another host.
    pub host: Option<String>,
    /// Another path.
    pub path: Option<PathChange>,
}

/// What the endpoint is asked for.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    /// Another host.
    pub host: Option<String>,
    /// Another path.
    pub path: Option<PathChange>,
}

/// Another path: a text, or a change of the one there is.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub enum PathChange {
    /// This path.
    Whole(String),
    /// A change.
    Change(PathRule),
}

forms!(
    PathChange,
    "a path such as /new, { prefix: /old, with: /new } or { regex: TEXT, with: TEXT }",
    Whole,
    map Change(PathRule)
);

/// A change of a path. Either `prefix` or `regex`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PathRule {
    /// How paths begin that are changed.
    pub prefix: Option<String>,
    /// A regular expression; what it finds first is changed.
    pub regex: Option<String>,
    /// What takes its place; `$1` is the expression's first group.
    pub with: String,
}

/// Changes of headers.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Headers {
    /// Taken away, before anything is set or added.
    #[serde(default)]
    pub remove: Vec<Placed<String>>,
    /// Set to one value.
    #[serde(default)]
    pub set: BTreeMap<String, Placed<String>>,
    /// Added beside those there are.
    #[serde(default)]
    pub add: BTreeMap<String, Placed<String>>,
}

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
    /// HTTP: on parameters of the query by name, as they are written there.
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
    /// While stopping, new calls are served for this long where the protocol has no goodbye.
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
