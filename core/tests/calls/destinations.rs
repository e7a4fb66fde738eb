//! Where calls go whose destination has no endpoints, and how long they take if nobody says.

use std::sync::Arc;
use std::time::Duration;

use crate::toy::*;
use finback_core::cluster::{ClusterPolicy, ClusterSpec, Source};
use finback_core::discovery::{Lookup, Snapshot, Terms};
use finback_core::mesh::RoutingSpec;
use finback_core::rejection::Rejection;
use finback_core::route::{Destination, Weighted};
use tokio::time::Instant;

/// A cluster that the test itself fills.
fn watched(name: &str) -> ClusterSpec {
    ClusterSpec {
        name: name.into(),
        source: Source::Discovered(Lookup {
            registry: "r".into(),
            layout: "by-hand".into(),
            service: name.into(),
            version: "".into(),
            group: "".into(),
            protocol: "".into(),
        }),
        policy: policy(),
    }
}

fn share(cluster: &str, weight: u32, spill: bool) -> Weighted {
    Weighted {
        cluster: cluster.into(),
        weight,
        subset: None,
        spill,
    }
}

fn spec(to: Vec<Weighted>, clusters: Vec<ClusterSpec>) -> RoutingSpec {
    RoutingSpec {
        tables: vec![table(Destination::Clusters(to), retry(1))],
        clusters,
        filters: Vec::new(),
        listener_filters: Default::default(),
        registry_policy: ClusterPolicy::default(),
        limits: limits(),
    }
}

fn says(mess: &Mess, service: &str, instances: Vec<finback_core::discovery::Instance>) {
    let sinks = mess.hand.0.lock().unwrap()[service].clone();
    sinks[0].update(Snapshot {
        known: true,
        instances,
        ..Snapshot::default()
    });
}

/// How 40 calls end: answered, and without an endpoint.
async fn tally(mess: &Mess) -> (usize, usize) {
    let mut client = Peer::connect(mess.address).await;
    let (mut answered, mut none) = (0, 0);
    for id in 1..=40 {
        match client.call(id, "svc m").await.rejection() {
            None => answered += 1,
            Some(Rejection::NoEndpoint | Rejection::NoService) => none += 1,
            Some(other) => panic!("{other:?}"),
        }
    }
    (answered, none)
}

#[tokio::test]
async fn a_destination_without_endpoints_hands_its_share_on() {
    let (server, _) = echo().await;
    let to = vec![
        share("a", 3, true),
        share("b", 1, true),
        share("c", 0, true),
    ];
    let mess = mess(spec(to, ["a", "b", "c"].map(watched).to_vec()));
    // Of one it is not known yet whether it has any, and the other has some.
    says(&mess, "b", vec![instance(server)]);
    assert_eq!(tally(&mess).await, (40, 0));
    says(&mess, "a", vec![]);
    assert_eq!(tally(&mess).await, (40, 0));
    // An unknown service is none that has endpoints.
    let sinks = mess.hand.0.lock().unwrap()["a"].clone();
    sinks[0].update(Snapshot::default());
    assert_eq!(tally(&mess).await, (40, 0));
    // A weight of 0 is no share, whoever has none.
    says(&mess, "b", vec![]);
    says(&mess, "c", vec![instance(server)]);
    assert_eq!(tally(&mess).await, (0, 40));
}

#[tokio::test]
async fn a_destination_keeps_its_share_if_it_is_told_to() {
    let (server, _) = echo().await;
    let to = vec![share("a", 1, false), share("b", 1, true)];
    let mess = mess(spec(to, ["a", "b"].map(watched).to_vec()));
    says(&mess, "a", vec![]);
    says(&mess, "b", vec![instance(server)]);
    let (answered, none) = tally(&mess).await;
    assert!(answered > 5 && none > 5, "{answered} {none}");
    // The other one hands its share on.
    says(&mess, "b", vec![]);
    says(&mess, "a", vec![instance(server)]);
    assert_eq!(tally(&mess).await, (40, 0));
}

#[tokio::test]
async fn a_call_waits_where_nobody_is_known_to_have_endpoints() {
    let (server, _) = echo().await;
    let to = vec![share("a", 1, true), share("b", 1, true)];
    let mess = mess(spec(to, ["a", "b"].map(watched).to_vec()));
    says(&mess, "a", vec![]);
    let mut client = Peer::connect(mess.address).await;
    for id in 1..=8 {
        client.send(1, id, "svc m").await;
    }
    client.get_nothing(Duration::from_millis(100)).await;
    says(&mess, "b", vec![instance(server)]);
    for _ in 1..=8 {
        assert_eq!(client.get().await.unwrap().text, "svc m");
    }
}

#[tokio::test]
async fn an_endpoints_own_time_is_that_of_calls_which_give_none() {
    let silent = Server::bind().await;
    let terms = Terms {
        timeout: Some(Duration::from_millis(300)),
        timeouts: vec![("slow".into(), Duration::from_millis(700))],
        ..Terms::default()
    };
    let mess = mess(spec(vec![share("a", 1, true)], vec![watched("a")]));
    let mut own = instance(silent.address);
    own.terms = Some(Arc::new(terms));
    says(&mess, "a", vec![own]);
    let mut client = Peer::connect(mess.address).await;
    for (call, least, most) in [
        ("svc m", 300, 600),
        ("svc slow", 700, 1000),
        // A caller's own time holds.
        ("svc m timeout=100", 100, 290),
        ("svc m timeout=1000", 1000, 1400),
    ] {
        let began = Instant::now();
        let answer = client.call(1, call).await;
        assert_eq!(answer.rejection(), Some(Rejection::DeadlineExceeded));
        let took = began.elapsed().as_millis();
        assert!((least..most).contains(&took), "{call}: {took} ms");
    }
}

#[tokio::test]
async fn a_route_bounds_what_an_endpoint_allows() {
    let silent = Server::bind().await;
    let mut spec = spec(vec![share("a", 1, true)], vec![watched("a")]);
    let mut route = (*spec.tables[0].routes[0]).clone();
    route.timeout = Some(Duration::from_millis(200));
    spec.tables[0].routes = vec![Arc::new(route)];
    let mess = mess(spec);
    let mut own = instance(silent.address);
    own.terms = Some(Arc::new(Terms {
        timeout: Some(Duration::from_secs(60)),
        ..Terms::default()
    }));
    says(&mess, "a", vec![own]);
    let mut client = Peer::connect(mess.address).await;
    let began = Instant::now();
    let answer = client.call(1, "svc m").await;
    assert_eq!(answer.rejection(), Some(Rejection::DeadlineExceeded));
    assert!(began.elapsed() < Duration::from_millis(450));
}

#[tokio::test]
async fn connections_that_only_finish_do_not_count() {
    let server = Server::bind().await;
    let one = ClusterPolicy {
        connections: 1,
        ..policy()
    };
    let mess = mess(routing(&[server.address], one, retry(1)));
    let mut client = Peer::connect(mess.address).await;
    let mut finishing = Vec::new();
    // Each connection says goodbye with a call in flight; the endpoint is the only one there is.
    for id in 1..=5 {
        client.send(1, id, "svc m").await;
        let mut upstream = server.accept().await;
        let got = upstream.get().await.unwrap();
        upstream.send(6, 0, "").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        finishing.push((upstream, got));
    }
    for (upstream, got) in &mut finishing {
        upstream.answer(got, 0, "finished").await;
        assert_eq!(client.get().await.unwrap().text, "finished");
    }
}
