//! Clusters: their endpoints, their connections, and what went wrong with them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use finback_core::mesh::{ClusterStatus, EndpointStatus};
use finback_core::metric::{Family, MetricKind};
use finback_core::stats::{ClusterStats, Detector};
use finback_core::text;
use finback_observability::{MetricSink, MetricValue};

use super::MAX_LABEL;

/// Looked-up clusters that have series of their own.
const MAX_LOOKED_UP: usize = 1000;
/// The label of all clusters beyond that.
const OTHER: &str = "(other)";

const CLUSTER: &[&str] = &["cluster"];

/// What one cluster, or all those beyond the bound, have on the page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sums {
    connections: u64,
    connected: u64,
    connect_failures: u64,
    ejections: [u64; Detector::ALL.len()],
    retries: u64,
    hedges: u64,
    hedges_won: u64,
    endpoints: u64,
    available: u64,
    healthy: u64,
    unhealthy: u64,
    in_flight: u64,
    /// Limit, and calls that were shed, of those that find one out.
    concurrency: Option<(u64, u64)>,
}

/// Reads one number.
type Read = fn(&Sums) -> u64;

static EJECTIONS: Family = Family::counter(
    "finback_cluster_ejections_total",
    "endpoints",
    &["cluster", "detector"],
    "Endpoints ejected for calls that failed, by what was found out: consecutive, trial, success_rate or failure_percentage.",
);
static LIMIT: Family = Family::gauge(
    "finback_cluster_concurrency_limit",
    "calls",
    CLUSTER,
    "Calls that may be in flight to a cluster, as adaptive concurrency has found out.",
);
static SHED: Family = Family::counter(
    "finback_cluster_shed_total",
    "calls",
    CLUSTER,
    "Calls turned away by a cluster's adaptive concurrency.",
);

static FAMILIES: [(Family, Read); 11] = [
    (
        Family::gauge(
            "finback_cluster_endpoints",
            "endpoints",
            CLUSTER,
            "Endpoints of a cluster.",
        ),
        |sums| sums.endpoints,
    ),
    (
        Family::gauge(
            "finback_cluster_endpoints_available",
            "endpoints",
            CLUSTER,
            "Endpoints that take calls: healthy, not ejected and not about to leave.",
        ),
        |sums| sums.available,
    ),
    (
        Family::gauge(
            "finback_cluster_endpoints_healthy",
            "endpoints",
            CLUSTER,
            "Endpoints that health checks find healthy, or that are not checked.",
        ),
        |sums| sums.healthy,
    ),
    (
        Family::gauge(
            "finback_cluster_endpoints_unhealthy",
            "endpoints",
            CLUSTER,
            "Endpoints that health checks find unhealthy.",
        ),
        |sums| sums.unhealthy,
    ),
    (
        Family::gauge(
            "finback_cluster_in_flight",
            "calls",
            CLUSTER,
            "Calls in flight to a cluster, and sessions with it.",
        ),
        |sums| sums.in_flight,
    ),
    (
        Family::gauge(
            "finback_cluster_connections",
            "connections",
            CLUSTER,
            "Connections open to a cluster's endpoints.",
        ),
        |sums| sums.connections,
    ),
    (
        Family::counter(
            "finback_cluster_connections_total",
            "connections",
            CLUSTER,
            "Connections made to a cluster's endpoints.",
        ),
        |sums| sums.connected,
    ),
    (
        Family::counter(
            "finback_cluster_connect_failures_total",
            "connections",
            CLUSTER,
            "Connections to a cluster's endpoints that could not be made because of the endpoint.",
        ),
        |sums| sums.connect_failures,
    ),
    (
        Family::counter(
            "finback_cluster_retries_total",
            "attempts",
            CLUSTER,
            "Attempts after a call's first.",
        ),
        |sums| sums.retries,
    ),
    (
        Family::counter(
            "finback_cluster_hedges_total",
            "attempts",
            CLUSTER,
            "Attempts beside one that took long; they are retries, too.",
        ),
        |sums| sums.hedges,
    ),
    (
        Family::counter(
            "finback_cluster_hedges_won_total",
            "attempts",
            CLUSTER,
            "Attempts beside one that took long whose answer was the call's.",
        ),
        |sums| sums.hedges_won,
    ),
];

/// Puts clusters into a sink.
pub(super) fn collect(clusters: &[ClusterStatus], sink: &mut dyn MetricSink) {
    let all = labelled(clusters);
    for (family, value) in &FAMILIES {
        sink.family(family);
        for (label, sums) in &all {
            // Which clusters are among the others changes: a sum of their counters might shrink.
            if label != OTHER || family.kind == MetricKind::Gauge {
                sink.series(&[label], MetricValue::Count(value(sums)));
            }
        }
    }
    let own = || all.iter().filter(|(label, _)| *label != OTHER);
    sink.family(&EJECTIONS);
    for (label, sums) in own() {
        for (detector, count) in Detector::ALL.into_iter().zip(sums.ejections) {
            sink.series(&[label, detector.name()], MetricValue::Count(count));
        }
    }
    let limited = || own().filter_map(|(label, sums)| Some((label, sums.concurrency?)));
    sink.family(&LIMIT);
    for (label, (limit, _)) in limited() {
        sink.series(&[label], MetricValue::Count(limit));
    }
    sink.family(&SHED);
    for (label, (_, shed)) in limited() {
        sink.series(&[label], MetricValue::Count(shed));
    }
}

/// The clusters by the labels that they have: all that are configured, and as many as the bound
/// allows of those that were looked up and found. Names that callers invented are of the others.
fn labelled(clusters: &[ClusterStatus]) -> BTreeMap<String, Sums> {
    let mut all: BTreeMap<String, Sums> = BTreeMap::new();
    let mut looked_up = 0;
    for cluster in clusters {
        let found = cluster.known || !cluster.endpoints.is_empty();
        let own = match &cluster.lookup {
            None => true,
            Some(_) if found && looked_up < MAX_LOOKED_UP => {
                looked_up += 1;
                true
            }
            Some(_) => false,
        };
        let label = if own {
            text::cut(&cluster.name, MAX_LABEL).to_owned()
        } else {
            OTHER.to_owned()
        };
        all.entry(label).or_default().add(cluster);
    }
    all
}

impl Sums {
    fn add(&mut self, cluster: &ClusterStatus) {
        let endpoints = |is: fn(&EndpointStatus) -> bool| {
            cluster.endpoints.iter().filter(|own| is(own)).count() as u64
        };
        self.endpoints += endpoints(|_| true);
        self.available += endpoints(|own| own.available);
        self.healthy += endpoints(|own| !own.unhealthy);
        self.unhealthy += endpoints(|own| own.unhealthy);
        self.in_flight += u64::from(cluster.in_flight);
        let stats: &ClusterStats = &cluster.stats;
        let read = |count: &AtomicU64| count.load(Relaxed);
        self.connections += read(&stats.connections);
        self.connected += read(&stats.connected);
        self.connect_failures += read(&stats.connect_failures);
        for (sum, detector) in self.ejections.iter_mut().zip(Detector::ALL) {
            *sum += stats.ejections.of(detector);
        }
        if let Some(own) = cluster.concurrency {
            let (limit, shed) = self.concurrency.get_or_insert_default();
            *limit += u64::from(own.limit);
            *shed += own.shed;
        }
        self.retries += read(&stats.retries);
        self.hedges += read(&stats.hedges);
        self.hedges_won += read(&stats.hedges_won);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use finback_core::discovery::Lookup;
    use finback_core::mesh::{ConcurrencyStatus, EndpointState};
    use finback_observability::Page;

    fn cluster(name: &str, looked_up: bool, endpoints: usize) -> ClusterStatus {
        let endpoint = EndpointStatus {
            address: ([127, 0, 0, 1], 1).into(),
            weight: 100,
            weight_now: 100,
            in_flight: 0,
            available: true,
            unhealthy: false,
            state: EndpointState::Available,
            why: String::new(),
            ends_in: None,
            latency: None,
            failures: 0,
            connect_failures: 0,
            ejections: 0,
            labels: Vec::new(),
        };
        ClusterStatus {
            name: name.into(),
            lookup: looked_up.then(|| Lookup {
                registry: "r".into(),
                layout: "l".into(),
                service: name.into(),
                version: "".into(),
                group: "".into(),
                protocol: "".into(),
            }),
            ready: true,
            known: endpoints > 0,
            in_flight: 1,
            concurrency: None,
            stats: Arc::default(),
            endpoints: vec![endpoint; endpoints],
        }
    }

    fn shown(clusters: &[ClusterStatus]) -> String {
        let mut page = Page::default();
        collect(clusters, &mut page);
        page.into_text()
    }

    #[test]
    fn clusters_that_callers_invent_share_one_series() {
        let mut all = vec![cluster("configured", false, 0), cluster("found", true, 3)];
        all.extend((0..10_000).map(|n| cluster(&format!("invented.{n}"), true, 0)));
        let labelled = labelled(&all);
        let labels: Vec<_> = labelled.keys().map(String::as_str).collect();
        assert_eq!(labels, [OTHER, "configured", "found"]);
        assert_eq!(labelled[OTHER].in_flight, 10_000);
        assert_eq!(labelled["found"].available, 3);
        // A family has two lines about itself; six are gauges, and show the others too. Ejections have a line
        // for each detector, and nobody's concurrency is limited.
        assert_eq!(
            shown(&all).lines().count(),
            11 * (2 + 2) + 6 + (2 + 2 * 4) + 2 * 2
        );
    }

    #[test]
    fn what_was_found_out_stands_for_those_that_are_limited() {
        let mut limited = cluster("limited", false, 1);
        limited.concurrency = Some(ConcurrencyStatus {
            limit: 77,
            in_flight: 3,
            shed: 5,
            baseline: None,
        });
        limited.stats.ejections.add(Detector::SuccessRate);
        let text = shown(&[limited, cluster("free", false, 1)]);
        for line in [
            "finback_cluster_concurrency_limit{cluster=\"limited\"} 77",
            "finback_cluster_shed_total{cluster=\"limited\"} 5",
            "finback_cluster_ejections_total{cluster=\"limited\",detector=\"success_rate\"} 1",
            "finback_cluster_ejections_total{cluster=\"free\",detector=\"success_rate\"} 0",
        ] {
            assert!(text.lines().any(|own| own == line), "{line}: {text}");
        }
        assert!(!text.contains("limit{cluster=\"free\"}"), "{text}");
    }

    #[test]
    fn counters_of_clusters_that_come_and_go_never_shrink() {
        let found: Vec<_> = (0..MAX_LOOKED_UP + 10)
            .map(|n| cluster(&format!("found.{n}"), true, 1))
            .collect();
        found[MAX_LOOKED_UP].stats.retries.store(5, Relaxed);
        found[3].stats.retries.store(7, Relaxed);
        let labelled = labelled(&found);
        assert_eq!(labelled.len(), MAX_LOOKED_UP + 1);
        assert_eq!(labelled[OTHER].endpoints, 10);
        let text = shown(&found);
        let retries = |line: &&str| line.starts_with("finback_cluster_retries_total{");
        assert_eq!(text.lines().filter(retries).count(), MAX_LOOKED_UP);
        assert!(text.contains("finback_cluster_retries_total{cluster=\"found.3\"} 7"));
    }

    #[test]
    fn a_name_cannot_break_the_page_or_fill_it() {
        let long = format!("r/dubbo/{}", "\u{e9}".repeat(4 << 20));
        let forged = "x\"} 1\nforged{a=\"\r";
        let text = shown(&[cluster(&long, true, 1), cluster(forged, true, 1)]);
        assert!(text.len() < 16_384, "{} bytes", text.len());
        assert!(
            text.lines().all(|line| !line.starts_with("forged")),
            "{text}"
        );
        assert!(!text.contains('\r'));
    }
}
