//! Each of RocketMQ's clients with its servers, directly.

use std::collections::BTreeMap;

use super::stage::{Cluster, Outcome, Scenario, Stage};
use super::{groups, messages, styles};
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
        Kind::Grpc => all.extend([
            ("transactional", messages::transactional as Scenario),
            ("selected", groups::selected),
        ]),
        Kind::Node => all.extend([("broadcast", groups::broadcast as Scenario)]),
        Kind::Go => all.extend([
            ("broadcast", groups::broadcast as Scenario),
            ("selected", groups::selected),
        ]),
    }
    all
}

fn play(stage: Stage<'_>) -> BTreeMap<&'static str, Outcome> {
    let outcomes = stage.play(&repertoire(stage.client.kind));
    for (name, outcome) in &outcomes {
        println!("{:?} {name}: {:?}", stage.client.kind, outcome.millis);
        assert!(!outcome.same.is_null(), "{name}");
    }
    outcomes
}

#[test]
fn java_4_4_with_its_vip_channel() {
    play(Cluster::v55().direct(&Client::start(Kind::Java44)));
}

#[test]
fn java_4_9() {
    play(Cluster::v55().direct(&Client::start(Kind::Java49)));
}

#[test]
fn java_5_5() {
    play(Cluster::v55().direct(&Client::start(Kind::Java55)));
}

#[test]
fn java_5_5_in_binary() {
    let client = Client::start_writing(Kind::Java55, Encoding::Binary);
    play(Cluster::v55().direct(&client));
}

#[test]
fn java_on_grpc() {
    play(Cluster::v53().direct(&Client::start(Kind::Grpc)));
}

#[test]
fn node() {
    play(Cluster::v55().direct(&Client::start(Kind::Node)));
}

#[test]
fn go() {
    play(Cluster::v55().direct(&Client::start(Kind::Go)));
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
    let client = Client::start(Kind::Java49);
    let outcome = styles::signed(Stage {
        address: &names.address,
        broker: &broker,
        client: &client,
    });
    assert!(!outcome.same.is_null());
}

/// A broker that knows one user, who may do everything.
pub(crate) const GUARDED: &str = "authenticationEnabled=true\n\
authenticationProvider=org.apache.rocketmq.auth.authentication.provider.DefaultAuthenticationProvider\n\
authenticationMetadataProvider=org.apache.rocketmq.auth.authentication.provider.LocalAuthenticationMetadataProvider\n\
initAuthenticationUser={\"username\":\"mesh\",\"password\":\"a-long-secret\"}\n\
innerClientAuthenticationCredentials={\"accessKey\":\"mesh\",\"secretKey\":\"a-long-secret\"}\n";
