//! Each of RocketMQ's clients with its servers, directly and through Finback: the same comes of it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::mesh::{Mesh, configuration, range};
use super::stage::{Cluster, Outcome, Scenario, Stage};
use super::{groups, messages, styles};
use crate::support::finback::Finback;
use crate::support::rocketmq::{Broker, NameServer, Setup};
use crate::support::rocketmq_clients::{Client, Encoding, Kind};

/// What every client can.
pub(crate) const EVERY: &[(&str, Scenario)] = &[
    ("plain", messages::plain),
    ("delayed", messages::delayed),
    ("tagged", groups::tagged),
    ("retried", groups::retried),
];

/// What every client for Java on remoting can besides.
pub(crate) const JAVA: &[(&str, Scenario)] = &[
    ("ordered", messages::ordered),
    ("transactional", messages::transactional),
    ("broadcast", groups::broadcast),
    ("shared", groups::shared),
    ("selected", groups::selected),
    ("traced", styles::traced),
    ("queried", styles::queried),
];

/// What came with 4.6.
pub(crate) const LATER: &[(&str, Scenario)] = &[
    ("lite pull", styles::lite_pull),
    ("request and reply", styles::request_reply),
];

/// All that a client can.
pub(crate) fn repertoire(kind: Kind) -> Vec<(&'static str, Scenario)> {
    let mut all = EVERY.to_vec();
    match kind {
        Kind::Java44 => all.extend(JAVA),
        Kind::Java49 => all.extend(JAVA.iter().chain(LATER)),
        Kind::Java55 => {
            all.extend(JAVA.iter().chain(LATER));
            all.push(("pop", styles::pop));
        }
        // Not transactions: before this proxy, nobody was asked about one within 35 s.
        Kind::Grpc => all.push(("selected", groups::selected)),
        Kind::Node => all.extend([("broadcast", groups::broadcast as Scenario)]),
        Kind::Go => all.extend([
            ("broadcast", groups::broadcast as Scenario),
            ("selected", groups::selected),
        ]),
    }
    all
}

/// What came of everything that a client can, by name.
type Outcomes = BTreeMap<&'static str, Outcome>;

/// Plays the same directly and through Finback; what comes of it must be the same.
fn compare(cluster: &Cluster, kind: Kind, encoding: Encoding) {
    let is_binary = encoding == Encoding::Binary;
    let start = || Client::start_writing(kind, encoding);
    let mesh = Mesh::before(cluster, kind);
    let mut scenarios = repertoire(kind);
    if is_binary {
        // POP's code does not fit the 16 bits that the binary header has for it: it never worked.
        scenarios.retain(|(name, _)| *name != "pop");
    }
    // One after the other: each is as much as a small machine can do in a client's patience.
    let client = start();
    let direct: Outcomes = cluster.direct(&client).play(&scenarios);
    drop(client);
    let client = start();
    let through = mesh.stage(cluster, &client).play(&scenarios);
    for (name, outcome) in &through {
        println!(
            "{kind:?} {name}: {:?}, directly {:?}",
            outcome.millis, direct[name].millis
        );
        assert!(!outcome.same.is_null(), "{name}");
        assert_eq!(outcome.same, direct[name].same, "{kind:?}: {name}");
    }
    if kind != Kind::Grpc {
        went_through(&mesh, kind);
    }
}

/// Clients reached the broker through Finback, and nothing of what they did was refused here.
fn went_through(mesh: &Mesh, kind: Kind) {
    let listeners: Value = serde_json::from_str(&mesh.finback.admin("/listeners").1).unwrap();
    let brokers = listeners[0]["brokers"].as_array().unwrap();
    assert_eq!(brokers.len(), 1, "{kind:?}: {listeners}");
    let metrics = mesh.finback.admin("/metrics").1;
    let of_sends = metrics
        .lines()
        .find(|line| line.starts_with("finback_requests_total{") && line.contains("SEND_MESSAGE"));
    assert!(of_sends.is_some(), "{kind:?}: {metrics}");
    for refusal in [
        "no_route",
        "no_endpoint",
        "overloaded",
        "bad_request",
        "connect_failed",
    ] {
        let refused = metrics.lines().find(|line| {
            line.starts_with("finback_requests_total{") && line.contains(&format!("\"{refusal}\""))
        });
        assert_eq!(refused, None, "{kind:?}");
    }
}

#[test]
fn java_4_4_with_its_vip_channel() {
    compare(Cluster::v55(), Kind::Java44, Encoding::Json);
}

#[test]
fn java_4_9() {
    compare(Cluster::v55(), Kind::Java49, Encoding::Json);
}

#[test]
fn java_5_5() {
    compare(Cluster::v55(), Kind::Java55, Encoding::Json);
}

#[test]
fn java_5_5_in_binary() {
    compare(Cluster::v55(), Kind::Java55, Encoding::Binary);
}

#[test]
fn java_on_grpc() {
    compare(Cluster::v53(), Kind::Grpc, Encoding::Json);
}

#[test]
fn node() {
    compare(Cluster::v55(), Kind::Node, Encoding::Json);
}

#[test]
fn go() {
    compare(Cluster::v55(), Kind::Go, Encoding::Json);
}

#[test]
fn java_4_9_with_a_broker_that_asks_for_signatures() {
    let names = NameServer::start();
    let broker = Broker::start_with(
        &[&names],
        Setup {
            more: GUARDED,
            ..Setup::default()
        },
    );
    // Its clients make topics, which is for operators.
    let text = configuration(&names.address, &range(12), "");
    let text = text.replace("broker_ports:", "administration: true, broker_ports:");
    let mesh = Mesh::of(Finback::start(&text));
    let client = Client::start(Kind::Java49);
    let outcomes = [&names.address, &mesh.names].map(|address| {
        styles::signed(Stage {
            address,
            broker: &broker,
            client: &client,
        })
    });
    let [direct, through] = outcomes.map(|outcome| outcome.same);
    assert!(!direct.is_null());
    assert_eq!(direct, through);
}

/// A broker that knows one user, who may do everything.
pub(crate) const GUARDED: &str = "authenticationEnabled=true\n\
authenticationProvider=org.apache.rocketmq.auth.authentication.provider.DefaultAuthenticationProvider\n\
authenticationMetadataProvider=org.apache.rocketmq.auth.authentication.provider.LocalAuthenticationMetadataProvider\n\
initAuthenticationUser={\"username\":\"mesh\",\"password\":\"a-long-secret\"}\n\
innerClientAuthenticationCredentials={\"accessKey\":\"mesh\",\"secretKey\":\"a-long-secret\"}\n";
