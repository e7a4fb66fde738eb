//! The admin port: metrics, health and clusters over HTTP, for this machine only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use finback_core::driver::WorkerStatus;
use finback_core::mesh::{ClusterStatus, EndpointStatus};
use finback_core::text;
use finback_kafka::Counts;
use finback_observability::Page;
use finback_registry::RegistryStatus;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::kafka::Outlet;
use crate::log;
use crate::running::{Readiness, Running};

/// The longest request that is read.
const MAX_REQUEST: usize = 8 * 1024;
/// How long a client may take for all of its request, and for all of the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// A worker that has not looked after its connections for this long has stopped.
const STUCK: Duration = Duration::from_secs(5);
/// Clients served at a time.
const CLIENTS: usize = 16;

/// Looked-up clusters that have samples of their own, and such as nobody has that are listed.
const MAX_LOOKED_UP: usize = 1000;
/// The label of all clusters beyond that.
const OTHER: &str = "(other)";
/// A cluster's name is cut to this many bytes.
const MAX_LABEL: usize = 256;

/// Serves until the runtime ends.
pub async fn serve(listener: TcpListener, running: Arc<Running>) {
    let places = Arc::new(Semaphore::new(CLIENTS));
    loop {
        // Never closed, so there is always a place by and by.
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let running = running.clone();
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(PATIENCE, answer(stream, &running)).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "admin port cannot accept; pausing");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, running: &Running) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        if request.len() >= MAX_REQUEST || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let line = String::from_utf8_lossy(&request);
    let line = line.lines().next().unwrap_or_default().to_owned();
    let mut words = line.split(' ');
    let (method, target) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let path = target.split('?').next().unwrap_or_default();
    let (status, kind, body) = match method {
        "GET" | "HEAD" => page(path, running),
        _ => (
            "405 Method Not Allowed",
            TEXT,
            "only GET is served here\n".to_owned(),
        ),
    };
    let mut response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    if method != "HEAD" {
        response.push_str(&body);
    }
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

const INDEX: &str = "Finback admin port\n\n\
/metrics   for Prometheus\n\
/healthz   200 while every worker runs, 503 when one has stopped\n\
/readyz    200 while clients may be sent here, 503 until registries answered and while it stops\n\
/clusters  endpoints as routing sees them, JSON\n\
/registries  whether registries answer, JSON\n";

fn page(path: &str, running: &Running) -> (&'static str, &'static str, String) {
    match path {
        "/" => ("200 OK", TEXT, INDEX.to_owned()),
        "/healthz" => health(running),
        "/readyz" => ready(running),
        "/metrics" => ("200 OK", METRICS, metrics(running)),
        "/clusters" => ("200 OK", JSON, clusters(&running.mesh.status())),
        "/registries" => ("200 OK", JSON, registries(&running.registries.status())),
        _ => (
            "404 Not Found",
            TEXT,
            format!("nothing here; see\n\n{INDEX}"),
        ),
    }
}

/// Whether clients may be sent here.
fn ready(running: &Running) -> (&'static str, &'static str, String) {
    let why = match running.readiness() {
        Readiness::Ready => return ("200 OK", TEXT, "ready\n".to_owned()),
        Readiness::Stopping => "stopping\n".to_owned(),
        Readiness::Waiting(missing) => format!("waiting for {}\n", missing.join(", ")),
    };
    ("503 Service Unavailable", TEXT, why)
}

fn metrics(running: &Running) -> String {
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
    worker_samples(&mut page, &running.workers.status());
    cluster_samples(&mut page, &running.mesh.status());
    registry_samples(&mut page, &running.registries.status());
    kafka_samples(&mut page, &running.kafka());
    running.certificates.write(&mut page);
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

fn worker_samples(page: &mut Page, workers: &[WorkerStatus]) {
    let name = "finback_worker_connections";
    page.family(name, "gauge", "Client connections of each worker.");
    for (index, worker) in workers.iter().enumerate() {
        let labels = [("worker", index.to_string())];
        page.sample(name, &labels, worker.connections as f64);
    }
}

/// Whether every worker still looks after its connections.
fn health(running: &Running) -> (&'static str, &'static str, String) {
    let stuck: Vec<usize> = running
        .workers
        .status()
        .iter()
        .enumerate()
        .filter(|(_, worker)| worker.turned > STUCK)
        .map(|(index, _)| index)
        .collect();
    let panics = running.mesh.gauges.panics.load(Relaxed);
    if !stuck.is_empty() {
        let text = format!("workers {stuck:?} have not run for {STUCK:?}\n");
        return ("503 Service Unavailable", TEXT, text);
    }
    let text = match panics {
        0 => "alive\n".to_owned(),
        _ => format!("alive, but {panics} tasks ended by a panic; see the log\n"),
    };
    ("200 OK", TEXT, text)
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
        let label = if own { name(cluster) } else { OTHER.to_owned() };
        all.entry(label).or_default().add(cluster);
    }
    all
}

/// A cluster's name as it is shown. A looked-up one's is made of what a caller asked for.
fn name(cluster: &ClusterStatus) -> String {
    text::cut(&cluster.name, MAX_LABEL).to_owned()
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

fn registries(registries: &[RegistryStatus]) -> String {
    let list: Vec<_> = registries
        .iter()
        .map(|registry| {
            serde_json::json!({
                "name": registry.name,
                "connected": registry.connected,
                "stale_seconds": registry.stale.as_secs(),
                "services": registry.services,
                "waiting": registry.waiting,
                "doubted": registry.doubted,
                "from_disk": registry.from_disk,
                "failing_reads": registry.failing_reads,
                "failing_names": registry.failing_names,
            })
        })
        .collect();
    format!("{:#}\n", serde_json::Value::from(list))
}

fn clusters(clusters: &[ClusterStatus]) -> String {
    let mut unknown = 0;
    let list: Vec<_> = clusters
        .iter()
        .filter(|cluster| {
            // Nobody has them; callers may ask for as many as they like.
            let invented = cluster.lookup.is_some() && cluster.ready && !cluster.known;
            unknown += usize::from(invented);
            !invented || unknown <= MAX_LOOKED_UP
        })
        .map(|cluster| {
            let endpoints: Vec<_> = cluster
                .endpoints
                .iter()
                .map(|endpoint| {
                    serde_json::json!({
                        "address": endpoint.address.to_string(),
                        "weight": endpoint.weight,
                        "in_flight": endpoint.in_flight,
                        "available": endpoint.available,
                        "unwell": endpoint.unwell,
                        "labels": endpoint.labels,
                    })
                })
                .collect();
            serde_json::json!({
                "name": name(cluster),
                "ready": cluster.ready,
                "known": cluster.known,
                "in_flight": cluster.in_flight,
                "endpoints": endpoints,
            })
        })
        .collect();
    format!("{:#}\n", serde_json::Value::from(list))
}

#[cfg(test)]
mod tests {
    use super::*;
    use finback_core::discovery::Lookup;

    fn cluster(name: &str, looked_up: bool, endpoints: usize) -> ClusterStatus {
        let endpoint = EndpointStatus {
            address: ([127, 0, 0, 1], 1).into(),
            weight: 100,
            in_flight: 0,
            available: true,
            unwell: false,
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
        let listed = clusters(&all);
        assert_eq!(listed.matches("\"name\"").count(), 2 + MAX_LOOKED_UP);
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
        let listed = clusters(&all);
        assert!(listed.len() < 8192, "{} bytes", listed.len());
        assert_eq!(listed.matches("\"name\"").count(), 2);
    }
}
