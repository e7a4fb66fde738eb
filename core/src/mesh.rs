//! The mesh, which all workers share: routing, clusters, the way to registries and exporters.

mod exchange;
mod explain;
mod filtered;
mod fitting;
mod hits;
mod learned;
mod lease;
mod local;
mod origin;
mod resolved;
mod stall;
mod status;
mod told;
mod traced;
mod unknown;
mod verdict;
mod view;
mod words;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::clock::Clock;
use crate::cluster::{Cluster, ClusterPolicy, ClusterSpec, Source};
use crate::discovery::{Discovery, Lookup};
use crate::filter::{DecisionKey, Decisions, Filter};
use crate::record::Observer;
use crate::rejection::Rejection;
use crate::route::{Route, RouteTable};
use crate::stats::MeshStats;
use crate::trace::Tracing;

pub use exchange::{Attempt, Exchange, PartedLease, Resend, Routed, Underway};
pub use explain::{Explained, Led, Passed};
pub(crate) use filtered::SessionFilters;
pub use fitting::Fitting;
use hits::Hits;
use learned::Learned;
pub use lease::Lease;
pub(crate) use stall::Stall;
use unknown::Unknown;

pub use local::LocalMesh;
pub(crate) use origin::Origin;
pub use origin::Pinned;
pub(crate) use resolved::{CallKey, RouteCache};
pub use status::{ClusterStatus, ConcurrencyStatus, EndpointState, EndpointStatus};
pub(crate) use told::Told;
pub use traced::{Propagated, Traced};
pub use verdict::{AttemptEnd, DeadlineOwner, Repeat, Ruling, Verdict, rule, table};
pub(crate) use view::LocalEndpoint;

/// Bounds of connections and calls, whatever their route.
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
    /// Bounds the deadline that a caller sets itself, where its route does not. Default: 1 h.
    pub call_timeout_max: Duration,
    /// A client that closed its sending side, and only that, is still answered for this long; then
    /// it is taken for gone, and its calls give their places back. Default: 5 s.
    pub half_closed: Duration,
    /// A frame that has begun is cut off if it comes more slowly than this many bytes a second on the
    /// average of 10 s; 0 = no bound. Default: 1 KiB.
    pub frame_rate: usize,
    /// Bytes of unfinished frames of all client connections; above it, the slowest ones are cut off.
    /// Default: 128 MiB.
    pub unfinished: usize,
    /// Upstream connections in all; at the limit, idle ones make room. Default: 10,000.
    pub upstream_connections: usize,
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
            call_timeout_max: Duration::from_secs(3600),
            half_closed: Duration::from_secs(5),
            frame_rate: 1024,
            unfinished: 128 * 1024 * 1024,
            upstream_connections: 10_000,
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
    /// Filters, by the names that listeners and routes use.
    pub filters: Vec<(Arc<str>, Arc<dyn Filter>)>,
    /// The filters that all calls of a listener pass, by its name and in order.
    pub listener_filters: BTreeMap<Arc<str>, Arc<[Arc<str>]>>,
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
    filters: BTreeMap<Arc<str>, Arc<dyn Filter>>,
    listener_filters: BTreeMap<Arc<str>, Arc<[Arc<str>]>>,
    registry_policy: ClusterPolicy,
}

impl Routing {
    /// The table of this name.
    #[must_use]
    pub fn table(&self, name: &str) -> Option<&Arc<RouteTable>> {
        self.tables.get(name)
    }

    /// The names of all tables, in order.
    #[must_use]
    pub fn tables(&self) -> Vec<Arc<str>> {
        let mut names: Vec<_> = self.tables.keys().cloned().collect();
        names.sort();
        names
    }

    fn policy(&self) -> ClusterPolicy {
        self.registry_policy.clone()
    }

    /// The filter of this name.
    #[must_use]
    pub fn filter(&self, name: &str) -> Option<&Arc<dyn Filter>> {
        self.filters.get(name)
    }

    /// All filters, by name.
    pub fn filters(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<dyn Filter>)> {
        self.filters.iter()
    }

    /// The listeners whose calls pass this filter.
    #[must_use]
    pub fn listeners_with(&self, filter: &str) -> Vec<&str> {
        let all = self.listener_filters.iter();
        let own = all.filter(|(_, names)| names.iter().any(|own| **own == *filter));
        own.map(|(listener, _)| &**listener).collect()
    }

    /// The names of the filters that calls of this route pass, which came in by this listener, in order.
    pub fn filters_of<'a>(
        &'a self,
        listener: &str,
        route: &'a Route,
    ) -> impl Iterator<Item = &'a Arc<str>> + use<'a> {
        let listener = self.listener_filters.get(listener);
        let listener = listener.into_iter().flat_map(|own| own.iter());
        listener.chain(route.filters.iter())
    }

    /// The configured cluster of this name.
    #[must_use]
    pub fn cluster(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.clusters.get(name)
    }
}

/// What all workers share.
pub struct Mesh {
    /// The process's clock.
    pub clock: Clock,
    /// Numbers about the mesh.
    pub stats: Arc<MeshStats>,
    /// A worker wants an upstream connection and has nothing idle: another one may have.
    pub(crate) room_wanted: AtomicBool,
    pub(crate) observer: Arc<dyn Observer>,
    /// Whether, and how, exchanges are traced.
    pub(crate) tracing: ArcSwapOption<Tracing>,
    discovery: Arc<dyn Discovery>,
    /// The layout in which each protocol's services are registered unless a route says
    /// otherwise.
    layouts: HashMap<&'static str, Arc<str>>,
    routing: ArcSwap<Routing>,
    looked_up: Mutex<BTreeMap<Lookup, Arc<Cluster>>>,
    unknown: Unknown,
    /// Which services have series of their own because somebody serves them.
    pub(crate) learned: Learned,
    /// How often routes are taken.
    pub(crate) hits: Hits,
    /// What filters decided.
    pub(crate) decisions: Arc<Decisions>,
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
            filters: BTreeMap::new(),
            listener_filters: BTreeMap::new(),
            registry_policy: ClusterPolicy::default(),
        };
        let mesh = Arc::new(Self {
            clock: Clock::start(),
            stats: Arc::default(),
            room_wanted: AtomicBool::new(false),
            observer,
            tracing: ArcSwapOption::empty(),
            discovery,
            layouts,
            routing: ArcSwap::from_pointee(nothing),
            looked_up: Mutex::default(),
            unknown: Unknown::default(),
            learned: Learned::default(),
            hits: Hits::default(),
            decisions: Arc::default(),
        });
        mesh.apply(spec);
        mesh
    }

    /// Says how exchanges are traced, or that none are. It holds for calls of services that were not
    /// met yet, and for all from the next [routing](Self::apply) on.
    pub fn trace(&self, tracing: Option<Arc<Tracing>>) {
        self.tracing.store(tracing);
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
        if before.registry_policy != spec.registry_policy {
            self.replace_looked_up(&spec.registry_policy);
        }
        let tables = spec.tables.iter();
        let there: BTreeMap<&str, BTreeSet<&str>> = tables
            .map(|table| {
                let routes = table.routes.iter().map(|route| &*route.name);
                (&*table.name, routes.collect())
            })
            .collect();
        self.hits.keep(
            |table| there.contains_key(table),
            |table, route| there.get(table).is_some_and(|own| own.contains(route)),
        );
        // One that does what it did goes on with what it remembers: how full its buckets are, say.
        let filters: BTreeMap<_, _> = spec
            .filters
            .into_iter()
            .map(|(name, filter)| {
                let former = before.filters.get(&name);
                let kept = former.filter(|former| former.is_same(&*filter)).cloned();
                (name, kept.unwrap_or(filter))
            })
            .collect();
        self.decisions.keep(|filter| filters.contains_key(filter));
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
            filters,
            listener_filters: spec.listener_filters,
            registry_policy: spec.registry_policy,
        }));
    }

    /// Begins every looked-up cluster anew with another policy, before routing is swapped: a worker
    /// that notices the swap must not resolve anything to the old ones. The lock is held for a moment
    /// only, since workers need it for services they have not met.
    fn replace_looked_up(&self, policy: &ClusterPolicy) {
        let former: Vec<(Lookup, Arc<Cluster>)> = {
            let looked_up = self.lock_looked_up();
            let entries = looked_up.iter();
            entries
                .map(|(key, own)| (key.clone(), own.clone()))
                .collect()
        };
        for (lookup, former) in former {
            let spec = lookup_spec(lookup.clone(), policy.clone());
            let again = Cluster::start(spec, self.clock, &*self.discovery, Some(&*former));
            if let Some(own) = self.lock_looked_up().get_mut(&lookup) {
                *own = again;
            }
        }
    }

    /// Routing now.
    #[must_use]
    pub fn routing(&self) -> Arc<Routing> {
        self.routing.load_full()
    }

    /// Whether routing is still that of `epoch`.
    pub(crate) fn is_current(&self, epoch: u64) -> bool {
        self.routing.load().epoch == epoch
    }

    /// The cluster of a service in a registry, watched from the first time it is asked for.
    ///
    /// # Errors
    /// [`Rejection::NoService`] if the registry was asked a moment ago and did not know it;
    /// [`Rejection::Overloaded`] if too many services are watched already.
    pub(crate) fn look_up(
        &self,
        registry: &Arc<str>,
        layout: Option<&Arc<str>>,
        protocol: &str,
        resolved: &CallKey,
    ) -> Result<Arc<Cluster>, Rejection> {
        let layout = layout.or_else(|| self.layouts.get(protocol));
        let lookup = Lookup {
            registry: registry.clone(),
            layout: layout.ok_or(Rejection::NoService)?.clone(),
            service: resolved.service.as_ref().into(),
            version: resolved.version.as_ref().into(),
            group: resolved.group.as_ref().into(),
            protocol: protocol.into(),
        };
        let now = self.clock.now();
        let routing = self.routing.load();
        let mut looked_up = self.lock_looked_up();
        if let Some(cluster) = looked_up.get(&lookup) {
            return Ok(cluster.clone());
        }
        if self.unknown.lock().is_unknown(&lookup, now) {
            return Err(Rejection::NoService);
        }
        if looked_up.len() >= routing.limits.services && !make_room(&mut looked_up) {
            return Err(Rejection::Overloaded);
        }
        let spec = lookup_spec(lookup.clone(), routing.registry_policy.clone());
        let cluster = Cluster::start(spec, self.clock, &*self.discovery, None);
        looked_up.insert(lookup, cluster.clone());
        Ok(cluster)
    }

    /// A registry does not know a looked-up service: nothing is kept of it but a note for a moment,
    /// so that a name which nobody has costs no watch.
    ///
    /// Returns false for a cluster that the configuration names: that one is watched for ever.
    pub(crate) fn forget_unknown(&self, cluster: &Arc<Cluster>) -> bool {
        let Source::Discovered(lookup) = &cluster.spec.source else {
            return false;
        };
        let mut looked_up = self.lock_looked_up();
        let known = looked_up.get(lookup);
        if known.is_some_and(|own| Arc::ptr_eq(own, cluster)) {
            looked_up.remove(lookup);
            self.unknown.lock().note(lookup, self.clock.now());
            return true;
        }
        // Another worker was faster, unless it is configured.
        let routing = self.routing.load();
        let configured = routing.cluster(cluster.name());
        !configured.is_some_and(|own| Arc::ptr_eq(own, cluster))
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
            .map(|cluster| ClusterStatus::of(cluster, now))
            .collect();
        status.sort_by(|a, b| a.name.cmp(&b.name));
        status
    }

    /// How often each route of each table was taken since it was configured; the route "" stands for
    /// calls that none matched.
    #[must_use]
    pub fn route_hits(&self) -> BTreeMap<(Arc<str>, Arc<str>), u64> {
        self.hits.sums()
    }

    /// What filters decided, counted by filter, rule and decision.
    #[must_use]
    pub fn filter_decisions(&self) -> Vec<(DecisionKey, u64)> {
        self.decisions.all()
    }

    fn lock_looked_up(&self) -> std::sync::MutexGuard<'_, BTreeMap<Lookup, Arc<Cluster>>> {
        self.looked_up
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes room for another service: lets go of those that no worker uses, or nobody has.
fn make_room(looked_up: &mut BTreeMap<Lookup, Arc<Cluster>>) -> bool {
    let before = looked_up.len();
    looked_up.retain(|_, cluster| {
        let endpoints = cluster.endpoints();
        Arc::strong_count(cluster) > 1 && (endpoints.known || !endpoints.ready)
    });
    looked_up.len() < before
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
