//! Listeners as they may be written: addresses to accept on, and the protocols spoken there.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{AccessLog, OneOrMany};
use crate::config::units::{Placed, Size, Time};

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
    /// What brokers call the topics that clients call otherwise: `{ TOPIC: TOPIC-AT-BROKERS }`. Default: the same.
    #[serde(default)]
    pub rename: BTreeMap<String, Placed<String>>,
    /// Which lane consumers that use this listener are in, or which lanes others are in. Default: they are not told apart.
    pub lanes: Option<Placed<ConsumerLanes>>,
    /// Keys of ACLs whose owners' requests are signed anew where something is changed about them; the first also signs what
    /// Finback asks brokers itself. Default: what is signed is not changed.
    #[serde(default)]
    pub keys: Vec<Placed<AclKey>>,
}

/// Lanes of consumers: those of a lane are a group of their own at brokers.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsumerLanes {
    /// The lane of consumers that use this listener; or else:
    pub own: Option<String>,
    /// Consumers that use this listener are in none, and others may be in these lanes.
    #[serde(default)]
    pub others: Vec<String>,
    /// The property of messages that names their lane. Default: lane.
    pub property: Option<String>,
}

/// Who signs requests for an ACL, and with what.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AclKey {
    /// The access key.
    pub access_key: String,
    /// A file with its secret key, relative to this one.
    pub secret_key_file: Placed<String>,
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
    /// With `client_ca`: whether connections end when the certificate of their client does: the client
    /// is told to go away, and what is in flight is finished within `limits.drain`. Default: false; then
    /// only new connections need a certificate that has not ended.
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
