//! The metrics page: every number of the process, put together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use finback_core::driver::WorkerStatus;
use finback_core::mesh::{ClusterStatus, EndpointStatus};
use finback_core::text;
use finback_kafka::Counts;
use finback_observability::Page;
use finback_registry::RegistryStatus;

use crate::access_log::AccessLogStatus;
use crate::kafka::Outlet;
use crate::log;
use crate::running::Running;

/// Looked-up clusters that have samples of their own.
const MAX_LOOKED_UP: usize = 1000;
/// The label of all clusters beyond that.
const OTHER: &str = "(other)";
/// A cluster's name is cut to this many bytes.
const MAX_LABEL: usize = 256;

/// All metrics in Prometheus's text format.
#[must_use]
pub fn page(running: &Running) -> String {
    let mut page = Page::default();
    running.metrics.write(&mut page);
    let reloads = &running.reloads;
    let gauges = running.mesh.gauges.rows();
    let reloads = [
        (
            "finback_reloads_total",
            "counter",
            "Configurations put in force after the first.",
            &reloads.accepted,
        ),
        (
            "finback_reloads_refused_total",
            "counter",
            "Configurations refused.",
            &reloads.refused,
        ),
    ];
    for (name, kind, help, value) in gauges.into_iter().chain(reloads) {
        page.family(name, kind, help);
        page.sample(name, &[], value.load(Relaxed) as f64);
    }
    let name = "finback_log_lines_dropped_total";
    page.family(
        name,
        "counter",
        "Lines of the log that were dropped: whoever reads it did not keep up.",
    );
    page.sample(name, &[], log::dropped() as f64);
    page.family(
        "finback_control_longest_turn_seconds",
        "gauge",
        "For how long at most somebody held a thread of the control side in the last one to two minutes.",
    );
    for (thread, turns) in &running.turns {
        let labels = [("thread", (*thread).to_owned())];
        let longest = turns.longest().as_secs_f64();
        page.sample("finback_control_longest_turn_seconds", &labels, longest);
    }
    page.family(
        "finback_control_stalls_total",
        "counter",
        "Times that somebody held a thread of the control side for more than 50 ms.",
    );
    for (thread, turns) in &running.turns {
        let labels = [("thread", (*thread).to_owned())];
        let stalls = turns.stalls() as f64;
        page.sample("finback_control_stalls_total", &labels, stalls);
    }
    access_log_samples(&mut page, &running.access_logs.status());
    worker_samples(&mut page, &running.workers.status());
    cluster_samples(&mut page, &running.mesh.status());
    registry_samples(&mut page, &running.registries.status());
    kafka_samples(&mut page, &running.kafka());
    running.certificates.write(&mut page);
    running.tracer.write(&mut page);
    page.family(
        "finback_registered",
        "gauge",
        "Whether a local service stands in its registry.",
    );
    for status in running.registries.registrations() {
        let own = status.registration;
        let labels = [
            ("registry", own.registry),
            ("layout", own.layout.name().to_owned()),
            ("service", text::cut(&own.service, MAX_LABEL).to_owned()),
            ("version", text::cut(&own.version, MAX_LABEL).to_owned()),
            ("group", text::cut(&own.group, MAX_LABEL).to_owned()),
            ("address", format!("{}:{}", own.host, own.port)),
        ];
        page.sample(
            "finback_registered",
            &labels,
            f64::from(u8::from(status.held)),
        );
    }
    page.into_text()
}

fn access_log_samples(page: &mut Page, logs: &[AccessLogStatus]) {
    for (name, help, value) in [
        (
            "finback_access_log_lines_total",
            "Lines written to an access log.",
            (|log| log.written) as fn(&AccessLogStatus) -> u64,
        ),
        (
            "finback_access_log_lines_dropped_total",
            "Lines of an access log that were dropped: nobody took them, or they could not be written.",
            |log| log.dropped,
        ),
    ] {
        page.family(name, "counter", help);
        for log in logs {
            page.sample(name, &[("path", log.target.clone())], value(log) as f64);
        }
    }
}

fn worker_samples(page: &mut Page, workers: &[WorkerStatus]) {
    let name = "finback_worker_connections";
    page.family(name, "gauge", "Client connections of each worker.");
    for (index, worker) in workers.iter().enumerate() {
        let labels = [("worker", index.to_string())];
        page.sample(name, &labels, worker.connections as f64);
    }
}

fn kafka_samples(page: &mut Page, outlets: &[Arc<Outlet>]) {
    let name = "finback_kafka_messages_total";
    page.family(
        name,
        "counter",
        "Messages for Kafka, by what became of them.",
    );
    let of = |outlet: &Arc<Outlet>| Some((outlet.name.clone(), outlet.producer()?.counts.clone()));
    let all: Vec<_> = outlets.iter().filter_map(of).collect();
    for (kafka, counts) in &all {
        for (outcome, value) in [
            ("taken", &counts.taken),
            ("confirmed", &counts.confirmed),
            ("failed", &counts.failed),
        ] {
            let labels = [("kafka", kafka.clone()), ("outcome", outcome.to_owned())];
            page.sample(name, &labels, value.load(Relaxed) as f64);
        }
    }
    for (name, help, value) in [
        (
            "finback_kafka_full_total",
            "Messages that waited because a producer had no room.",
            (|counts| &counts.full) as fn(&Counts) -> &AtomicU64,
        ),
        (
            "finback_kafka_rebuilt_total",
            "Producers that were given up after an error that nothing can mend.",
            |counts| &counts.rebuilt,
        ),
    ] {
        page.family(name, "counter", help);
        for (kafka, counts) in &all {
            let labels = [("kafka", kafka.clone())];
            page.sample(name, &labels, value(counts).load(Relaxed) as f64);
        }
    }
}

fn registry_samples(page: &mut Page, registries: &[RegistryStatus]) {
    for (name, help, value) in [
        (
            "finback_registry_connected",
            "Whether a registry's servers answer, and let us read what they did before.",
            (|registry| f64::from(u8::from(registry.connected))) as fn(&RegistryStatus) -> f64,
        ),
        (
            "finback_registry_stale_seconds",
            "For how long a registry's servers have not answered, or something could not be read.",
            |registry| registry.stale.as_secs_f64(),
        ),
        (
            "finback_registry_services",
            "Services followed in a registry.",
            |registry| registry.services as f64,
        ),
        (
            "finback_registry_services_waiting",
            "Services of which nothing is known yet.",
            |registry| registry.waiting as f64,
        ),
        (
            "finback_registry_services_doubted",
            "Services whose providers vanished all at once, which is doubted for a while.",
            |registry| registry.doubted as f64,
        ),
        (
            "finback_registry_services_from_disk",
            "Services known from the snapshot of an earlier run only.",
            |registry| registry.from_disk as f64,
        ),
        (
            "finback_registry_reads_failing",
            "Reads that a registry refuses or fails; what they answered last stays.",
            |registry| registry.failing_reads as f64,
        ),
        (
            "finback_registry_names_failing",
            "Host names that do not resolve any more; their last addresses stay.",
            |registry| registry.failing_names as f64,
        ),
    ] {
        page.family(name, "gauge", help);
        for registry in registries {
            page.sample(
                name,
                &[("registry", registry.name.clone())],
                value(registry),
            );
        }
    }
}

/// What one cluster, or all those beyond the bound, have on the page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sums {
    ejections: u64,
    endpoints: u64,
    available: u64,
    unwell: u64,
    in_flight: u64,
}

impl Sums {
    fn add(&mut self, cluster: &ClusterStatus) {
        let count = |is: fn(&EndpointStatus) -> bool| {
            cluster.endpoints.iter().filter(|own| is(own)).count() as u64
        };
        self.ejections += cluster.ejections;
        self.endpoints += count(|_| true);
        self.available += count(|endpoint| endpoint.available);
        self.unwell += count(|endpoint| endpoint.unwell);
        self.in_flight += u64::from(cluster.in_flight);
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

fn cluster_samples(page: &mut Page, clusters: &[ClusterStatus]) {
    let all = labelled(clusters);
    for (family, kind, help, value) in [
        (
            "finback_ejections_total",
            "counter",
            "Endpoints ejected after repeated failures.",
            (|sums| sums.ejections) as fn(&Sums) -> u64,
        ),
        (
            "finback_cluster_endpoints",
            "gauge",
            "Endpoints of a cluster.",
            |sums| sums.endpoints,
        ),
        (
            "finback_cluster_endpoints_available",
            "gauge",
            "Endpoints that take calls.",
            |sums| sums.available,
        ),
        (
            "finback_cluster_endpoints_unwell",
            "gauge",
            "Endpoints that health checks found unwell.",
            |sums| sums.unwell,
        ),
        (
            "finback_cluster_in_flight",
            "gauge",
            "Calls in flight to a cluster.",
            |sums| sums.in_flight,
        ),
    ] {
        page.family(family, kind, help);
        for (label, sums) in &all {
            page.sample(family, &[("cluster", label.clone())], value(sums) as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use finback_core::discovery::Lookup;
    use finback_core::mesh::EndpointState;

    fn cluster(name: &str, looked_up: bool, endpoints: usize) -> ClusterStatus {
        let endpoint = EndpointStatus {
            address: ([127, 0, 0, 1], 1).into(),
            weight: 100,
            weight_now: 100,
            in_flight: 0,
            available: true,
            unwell: false,
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
            ejections: 2,
            endpoints: vec![endpoint; endpoints],
        }
    }

    #[test]
    fn clusters_that_callers_invent_share_one_sample() {
        let mut all = vec![cluster("configured", false, 0), cluster("found", true, 3)];
        all.extend((0..10_000).map(|n| cluster(&format!("invented.{n}"), true, 0)));
        let labelled = labelled(&all);
        let labels: Vec<_> = labelled.keys().map(String::as_str).collect();
        assert_eq!(labels, [OTHER, "configured", "found"]);
        assert_eq!(labelled[OTHER].in_flight, 10_000);
        assert_eq!(labelled[OTHER].ejections, 20_000);
        assert_eq!(labelled["found"].available, 3);
        let mut page = Page::default();
        cluster_samples(&mut page, &all);
        assert_eq!(page.into_text().lines().count(), 5 * (2 + 3));
    }

    #[test]
    fn services_beyond_the_bound_share_one_sample() {
        let found: Vec<_> = (0..MAX_LOOKED_UP + 10)
            .map(|n| cluster(&format!("found.{n}"), true, 1))
            .collect();
        let labelled = labelled(&found);
        assert_eq!(labelled.len(), MAX_LOOKED_UP + 1);
        assert_eq!(labelled[OTHER].endpoints, 10);
    }

    #[test]
    fn a_name_cannot_break_the_page_or_fill_it() {
        let long = format!("r/dubbo/{}", "\u{e9}".repeat(4 << 20));
        let forged = "x\"} 1\nforged{a=\"\r";
        let all = [cluster(&long, true, 1), cluster(forged, true, 1)];
        let mut page = Page::default();
        cluster_samples(&mut page, &all);
        let text = page.into_text();
        assert!(text.len() < 8192, "{} bytes", text.len());
        assert!(
            text.lines().all(|line| !line.starts_with("forged")),
            "{text}"
        );
        assert!(!text.contains('\r'));
    }
}
