//! A named set of endpoints with the policy that all calls to it share.

mod book;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};

use crate::balance::Policy;
use crate::budget::Budget;
use crate::clock::{Clock, Now};
use crate::concurrency::{AdaptiveConcurrency, ConcurrencyLimit};
use crate::discovery::{
    Discovery, Instance, Lane, Lookup, Rules, Snapshot, SnapshotSink, WatchGuard,
};
use crate::endpoint::{Endpoint, Health};
use crate::health::HealthCheck;
use crate::net::{ClientTls, ProxyVersion};
use crate::outlier::{Interval, Outlier};
use crate::own_error::is_ours;
use crate::stats::{ClusterStats, Detector, increment};
use crate::text::Escaped;

use book::Book;

/// How calls to a cluster are spread, bounded and kept away from bad endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterPolicy {
    /// How an endpoint is chosen. Default: round robin.
    pub balance: Policy,
    /// Which version is spoken to its endpoints, for protocols that have several; the protocol's
    /// own word. Default: whatever the protocol prefers.
    pub version: Option<Arc<str>>,
    /// TLS, if it is spoken to its endpoints.
    pub tls: Option<Arc<ClientTls>>,
    /// How long a connection may take to be made. Default: 1 s.
    pub connect_timeout: Duration,
    /// Upstream connections per endpoint and worker, at most. Default: 4.
    pub connections: u32,
    /// The same of connections that carry one call at a time; further calls wait for one. Default: any
    /// number.
    pub exclusive_connections: Option<u32>,
    /// An upstream connection that was silent this long is sent a heartbeat. Default: 5 s.
    pub heartbeat_interval: Duration,
    /// A connection silent for this many intervals is given up. Default: 3.
    pub heartbeat_misses: u32,
    /// Calls in flight to the whole cluster, at most; 0 = no limit. Default: 10,000.
    pub max_in_flight: u32,
    /// Calls in flight to one endpoint, at most; 0 = no limit. Default: 0.
    pub per_endpoint: u32,
    /// Finds out how many calls may be in flight to the whole cluster. Default: not at all.
    pub adaptive_concurrency: Option<AdaptiveConcurrency>,
    /// When an endpoint is ejected.
    pub outlier: Outlier,
    /// How endpoints are asked whether they are well. Default: not at all.
    pub health_check: Option<HealthCheck>,
    /// If fewer than this share of the endpoints (percent) is available, all are used.
    /// Default: 50.
    pub panic_percent: u32,
    /// Retries in flight, at most, in percent of the calls in flight. Default: 20.
    pub retry_budget: u32,
    /// The header that tells endpoints whose connection it is; such a connection serves one client only.
    /// Default: none.
    pub proxy_header: Option<ProxyVersion>,
}

impl Default for ClusterPolicy {
    fn default() -> Self {
        Self {
            balance: Policy::default(),
            version: None,
            tls: None,
            connect_timeout: Duration::from_secs(1),
            connections: 4,
            exclusive_connections: None,
            heartbeat_interval: Duration::from_secs(5),
            heartbeat_misses: 3,
            max_in_flight: 10_000,
            per_endpoint: 0,
            adaptive_concurrency: None,
            outlier: Outlier::default(),
            health_check: None,
            panic_percent: 50,
            retry_budget: 20,
            proxy_header: None,
        }
    }
}

/// Retries that are always allowed: a few callers must not fail because they are few.
const RETRY_FLOOR: u32 = 10;

/// Where a cluster's endpoints come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// Listed in the configuration.
    Listed(Vec<Instance>),
    /// Watched in a registry.
    Discovered(Lookup),
}

/// A cluster as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterSpec {
    /// Its name.
    pub name: Arc<str>,
    /// Where its endpoints come from.
    pub source: Source,
    /// Its policy.
    pub policy: ClusterPolicy,
}

/// The endpoints of a cluster at one moment.
#[derive(Debug, Default)]
pub struct Endpoints {
    /// Whether a first snapshot has arrived.
    pub ready: bool,
    /// Whether the registry knows the service.
    pub known: bool,
    /// All of them, those of weight 0 included.
    pub all: Vec<Arc<Endpoint>>,
    /// The framework's own split.
    pub lane: Option<Lane>,
    /// The framework's own rules.
    pub rules: Rules,
    /// What keeps endpoints from being known.
    pub trouble: Option<Arc<str>>,
}

/// A cluster at work: shared by all workers.
pub struct Cluster {
    /// No other one has it; later ones have greater ones.
    pub(crate) number: u64,
    /// What it was made from.
    pub spec: ClusterSpec,
    /// Calls in flight to it, from all workers; those of clusters that it replaced count on.
    pub in_flight: Arc<AtomicU32>,
    /// Numbers about it, since the first of the clusters that it replaced began.
    pub stats: Arc<ClusterStats>,
    /// The limit that is found out, if one is.
    pub concurrency: Option<Arc<ConcurrencyLimit>>,
    /// What retries may cost.
    pub budget: Budget,
    /// The interval in which calls are counted, where endpoints are ejected by that.
    interval: Interval,
    endpoints: ArcSwap<Endpoints>,
    /// What was learnt about the endpoints.
    book: Mutex<Book>,
    version: AtomicU64,
    ready: watch::Sender<bool>,
    /// Tells those who wait for the first snapshot, in the order in which they came: a watch would
    /// wake them in random order, and calls would overtake each other.
    first: Notify,
    clock: Clock,
    guard: Mutex<Option<WatchGuard>>,
}

impl Cluster {
    /// Makes the cluster and begins to watch its registry if it has one. What was learnt and
    /// counted in `former`, the cluster it replaces, holds on: whatever else changes, an address
    /// that both have keeps its health, and calls in flight count for both.
    #[must_use]
    pub fn start(
        spec: ClusterSpec,
        clock: Clock,
        discovery: &dyn Discovery,
        former: Option<&Self>,
    ) -> Arc<Self> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let percent = spec.policy.retry_budget;
        let cluster = Arc::new(Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            in_flight: former.map_or_else(Arc::default, |former| former.in_flight.clone()),
            stats: former.map_or_else(Arc::default, |former| former.stats.clone()),
            concurrency: concurrency(spec.policy.adaptive_concurrency, former),
            budget: former.map_or_else(
                || Budget::new(percent, RETRY_FLOOR),
                |former| former.budget.with_percent(percent),
            ),
            interval: Interval::default(),
            endpoints: ArcSwap::from_pointee(Endpoints::default()),
            book: Mutex::new(
                former
                    .map(|former| former.book().clone())
                    .unwrap_or_default(),
            ),
            version: AtomicU64::new(0),
            ready: watch::Sender::new(false),
            first: Notify::new(),
            clock,
            guard: Mutex::new(None),
            spec,
        });
        if cluster.spec.policy.health_check.is_none() {
            // Nobody would ever find them well again.
            for health in cluster.book().healths() {
                health.unhealthy.store(false, Ordering::Relaxed);
            }
        }
        let before = former.map(|former| former.endpoints()).unwrap_or_default();
        match &cluster.spec.source {
            Source::Listed(instances) => {
                let snapshot = Snapshot {
                    known: true,
                    instances: instances.clone(),
                    ..Snapshot::default()
                };
                cluster.replace(&before, snapshot);
            }
            Source::Discovered(lookup) => {
                let is_same = former.is_some_and(|own| own.spec.source == cluster.spec.source);
                if is_same && before.ready {
                    cluster.put(before);
                }
                let sink = Arc::new(ClusterSink(Arc::downgrade(&cluster)));
                let guard = discovery.watch(lookup, sink);
                *cluster.guard.lock().unwrap_or_else(PoisonError::into_inner) = Some(guard);
            }
        }
        cluster
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.spec.name
    }

    /// The endpoints now.
    #[must_use]
    pub fn endpoints(&self) -> Arc<Endpoints> {
        self.endpoints.load_full()
    }

    /// The time on its clock.
    #[must_use]
    pub(crate) fn now(&self) -> Now {
        self.clock.now()
    }

    /// Notes that no connection to `endpoint`, one of its own, could be made, unless that is for
    /// want of something that is ours. Called once for a connection, whoever waited for it.
    pub fn cannot_connect(&self, endpoint: &Endpoint, now: Now, error: &io::Error) {
        if is_ours(error) {
            return;
        }
        increment(&self.stats.connect_failures);
        let outlier = &self.spec.policy.outlier;
        if outlier.connect_failed(&endpoint.health, now, &self.endpoints.load().all) {
            tracing::warn!(
                cluster = %Escaped(self.name()), endpoint = %endpoint.address, %error,
                "cannot connect to endpoint; it is left alone for a while"
            );
            let why = format!("no connection can be made: {error}");
            endpoint.health.troubles.ejected(now, why);
        }
    }

    /// Notes how a call to `endpoint`, one of its own, ended, where its endpoints are ejected by their rates.
    pub(crate) fn rate(&self, endpoint: &Endpoint, now: Now, good: bool) {
        let outlier = &self.spec.policy.outlier;
        if outlier.is_rated() {
            endpoint.health.tally.note(good);
            if let Some(fresh) = self.interval.pass(now, outlier.interval) {
                self.eject_by_rate(now, fresh);
            }
        }
    }

    /// An interval is over.
    #[cold]
    fn eject_by_rate(&self, now: Now, fresh: bool) {
        let endpoints = self.endpoints.load();
        let outlier = &self.spec.policy.outlier;
        for own in outlier.by_rate(&endpoints.all, now, fresh) {
            let endpoint = &endpoints.all[own.place];
            self.ejected(endpoint, now, own.detector, own.why);
        }
    }

    /// Notes that `endpoint`, one of its own, was ejected for calls that failed.
    #[cold]
    pub(crate) fn ejected(&self, endpoint: &Endpoint, now: Now, detector: Detector, why: String) {
        self.stats.ejections.add(detector);
        tracing::warn!(
            cluster = %Escaped(self.name()), endpoint = %endpoint.address, detector = detector.name(), why,
            "endpoint ejected after repeated failures"
        );
        endpoint.health.troubles.ejected(now, why);
    }

    /// Its number, which no other cluster of this process ever has.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// A number that changes with every change of the endpoints.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Waits until the first snapshot has arrived.
    pub async fn until_ready(&self) {
        loop {
            // Made before the flag is read, so that no change between the two is missed.
            let told = self.first.notified();
            if *self.ready.borrow() {
                return;
            }
            told.await;
        }
    }

    /// Hears of every change of the endpoints, and of the cluster's end.
    pub(crate) fn changes(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Puts a snapshot in force. Endpoints that stay keep their health, and those that did not
    /// change at all stay the same object.
    pub fn update(&self, snapshot: Snapshot) {
        let before = self.endpoints.load_full();
        self.replace(&before, snapshot);
    }

    fn replace(&self, before: &Endpoints, snapshot: Snapshot) {
        let by_address: HashMap<SocketAddr, &Arc<Endpoint>> = before
            .all
            .iter()
            .map(|endpoint| (endpoint.address, endpoint))
            .collect();
        let now = self.clock.now();
        let mut book = self.book();
        book.open();
        let all = snapshot
            .instances
            .into_iter()
            .map(|instance| {
                let former = by_address.get(&instance.address).copied();
                let health = book.of(instance.address, now);
                self.endpoint(instance, former, health)
            })
            .collect();
        book.close(now);
        drop(book);
        self.put(Arc::new(Endpoints {
            ready: true,
            known: snapshot.known,
            all,
            lane: snapshot.lane,
            rules: snapshot.rules,
            trouble: snapshot.trouble,
        }));
    }

    fn put(&self, endpoints: Arc<Endpoints>) {
        self.endpoints.store(endpoints);
        self.version.fetch_add(1, Ordering::AcqRel);
        self.ready.send_replace(true);
        self.first.notify_waiters();
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn endpoint(
        &self,
        instance: Instance,
        former: Option<&Arc<Endpoint>>,
        health: Arc<Health>,
    ) -> Arc<Endpoint> {
        let warm_up = instance.warm_up.map(|warm_up| {
            (
                self.clock.from_wall(warm_up.since),
                crate::clock::micros(warm_up.period),
            )
        });
        if let Some(former) = former
            && former.weight == instance.weight
            && former.labels == instance.labels
            && former.warm_up == warm_up
            && former.terms == instance.terms
            && Arc::ptr_eq(&former.health, &health)
        {
            return former.clone();
        }
        Arc::new(Endpoint {
            address: instance.address,
            weight: instance.weight,
            labels: instance.labels,
            warm_up,
            terms: instance.terms,
            health,
        })
    }
}

/// The limit by these settings; that of the former cluster, where they are the same.
fn concurrency(
    settings: Option<AdaptiveConcurrency>,
    former: Option<&Cluster>,
) -> Option<Arc<ConcurrencyLimit>> {
    let (settings, former) = (settings?, former.and_then(|own| own.concurrency.as_ref()));
    match former {
        Some(own) if own.settings() == settings => Some(own.clone()),
        _ => Some(Arc::new(ConcurrencyLimit::new(
            settings,
            former.map(|own| &**own),
        ))),
    }
}

/// Holds the cluster weakly: a watch must not keep alive what nobody routes to.
struct ClusterSink(Weak<Cluster>);

impl SnapshotSink for ClusterSink {
    fn update(&self, snapshot: Snapshot) {
        if let Some(cluster) = self.0.upgrade() {
            cluster.update(snapshot);
        }
    }
}
