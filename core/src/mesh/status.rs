//! Clusters and endpoints as an operator sees them: how they stand, and why.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::balance::Policy;
use crate::clock::Now;
use crate::cluster::{Cluster, Source};
use crate::discovery::Lookup;
use crate::endpoint::{Endpoint, Standing};
use crate::stats::ClusterStats;

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
    /// The limit that is found out for it, if one is.
    pub concurrency: Option<ConcurrencyStatus>,
    /// Numbers about it.
    pub stats: Arc<ClusterStats>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointStatus>,
}

/// Adaptive concurrency as an operator sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConcurrencyStatus {
    /// Calls that may be in flight.
    pub limit: u32,
    /// Calls in flight that count: no session, stream or long poll.
    pub in_flight: u32,
    /// Calls that were turned away.
    pub shed: u64,
    /// What answers take where nothing waits, as far as is known.
    pub baseline: Option<Duration>,
}

/// How an endpoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointState {
    /// It takes calls.
    Available,
    /// It takes calls, and few of them: it has yet to answer, or owes many answers.
    Suspect,
    /// It takes none until a time: calls failed, or no connection could be made.
    Ejected,
    /// It was ejected, and one call tries it, or the next one will.
    Trial,
    /// Health checks fail.
    Unhealthy,
    /// It said goodbye.
    Leaving,
    /// Its weight is 0.
    Unused,
}

impl EndpointState {
    /// Its name on pages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Suspect => "suspect",
            Self::Ejected => "ejected",
            Self::Trial => "trial",
            Self::Unhealthy => "unhealthy",
            Self::Leaving => "leaving",
            Self::Unused => "unused",
        }
    }
}

/// One endpoint as an operator sees it.
#[derive(Clone, Debug)]
pub struct EndpointStatus {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its configured weight.
    pub weight: u32,
    /// Its weight now: less while it warms up.
    pub weight_now: u32,
    /// Calls in flight to it.
    pub in_flight: u32,
    /// Whether it takes calls now: not ejected (or due to be tried by the next call), not leaving, not
    /// unhealthy.
    pub available: bool,
    /// Whether health checks say that it is unhealthy.
    pub unhealthy: bool,
    /// Its state.
    pub state: EndpointState,
    /// Why, if that is not `available`.
    pub why: String,
    /// For how long it stands so still, if that is known.
    pub ends_in: Option<Duration>,
    /// The average of its answer times, the slow ones weighing more; where the cluster balances by it.
    pub latency: Option<Duration>,
    /// Failed calls in a row.
    pub failures: u32,
    /// Connections in a row that could not be made.
    pub connect_failures: u32,
    /// Ejections in the recent past; they lengthen the next one.
    pub ejections: u32,
    /// Its labels, as `name=value`.
    pub labels: Vec<String>,
}

impl ClusterStatus {
    pub(super) fn of(cluster: &Cluster, now: Now) -> Self {
        let endpoints = cluster.endpoints();
        let balance = &cluster.spec.policy.balance;
        let all = endpoints.all.iter();
        Self {
            name: cluster.name().clone(),
            lookup: match &cluster.spec.source {
                Source::Listed(_) => None,
                Source::Discovered(lookup) => Some(lookup.clone()),
            },
            ready: endpoints.ready,
            known: endpoints.known,
            in_flight: cluster.in_flight.load(Relaxed),
            concurrency: cluster.concurrency.as_ref().map(|own| ConcurrencyStatus {
                limit: own.limit(),
                in_flight: own.in_flight(),
                shed: own.shed(),
                baseline: own.baseline(),
            }),
            stats: cluster.stats.clone(),
            endpoints: all
                .map(|endpoint| EndpointStatus::of(endpoint, *balance == Policy::PeakEwma, now))
                .collect(),
        }
    }
}

impl EndpointStatus {
    /// How an endpoint is at `now`; `measured` says that its cluster balances by answer times.
    #[must_use]
    pub fn of(endpoint: &Endpoint, measured: bool, now: Now) -> Self {
        let health = &endpoint.health;
        let (state, why, ends) = stands(endpoint, now);
        let nanos = health.ewma_nanos.load(Relaxed);
        Self {
            address: endpoint.address,
            weight: endpoint.weight,
            weight_now: endpoint.weight_at(now),
            in_flight: endpoint.in_flight(),
            available: endpoint.available(now) || endpoint.is_due(now),
            unhealthy: health.unhealthy.load(Relaxed),
            state,
            why,
            ends_in: ends.map(|ends| ends.since(now)),
            latency: (measured && nanos > 0).then(|| Duration::from_nanos(nanos)),
            failures: health.failures.load(Relaxed),
            connect_failures: health.connect_failures.load(Relaxed),
            ejections: health.ejections.load(Relaxed),
            labels: endpoint
                .labels
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
        }
    }
}

/// The state, the reason for it, and when it ends.
fn stands(endpoint: &Endpoint, now: Now) -> (EndpointState, String, Option<Now>) {
    let health = &endpoint.health;
    let ejection = || health.troubles.ejection().map(|own| own.why);
    let leaving_until = Now(health.leaving_until.load(Relaxed));
    if endpoint.weight == 0 {
        return (EndpointState::Unused, "its weight is 0".to_owned(), None);
    }
    if health.unhealthy.load(Relaxed) {
        let why = match health.troubles.check() {
            Some(check) => format!(
                "health checks have failed for {}s: {}",
                now.since(check.since).as_secs(),
                check.why
            ),
            None => "health checks failed, and not enough have passed since".to_owned(),
        };
        return (EndpointState::Unhealthy, why, None);
    }
    match health.standing(now) {
        Standing::Ejected(until) => {
            let why = ejection().unwrap_or_else(|| "calls failed".to_owned());
            return (EndpointState::Ejected, why, Some(until));
        }
        Standing::OnTrial(until) => {
            let why = ejection().unwrap_or_else(|| "calls failed".to_owned());
            let why = format!("one call tries it; it was ejected: {why}");
            return (EndpointState::Trial, why, Some(until));
        }
        Standing::Due => {
            let why = ejection().unwrap_or_else(|| "calls failed".to_owned());
            let why = format!("the next call tries it; it was ejected: {why}");
            return (EndpointState::Trial, why, None);
        }
        Standing::Available => {}
    }
    if leaving_until > now {
        let why = "it said that it is going away".to_owned();
        return (EndpointState::Leaving, why, Some(leaving_until));
    }
    if health.is_suspect(now) {
        let why = "it has not answered the calls that it has; others are asked first".to_owned();
        return (EndpointState::Suspect, why, None);
    }
    (EndpointState::Available, String::new(), None)
}
