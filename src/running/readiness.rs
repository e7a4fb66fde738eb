//! Readiness: whether a load balancer may send clients here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use finback_core::cluster::Source;
use finback_core::mesh::RoutingSpec;
use finback_core::route::Destination;

use super::Running;

/// How often it is looked whether what was waited for is there.
const LOOK: Duration = Duration::from_millis(50);

/// Whether clients may be sent here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Yes.
    Ready,
    /// Not yet: registries, or clusters that are looked up, of which nothing is known.
    Waiting(Vec<String>),
    /// No more: it is going to stop.
    Stopping,
}

/// What a proxy waits for after its start, until all of it was there once or the wait is over.
pub(super) struct Awaited {
    /// Registries that routes or clusters name.
    registries: Vec<String>,
    /// Clusters that are looked up.
    clusters: Vec<Arc<str>>,
    until: Instant,
    /// Once ready, it stays so: a registry that goes away takes no endpoint with it.
    over: AtomicBool,
}

impl Awaited {
    pub(super) fn of(routing: &RoutingSpec, wait: Duration) -> Self {
        let mut registries = BTreeSet::new();
        let routes = routing.tables.iter().flat_map(|table| &table.routes);
        for route in routes {
            if let Destination::Registry { registry, .. } = &route.to {
                registries.insert(registry.to_string());
            }
        }
        let mut clusters = Vec::new();
        for cluster in &routing.clusters {
            if let Source::Discovered(lookup) = &cluster.source {
                registries.insert(lookup.registry.to_string());
                clusters.push(cluster.name.clone());
            }
        }
        Self {
            registries: registries.into_iter().collect(),
            clusters,
            until: Instant::now() + wait,
            over: AtomicBool::new(false),
        }
    }
}

impl Running {
    /// Whether clients may be sent here.
    pub fn readiness(&self) -> Readiness {
        let awaited = &self.awaited;
        if self.is_draining() {
            return Readiness::Stopping;
        }
        if awaited.over.load(Relaxed) {
            return Readiness::Ready;
        }
        let missing = self.missing();
        if missing.is_empty() || Instant::now() >= awaited.until {
            awaited.over.store(true, Relaxed);
            return Readiness::Ready;
        }
        Readiness::Waiting(missing)
    }

    /// What is waited for and is not there, as an operator knows it.
    pub fn missing(&self) -> Vec<String> {
        let registries = self.registries.unheard(&self.awaited.registries);
        let registries = registries
            .into_iter()
            .map(|name| format!("registry {name}"));
        let routing = self.mesh.routing();
        let unknown = self.awaited.clusters.iter().filter(|name| {
            let cluster = routing.cluster(name);
            cluster.is_some_and(|cluster| !cluster.endpoints().ready)
        });
        let clusters = unknown.map(|name| format!("cluster {name}"));
        registries.chain(clusters).collect()
    }

    /// Waits until clients may be sent here, or no more; whether they may.
    pub async fn until_ready(&self) -> bool {
        loop {
            match self.readiness() {
                Readiness::Ready => return true,
                Readiness::Stopping => return false,
                Readiness::Waiting(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }
}
