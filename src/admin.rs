//! The admin port: metrics, health and clusters over HTTP, for this machine only.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use finback_core::driver::WorkerStatus;
use finback_core::mesh::ClusterStatus;
use finback_kafka::Counts;
use finback_observability::Page;
use finback_registry::RegistryStatus;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::kafka::Outlet;
use crate::running::Running;

/// The longest request that is read.
const MAX_REQUEST: usize = 8 * 1024;
/// How long a client may take for all of its request, and for all of the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// A worker that has not looked after its connections for this long has stopped.
const STUCK: Duration = Duration::from_secs(5);
/// Clients served at a time.
const CLIENTS: usize = 16;

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
/readyz    200 while it takes new connections, 503 while it stops\n\
/clusters  endpoints as routing sees them, JSON\n\
/registries  whether registries answer, JSON\n";

fn page(path: &str, running: &Running) -> (&'static str, &'static str, String) {
    match path {
        "/" => ("200 OK", TEXT, INDEX.to_owned()),
        "/healthz" => health(running),
        "/readyz" if running.is_draining() => {
            ("503 Service Unavailable", TEXT, "stopping\n".to_owned())
        }
        "/readyz" => ("200 OK", TEXT, "ready\n".to_owned()),
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
    worker_samples(&mut page, &running.workers.status());
    let clusters = running.mesh.status();
    page.family(
        "finback_ejections_total",
        "counter",
        "Endpoints ejected after repeated failures.",
    );
    for cluster in &clusters {
        let labels = [("cluster", cluster.name.to_string())];
        page.sample("finback_ejections_total", &labels, cluster.ejections as f64);
    }
    endpoints(&mut page, &clusters);
    registry_samples(&mut page, &running.registries.status());
    kafka_samples(&mut page, &running.kafka());
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
            ("service", own.service),
            ("version", own.version),
            ("group", own.group),
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
            "Whether a registry's servers answer.",
            (|registry| f64::from(u8::from(registry.connected))) as fn(&RegistryStatus) -> f64,
        ),
        (
            "finback_registry_stale_seconds",
            "For how long a registry's servers have not answered.",
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

fn endpoints(page: &mut Page, clusters: &[ClusterStatus]) {
    for (name, help, value) in [
        (
            "finback_cluster_endpoints",
            "Endpoints of a cluster.",
            (|cluster| cluster.endpoints.len()) as fn(&ClusterStatus) -> usize,
        ),
        (
            "finback_cluster_endpoints_available",
            "Endpoints that take calls.",
            |cluster| {
                cluster
                    .endpoints
                    .iter()
                    .filter(|endpoint| endpoint.available)
                    .count()
            },
        ),
        (
            "finback_cluster_endpoints_unwell",
            "Endpoints that health checks found unwell.",
            |cluster| cluster.endpoints.iter().filter(|own| own.unwell).count(),
        ),
        (
            "finback_cluster_in_flight",
            "Calls in flight to a cluster.",
            |cluster| cluster.in_flight as usize,
        ),
    ] {
        page.family(name, "gauge", help);
        for cluster in clusters {
            let labels = [("cluster", cluster.name.to_string())];
            page.sample(name, &labels, value(cluster) as f64);
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
            })
        })
        .collect();
    format!("{:#}\n", serde_json::Value::from(list))
}

fn clusters(clusters: &[ClusterStatus]) -> String {
    let list: Vec<_> = clusters
        .iter()
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
                "name": *cluster.name,
                "ready": cluster.ready,
                "known": cluster.known,
                "in_flight": cluster.in_flight,
                "endpoints": endpoints,
            })
        })
        .collect();
    format!("{:#}\n", serde_json::Value::from(list))
}
