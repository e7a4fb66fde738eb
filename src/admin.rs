//! The admin port: metrics, health and clusters over HTTP, for this machine only.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use finback_core::mesh::ClusterStatus;
use finback_core::text;
use finback_registry::RegistryStatus;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::metrics;
use crate::running::Running;

/// The longest request that is read.
const MAX_REQUEST: usize = 8 * 1024;
/// How long a client may take for all of its request, and for all of the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// A worker that has not looked after its connections for this long has stopped.
const STUCK: Duration = Duration::from_secs(5);
/// Clients served at a time.
const CLIENTS: usize = 16;

/// Looked-up clusters that nobody has and that are listed.
const MAX_LOOKED_UP: usize = 1000;
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
        "/metrics" => ("200 OK", METRICS, metrics::page(running)),
        "/clusters" => ("200 OK", JSON, clusters(&running.mesh.status())),
        "/registries" => ("200 OK", JSON, registries(&running.registries.status())),
        _ => (
            "404 Not Found",
            TEXT,
            format!("nothing here; see\n\n{INDEX}"),
        ),
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

/// A cluster's name as it is shown. A looked-up one's is made of what a caller asked for.
fn name(cluster: &ClusterStatus) -> String {
    text::cut(&cluster.name, MAX_LABEL).to_owned()
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
                        "unhealthy": endpoint.unhealthy,
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
    use finback_core::mesh::EndpointStatus;

    fn cluster(name: &str, looked_up: bool, endpoints: usize) -> ClusterStatus {
        let endpoint = EndpointStatus {
            address: ([127, 0, 0, 1], 1).into(),
            weight: 100,
            in_flight: 0,
            available: true,
            unhealthy: false,
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
            counts: Arc::default(),
            endpoints: vec![endpoint; endpoints],
        }
    }

    #[test]
    fn clusters_that_callers_invent_are_listed_up_to_a_bound() {
        let mut all = vec![cluster("configured", false, 0), cluster("found", true, 3)];
        all.extend((0..10_000).map(|n| cluster(&format!("invented.{n}"), true, 0)));
        let listed = clusters(&all);
        assert_eq!(listed.matches("\"name\"").count(), 2 + MAX_LOOKED_UP);
    }

    #[test]
    fn a_name_cannot_fill_the_list() {
        let long = format!("r/dubbo/{}", "\u{e9}".repeat(4 << 20));
        let all = [cluster(&long, true, 1), cluster("found", true, 1)];
        let listed = clusters(&all);
        assert!(listed.len() < 8192, "{} bytes", listed.len());
        assert_eq!(listed.matches("\"name\"").count(), 2);
    }
}
