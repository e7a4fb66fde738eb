//! Observability as it may be written: traces, metrics and logs.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::Deserialize;

use super::ClusterTls;
use crate::config::forms::forms;
use crate::config::units::{Placed, Size, Time};

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
