//! Clusters and endpoints as routing sees them, with the reason for it.

use finback_core::mesh::{ClusterStatus, EndpointStatus};
use finback_core::stats::Detector;
use finback_core::text;
use serde_json::{Map, Value, json};

/// Looked-up clusters that nobody has and that are listed.
const MAX_INVENTED: usize = 1000;
/// Names and labels are cut to this many bytes: callers choose some of them.
const MAX_TEXT: usize = 256;

pub(super) fn list(clusters: &[ClusterStatus]) -> Value {
    let mut invented = 0;
    let shown = clusters.iter().filter(|cluster| {
        // Nobody has them; callers may ask for as many as they like.
        let is_invented = cluster.lookup.is_some() && cluster.ready && !cluster.known;
        invented += usize::from(is_invented);
        !is_invented || invented <= MAX_INVENTED
    });
    shown.map(cluster).collect()
}

/// So many clusters, those with troubles first, then those with the most calls; and how many there are in
/// all. Where services come by the thousand, a page that asks again and again asks so.
pub(super) fn first(mut clusters: Vec<ClusterStatus>, limit: usize) -> Value {
    let endpoints = || clusters.iter().flat_map(|own| &own.endpoints);
    let all = endpoints().count();
    let available = endpoints().filter(|own| own.available).count();
    let in_flight: u64 = clusters.iter().map(|own| u64::from(own.in_flight)).sum();
    let count = clusters.len();
    let is_in_trouble = |own: &ClusterStatus| own.endpoints.iter().any(|each| !each.available);
    clusters.sort_by_key(|own| std::cmp::Reverse((is_in_trouble(own), own.in_flight)));
    clusters.truncate(limit);
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    json!({
        "all": count,
        "endpoints": all,
        "available": available,
        "in_flight": in_flight,
        "clusters": list(&clusters),
    })
}

fn cluster(own: &ClusterStatus) -> Value {
    let cut = |own: &str| text::cut(own, MAX_TEXT).to_owned();
    let lookup = own.lookup.as_ref().map(|lookup| {
        json!({
            "registry": &*lookup.registry,
            "layout": &*lookup.layout,
            "service": cut(&lookup.service),
            "version": cut(&lookup.version),
            "group": cut(&lookup.group),
        })
    });
    let ejections = Detector::ALL.into_iter().map(|by| {
        let count = own.stats.ejections.of(by);
        (by.name().to_owned(), Value::from(count))
    });
    let ejections: Map<_, _> = ejections.collect();
    json!({
        "name": cut(&own.name),
        "lookup": lookup,
        "ready": own.ready,
        "known": own.known,
        "in_flight": own.in_flight,
        "concurrency": own.concurrency.map(|own| json!({
            "limit": own.limit,
            "in_flight": own.in_flight,
            "shed": own.shed,
            "baseline_ms": own.baseline.map(|own| own.as_secs_f64() * 1000.0),
        })),
        "ejections": own.stats.ejections.all(),
        "ejections_by": ejections,
        "endpoints": own.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

/// One endpoint.
pub(super) fn endpoint(own: &EndpointStatus) -> Value {
    let labels = own.labels.iter();
    let labels: Vec<_> = labels.map(|label| text::cut(label, MAX_TEXT)).collect();
    json!({
        "address": own.address.to_string(),
        "state": own.state.name(),
        "why": own.why,
        "ends_in_seconds": own.ends_in.map(|left| left.as_secs_f64()),
        "available": own.available,
        "unhealthy": own.unhealthy,
        "weight": own.weight,
        "weight_now": own.weight_now,
        "in_flight": own.in_flight,
        "latency_ms": own.latency.map(|own| own.as_secs_f64() * 1000.0),
        "failures": own.failures,
        "connect_failures": own.connect_failures,
        "recent_ejections": own.ejections,
        "labels": labels,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use finback_core::discovery::Lookup;
    use finback_core::mesh::EndpointState;

    fn looked_up(name: &str, endpoints: usize) -> ClusterStatus {
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
            lookup: Some(Lookup {
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

    #[test]
    fn clusters_that_callers_invent_do_not_fill_the_page() {
        let mut all = vec![looked_up("found", 3)];
        all.extend((0..10_000).map(|n| looked_up(&format!("invented.{n}"), 0)));
        let listed = list(&all);
        assert_eq!(listed.as_array().map(Vec::len), Some(1 + MAX_INVENTED));
    }

    #[test]
    fn those_with_troubles_come_first() {
        let mut all: Vec<_> = (0..100)
            .map(|n| looked_up(&format!("s.{n:03}"), 1))
            .collect();
        all[90].endpoints[0].available = false;
        all[50].in_flight = 7;
        let told = first(all, 2);
        assert_eq!(told["all"], 100);
        assert_eq!(
            (&told["endpoints"], &told["available"]),
            (&100.into(), &99.into())
        );
        let names: Vec<_> = told["clusters"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|own| own["name"].clone())
            .collect();
        assert_eq!(names, ["s.050", "s.090"]);
    }

    #[test]
    fn a_long_name_does_not_fill_the_page() {
        let long = format!("r/dubbo/{}", "\u{e9}".repeat(4 << 20));
        let listed = list(&[looked_up(&long, 1)]).to_string();
        assert!(listed.len() < 8192, "{} bytes", listed.len());
    }
}
