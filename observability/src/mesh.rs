//! The numbers about the mesh that are not about single calls.

use std::sync::atomic::Ordering::Relaxed;

use finback_core::mesh::{ClusterStatus, Gauges, Mesh};

use crate::page::{Kind, Page};

/// Writes the state of connections, clusters and endpoints.
pub fn write_mesh(mesh: &Mesh, page: &mut Page) {
    write_gauges(&mesh.gauges, page);
    write_clusters(&mesh.status(), page);
}

fn write_gauges(gauges: &Gauges, page: &mut Page) {
    let now = [
        (
            "finback_connections",
            "Client connections open now.",
            &gauges.connections,
        ),
        (
            "finback_upstream_connections",
            "Connections to endpoints open now.",
            &gauges.upstream_connections,
        ),
    ];
    for (name, help, gauge) in now {
        page.number(name, Kind::Gauge, help, gauge.load(Relaxed));
    }
    let so_far = [
        (
            "finback_connections_accepted_total",
            "Client connections accepted.",
            &gauges.accepted,
        ),
        (
            "finback_connections_malformed_total",
            "Client connections closed because their bytes made no sense.",
            &gauges.malformed,
        ),
        (
            "finback_connections_slow_total",
            "Client connections closed because they did not read their answers.",
            &gauges.slow_readers,
        ),
        (
            "finback_upstream_connect_failures_total",
            "Connections to endpoints that could not be made.",
            &gauges.connect_failures,
        ),
        (
            "finback_upstream_heartbeat_failures_total",
            "Connections to endpoints given up because the endpoint fell silent.",
            &gauges.heartbeat_failures,
        ),
        (
            "finback_late_answers_total",
            "Answers that came after their call was given up.",
            &gauges.late_answers,
        ),
        (
            "finback_unknown_answers_total",
            "Answers to nothing that was asked.",
            &gauges.unknown_answers,
        ),
        (
            "finback_retries_total",
            "Calls tried once more.",
            &gauges.retries,
        ),
        (
            "finback_ejections_total",
            "Endpoints left alone for a while because they kept failing.",
            &gauges.ejections,
        ),
    ];
    for (name, help, counter) in so_far {
        page.number(name, Kind::Counter, help, counter.load(Relaxed));
    }
}

fn write_clusters(clusters: &[ClusterStatus], page: &mut Page) {
    page.family(
        "finback_cluster_in_flight",
        Kind::Gauge,
        "Calls in flight to a cluster.",
    );
    for cluster in clusters {
        page.sample(&[("cluster", &cluster.name)], cluster.in_flight);
    }
    page.family(
        "finback_cluster_endpoints",
        Kind::Gauge,
        "Endpoints of a cluster by whether they take calls now.",
    );
    for cluster in clusters {
        let available = cluster.endpoints.iter().filter(|e| e.available).count();
        let rest = cluster.endpoints.len() - available;
        for (state, count) in [("available", available), ("unavailable", rest)] {
            page.sample(&[("cluster", &cluster.name), ("state", state)], count);
        }
    }
    page.family(
        "finback_cluster_ready",
        Kind::Gauge,
        "Whether a first list of a cluster's endpoints has arrived.",
    );
    for cluster in clusters {
        page.sample(&[("cluster", &cluster.name)], u8::from(cluster.ready));
    }
}
