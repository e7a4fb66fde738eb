//! The port through which a registry tells core who the endpoints are.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

/// One endpoint as its registry describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share of the calls; 100 is usual, 0 takes none.
    pub weight: u32,
    /// Labels that subsets select by (`version`, `group`, `tag`, `lane`, ...).
    pub labels: BTreeMap<String, String>,
    /// While young, its weight grows linearly from 1 to `weight`.
    pub warm_up: Option<WarmUp>,
}

/// The youth of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WarmUp {
    /// When it began to serve.
    pub since: SystemTime,
    /// How long it takes to carry its whole weight.
    pub period: std::time::Duration,
}

/// A framework's own rule that splits endpoints by an attribute of the call, such as a
/// tag: a call that has the attribute goes to endpoints with the equal label if there are any;
/// every other call goes to endpoints without the label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// The call's attribute.
    pub attribute: String,
    /// The endpoints' label.
    pub label: String,
}

/// All endpoints of a service at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Whether the registry knows the service at all (it may know it and have no endpoint).
    pub known: bool,
    /// The endpoints, in no particular order, no address twice.
    pub instances: Vec<Instance>,
    /// The framework's own split, if it has one.
    pub lane: Option<Lane>,
}

/// What is looked up in a registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lookup {
    /// The configured name of the registry.
    pub registry: Arc<str>,
    /// The layout's name, as the binary knows it.
    pub layout: Arc<str>,
    /// The service (interface).
    pub service: Arc<str>,
    /// Its version, "" for none.
    pub version: Arc<str>,
    /// Its group or unique id, "" for none.
    pub group: Arc<str>,
}

/// Where a watch delivers. Called from the control runtime.
pub trait Sink: Send + Sync + 'static {
    /// A new, complete snapshot.
    fn update(&self, snapshot: Snapshot);
}

/// Ends the watch when dropped.
pub type WatchGuard = Box<dyn Send + Sync>;

/// A source of endpoints.
pub trait Discovery: Send + Sync + 'static {
    /// Keeps `sink` up to date on `lookup` until the guard is dropped. Must not block: the first
    /// snapshot arrives when it is known, and a registry that is down delivers none (the last
    /// one stays in force).
    fn watch(&self, lookup: &Lookup, sink: Arc<dyn Sink>) -> WatchGuard;
}
