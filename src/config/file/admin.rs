//! The admin port as it may be written.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::units::Placed;

/// The admin port: pages, metrics, health. Read at the start only, but for the token and certificates,
/// which are read again when their files change. At least one address.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Where everything is served, such as `127.0.0.1:9901`. Outside of loopback it needs `token_file`,
    /// or `tls` with a `client_ca`. Default: nowhere.
    pub address: Option<Placed<String>>,
    /// A file with the token that every request to `address` must bring, 16 characters or more,
    /// relative to this one. Default: none is asked for.
    pub token_file: Option<Placed<String>>,
    /// TLS of `address`. Default: none.
    pub tls: Option<Placed<AdminTls>>,
    /// Host names by which browsers may call `address`, besides localhost and addresses.
    #[serde(default)]
    pub hosts: Vec<Placed<String>>,
    /// Where a trace is looked at, with `{trace_id}` in it, such as
    /// `http://jaeger.acme.test:16686/trace/{trace_id}`; the dashboard links there. Default: nowhere.
    pub trace_url: Option<Placed<String>>,
    /// Where health alone is served, to everybody: for probes.
    pub health: Option<AdminListener>,
    /// Where metrics alone are served, to everybody: for Prometheus. It may be the address of `health`.
    pub metrics: Option<AdminListener>,
}

/// An address that serves one thing.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminListener {
    /// Where it listens, such as `0.0.0.0:9902`.
    pub address: Placed<String>,
}

/// TLS of the admin port. Files are PEM, relative to this one, and read again when they change.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminTls {
    /// The certificate chain, our own first.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// Authorities that clients' certificates must descend from. Default: none are asked for.
    pub client_ca: Option<String>,
}
