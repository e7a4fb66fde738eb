//! What all workers share: routing, clusters, the way to registries and exporters.

mod exchange;
mod site;
mod view;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::clock::Clock;
use crate::cluster::{Cluster, ClusterPolicy, ClusterSpec, Source};
use crate::discovery::{Discovery, Lookup};
use crate::record::Observer;
use crate::route::RouteTable;

pub use exchange::{Attempt, Exchange, Lease, Verdict};
pub(crate) use site::{Site, SiteCache, SiteKey, Sites};
pub(crate) use view::{Seat, View, Views};

/// Bounds that hold for every connection and call, whatever its route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Client connections in all; further ones wait to be accepted. Default: 10,000.
    pub connections: usize,
    /// Calls in flight of one client connection; at the limit no more are read. Default: 4096.
    pub in_flight_per_connection: u32,
    /// A client that leaves this many bytes unread is no longer read from. Default: 256 KiB.
    pub queue_soft: usize,
    /// A client that leaves this many bytes unread is disconnected, and a call to an endpoint
    /// that leaves this many unread is rejected. Default: 16 MiB.
    pub queue_hard: usize,
    /// A client connection with no traffic and no call in flight is closed after this.
    /// Default: 3 min.
    pub idle: Duration,
    /// From its first byte, a connection has this long to show its protocol. Default: 5 s.
    pub sniff: Duration,
    /// The deadline of calls for which neither caller nor route gives one. Default: 60 s.
    pub call_timeout: Duration,
    /// Services watched because calls named them. Default: 10,000.
    pub services: usize,
    /// While draining, calls on connections that know no goodbye are still served for this
    /// long. Default: 5 s.
    pub drain_grace: Duration,
    /// Draining takes no longer than this. Default: 30 s.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            in_flight_per_connection: 4096,
            queue_soft: 256 * 1024,
            queue_hard: 16 * 1024 * 1024,
            idle: Duration::from_secs(180),
            sniff: Duration::from_secs(5),
            call_timeout: Duration::from_secs(60),
            services: 10_000,
            drain_grace: Duration::from_secs(5),
            drain: Duration::from_secs(30),
        }
    }
}

/// Everything that a reload may change about routing, as configured.
#[derive(Clone, Debug, Default)]
pub struct RoutingSpec {
    /// Route tables, by the names that listeners use.
    pub tables: Vec<RouteTable>,
    /// Configured clusters.
    pub clusters: Vec<ClusterSpec>,
    /// The policy of clusters that routes to a registry make.
    pub registry_policy: ClusterPolicy,
    /// Bounds.
    pub limits: Limits,
}

/// Routing at one moment; immutable, swapped whole.
pub struct Routing {
    /// Grows with every swap.
    pub epoch: u64,
    /// Bounds.
    pub limits: Limits,
    tables: HashMap<Arc<str>, Arc<RouteTable>>,
    clusters: HashMap<Arc<str>, Arc<Cluster>>,
    registry_policy: ClusterPolicy,
}

impl Routing {
    /// The table of this name.
    #[must_use]
    pub fn table(&self, name: &str) -> Option<&Arc<RouteTable>> {
        self.tables.get(name)
    }

    /// The configured cluster of this name.
    #[must_use]
    pub fn cluster(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.clusters.get(name)
    }
}

/// Numbers about the mesh that are not about single calls.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Client connections open now.
    pub connections: AtomicU64,
    /// Client connections accepted since the start.
    pub accepted: AtomicU64,
    /// Client connections closed because their bytes made no sense.
    pub malformed: AtomicU64,
    /// Client connections closed because they did not read their answers.
    pub slow_readers: AtomicU64,
    /// Upstream connections open now.
    pub upstream_connections: AtomicU64,
    /// Upstream connections that could not be made.
    pub connect_failures: AtomicU64,
    /// Upstream connections given up because the peer fell silent.
    pub heartbeat_failures: AtomicU64,
    /// Answers that came after their call was given up.
    pub late_answers: AtomicU64,
    /// Answers to nothing that was asked.
    pub unknown_answers: AtomicU64,
    /// Retries made.
    pub retries: AtomicU64,
}

impl Gauges {
    /// Counts one more.
    pub fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one less.
    pub fn sub(counter: &AtomicU64) {
        counter.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One cluster as an operator sees it.
#[derive(Clone, Debug)]
pub struct ClusterStatus {
    /// Its name.
    pub name: Arc<str>,
    /// What it watches, if a registry.
    pub lookup: Option<Lookup>,
    /// Whether a first snapshot has arrived.
    pub ready: bool,
    /// Whether the registry knows the service.
    pub known: bool,
    /// Calls in flight to it.
    pub in_flight: u32,
    /// Endpoints ejected since it began.
    pub ejections: u64,
    /// Its endpoints.
    pub endpoints: Vec<EndpointStatus>,
}

/// One endpoint as an operator sees it.
#[derive(Clone, Debug)]
pub struct EndpointStatus {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its configured weight.
    pub weight: u32,
    /// Calls in flight to it.
    pub in_flight: u32,
    /// Whether it takes calls now: not ejected, not leaving, not unwell.
    pub available: bool,
    /// Whether health checks say that it is unwell.
    pub unwell: bool,
    /// Its labels, as `name=value`.
    pub labels: Vec<String>,
}

/// What all workers share.
pub struct Mesh {
    /// The process's clock.
    pub clock: Clock,
    /// Numbers about the mesh.
    pub gauges: Gauges,
    pub(crate) observer: Arc<dyn Observer>,
    discovery: Arc<dyn Discovery>,
    /// The layout in which each protocol's services are registered unless a route says
    /// otherwise.
    layouts: HashMap<&'static str, Arc<str>>,
    routing: ArcSwap<Routing>,
    looked_up: Mutex<HashMap<Lookup, Arc<Cluster>>>,
}

impl Mesh {
    /// A mesh with its first routing in force. `layouts` tells for each protocol the layout
    /// that its services are registered in unless a route says otherwise.
    #[must_use]
    pub fn new(
        spec: RoutingSpec,
        layouts: HashMap<&'static str, Arc<str>>,
        discovery: Arc<dyn Discovery>,
        observer: Arc<dyn Observer>,
    ) -> Arc<Self> {
        let nothing = Routing {
            epoch: 0,
            limits: Limits::default(),
            tables: HashMap::new(),
            clusters: HashMap::new(),
            registry_policy: ClusterPolicy::default(),
        };
        let mesh = Arc::new(Self {
            clock: Clock::start(),
            gauges: Gauges::default(),
            observer,
            discovery,
            layouts,
            routing: ArcSwap::from_pointee(nothing),
            looked_up: Mutex::default(),
        });
        mesh.apply(spec);
        mesh
    }

    /// Puts new routing in force. Clusters that did not change stay as they are, with their
    /// connections; of the others, endpoints keep what was learnt about them.
    pub fn apply(&self, spec: RoutingSpec) {
        let before = self.routing.load_full();
        let clusters = spec
            .clusters
            .into_iter()
            .map(|cluster| {
                let former = before.clusters.get(&cluster.name);
                let kept = former.filter(|former| former.spec == cluster).cloned();
                let name = cluster.name.clone();
                let started = kept.unwrap_or_else(|| {
                    Cluster::start(
                        cluster,
                        self.clock,
                        &*self.discovery,
                        former.map(|former| &**former),
                    )
                });
                (name, started)
            })
            .collect();
        let policy_changed = before.registry_policy != spec.registry_policy;
        let tables = spec
            .tables
            .into_iter()
            .map(|t| (t.name.clone(), Arc::new(t)))
            .collect();
        self.routing.store(Arc::new(Routing {
            epoch: before.epoch + 1,
            limits: spec.limits,
            tables,
            clusters,
            registry_policy: spec.registry_policy,
        }));
        if policy_changed {
            let policy = &self.routing.load().registry_policy;
            for (lookup, cluster) in self.lock_looked_up().iter_mut() {
                let again = lookup_spec(lookup.clone(), policy.clone());
                *cluster = Cluster::start(again, self.clock, &*self.discovery, Some(&**cluster));
            }
        }
    }

    /// Routing now.
    #[must_use]
    pub fn routing(&self) -> Arc<Routing> {
        self.routing.load_full()
    }

    /// Whether routing has changed since `epoch`.
    pub(crate) fn is_current(&self, epoch: u64) -> bool {
        self.routing.load().epoch == epoch
    }

    /// The cluster of a service in a registry, watched from the first time it is asked for.
    /// `None` if too many services are watched already.
    pub(crate) fn look_up(
        &self,
        registry: &Arc<str>,
        layout: Option<&Arc<str>>,
        protocol: &str,
        site: &SiteKey,
    ) -> Option<Arc<Cluster>> {
        let layout = layout.or_else(|| self.layouts.get(protocol))?;
        let lookup = Lookup {
            registry: registry.clone(),
            layout: layout.clone(),
            service: site.service.as_ref().into(),
            version: site.version.as_ref().into(),
            group: site.group.as_ref().into(),
            protocol: protocol.into(),
        };
        let routing = self.routing.load();
        let mut looked_up = self.lock_looked_up();
        if let Some(cluster) = looked_up.get(&lookup) {
            return Some(cluster.clone());
        }
        if looked_up.len() >= routing.limits.services {
            looked_up.retain(|_, cluster| Arc::strong_count(cluster) > 1);
            if looked_up.len() >= routing.limits.services {
                return None;
            }
        }
        let spec = lookup_spec(lookup.clone(), routing.registry_policy.clone());
        let cluster = Cluster::start(spec, self.clock, &*self.discovery, None);
        looked_up.insert(lookup, cluster.clone());
        Some(cluster)
    }

    /// Stops watching services that no worker has used for a while.
    pub(crate) fn forget_unused(&self) {
        self.lock_looked_up()
            .retain(|_, cluster| Arc::strong_count(cluster) > 1);
    }

    /// All clusters, configured and looked up.
    pub(crate) fn clusters(&self) -> Vec<Arc<Cluster>> {
        let routing = self.routing.load();
        let mut clusters: Vec<Arc<Cluster>> = routing.clusters.values().cloned().collect();
        clusters.extend(self.lock_looked_up().values().cloned());
        clusters
    }

    /// All clusters, configured and looked up, by name.
    #[must_use]
    pub fn status(&self) -> Vec<ClusterStatus> {
        let now = self.clock.now();
        let mut status: Vec<ClusterStatus> = self
            .clusters()
            .iter()
            .map(|cluster| cluster_status(cluster, now))
            .collect();
        status.sort_by(|a, b| a.name.cmp(&b.name));
        status
    }

    fn lock_looked_up(&self) -> std::sync::MutexGuard<'_, HashMap<Lookup, Arc<Cluster>>> {
        self.looked_up
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn lookup_spec(lookup: Lookup, policy: ClusterPolicy) -> ClusterSpec {
    let mut name = format!("{}/{}/{}", lookup.registry, lookup.layout, lookup.service);
    for part in [&lookup.version, &lookup.group] {
        if !part.is_empty() {
            name.push(':');
            name.push_str(part);
        }
    }
    ClusterSpec {
        name: name.into(),
        source: Source::Discovered(lookup),
        policy,
    }
}

fn cluster_status(cluster: &Cluster, now: crate::clock::Now) -> ClusterStatus {
    let endpoints = cluster.endpoints();
    ClusterStatus {
        name: cluster.name().clone(),
        lookup: match &cluster.spec.source {
            Source::Listed(_) => None,
            Source::Discovered(lookup) => Some(lookup.clone()),
        },
        ready: endpoints.ready,
        known: endpoints.known,
        in_flight: cluster.in_flight.load(Ordering::Relaxed),
        ejections: cluster.ejections.load(Ordering::Relaxed),
        endpoints: endpoints
            .all
            .iter()
            .map(|endpoint| EndpointStatus {
                address: endpoint.address,
                weight: endpoint.weight,
                in_flight: endpoint.in_flight(),
                available: endpoint.available(now),
                unwell: endpoint.health.unwell.load(Ordering::Relaxed),
                labels: endpoint
                    .labels
                    .iter()
                    .map(|(k, v)| format!("{k}={v}"))
                    .collect(),
            })
            .collect(),
    }
}
