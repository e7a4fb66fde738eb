//! Registries as they may be written: what is followed, registered, bridged and kept on disk.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Endpoint;
use crate::config::forms::forms;
use crate::config::units::{Placed, Time};

/// Where services are registered. Exactly one of `zookeeper`, `etcd`, `file`, `memory`, `dns` and
/// `http`; the other keys are for the first two.
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
    /// How long the last providers of a service are kept when all of them vanish at once. Default: 30s.
    pub empty_protection: Option<Time>,
    /// Services that are watched from the start, not only from their first call. Default: none.
    #[serde(default)]
    pub eager: Vec<Eager>,
    /// Where layouts begin.
    #[serde(default)]
    pub base_paths: BasePaths,
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
